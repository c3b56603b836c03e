//! Workers that are killed, and supervisors.

use std::{
    collections::BTreeSet,
    io::Write as _,
    net::TcpStream,
    os::fd::{AsFd as _, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};

use super::{
    clients::{Kind, Load, ask, ask_once, connect, read_response},
    driver::{DEADLINE, Driver, nodes},
    reloads::PLAIN,
};

/// An application that stands still for as long as it is told by a request for `/block`.
const BLOCKING: &str = "
    require('http').createServer((request, response) => {
      if (request.url === '/block') for (const end = Date.now() + 600000; Date.now() < end;);
      response.end(String(process.pid));
    }).listen(Number(process.env.PORT));
";

/// A request whose answer is read later; also that it was refused.
fn begin(port: u16, path: &str) -> TcpStream {
    let mut stream = connect(port).unwrap();
    let _ = write!(stream, "GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
    stream
}

/// The application of the reloads, which also counts its connections in a file.
const COUNTING: &str = "
    const fs = require('fs');
    const count = fs.openSync('connections', 'a');
    require('http').createServer((request, response) => setTimeout(() => response.end('x'), 5))
      .on('connection', () => fs.writeSync(count, '.'))
      .listen(Number(process.env.PORT));
";

#[test]
fn a_killed_worker_takes_only_what_it_was_working_on() {
    for node in nodes() {
        let (mut driver, port) = Driver::on_port(&node, COUNTING);
        let mut workers: Vec<u64> = (0..2).map(|slot| driver.start(slot)).collect();
        let load = Load::start(port, Kind::PerRequest, 16, Duration::ZERO);
        let kills = 10;
        for kill in 0..kills {
            let slot = kill % 2;
            let old = workers[slot];
            driver.kill(old);
            driver.until("its end", |driver| !driver.workers.contains_key(&old));
            workers[slot] = driver.start(slot.try_into().unwrap());
        }
        let tally = load.finish();
        let lost = tally.failures.len();
        eprintln!("{kills} kills: {} requests, {lost} lost, slowest {:?}", tally.done, tally.slowest);
        // Lost is what a worker had accepted; one may be killed before it has counted that.
        let accepted = std::fs::read(driver.folder.path().join("connections")).unwrap().len();
        let unanswered = accepted - usize::try_from(tally.done).unwrap();
        assert!(lost <= unanswered + kills, "{lost} lost, {unanswered} without an answer");
        assert!(!tally.failures.iter().any(|failure| failure.contains("refused")), "{:?}", tally.failures);
    }
}

#[test]
fn who_waits_at_a_dead_workers_socket_is_served_by_the_next() {
    for node in nodes() {
        let (mut driver, port) = Driver::on_port(&node, BLOCKING);
        let first = driver.start(0);
        let mut blocked = begin(port, "/block");
        std::thread::sleep(Duration::from_millis(200));
        let mut waiting: Vec<TcpStream> = (0..20).map(|_| begin(port, "/")).collect();
        driver.kill(first);
        driver.until("its end", |driver| !driver.workers.contains_key(&first));
        let second = driver.start(0);
        let pid = driver.workers[&second].child.id().to_string();
        for stream in &mut waiting {
            assert_eq!(read_response(stream).unwrap().0, pid);
        }
        assert!(read_response(&mut blocked).is_err());
    }
}

#[test]
fn who_waits_at_a_dead_workers_socket_is_handed_to_the_others() {
    for node in nodes() {
        let (mut driver, port) = Driver::on_port(&node, BLOCKING);
        let first = driver.start(0);
        let mut blocked = begin(port, "/block");
        let second = driver.start(1);
        std::thread::sleep(Duration::from_millis(200));
        // With two sockets some of so many wait at the one where nobody accepts, but for one chance in 2⁶⁴.
        let mut waiting: Vec<TcpStream> = (0..64).map(|_| begin(port, "/")).collect();
        driver.kill(first);
        driver.until("its end", |driver| !driver.workers.contains_key(&first));
        let mut offered = 0;
        let began = Instant::now();
        driver.until("nobody waits", |driver| {
            let busy = driver.cluster().accept_orphans();
            offered += usize::from(busy);
            !busy && driver.cluster().orphaned_listeners().len() == 1
        });
        eprintln!("the queue was handed over in {:?}", began.elapsed());
        assert!(offered > 0);
        let pid = driver.workers[&second].child.id().to_string();
        // Whoever comes now is steered to the other at once.
        waiting.extend((0..20).map(|_| begin(port, "/")));
        for stream in &mut waiting {
            assert_eq!(read_response(stream).unwrap().0, pid);
        }
        assert!(read_response(&mut blocked).is_err());
        driver.start(0);
        assert!(driver.cluster().orphaned_listeners().is_empty());
        let pids: BTreeSet<String> = (0..64).map(|_| ask_once(port).unwrap()).collect();
        assert_eq!(pids.len(), 2);
    }
}

#[test]
fn a_connection_that_one_worker_refuses_goes_to_another() {
    let source = "
        const server = require('http').createServer((request, response) => response.end(String(process.pid)));
        server.on('drop', () => process.send('dropped'));
        server.maxConnections = 1000;
        if (process.env.FULL) server._connections = 1000;
        server.listen(Number(process.env.PORT));
    ";
    for node in nodes() {
        let (mut driver, port) = Driver::on_port(&node, source);
        let dead = driver.start(0);
        let open = driver.start(1);
        driver.set("FULL", "1");
        driver.start(2);
        let pid = driver.workers[&open].child.id().to_string();
        driver.signal(dead, rustix::process::Signal::STOP);
        let waiting: Vec<TcpStream> = (0..90).map(|_| begin(port, "/")).collect();
        driver.kill(dead);
        let answers = std::thread::spawn(move || {
            let read = |mut stream| read_response(&mut stream).ok().map(|(body, _)| body);
            waiting.into_iter().filter_map(read).collect::<Vec<_>>()
        });
        driver.until("all are answered", |_| answers.is_finished());
        let answers = answers.join().unwrap();
        assert!(answers.iter().all(|body| *body == pid));
        // The full one drops what comes to its own socket. What it is handed it refuses, and none of that is lost.
        driver.until("all are counted", |driver| answers.len() + driver.messages().len() >= 90);
        assert!(driver.messages().len() < 60, "{:?}", driver.messages());
    }
}

#[test]
fn the_death_of_the_supervisor_loses_nothing() {
    for node in nodes() {
        for life in [1, 3] {
            let (mut driver, port) = Driver::on_port(&node, PLAIN);
            driver.life = Some(life);
            for slot in 0..2 {
                driver.start(slot);
            }
            let load = Load::start(port, Kind::PerRequest, 8, Duration::ZERO);
            let kept = Load::start(port, Kind::KeepAlive, 8, Duration::ZERO);
            for _ in 0..3 {
                for slot in 0..2 {
                    driver.reload(slot);
                }
            }
            let (tally, kept) = (load.finish(), kept.finish());
            eprintln!("a death each {life} turns: {} and {} requests", tally.done, kept.done);
            assert_eq!((tally.failures, kept.failures), (Vec::new(), Vec::new()));
            assert_eq!(driver.killed, 0);
        }
    }
}

/// The whole lines that wait at a channel.
fn whole_lines(channel: &OwnedFd) -> Vec<u8> {
    let mut bytes = vec![0; 65536];
    match recv(channel, bytes.as_mut_slice(), RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((length, _)) => bytes.truncate(length),
        Err(Errno::AGAIN) => bytes.clear(),
        Err(error) => panic!("{error}"),
    }
    let end = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
    bytes.truncate(end);
    bytes
}

#[test]
fn a_message_that_is_dealt_with_twice_does_no_harm() {
    for node in nodes() {
        let (mut driver, port) = Driver::on_port(&node, PLAIN);
        let (worker, theirs) = driver.spawn_and_share(0, false, true);
        let theirs = theirs.unwrap();
        let mut seen: Vec<Vec<u8>> = Vec::new();
        let deadline = Instant::now() + DEADLINE;
        while !driver.cluster().standing(worker).is_some_and(|it| it.listening) {
            assert!(Instant::now() < deadline, "it never listens");
            // As if the supervisor were killed after each look: what was dealt with comes again.
            let lines = whole_lines(&driver.workers[&worker].channel);
            let reading = driver.cluster.as_mut().unwrap().readable(worker, &mut driver.vault);
            driver.told.extend(reading.outcomes.into_iter().map(|outcome| (worker, outcome)));
            if !lines.is_empty() && !seen.contains(&lines) {
                rustix::io::write(theirs.as_fd(), &lines).unwrap();
                seen.push(lines);
                driver.die();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(seen.iter().any(|lines| String::from_utf8_lossy(lines).contains("queryServer")));
        for _ in 0..20 {
            driver.turn();
        }
        let mut connection = None;
        ask(&mut connection, port, Kind::KeepAlive).unwrap();
        // Told to drain twice, it still waits for the connection.
        driver.drain(worker);
        driver.die();
        driver.die();
        for _ in 0..20 {
            driver.turn();
        }
        assert!(driver.cluster().standing(worker).unwrap().connected);
        ask(&mut connection, port, Kind::KeepAlive).unwrap();
        assert!(connection.is_none(), "the last response should have said so");
        drop(theirs);
        driver.until("its end", |driver| !driver.workers.contains_key(&worker));
        assert_eq!(driver.killed, 0);
    }
}

#[test]
fn numbers_do_not_come_again_after_a_death() {
    let node = nodes().remove(0);
    let (mut driver, _) = Driver::on_port(&node, PLAIN);
    let mut numbers = BTreeSet::new();
    for _ in 0..5 {
        for _ in 0..10 {
            assert!(numbers.insert(driver.cluster().number()));
        }
        driver.die();
    }
}
