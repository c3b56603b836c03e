//! Clients that ask again and again and count what fails.

use std::{
    io::{self, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::driver::DEADLINE;

/// How a client uses its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    KeepAlive,
    PerRequest,
}

/// What came of the requests.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) done: u64,
    pub(super) failures: Vec<String>,
    pub(super) slowest: Duration,
}

/// Clients at work.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// So many clients, each with one connection, that think so long between two requests.
    pub(super) fn start(port: u16, kind: Kind, clients: usize, think: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..clients)
            .map(|_| {
                let stop = Arc::clone(&stop);
                thread::spawn(move || ask_on(port, kind, think, &stop))
            })
            .collect();
        Self { stop, clients }
    }

    pub(super) fn finish(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut total = Tally::default();
        for client in self.clients {
            let Tally { done, failures, slowest } = client.join().unwrap();
            total.done += done;
            total.failures.extend(failures);
            total.slowest = total.slowest.max(slowest);
        }
        total
    }
}

fn ask_on(port: u16, kind: Kind, think: Duration, stop: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let reused = connection.is_some();
        match ask(&mut connection, port, kind) {
            Ok(_) => tally.done += 1,
            Err(error) => {
                connection = None;
                tally.failures.push(format!("{error} (reused: {reused})"));
            }
        }
        tally.slowest = tally.slowest.max(began.elapsed());
        if !think.is_zero() {
            thread::sleep(think);
        }
    }
    tally
}

/// One request on the connection, or on a new one.
pub(super) fn ask(connection: &mut Option<TcpStream>, port: u16, kind: Kind) -> io::Result<String> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => connect(port)?,
    };
    let end = if kind == Kind::PerRequest { "Connection: close\r\n" } else { "" };
    write!(stream, "GET / HTTP/1.1\r\nHost: here\r\n{end}\r\n")?;
    let (body, keep) = read_response(&mut stream)?;
    if keep && kind == Kind::KeepAlive {
        *connection = Some(stream);
    }
    Ok(body)
}

pub(super) fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// The body, and whether the connection may be used again.
pub(super) fn read_response(stream: &mut impl io::Read) -> io::Result<(String, bool)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            if !head.starts_with("http/1.1 200") {
                return Err(io::Error::other(head));
            }
            let length: usize = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .and_then(|length| length.parse().ok())
                .ok_or_else(|| io::Error::other("no length"))?;
            if bytes.len() >= end + 4 + length {
                let body = String::from_utf8_lossy(&bytes[end + 4..]).into_owned();
                return Ok((body, !head.contains("connection: close")));
            }
        }
        match stream.read(&mut buffer)? {
            0 => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("after {} bytes", bytes.len()),
                ));
            }
            read => bytes.extend_from_slice(&buffer[..read]),
        }
    }
}

/// One request on a connection of its own.
pub(super) fn ask_once(port: u16) -> io::Result<String> {
    ask(&mut None, port, Kind::PerRequest)
}
