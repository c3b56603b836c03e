//! Reloads of transparent apps under load.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;

use super::super::{Drain, TransparentEvent as Event, remaining, retire, steer};
use super::stage::{PATIENCE, Play, Shelf, Watched, free_address, request};

/// What several clients saw, one connection per request.
#[derive(Debug, Default)]
pub(super) struct Load {
    pub(super) answered: AtomicU32,
    pub(super) failed: AtomicU32,
    stop: AtomicBool,
}

pub(super) struct Clients {
    pub(super) load: Arc<Load>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    pub(super) fn start(address: SocketAddr, count: usize) -> Self {
        let load = Arc::new(Load::default());
        let client = |_| {
            let load = Arc::clone(&load);
            std::thread::spawn(move || {
                while !load.stop.load(Ordering::Relaxed) {
                    let counter = if request(address).is_ok() { &load.answered } else { &load.failed };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let threads = (0..count).map(client).collect();
        Self { load, threads }
    }

    pub(super) fn stop(self) -> Load {
        self.load.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        Arc::into_inner(self.load).unwrap()
    }
}

/// How the next generation gets its socket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Way {
    /// One of its own; the old one is drained first. What the module does.
    TwoSockets,
    /// The same one for both; the old process is stopped as soon as the new one listens.
    OneSocket,
}

/// Keeps answering calls of an app while waiting.
pub(super) fn serve_calls(app: &mut Watched, shelf: &mut Shelf, time: Duration) -> Vec<Event> {
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) };
    rustix::io::retry_on_intr(|| {
        rustix::event::poll(&mut [PollFd::new(&app.notifier, PollFlags::IN)], Some(&timeout))
    })
    .unwrap();
    app.notifier.readable(shelf).unwrap()
}

/// One reload; returns the app of the next generation and how long the drain took.
pub(super) fn reload(
    old: Watched,
    shelf: &mut Shelf,
    play: &Play<'_>,
    address: SocketAddr,
    (generation, way): (u64, Way),
) -> (Watched, Duration) {
    let mut old = old;
    if way == Way::OneSocket {
        let mut new = Watched::start(play, 1);
        new.until_listening(shelf);
        old.app.signal(Signal::TERM);
        old.app.wait();
        return (new, Duration::ZERO);
    }
    let mut new = Watched::start(play, generation);
    new.until_listening(shelf);
    steer(shelf, address, generation).unwrap();
    let start = Instant::now();
    let mut drain = Drain::begin(start);
    loop {
        let left = remaining(shelf.socket(generation - 1), &[old.app.id()]).unwrap();
        if drain.is_over(Instant::now(), &left) {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "never over: {left:?}");
        serve_calls(&mut new, shelf, Duration::from_millis(10));
    }
    let took = start.elapsed();
    old.app.signal(Signal::TERM);
    old.app.wait();
    assert_eq!(remaining(shelf.socket(generation - 1), &[]).unwrap().queued, 0);
    retire(shelf.take(generation - 1).as_fd()).unwrap();
    (new, took)
}

#[test]
fn an_app_without_a_signal_handler_loses_nothing() {
    let (address, mut shelf) = (free_address(), Shelf::default());
    let play = |text: &str| Play::role(&["server", &address.to_string(), text]);
    let mut app = Watched::start(&play("0"), 0);
    app.until_listening(&mut shelf);
    let clients = Clients::start(address, 8);
    for generation in 1..=6 {
        let before = clients.load.answered.load(Ordering::Relaxed);
        (app, _) = reload(app, &mut shelf, &play("next"), address, (generation, Way::TwoSockets));
        super::stage::until("some answers", || {
            (clients.load.answered.load(Ordering::Relaxed) > before + 20).then_some(())
        });
    }
    let load = clients.stop();
    assert_eq!(load.failed.into_inner(), 0, "of {:?}", load.answered);
    assert_eq!(shelf.0.len(), 1);
    assert_eq!(request(address).unwrap(), "next");
}

#[test]
fn the_new_socket_gets_nothing_before_it_is_chosen_and_a_failed_reload_changes_nothing() {
    let (address, mut shelf) = (free_address(), Shelf::default());
    let start = |generation: u64, shelf: &mut Shelf| {
        let text = generation.to_string();
        let mut app = Watched::start(&Play::role(&["server", &address.to_string(), &text]), generation);
        app.until_listening(shelf);
        app
    };
    let answers = |expected: &str| {
        for _ in 0..20 {
            assert_eq!(request(address).unwrap(), expected);
        }
    };
    assert!(steer(&shelf, address, 1).is_err());
    let _first = start(1, &mut shelf);
    let second = start(2, &mut shelf);
    answers("1");
    // It is given up: its socket goes, and nobody notices.
    drop(second);
    retire(shelf.take(2).as_fd()).unwrap();
    answers("1");
    let third = start(3, &mut shelf);
    answers("1");
    steer(&shelf, address, 3).unwrap();
    answers("3");
    // A generation too many shares the newest socket.
    let fourth = start(4, &mut shelf);
    assert_eq!(shelf.0.len(), 2);
    drop(third);
    answers("4");
    assert!(steer(&shelf, address, 9).is_err());
    // Back to the old one, as after a bad deployment.
    steer(&shelf, address, 1).unwrap();
    answers("1");
    drop(fourth);
}

#[test]
fn an_old_process_that_listens_late_gets_the_newest_socket() {
    let (address, mut shelf) = (free_address(), Shelf::default());
    // It stops itself between bind and listen.
    let mut old = Watched::start(&Play::role(&["late-server", &address.to_string(), "old"]), 1);
    old.answer_until(&mut shelf, |event| matches!(event, Event::Bound { .. }));
    let mut new = Watched::start(&Play::role(&["server", &address.to_string(), "new"]), 2);
    new.until_listening(&mut shelf);
    old.app.until_stopped();
    old.app.signal(Signal::CONT);
    let events = old.answer_until(&mut shelf, |event| matches!(event, Event::Listening { .. }));
    assert!(matches!(events.last(), Some(Event::Listening { generation: 2, .. })), "{events:?}");
    drop(new);
    assert_eq!(request(address).unwrap(), "old");
}
