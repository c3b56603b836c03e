//! Apps that know nothing of us, under the filter.

use std::net::{SocketAddr, TcpListener, TcpStream};

use rustix::process::Signal;

use super::super::{Identity, Notifier, Orders, TransparentEvent as Event, Unmanaged, remaining, supported};
use super::roles::MARK;
use super::stage::{Play, Shelf, Watched, free_address, is_root, request, this_binary, until, wait_readable};

fn server(address: SocketAddr, text: &str) -> Play<'static> {
    Play::role(&["server", &address.to_string(), text])
}

#[test]
fn this_kernel_can_do_it() {
    supported().unwrap();
}

#[test]
fn the_app_serves_on_our_socket_and_a_crash_loses_no_waiting_connection() {
    let (address, mut shelf) = (free_address(), Shelf::default());
    let mut first = Watched::start(&server(address, "first"), 1);
    first.until_listening(&mut shelf);
    assert_eq!(shelf.0.len(), 1);
    assert_eq!(request(address).unwrap(), "first");
    first.app.signal(Signal::STOP);
    first.app.until_stopped();
    let waiting: Vec<_> = (0..5).map(|_| std::thread::spawn(move || request(address))).collect();
    until("five waiting connections", || {
        (remaining(shelf.socket(1), &[]).unwrap().queued == 5).then_some(())
    });
    first.app.signal(Signal::KILL);
    first.app.wait();
    first.until_ended(&mut shelf);
    let mut second = Watched::start(&server(address, "second"), 1);
    second.until_listening(&mut shelf);
    for answer in waiting {
        assert_eq!(answer.join().unwrap().unwrap(), "second");
    }
    assert_eq!(shelf.0.len(), 1, "a crash takes the same socket");
}

#[test]
fn instances_of_a_generation_share_one_socket() {
    let (address, mut shelf) = (free_address(), Shelf::default());
    let mut instances: Vec<_> = (0..3).map(|_| Watched::start(&server(address, "x"), 1)).collect();
    for instance in &mut instances {
        instance.until_listening(&mut shelf);
    }
    assert_eq!(shelf.0.len(), 1);
    for dying in instances {
        assert_eq!(request(address).unwrap(), "x");
        drop(dying);
    }
}

#[test]
fn whatever_is_not_tcp_on_a_fixed_port_is_left_alone() {
    let (address, mut shelf) = (free_address(), Shelf::default());
    let scratch = tempfile::tempdir().unwrap();
    let unix = scratch.path().join("a.sock").display().to_string();
    let mut app = Watched::start(&Play::role(&["variety", &address.to_string(), &unix]), 1);
    let events = app.until_ended(&mut shelf);
    assert!(shelf.0.is_empty());
    assert!(
        matches!(&events[..], [Event::Unmanaged { reason: Unmanaged::PortZero, .. }, Event::Ended]),
        "{events:?}"
    );
    assert_eq!(
        app.app.finish().0,
        "true true true Err(Os { code: 88, kind: Uncategorized, message: \"Socket operation on non-socket\" })"
    );
}

#[test]
fn the_app_keeps_its_settings() {
    let ports = [free_address().to_string(), format!("[::1]:{}", free_address().port())];
    for address in ports {
        let mut shelf = Shelf::default();
        let mut app = Watched::start(&Play::role(&["flags", &address]), 1);
        app.until_ended(&mut shelf);
        assert_eq!(shelf.0.len(), 1);
        assert_eq!(
            app.app.finish().0,
            "true Some(Os { code: 22, kind: InvalidInput, message: \"Invalid argument\" })"
        );
    }
}

#[test]
fn a_foreign_listener_is_a_conflict() {
    let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = foreign.local_addr().unwrap();
    for asked in [address, SocketAddr::from(([0, 0, 0, 0], address.port()))] {
        let mut shelf = Shelf::default();
        let mut app = Watched::start(&Play::role(&["bind-only", &asked.to_string()]), 1);
        let events = app.until_ended(&mut shelf);
        assert!(matches!(&events[0], Event::Refused { address, .. } if *address == asked), "{events:?}");
        assert_eq!(app.app.finish().0, format!("Some({})", libc::EADDRINUSE));
        assert!(shelf.0.is_empty());
    }
}

