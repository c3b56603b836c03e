//! One epoll instance for every descriptor the actor waits for.
//!
//! The descriptors are also held by the keeper, so closing ours does not take them out of the epoll instance: each
//! [`Watch`] does that when it is dropped.

use std::{
    collections::HashMap,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::{
    event::epoll::{self, CreateFlags, Event, EventData, EventFlags},
    io::Errno,
};
use tokio::io::unix::AsyncFd;

use super::sys::readable;

/// Events taken from the kernel at a time.
const BATCH: usize = 64;

/// Waits for many descriptors; `T` says what each is.
pub(super) struct Poller<T> {
    epoll: AsyncFd<Arc<OwnedFd>>,
    shared: Arc<Mutex<Registered<T>>>,
}

struct Registered<T> {
    next: u64,
    what: HashMap<u64, T>,
}

/// A descriptor in a poller, which owns it.
pub(super) struct Watch<T> {
    fd: OwnedFd,
    epoll: Arc<OwnedFd>,
    key: u64,
    muted: bool,
    shared: Arc<Mutex<Registered<T>>>,
}

impl<T: Copy> Poller<T> {
    /// Must be called within a runtime.
    pub(super) fn new() -> io::Result<Self> {
        let epoll = Arc::new(epoll::create(CreateFlags::CLOEXEC)?);
        let shared = Arc::new(Mutex::new(Registered { next: 0, what: HashMap::new() }));
        Ok(Self { epoll: readable(epoll)?, shared })
    }

    /// Watches until there is something to read (or, for a process, until it has ended).
    pub(super) fn watch(&self, fd: OwnedFd, what: T) -> io::Result<Watch<T>> {
        let mut shared = locked(&self.shared);
        shared.next += 1;
        let key = shared.next;
        epoll::add(&**self.epoll.get_ref(), &fd, EventData::new_u64(key), EventFlags::IN)?;
        shared.what.insert(key, what);
        drop(shared);
        Ok(Watch {
            fd,
            epoll: Arc::clone(self.epoll.get_ref()),
            key,
            muted: false,
            shared: Arc::clone(&self.shared),
        })
    }

    /// Waits until something is ready, and says what. Level-triggered: what is not dealt with comes again.
    pub(super) async fn ready(&self) -> io::Result<Vec<T>> {
        loop {
            let mut guard = self.epoll.readable().await?;
            let mut space = [MaybeUninit::uninit(); BATCH];
            let zero = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            let events: &[Event] = match epoll::wait(&**self.epoll.get_ref(), &mut space, Some(&zero)) {
                Ok((events, _)) => events,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            if events.is_empty() {
                guard.clear_ready();
                continue;
            }
            let shared = locked(&self.shared);
            return Ok(events
                .iter()
                .filter_map(|event| shared.what.get(&{ event.data }.u64()).copied())
                .collect());
        }
    }
}

impl<T> Watch<T> {
    /// Asks to be told no more. The descriptor stays open.
    pub(super) fn mute(&mut self) {
        if !std::mem::replace(&mut self.muted, true) {
            // It fails only for a descriptor that was never there.
            let _ = epoll::delete(&*self.epoll, &self.fd);
            locked(&self.shared).what.remove(&self.key);
        }
    }

    /// Asks to be told as well when it can be written to, or not any more.
    pub(super) fn also_writable(&self, wanted: bool) -> io::Result<()> {
        let flags = if wanted { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        Ok(epoll::modify(&*self.epoll, &self.fd, EventData::new_u64(self.key), flags)?)
    }
}

impl<T> AsFd for Watch<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<T> Drop for Watch<T> {
    fn drop(&mut self) {
        self.mute();
    }
}

fn locked<T>(shared: &Mutex<Registered<T>>) -> MutexGuard<'_, Registered<T>> {
    // Nothing that is done under the lock can leave it half done.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[tokio::test]
    async fn what_is_dropped_is_heard_of_no_more_even_when_another_holds_it() {
        let poller = Poller::new().unwrap();
        let (read, write) = std::io::pipe().unwrap();
        let held_elsewhere = read.try_clone().unwrap();
        let watch = poller.watch(read.into(), 7).unwrap();
        { &write }.write_all(b"x").unwrap();
        assert_eq!(poller.ready().await.unwrap(), [7]);
        assert_eq!(poller.ready().await.unwrap(), [7]);
        drop(watch);
        let (other, mut there) = std::io::pipe().unwrap();
        let _other = poller.watch(other.into(), 8).unwrap();
        there.write_all(b"y").unwrap();
        assert_eq!(poller.ready().await.unwrap(), [8]);
        drop(held_elsewhere);
    }
}
