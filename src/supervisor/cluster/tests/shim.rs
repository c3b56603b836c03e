//! The file that is loaded into workers: what it does at the drain, and that it does nothing elsewhere.

use std::{
    fs,
    io::{Read as _, Write as _},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    super::DRAIN_GRACE,
    clients::{Kind, ask, connect, read_response},
    driver::{Driver, nodes},
    places::certify,
    reloads::PLAIN,
};

/// Runs a client in JavaScript while both workers are replaced, twice; what it tells at the end.
fn with_client(driver: &mut Driver, node: &std::path::Path, client: &str, arguments: &[&str]) -> Value {
    for slot in 0..2 {
        driver.start(slot);
    }
    let script = driver.folder.path().join("client.js");
    fs::write(&script, client).unwrap();
    let mut child: Child = Command::new(node)
        .arg(&script)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut first = [0; 1];
    output.read_exact(&mut first).unwrap();
    for _ in 0..2 {
        for slot in 0..2 {
            driver.reload(slot);
        }
    }
    drop(child.stdin.take());
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    eprintln!("{text}");
    serde_json::from_str(&text).unwrap()
}

/// Asks on until its input ends, by `request(done)`, which calls back with an error or nothing.
fn asking(setup: &str) -> String {
    format!(
        "let done = 0, failed = [], stop = false;
         process.stdin.on('end', () => (stop = true)).resume();
         {setup}
         function next() {{
           if (stop) return end();
           request((error) => {{ if (error) failed.push(String(error)); else done++; setImmediate(next); }});
         }}
         let left = 8;
         function end() {{
           if (--left) return;
           console.log(JSON.stringify({{ failed, done }}));
           process.exit();
         }}
         process.stdout.write(' ');
         for (let n = 0; n < 8; n++) next();"
    )
}

