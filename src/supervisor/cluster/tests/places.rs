//! Every kind of place to listen at.

use std::{
    collections::BTreeSet,
    fs,
    net::{TcpListener, UdpSocket},
    os::unix::net::{UnixListener, UnixStream},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    super::{Options, Outcome},
    clients::{Kind, ask, ask_once, read_response},
    driver::{DEADLINE, Driver, free_port, nodes},
};

/// Tells the primary what becomes of `listen(...)`, once for each line of `LISTEN`, a list of lists of arguments.
const LISTENER: &str = "
    const http = require('http');
    for (const args of JSON.parse(process.env.LISTEN)) {
      const server = http.createServer((request, response) => response.end(String(process.pid)));
      server.on('error', (error) => process.send({ args, error: error.code }));
      server.listen(...args, () => process.send({ args, address: server.address() }));
    }
    process.on('message', () => {});
";

/// The answers to so many calls of `listen`, in each of so many workers.
fn listen(driver: &mut Driver, arguments: &Value, workers: u32) -> Vec<Value> {
    let calls = arguments.as_array().unwrap().len();
    driver.set("LISTEN", &arguments.to_string());
    let before = driver.messages().len();
    for slot in 0..workers {
        driver.spawn(slot);
    }
    let wanted = before + calls * usize::try_from(workers).unwrap();
    driver.until("all answered", |driver| driver.messages().len() >= wanted);
    driver.messages().split_off(before)
}

#[test]
fn a_taken_address_is_told_to_the_application() {
    for node in nodes() {
        for (foreign, arguments) in
            [("127.0.0.1:0", json!(["127.0.0.1"])), ("127.0.0.1:0", json!([])), ("[::]:0", json!([]))]
        {
            let taken = TcpListener::bind(foreign).unwrap();
            let port = taken.local_addr().unwrap().port();
            let mut call = vec![json!(port)];
            call.extend(arguments.as_array().unwrap().iter().cloned());
            let mut driver = Driver::new(&node, LISTENER);
            let answers = listen(&mut driver, &json!([call]), 2);
            assert!(answers.iter().all(|answer| answer["error"] == "EADDRINUSE"), "{answers:?}");
            let errno = libc::EADDRINUSE;
            let refused = |(_, outcome): &(u64, Outcome)| matches!(outcome, Outcome::Refused { errno: it, .. } if *it == errno);
            assert_eq!(driver.told.iter().filter(|told| refused(told)).count(), 2);
            assert!(driver.vault.descriptors.is_empty());
        }
    }
}

#[test]
fn a_second_server_of_an_application_cannot_take_the_first_ones_port() {
    for node in nodes() {
        let port = free_port();
        for second in [json!([port]), json!([port, "127.0.0.1"])] {
            let mut driver = Driver::new(&node, LISTENER);
            let answers = listen(&mut driver, &json!([[port], second]), 1);
            let errors: Vec<&Value> = answers.iter().map(|answer| &answer["error"]).collect();
            assert!(errors.contains(&&json!("EADDRINUSE")) && errors.contains(&&Value::Null), "{answers:?}");
            assert!(ask_once(port).is_ok());
        }
    }
}

#[test]
fn an_address_that_is_not_here_is_told_by_its_errno() {
    for node in nodes() {
        let mut driver = Driver::new(&node, LISTENER);
        let nowhere = driver.folder.path().join("no/where").to_str().unwrap().to_owned();
        let long = driver.folder.path().join("x".repeat(150)).to_str().unwrap().to_owned();
        let answers = listen(&mut driver, &json!([[0, "203.0.113.7"], [nowhere], [long], [{"fd": 77}]]), 1);
        let mut errors: Vec<&str> = answers.iter().filter_map(|answer| answer["error"].as_str()).collect();
        errors.sort_unstable();
        // What Node itself says of a path that is too long depends on its version; with a primary it is ours.
        assert_eq!(errors, ["EADDRNOTAVAIL", "EBADF", "ENAMETOOLONG", "ENOENT"]);
    }
}

#[test]
fn two_servers_and_any_port() {
    for node in nodes() {
        let mut driver = Driver::new(&node, LISTENER);
        let port = free_port();
        let answers = listen(&mut driver, &json!([[port], [0], [0, "127.0.0.1"], [0]]), 2);
        let ports: BTreeSet<u64> =
            answers.iter().map(|answer| answer["address"]["port"].as_u64().unwrap()).collect();
        // Each of the four has one port, the same in both workers.
        assert_eq!((answers.len(), ports.len()), (8, 4), "{answers:?}");
        for &port in &ports {
            ask_once(port.try_into().unwrap()).unwrap();
        }
        let told: BTreeSet<u64> = driver
            .told
            .iter()
            .filter_map(|(_, outcome)| match outcome {
                Outcome::Listening { port, .. } => port.map(u64::from),
                _ => None,
            })
            .collect();
        assert_eq!(told, ports);
        // The ports stay when all workers were replaced, and when the supervisor died.
        driver.die();
        for slot in 0..2 {
            driver.reload(slot);
        }
        let after: BTreeSet<u64> =
            driver.messages().iter().filter_map(|answer| answer["address"]["port"].as_u64()).collect();
        assert_eq!(after, ports);
    }
}

