//! What outlives this process: descriptors and notes, kept by the keeper.
//!
//! Without a keeper, as in tests of the actor alone, nothing is kept.

use std::{
    io::{self, Write as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use serde::Serialize;

use super::{
    cluster,
    keeper::{Error, Exit, News, Store},
};

/// Where things are put before they matter.
pub(super) struct Vault {
    store: Option<Store>,
    /// The keeper has ended.
    lost: bool,
}

impl Vault {
    /// Kept by the keeper behind `store`.
    pub(super) fn new(store: Store) -> Self {
        Self { store: Some(store), lost: false }
    }

    /// Nothing is kept.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self { store: None, lost: false }
    }

    /// Whether the keeper has ended: this process must become it.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// The keeper's connection, to become it with.
    pub(super) fn into_store(self) -> Option<Store> {
        self.store
    }

    /// The keeper's process, which all that loses its parent becomes a child of.
    pub(super) fn keeper(&self) -> Option<u32> {
        self.store.as_ref()?;
        rustix::process::getppid().map(|keeper| keeper.as_raw_nonzero().get().cast_unsigned())
    }

    /// Has something watch the keeper's connection.
    pub(super) fn watched<W>(&self, watch: impl FnOnce(OwnedFd) -> io::Result<W>) -> Option<W> {
        let fd = self.store.as_ref()?.as_fd().try_clone_to_owned().ok()?;
        watch(fd).ok()
    }

    /// What the keeper has to say, if anything.
    pub(super) fn receive(&mut self) -> Option<News> {
        let news = self.store.as_mut()?.receive();
        match news {
            Ok(Some(News::Gone)) | Err(_) => {
                self.lost = true;
                Some(News::Gone)
            }
            Ok(news) => news,
        }
    }

    /// Keeps descriptors. Those of one call arrive together or not at all.
    pub(super) fn keep(&mut self, entries: &[(String, BorrowedFd<'_>)]) {
        self.tell(|store| store.put(entries));
    }

    /// Lets go of descriptors.
    pub(super) fn discard(&mut self, names: &[String]) {
        if !names.is_empty() {
            self.tell(|store| store.delete(names));
        }
    }

    /// Keeps a note, in place of an earlier one of the same name.
    pub(super) fn note(&mut self, key: &str, value: &impl Serialize) {
        // What is noted are plain data, which can always be written.
        if let Ok(text) = serde_json::to_vec(value) {
            self.tell(|store| store.note(key, &text));
        }
    }

    /// Lets go of notes.
    pub(super) fn forget(&mut self, keys: &[String]) {
        if !keys.is_empty() {
            self.tell(|store| store.forget(keys));
        }
    }

    /// What the next supervisor is to be started from.
    pub(super) fn program(&mut self, program: &Path) -> io::Result<()> {
        match &mut self.store {
            Some(store) => store.program(program).map_err(io::Error::other),
            None => Err(io::Error::other("there is no keeper")),
        }
    }

    /// An exit that the keeper told of has been dealt with.
    pub(super) fn acknowledge(&mut self, exit: &Exit) {
        self.tell(|store| store.acknowledge(std::slice::from_ref(exit)));
    }

    /// A keeper that is gone is no error here: the mirror in the store is what it is started anew from.
    fn tell(&mut self, tell: impl FnOnce(&mut Store) -> Result<(), Error>) {
        let Some(store) = &mut self.store else { return };
        match tell(store) {
            Ok(()) => {}
            Err(Error::Gone) => self.lost = true,
            // It lives, and will hear of the next thing; only a death of ours before that would lose this one.
            Err(error) => drop(writeln!(io::stderr(), "the keeper did not take something: {error}")),
        }
    }
}

impl cluster::Vault for Vault {
    fn keep(&mut self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        Self::keep(self, &[(name.to_owned(), fd)]);
        Ok(())
    }

    fn discard(&mut self, name: &str) {
        Self::discard(self, &[name.to_owned()]);
    }

    fn note(&mut self, key: &str, value: &[u8]) -> io::Result<()> {
        self.tell(|store| store.note(key, value));
        Ok(())
    }

    fn forget(&mut self, key: &str) {
        Self::forget(self, &[key.to_owned()]);
    }
}
