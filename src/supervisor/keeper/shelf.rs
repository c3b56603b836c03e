//! What is held: descriptors and notes under names, and exits that nobody has acted upon yet.
//!
//! The keeper has one, and the brain has one as a mirror of it. A large value is a sealed memfd wherever it is, so that
//! both refer to the same pages and neither has it in its own memory.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
        unix::fs::FileExt as _,
    },
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    io::fcntl_dupfd_cloexec,
};

use super::wire::Exit;

/// Values longer than this are memfds.
pub(super) const INLINE_MAX_BYTES: usize = 32 * 1024;
/// The longest value of a note.
pub(super) const NOTE_MAX_BYTES: usize = 16 * 1024 * 1024;
/// The most notes.
pub(super) const NOTES_MAX: usize = 1 << 16;
/// The most exits kept; beyond it the oldest is dropped, for it is the likeliest to be of no interest any more.
pub(super) const EXITS_MAX: usize = 4096;
/// A brain's own descriptors are numbered from here, out of the way of those its children expect.
pub(super) const LOWEST: RawFd = 64;

#[derive(Debug, Default)]
pub(super) struct Shelf {
    pub(super) held: BTreeMap<Box<str>, OwnedFd>,
    pub(super) notes: BTreeMap<Box<str>, Value>,
    /// By serial.
    pub(super) exits: BTreeMap<u64, Exit>,
}

/// The value of a note.
#[derive(Debug)]
pub(super) enum Value {
    Inline(Box<[u8]>),
    Sealed(OwnedFd),
}

impl Shelf {
    /// Keeps an exit, and returns whether an older one was dropped for it.
    pub(super) fn record(&mut self, exit: Exit) -> bool {
        self.exits.insert(exit.serial, exit);
        self.exits.len() > EXITS_MAX && self.exits.pop_first().is_some()
    }

    pub(super) fn delete<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        for name in names {
            self.held.remove(name);
        }
    }

    pub(super) fn forget<'a>(&mut self, keys: impl IntoIterator<Item = &'a str>) {
        for key in keys {
            self.notes.remove(key);
        }
    }

    pub(super) fn acknowledge(&mut self, serials: impl IntoIterator<Item = u64>) {
        for serial in serials {
            self.exits.remove(&serial);
        }
    }

    /// Writes a note, unless that would be one too many.
    pub(super) fn note(&mut self, key: &str, value: Value) -> bool {
        let fits = self.notes.len() < NOTES_MAX || self.notes.contains_key(key);
        if fits {
            self.notes.insert(key.into(), value);
        }
        fits
    }

    /// Every descriptor on it, those of notes too.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let sealed = self.notes.values().filter_map(Value::descriptor);
        self.held.values().map(AsFd::as_fd).chain(sealed)
    }
}

impl Value {
    /// Of bytes that are at most [`NOTE_MAX_BYTES`].
    pub(super) fn of(bytes: &[u8]) -> io::Result<Self> {
        if bytes.len() <= INLINE_MAX_BYTES {
            return Ok(Self::Inline(bytes.into()));
        }
        let file = File::from(memfd_create("note", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
        file.write_all_at(bytes, 0)?;
        fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        high(&file).map(Self::Sealed)
    }

    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        match self {
            Self::Inline(bytes) => Ok(bytes.to_vec()),
            Self::Sealed(memory) => {
                let file = File::from(memory.try_clone()?);
                let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
                if length > NOTE_MAX_BYTES {
                    return Err(io::ErrorKind::FileTooLarge.into());
                }
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, 0)?;
                Ok(bytes)
            }
        }
    }

    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Inline(_) => None,
            Self::Sealed(memory) => Some(memory.as_fd()),
        }
    }
}

/// A duplicate that is numbered from [`LOWEST`] and closed on exec.
pub(super) fn high(descriptor: impl AsFd) -> io::Result<OwnedFd> {
    Ok(fcntl_dupfd_cloexec(descriptor, LOWEST)?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::super::wire::Exit;
    use super::{EXITS_MAX, INLINE_MAX_BYTES, LOWEST, NOTES_MAX, Shelf, Value};

    #[test]
    fn values_of_any_size_read_back_and_large_ones_are_memfds_out_of_the_way() {
        for length in [0, 1, INLINE_MAX_BYTES, INLINE_MAX_BYTES + 1, 3_000_000] {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
            let value = Value::of(&bytes).unwrap();
            assert_eq!(value.read().unwrap(), bytes);
            let number = value.descriptor().map(|memory| memory.as_raw_fd());
            assert_eq!(number.is_some(), length > INLINE_MAX_BYTES);
            assert!(number.is_none_or(|number| number >= LOWEST));
        }
    }

    #[test]
    fn of_too_many_exits_the_oldest_goes() {
        let mut shelf = Shelf::default();
        let dropped = (1..=EXITS_MAX as u64 + 2)
            .filter(|&serial| shelf.record(Exit { serial, pid: 7, status: 0 }))
            .count();
        assert_eq!((dropped, shelf.exits.len()), (2, EXITS_MAX));
        assert_eq!(shelf.exits.first_key_value().map(|(serial, _)| *serial), Some(3));
    }

    #[test]
    fn one_note_too_many_is_refused_and_replacing_one_is_not() {
        let mut shelf = Shelf::default();
        for key in 0..NOTES_MAX {
            assert!(shelf.note(&key.to_string(), Value::Inline([].into())));
        }
        assert!(!shelf.note("more", Value::Inline([].into())));
        assert!(shelf.note("7", Value::Inline([7].into())));
    }
}