#[test]
fn ipv6_and_ipv4_apart_or_together() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("no IPv6 here");
        return;
    }
    for node in nodes() {
        let mut driver = Driver::new(&node, LISTENER);
        let (port, both) = (free_port(), free_port());
        let only = json!({"port": port, "host": "::", "ipv6Only": true});
        let answers = listen(&mut driver, &json!([[only], [port, "0.0.0.0"], [both]]), 2);
        assert!(answers.iter().all(|answer| answer["error"].is_null()), "{answers:?}");
        let families: Vec<&str> =
            answers.iter().filter_map(|answer| answer["address"]["family"].as_str()).collect();
        assert_eq!(families.iter().filter(|&&family| family == "IPv6").count(), 4, "{answers:?}");
        assert!(std::net::TcpStream::connect(("::1", both)).is_ok());
        assert!(ask_once(both).is_ok() && ask_once(port).is_ok());
    }
}

#[test]
fn an_application_may_move_to_another_address_when_it_is_replaced() {
    for node in nodes() {
        let mut driver = Driver::new(&node, LISTENER);
        let port = free_port();
        driver.set("LISTEN", &json!([[port, "127.0.0.1"]]).to_string());
        let old = driver.start(0);
        driver.set("LISTEN", &json!([[port, "0.0.0.0"]]).to_string());
        let new = driver.start(0);
        driver.drain(old);
        driver.until("the old one's end", |driver| !driver.workers.contains_key(&old));
        let now = Instant::now();
        driver.cluster.as_mut().unwrap().tidy(now, &mut driver.vault);
        driver.cluster.as_mut().unwrap().tidy(now + Duration::from_secs(31), &mut driver.vault);
        assert_eq!(driver.vault.descriptors.len(), 1);
        assert_eq!(ask_once(port).unwrap(), driver.workers[&new].child.id().to_string());
        // And back, at a time when nobody listens.
        driver.kill(new);
        driver.until("its end", |driver| driver.workers.is_empty());
        driver.set("LISTEN", &json!([[port, "127.0.0.1"]]).to_string());
        driver.start(0);
        assert_eq!(driver.vault.descriptors.len(), 1);
        ask_once(port).unwrap();
    }
}

#[test]
fn unix_sockets() {
    for node in nodes() {
        let mut driver = Driver::new(&node, LISTENER);
        let path = driver.folder.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        // A stale file gives way; the path is relative to the worker's folder.
        let answers = listen(&mut driver, &json!([["socket"]]), 2);
        assert!(answers.iter().all(|answer| answer["error"].is_null()), "{answers:?}");
        let ask = |path: &std::path::Path| {
            let mut stream = UnixStream::connect(path).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                .unwrap();
            read_response(&mut stream).unwrap().0
        };
        ask(&path);
        driver.reload(0);
        ask(&path);
        // An application that removes the file before it listens gets a new socket.
        fs::remove_file(&path).unwrap();
        let new = driver.reload(1);
        assert_eq!(ask(&path), driver.workers[&new].child.id().to_string());
        driver.reload(0);
        assert_eq!(driver.vault.descriptors.len(), 2);
        let now = Instant::now();
        driver.cluster.as_mut().unwrap().tidy(now, &mut driver.vault);
        driver.cluster.as_mut().unwrap().tidy(now + Duration::from_secs(6), &mut driver.vault);
        assert_eq!(driver.vault.descriptors.len(), 1);
        ask(&path);
        for worker in driver.workers.keys().copied().collect::<Vec<_>>() {
            driver.kill(worker);
        }
        driver.until("their end", |driver| driver.workers.is_empty());
        driver.cluster.take().unwrap().end(&mut driver.vault);
        assert!(!path.exists());
        assert!(driver.vault.descriptors.is_empty() && driver.vault.notes.is_empty());
    }
}

