//! The supervisor dies while an app is in `bind`, and another takes over with what was stored.

use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::process::Signal;

use super::super::{
    HeldSocket, ListenSockets, Notifier, Orders, TransparentEvent as Event, sys, transparent::is_listening,
};
use super::stage::{
    PATIENCE, Play, Running, Shelf, Watched, duplicate, free_address, read_report, request, wait_readable,
};

/// Where a supervisor in the same process "dies": it panics there, and everything it had is dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Death {
    OnReceiving,
    BeforeKeeping,
    AfterKeeping,
}

struct Mortal<'a> {
    shelf: &'a mut Shelf,
    death: Death,
}

impl ListenSockets for Mortal<'_> {
    fn held(&self, address: SocketAddr) -> Vec<HeldSocket<'_>> {
        assert_ne!(self.death, Death::OnReceiving, "dies here");
        self.shelf.held(address)
    }

    fn keep(&mut self, address: SocketAddr, generation: u64, socket: OwnedFd) -> std::io::Result<()> {
        assert_ne!(self.death, Death::BeforeKeeping, "dies here");
        self.shelf.keep(address, generation, socket)?;
        panic!("dies here: {:?}", self.death);
    }
}

/// What the keeper still has when a notifier is gone.
fn keep(notifier: &Notifier) -> (OwnedFd, OwnedFd) {
    (duplicate(notifier), duplicate(notifier.page_file()))
}

#[test]
fn a_call_is_repeated_from_wherever_the_supervisor_died() {
    for death in [Death::OnReceiving, Death::BeforeKeeping, Death::AfterKeeping] {
        let (address, mut shelf) = (free_address(), Shelf::default());
        let app = Watched::start(&Play::role(&["server", &address.to_string(), "alive"]), 1);
        let (listener, page) = keep(&app.notifier);
        let Watched { app, mut notifier } = app;
        assert!(wait_readable(notifier.as_fd()));
        let mut mortal = Mortal { shelf: &mut shelf, death };
        let fate = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| notifier.readable(&mut mortal)));
        assert!(fate.is_err());
        drop(notifier);
        let notifier = Notifier::new(listener, page, 1).unwrap();
        assert!(notifier.is_pending().unwrap());
        let mut app = Watched { app, notifier };
        // Nothing new arrives: the call is in the page.
        let events = app.notifier.readable(&mut shelf).unwrap();
        assert!(matches!(events[0], Event::Bound { .. }), "{death:?} {events:?}");
        if !events.iter().any(|event| matches!(event, Event::Listening { .. })) {
            app.until_listening(&mut shelf);
        }
        assert_eq!((request(address).unwrap(), shelf.0.len()), ("alive".to_owned(), 1), "{death:?}");
    }
}

/// Messages from the brain to its keeper: an address and a socket for it.
fn put(keeper: &OwnedFd, address: SocketAddr, generation: u64, socket: &OwnedFd) {
    let text = format!("{generation} {address}");
    let descriptors = [socket.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(keeper, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::empty()).unwrap();
}

fn take(brain: &OwnedFd) -> Option<(SocketAddr, u64, OwnedFd)> {
    let mut bytes = [0; 200];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let mut parts = [std::io::IoSliceMut::new(&mut bytes)];
    let length = rustix::net::recvmsg(brain, &mut parts, &mut control, flags).ok()?.bytes;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    })?;
    let (generation, address) = std::str::from_utf8(&bytes[..length]).unwrap().split_once(' ').unwrap();
    Some((address.parse().unwrap(), generation.parse().unwrap(), descriptor))
}

/// A brain in a process of its own: descriptor 3 is the keeper, 4 the listener, 5 the page, 6 a held socket if there is one.
pub(super) fn brain(generation: u64) -> i32 {
    struct Store {
        keeper: OwnedFd,
        shelf: Shelf,
    }
    impl ListenSockets for Store {
        fn held(&self, address: SocketAddr) -> Vec<HeldSocket<'_>> {
            self.shelf.held(address)
        }
        fn keep(&mut self, address: SocketAddr, generation: u64, socket: OwnedFd) -> std::io::Result<()> {
            put(&self.keeper, address, generation, &socket);
            self.shelf.keep(address, generation, socket)
        }
    }
    let [keeper, listener, page] = [3, 4, 5].map(|number| sys::inherited(number).unwrap());
    let mut store = Store { keeper, shelf: Shelf::default() };
    if let Ok(held) = sys::inherited(6) {
        let address = rustix::net::getsockname(&held).unwrap().try_into().unwrap();
        store.shelf.0.push((address, generation, held));
    }
    let mut notifier = Notifier::new(listener, page, generation).unwrap();
    writeln!(std::io::stdout(), "ready").unwrap();
    loop {
        let events = notifier.readable(&mut store).unwrap();
        if events.iter().any(|event| matches!(event, Event::Ended)) {
            return 0;
        }
        wait_readable(notifier.as_fd());
    }
}

fn start_brain(keeper: &OwnedFd, listener: &OwnedFd, page: &OwnedFd, held: Option<&OwnedFd>) -> Running {
    let mut play = Play::role(&["brain", "1"]);
    play.pass = vec![(keeper.as_fd(), 3), (listener.as_fd(), 4), (page.as_fd(), 5)];
    play.pass.extend(held.map(|held| (held.as_fd(), 6)));
    play.start(None).unwrap()
}

#[test]
fn killed_again_and_again_no_call_is_lost() {
    const ROUNDS: &str = "1000";
    let address = free_address();
    let pair = || {
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .unwrap()
    };
    let (ours, theirs) = pair();
    let orders = Orders { transparent: true, ..Orders::default() };
    let (mut app, report) = Play::role(&["binder", &address.to_string(), ROUNDS]).start_wrapped(orders);
    let listener = read_report(&report).unwrap().unwrap();
    let page = Notifier::page().unwrap();
    let mut held: Option<OwnedFd> = None;
    let deadline = std::time::Instant::now() + PATIENCE * 3;
    let mut deaths = 0_u32;
    while app.has_ended().is_none() {
        assert!(std::time::Instant::now() < deadline, "hangs after death {deaths}");
        let mut brain = start_brain(&theirs, &listener, &page, held.as_ref());
        // Uneven times from its beginning on, so that it dies everywhere.
        assert_eq!(brain.line(), "ready");
        std::thread::sleep(Duration::from_micros(u64::from(deaths) * 377 % 4_000));
        brain.signal(Signal::KILL);
        brain.wait();
        deaths += 1;
        while let Some((_, _, socket)) = take(&ours) {
            assert!(held.is_none(), "a second socket for the same address");
            held = Some(socket);
        }
    }
    assert_eq!(app.line(), "all bound");
    assert!(deaths > 1, "the app was too fast for this test");
    assert!(is_listening(held.expect("a stored socket").as_fd()).unwrap());
}