#[test]
fn https_keep_alive() {
    let server = "
        const fs = require('fs');
        require('https').createServer({ key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem') },
          (request, response) => setTimeout(() => response.end('x'), 5)).listen(Number(process.env.PORT));
    ";
    let client = asking(
        "const https = require('https');
         const agent = new https.Agent({ keepAlive: true, maxSockets: 8, rejectUnauthorized: false });
         function request(done) {
           https.get({ port: process.argv[2], agent }, (response) => response.resume().on('end', () => done()))
             .on('error', done);
         }",
    );
    for node in nodes() {
        let (mut driver, port) = Driver::on_port(&node, server);
        certify(&driver);
        let tally = with_client(&mut driver, &node, &client, &[&port.to_string()]);
        assert_eq!(tally["failed"], json!([]));
        assert!(tally["done"].as_u64() > Some(0));
        assert_eq!(driver.killed, 0);
    }
}

#[test]
fn http2_sessions() {
    let server = "
        const http2 = require('http2');
        const fs = require('fs');
        const respond = (request, response) => setTimeout(() => response.end('x'), 5);
        const server = process.env.SECURE
          ? http2.createSecureServer({ key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem') }, respond)
          : http2.createServer(respond);
        server.listen(Number(process.env.PORT));
    ";
    // A session that is told to go away is replaced by a new one, as every client does it. Node's client refuses by
    // itself the streams that it has not sent when it reads that; such a stream may safely be asked again.
    let client = asking(
        "const http2 = require('http2');
         let refused = 0;
         process.on('exit', () => refused && console.error(refused + ' asked again'));
         function open() {
           const session = http2.connect(process.argv[3] + '://localhost:' + process.argv[2], { rejectUnauthorized: false });
           session.on('goaway', () => { if (current === session) current = open(); });
           session.on('close', () => { if (current === session) current = open(); });
           session.on('error', (error) => failed.push('session ' + error));
           return session;
         }
         let current = open();
         function request(done) {
           const stream = current.request({ ':path': '/' });
           let error;
           stream.on('error', (it) => (error = it));
           stream.on('close', () => (stream.rstCode === 7 ? (refused++, request(done)) : done(error))).resume();
           stream.end();
         }",
    );
    for (node, scheme) in nodes().into_iter().flat_map(|node| [(node.clone(), "http"), (node, "https")]) {
        let (mut driver, port) = Driver::on_port(&node, server);
        certify(&driver);
        driver.set("SECURE", if scheme == "https" { "1" } else { "" });
        let tally = with_client(&mut driver, &node, &client, &[&port.to_string(), scheme]);
        assert_eq!(tally["failed"], json!([]));
        assert!(tally["done"].as_u64() > Some(0));
        assert_eq!(driver.killed, 0);
    }
}

#[test]
fn an_application_that_insists_on_keep_alive() {
    let server = "
        let count = 0;
        require('http').createServer((request, response) => setTimeout(() => {
          if (count++ % 3 === 0) response.setHeader('Connection', 'keep-alive');
          if (count % 3 === 1) response.writeHead(200, { connection: 'keep-alive', 'Content-Length': 1 });
          if (count % 3 === 2) response.writeHead(200, ['Connection', 'keep-alive', 'Content-Length', '1']);
          response.end('x');
        }, 5)).listen(Number(process.env.PORT));
    ";
    for node in nodes() {
        let (mut driver, port) = Driver::on_port(&node, server);
        driver.set(DRAIN_GRACE, "20000");
        driver.kill_timeout = Duration::from_secs(100);
        for slot in 0..2 {
            driver.start(slot);
        }
        let load = super::clients::Load::start(port, Kind::KeepAlive, 8, Duration::ZERO);
        for _ in 0..3 {
            for slot in 0..2 {
                driver.reload(slot);
            }
        }
        assert_eq!(load.finish().failures, Vec::<String>::new());
    }
}

#[test]
fn idle_and_silent_connections_end_with_the_grace() {
    for node in nodes() {
        for secure in [false, true] {
            let server = if secure {
                "const fs = require('fs');
                 require('https').createServer({ key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem') },
                   (request, response) => response.end('x')).listen(Number(process.env.PORT));"
            } else {
                PLAIN
            };
            let (mut driver, port) = Driver::on_port(&node, server);
            certify(&driver);
            driver.set(DRAIN_GRACE, "300");
            let worker = driver.start(0);
            let mut idle = None;
            if !secure {
                ask(&mut idle, port, Kind::KeepAlive).unwrap();
            }
            let mut silent = connect(port).unwrap();
            // Accepted, so that it is the worker's.
            std::thread::sleep(Duration::from_millis(200));
            driver.drain(worker);
            driver.until("its end", |driver| driver.workers.is_empty());
            assert_eq!(driver.killed, 0, "secure: {secure}");
            assert_eq!(silent.read(&mut [0; 16]).unwrap_or(0), 0);
        }
    }
}

#[test]
fn a_long_response_is_not_cut_and_an_upgraded_connection_is_left_alone() {
    let server = "
        require('http').createServer((request, response) => {
          if (request.url === '/slow') {
            response.writeHead(200, { 'Content-Length': 2 });
            response.write('a');
            return setTimeout(() => response.end('b'), 1500);
          }
          response.end('x');
        }).on('upgrade', (request, socket) => {
          socket.write('HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\nUpgrade: echo\\r\\n\\r\\n');
          socket.pipe(socket);
        }).listen(Number(process.env.PORT));
    ";
    for node in nodes() {
        let (mut driver, port) = Driver::on_port(&node, server);
        driver.set(DRAIN_GRACE, "200");
        let worker = driver.start(0);
        let mut idle = None;
        ask(&mut idle, port, Kind::KeepAlive).unwrap();
        let mut slow = connect(port).unwrap();
        write!(slow, "GET /slow HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
        slow.read_exact(&mut [0; 12]).unwrap();
        let mut upgraded = connect(port).unwrap();
        write!(upgraded, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
            .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            upgraded.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        driver.drain(worker);
        // The idle one ends, the slow one is answered, the upgraded one goes on, and so does the worker.
        let mut idle = idle.unwrap();
        driver.until("the idle one's end", |_| {
            idle.set_nonblocking(true).unwrap();
            matches!(idle.read(&mut [0; 16]), Ok(0))
        });
        let mut text = String::new();
        slow.set_nonblocking(true).unwrap();
        driver.until("the slow one's answer", |_| {
            let mut bytes = [0; 1024];
            if let Ok(length) = slow.read(&mut bytes) {
                text.push_str(&String::from_utf8_lossy(&bytes[..length]));
            }
            text.ends_with("ab")
        });
        upgraded.write_all(b"echo").unwrap();
        let mut echo = [0; 4];
        upgraded.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"echo");
        assert!(driver.cluster().standing(worker).unwrap().connected);
        drop(upgraded);
        driver.until("its end", |driver| driver.workers.is_empty());
        assert_eq!(driver.killed, 0);
    }
}

#[test]
fn it_is_inert_in_everything_that_the_application_starts() {
    let source = "
        const told = { variable: 'QBENCH_DRAIN_GRACE_MS' in process.env, channel: 'NODE_CHANNEL_FD' in process.env,
          id: 'NODE_UNIQUE_ID' in process.env };
        const probe = `const told = { variable: 'QBENCH_DRAIN_GRACE_MS' in process.env,
          id: 'NODE_UNIQUE_ID' in process.env, worker: require('cluster').isWorker,
          listeners: process.listenerCount('internalMessage'), listen: require('net').Server.prototype.listen.toString().includes('track') };`;
        const fs = require('fs');
        fs.writeFileSync('child.js', probe + 'process.send(told);');
        fs.writeFileSync('thread.js', probe + 'require(\"worker_threads\").parentPort.postMessage(told);');
        require('child_process').fork('child.js').on('message', (child) => {
          new (require('worker_threads').Worker)('./thread.js').on('message', (thread) =>
            process.send({ told, child, thread }));
        });
        setInterval(() => {}, 1000);
    ";
    for node in nodes() {
        let mut driver = Driver::new(&node, source);
        let worker = driver.spawn(0);
        driver.until("told", |driver| !driver.messages().is_empty());
        let inert = json!({"variable": false, "id": false, "worker": false, "listeners": 1, "listen": false});
        let thread =
            json!({"variable": false, "id": false, "worker": false, "listeners": 0, "listen": false});
        let told = json!({"variable": false, "channel": false, "id": false});
        assert_eq!(driver.messages()[0], json!({"told": told, "child": inert, "thread": thread}));
        // Without a server the channel closes at once, and SIGINT ends the rest.
        driver.drain(worker);
        driver.until("its end", |driver| driver.workers.is_empty());
        assert_eq!((driver.killed, driver.vault.descriptors.len()), (0, 0));
    }
}

#[test]
fn modules_of_ecmascript() {
    let source = "
        import { createServer } from 'node:http';
        createServer((request, response) => setTimeout(() => response.end('x'), 5)).listen(Number(process.env.PORT));
    ";
    for node in nodes() {
        let (mut driver, port) = Driver::on_port(&node, "");
        driver.script = driver.folder.path().join("app.mjs");
        fs::write(&driver.script, source).unwrap();
        for slot in 0..2 {
            driver.start(slot);
        }
        let load = super::clients::Load::start(port, Kind::KeepAlive, 8, Duration::ZERO);
        for slot in 0..2 {
            driver.reload(slot);
        }
        assert_eq!(load.finish().failures, Vec::<String>::new());
        assert_eq!(driver.killed, 0);
    }
}

#[test]
fn nothing_is_written_to_the_applications_output() {
    for node in nodes() {
        let (mut driver, port) = Driver::on_port(&node, PLAIN);
        let worker = driver.start(0);
        let mut connection = None;
        ask(&mut connection, port, Kind::KeepAlive).unwrap();
        let mut stream = connection.unwrap();
        write!(stream, "GET / HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
        driver.drain(worker);
        driver.until("its end", |driver| driver.workers.is_empty());
        let (_, keep) = read_response(&mut stream).unwrap();
        assert!(!keep);
        assert_eq!(driver.error_text(worker), "");
    }
}