#[test]
fn datagrams() {
    let source = "
        const socket = require('dgram').createSocket('udp4');
        socket.on('message', (message, from) => socket.send(String(process.pid), from.port, from.address));
        socket.bind(Number(process.env.PORT), '127.0.0.1', () => process.send(socket.address()));
    ";
    for node in nodes() {
        let (mut driver, port) = Driver::on_port(&node, source);
        let first = driver.start(0);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.connect(("127.0.0.1", port)).unwrap();
        let ask = || {
            let mut buffer = [0; 64];
            client.send(b"?").unwrap();
            let length = client.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        assert_eq!(ask(), driver.workers[&first].child.id().to_string());
        // What is sent while there is no worker waits for the next one.
        driver.kill(first);
        driver.until("its end", |driver| driver.workers.is_empty());
        client.send(b"?").unwrap();
        let second = driver.start(0);
        let mut buffer = [0; 64];
        let length = client.recv(&mut buffer).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&buffer[..length]),
            driver.workers[&second].child.id().to_string()
        );
        driver.start(1);
        ask();
        assert_eq!(driver.vault.descriptors.len(), 1);
    }
}

#[test]
fn an_inherited_descriptor() {
    for node in nodes() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let mut driver = Driver::new(&node, LISTENER);
        let options = Options { inherited: [(5, socket.into())].into(), ..Options::default() };
        driver.cluster = Some(super::super::Cluster::new("app", options));
        let answers = listen(&mut driver, &json!([[{"fd": 5}]]), 2);
        assert!(answers.iter().all(|answer| answer["address"]["port"] == port), "{answers:?}");
        ask_once(port).unwrap();
    }
}

#[test]
fn a_server_that_is_closed_for_good_is_given_up() {
    let source = "
        const http = require('http');
        const server = http.createServer((request, response) => response.end('x'));
        server.listen(Number(process.env.PORT));
        process.on('message', () => server.close(() => process.send('closed')));
    ";
    for node in nodes() {
        let (mut driver, port) = Driver::on_port(&node, source);
        let worker = driver.start(0);
        driver.cluster().send(worker, &json!("close"));
        driver.until("closed", |driver| driver.messages().contains(&json!("closed")));
        let now = Instant::now();
        driver.cluster.as_mut().unwrap().tidy(now, &mut driver.vault);
        assert_eq!(driver.vault.descriptors.len(), 1);
        driver.cluster.as_mut().unwrap().tidy(now + Duration::from_secs(31), &mut driver.vault);
        assert!(driver.vault.descriptors.is_empty());
        assert!(ask_once(port).is_err());
    }
}

/// A server of its own certificate, and a client that asks again and again while the test replaces the workers.
#[test]
fn https_shares_the_keys_of_its_tickets() {
    let server = "
        const fs = require('fs');
        require('https').createServer({ key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem') },
          (request, response) => response.end(String(process.pid))).listen(Number(process.env.PORT));
    ";
    // Each connection offers the session of the one before, which the other worker can resume only with the same keys.
    let client = "
        const tls = require('tls');
        let session, resumed = 0, pids = new Set(), left = 24;
        (function next() {
          if (left-- === 0) return console.log(JSON.stringify({ resumed, pids: pids.size }));
          const socket = tls.connect({ port: +process.argv[2], rejectUnauthorized: false, session, maxVersion: 'TLSv1.2' });
          let text = '';
          socket.on('secureConnect', () => {
            if (socket.isSessionReused()) resumed++;
            socket.end('GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n');
          });
          socket.on('session', (it) => (session = it));
          socket.on('data', (data) => (text += data));
          socket.on('close', () => { pids.add(text.split('\\r\\n\\r\\n')[1]); next(); });
        })();
    ";
    for node in nodes() {
        let (mut driver, port) = Driver::on_port(&node, server);
        certify(&driver);
        for slot in 0..2 {
            driver.start(slot);
        }
        let script = driver.folder.path().join("client.js");
        fs::write(&script, client).unwrap();
        let output = Command::new(&node).arg(&script).arg(port.to_string()).output().unwrap();
        let found: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(found, json!({"resumed": 23, "pids": 2}));
    }
}

/// A key and a certificate for the application.
pub(super) fn certify(driver: &Driver) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(driver.folder.path().join("key.pem"), certified.signing_key.serialize_pem()).unwrap();
    fs::write(driver.folder.path().join("cert.pem"), certified.cert.pem()).unwrap();
}

#[test]
fn a_keep_alive_connection_stays_with_its_worker() {
    let node = nodes().remove(0);
    let (mut driver, port) = Driver::on_port(&node, super::reloads::PLAIN);
    for slot in 0..2 {
        driver.start(slot);
    }
    let mut connection = None;
    let pids: BTreeSet<String> =
        (0..10).map(|_| ask(&mut connection, port, Kind::KeepAlive).unwrap()).collect();
    assert_eq!(pids.len(), 1);
}

#[test]
fn many_servers_at_once() {
    let node = nodes().remove(0);
    let mut driver = Driver::new(&node, LISTENER);
    let calls: Vec<Value> = (0..400).map(|_| json!([0, "127.0.0.1"])).collect();
    let answers = listen(&mut driver, &json!(calls), 1);
    assert!(answers.iter().all(|answer| answer["error"].is_null()));
    assert_eq!(driver.vault.descriptors.len(), 400);
}
