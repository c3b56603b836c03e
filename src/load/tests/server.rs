//! A server that answers, or misbehaves, request by request.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixListener,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// A server with a thread a connection; ends when it is dropped.
pub(super) struct Server {
    /// Of a Unix socket's server, an address that nobody listens on.
    pub(super) address: SocketAddr,
    folder: Option<tempfile::TempDir>,
    shared: Arc<Shared>,
}

/// What a server does with a request.
pub(super) enum Deed {
    Answer(&'static [u8]),
    /// Each byte in a packet of its own.
    AnswerBytewise(&'static [u8]),
    AnswerAndClose(&'static [u8]),
    Close,
    /// Ends the connection with a reset.
    Reset,
    Ignore,
}

struct Shared {
    deed: Box<dyn Fn(usize, usize) -> Deed + Send + Sync>,
    ended: AtomicBool,
    connections: AtomicUsize,
    requests: AtomicUsize,
    kept: Mutex<Option<Arc<Mutex<Vec<String>>>>>,
}

impl Shared {
    fn new(deed: impl Fn(usize, usize) -> Deed + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            deed: Box::new(deed),
            ended: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            kept: Mutex::default(),
        })
    }

    /// Serves what is accepted, each in a thread.
    fn serve_all<S: Stream + 'static>(self: Arc<Self>, accept: impl Fn() -> S + Send + 'static) {
        thread::spawn(move || {
            loop {
                let stream = accept();
                if self.ended.load(Ordering::SeqCst) {
                    return;
                }
                let number = self.connections.fetch_add(1, Ordering::SeqCst);
                let shared = Arc::clone(&self);
                thread::spawn(move || serve(stream, number, &shared));
            }
        });
    }
}

impl Server {
    /// `deed` is given the number of the connection and of the request on it, both from 0.
    pub(super) fn start(deed: impl Fn(usize, usize) -> Deed + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared::new(deed);
        Arc::clone(&shared).serve_all(move || listener.accept().unwrap().0);
        Self { address, folder: None, shared }
    }

    /// The same on a Unix socket.
    pub(super) fn start_unix(deed: impl Fn(usize, usize) -> Deed + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let shared = Shared::new(deed);
        Arc::clone(&shared).serve_all(move || listener.accept().unwrap().0);
        Self { address: SocketAddr::from(([127, 0, 0, 1], 9)), folder: Some(folder), shared }
    }

    /// Of a server on a Unix socket.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.as_ref().unwrap().path().join("socket")
    }

    /// Keeps every request from now on, head and body.
    pub(super) fn keep_requests(&self) -> Arc<Mutex<Vec<String>>> {
        let kept = Arc::default();
        *self.shared.kept.lock().unwrap() = Some(Arc::clone(&kept));
        kept
    }

    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    pub(super) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the accepting thread; a failure means that it is gone already.
        match &self.folder {
            Some(folder) => drop(std::os::unix::net::UnixStream::connect(folder.path().join("socket"))),
            None => drop(TcpStream::connect(self.address)),
        }
    }
}

trait Stream: Read + Write + Send {
    fn prepare(&self) {}
    fn reset(&self) {}
}

impl Stream for TcpStream {
    fn prepare(&self) {
        self.set_nodelay(true).unwrap();
    }

    fn reset(&self) {
        rustix::net::sockopt::set_socket_linger(self, Some(Duration::ZERO)).unwrap();
    }
}

impl Stream for std::os::unix::net::UnixStream {}

fn serve(mut stream: impl Stream, connection: usize, shared: &Shared) {
    stream.prepare();
    for number in 0.. {
        let Some(request) = read_request(&mut stream) else { return };
        shared.requests.fetch_add(1, Ordering::SeqCst);
        if let Some(kept) = &*shared.kept.lock().unwrap() {
            kept.lock().unwrap().push(request);
        }
        match (shared.deed)(connection, number) {
            Deed::Answer(bytes) => {
                if stream.write_all(bytes).is_err() {
                    return;
                }
            }
            Deed::AnswerBytewise(bytes) => {
                for byte in bytes {
                    if stream.write_all(&[*byte]).is_err() {
                        return;
                    }
                    thread::yield_now();
                }
            }
            Deed::AnswerAndClose(bytes) => {
                let _ = stream.write_all(bytes);
                return;
            }
            Deed::Close => return,
            Deed::Reset => return stream.reset(),
            Deed::Ignore => {}
        }
    }
}

/// Head and body; `None` at the end of the connection.
fn read_request(stream: &mut impl Read) -> Option<String> {
    let mut held = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    let mut wanted = None;
    while wanted.is_none_or(|wanted| held.len() < wanted) {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(read) => held.extend_from_slice(&buffer[..read]),
        }
        if wanted.is_none()
            && let Some(end) = held.windows(4).position(|window| window == b"\r\n\r\n")
        {
            let lines = String::from_utf8_lossy(&held[..end]).to_lowercase();
            let length = lines.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            wanted = Some(end + 4 + length.unwrap_or(0));
        }
    }
    Some(String::from_utf8_lossy(&held).into_owned())
}