#[test]
fn an_app_that_opens_its_address_twice_is_told() {
    let (address, mut shelf) = (free_address(), Shelf::default());
    let mut app = Watched::start(&Play::role(&["twice", &address.to_string()]), 1);
    app.until_ended(&mut shelf);
    assert_eq!(app.app.finish().0, format!("Err(Some({})) true", libc::EADDRINUSE));
}

#[test]
fn an_app_that_asks_to_share_its_address_may() {
    let (address, mut shelf) = (free_address(), Shelf::default());
    let mut app = Watched::start(&Play::role(&["sharing", &address.to_string()]), 1);
    app.until_ended(&mut shelf);
    assert_eq!((app.app.finish().0, shelf.0.len()), ("true true".to_owned(), 1));
}

#[test]
fn both_families_on_one_port_conflict_as_ever() {
    let port = free_address().port();
    let (any6, any4) = (format!("[::]:{port}"), format!("0.0.0.0:{port}"));
    let mut shelf = Shelf::default();
    let mut dual = Watched::start(&Play::role(&["server", &any6, "dual"]), 1);
    dual.until_listening(&mut shelf);
    assert_eq!(request(SocketAddr::from(([127, 0, 0, 1], port))).unwrap(), "dual");
    let mut other = Watched::start(&Play::role(&["bind-only", &any4]), 1);
    other.until_ended(&mut shelf);
    assert_eq!(other.app.finish().0, format!("Some({})", libc::EADDRINUSE));
}

#[test]
fn our_rights_are_not_lent() {
    if !is_root() {
        return;
    }
    let play = Play::role(&["bind-only", "127.0.0.1:1023"]);
    for user in [None, Some("nobody")] {
        let identity = user.map(|user| Identity { user: Some(user.into()), group: None });
        let orders = Orders { identity, transparent: true, ..Orders::default() };
        let (app, report) = play.start_wrapped(orders);
        let listener = match super::stage::read_report(&report) {
            Ok(listener) => listener.unwrap(),
            // The directory of this binary is closed to that user.
            Err(failure) => return assert_eq!(failure.errno, libc::EACCES),
        };
        let notifier = Notifier::new(listener, Notifier::page().unwrap(), 1).unwrap();
        let (mut app, mut shelf) = (Watched { app, notifier }, Shelf::default());
        app.until_ended(&mut shelf);
        let expected = if user.is_some() { format!("Some({})", libc::EACCES) } else { "bound".into() };
        assert_eq!(app.app.finish().0, expected);
    }
}

#[test]
fn another_network_is_not_ours() {
    let unshare = std::path::Path::new("/usr/bin/unshare");
    if !is_root() || !unshare.exists() {
        return;
    }
    let this = this_binary().display().to_string();
    // There the loopback device is down, but binding to "any" works.
    let arguments = ["--net", &this, MARK, "bind-only", "0.0.0.0:5000"].map(str::to_owned);
    let mut shelf = Shelf::default();
    let mut app = Watched::start(&Play::program(unshare, arguments.to_vec()), 1);
    let events = app.until_ended(&mut shelf);
    assert!(
        matches!(&events[0], Event::Unmanaged { reason: Unmanaged::OtherNetwork, .. }),
        "{events:?} {:?}",
        app.app.finish()
    );
    assert_eq!(app.app.finish().0, "bound");
}

#[test]
fn a_store_that_fails_leaves_the_app_its_own_socket() {
    struct Full;
    impl super::super::ListenSockets for Full {
        fn held(&self, _: SocketAddr) -> Vec<super::super::HeldSocket<'_>> {
            Vec::new()
        }
        fn keep(&mut self, _: SocketAddr, _: u64, _: std::os::fd::OwnedFd) -> std::io::Result<()> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
    }
    let address = free_address();
    let mut app = Watched::start(&server(address, "own"), 1);
    assert!(wait_readable(std::os::fd::AsFd::as_fd(&app.notifier)));
    let events = app.notifier.readable(&mut Full).unwrap();
    assert!(matches!(&events[..], [Event::Unmanaged { reason: Unmanaged::NotKept(_), .. }]), "{events:?}");
    // Its listen comes next, and is the kernel's business.
    until("the app's own socket", || {
        app.notifier.readable(&mut Full).unwrap();
        TcpStream::connect(address).ok()
    });
    assert_eq!(request(address).unwrap(), "own");
}
