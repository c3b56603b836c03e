//! One HTTP/1.1 connection, driven by the worker that owns it, and what its failures mean.

use std::{
    cell::Cell,
    error::Error as _,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout_at,
};

use crate::model::sample::ErrorClass;

/// A longer answer is not read to its end.
const LONGEST_BODY: usize = 64 << 20;

type Driver = http1::Connection<TokioIo<Counted>, Full<Bytes>>;

/// An open connection. Nothing happens on it unless one of its futures is polled, so that the worker's task is the
/// only one to be woken.
pub(super) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    /// `None` once the connection has ended.
    driver: Option<Box<Driver>>,
    received: Rc<Cell<u64>>,
    used: bool,
}

/// What came of a request that was answered in full.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
}

enum Broken {
    Http(hyper::Error),
    TooLong,
}

impl Connection {
    /// Connects.
    pub(super) async fn open(address: SocketAddr, deadline: Instant) -> Result<Self, ErrorClass> {
        let connecting = timeout_at(deadline.into(), TcpStream::connect(address));
        let stream = match connecting.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(class_of_connect(&error)),
            Err(_) => return Err(ErrorClass::ConnectTimeout),
        };
        stream.set_nodelay(true).map_err(|_| ErrorClass::Other)?;
        let received = Rc::new(Cell::new(0));
        let io = TokioIo::new(Counted { stream, received: Rc::clone(&received) });
        let (sender, driver) = http1::handshake(io).await.map_err(|_| ErrorClass::Other)?;
        Ok(Self { sender, driver: Some(Box::new(driver)), received, used: false })
    }

    /// Whether another request may be sent: waits for the connection to settle after the last answer. False when
    /// the server has closed it and we know.
    pub(super) async fn is_usable(&mut self) -> bool {
        let Self { sender, driver, .. } = self;
        poll_fn(|cx| {
            drive(driver, cx);
            sender.poll_ready(cx)
        })
        .await
        .is_ok()
    }

    /// Returns when the connection has ended; meanwhile keeps it alive.
    pub(super) async fn ended(&mut self) {
        poll_fn(|cx| {
            drive(&mut self.driver, cx);
            if self.driver.is_none() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Sends a request and reads the answer to its end. After an error the connection is of no more use.
    pub(super) async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        deadline: Instant,
    ) -> Result<Answer, ErrorClass> {
        let Self { sender, driver, received, used } = self;
        let received_before = received.get();
        let mut answer = pin!(async {
            let response = sender.send_request(request).await.map_err(Broken::Http)?;
            let status = response.status();
            read_to_end(response.into_body()).await.map(|()| Answer { status })
        });
        let driven = poll_fn(|cx| {
            // The first poll hands the request to the connection, or takes what the last drive brought.
            if let Poll::Ready(result) = answer.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            drive(driver, cx);
            answer.as_mut().poll(cx)
        });
        let result = timeout_at(deadline.into(), driven).await;
        let reused = std::mem::replace(used, true);
        match result {
            Ok(Ok(answer)) => Ok(answer),
            Err(_) => Err(ErrorClass::Timeout),
            Ok(Err(Broken::TooLong)) => Err(ErrorClass::Protocol),
            Ok(Err(Broken::Http(error))) => {
                Err(class_of_exchange(&error, reused, received.get() > received_before))
            }
        }
    }
}

fn drive(driver: &mut Option<Box<Driver>>, cx: &mut Context<'_>) {
    if let Some(running) = driver
        && Pin::new(running).poll(cx).is_ready()
    {
        // An error here has also gone to the request under way, if there is one.
        *driver = None;
    }
}

async fn read_to_end(mut body: Incoming) -> Result<(), Broken> {
    let mut length = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(Broken::Http)?;
        length = length.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        if length > LONGEST_BODY {
            return Err(Broken::TooLong);
        }
    }
    Ok(())
}

fn class_of_connect(error: &io::Error) -> ErrorClass {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ErrorClass::Refused,
        io::ErrorKind::TimedOut => ErrorClass::ConnectTimeout,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => ErrorClass::Reset,
        _ => ErrorClass::Other,
    }
}

fn class_of_exchange(error: &hyper::Error, reused: bool, answer_begun: bool) -> ErrorClass {
    // A malformed chunk is an I/O error to hyper.
    let malformed =
        error.source().and_then(|source| source.downcast_ref::<io::Error>()).is_some_and(|source| {
            matches!(source.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)
        });
    if error.is_parse() || (malformed && answer_begun) {
        ErrorClass::Protocol
    } else if error.is_user() {
        ErrorClass::Other
    } else if answer_begun {
        ErrorClass::ResetMidAnswer
    } else if reused {
        ErrorClass::StaleKeepAlive
    } else {
        ErrorClass::Reset
    }
}

/// A stream that counts what it received: hyper does not say whether an answer had begun when it broke off.
struct Counted {
    stream: TcpStream,
    received: Rc<Cell<u64>>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let read = buffer.filled().len().saturating_sub(before);
        self.received.set(self.received.get() + read as u64);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
