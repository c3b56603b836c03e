//! A connection of HTTP/2: many requests at a time, each on a stream of its own.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
};

use h2::{
    Ping, Reason, RecvStream,
    client::{Builder, Connection, SendRequest},
};
use hyper::{
    Request, Uri, Version,
    body::Bytes,
    header::{HeaderName, HeaderValue},
};

use super::{
    dial::Stream,
    gathered::Gathered,
    http1::{class_of_io, unanswered},
};
use crate::{load::template::Parts, model::sample::ErrorClass};

/// Streams under way on a connection at most, also where the server would allow more.
pub(super) const MOST_STREAMS: usize = 100;

/// A longer answer is not read to its end; the same bound as for HTTP/1.1.
const MOST_BODY_BYTES: usize = 64 << 20;

/// What a server may send ahead, on a stream and on a connection: enough that it need not wait for us on a network of
/// 1 Gbit/s and 10 ms, even with several large answers at a time.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Streams that timed out and whose late answers are still expected. An answer to one that is forgotten would be a
/// fault of the server's, and end the connection.
const MOST_TIMED_OUT: usize = 100_000;

/// What reads and writes for all requests on a connection.
pub(super) type Driver = Connection<Stream, Bytes>;

/// An open connection.
pub(super) struct Http2 {
    sender: SendRequest<Bytes>,
    /// When something of an answer came last, if ever: nanoseconds since the start of the load.
    pub(super) heard: Cell<Option<u64>>,
    /// A request failed because the connection ended.
    pub(super) has_failed: Rc<Cell<bool>>,
}

/// A request built beforehand, or for one arrival.
#[derive(Clone, Debug)]
pub(super) struct Message {
    head: Request<()>,
    body: Bytes,
}

/// Why there is no whole answer.
#[derive(Debug)]
pub(super) enum Broken {
    /// The connection takes no more requests; this one was not sent.
    Unsent(h2::Error),
    /// After it was sent, and before or after the head of its answer had come.
    Sent { error: h2::Error, begun: bool },
    /// The answer is longer than any should be.
    TooLong,
}

impl Http2 {
    /// Begins to speak. The driver must be polled for anything to happen.
    pub(super) async fn new(stream: Stream) -> Result<(Self, Driver), h2::Error> {
        let (sender, driver) = Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_max_send_streams(MOST_STREAMS)
            .max_concurrent_reset_streams(MOST_TIMED_OUT)
            // A server whose answers are malformed is counted, not fled from.
            .max_local_error_reset_streams(None)
            .handshake(stream)
            .await?;
        Ok((Self { sender, heard: Cell::new(None), has_failed: Rc::default() }, driver))
    }

    /// How many streams it may have at once. Never none: a request that the server does not allow yet waits in `h2`,
    /// and for its time-out.
    pub(super) fn limit(&self) -> usize {
        self.sender.current_max_send_streams().clamp(1, MOST_STREAMS)
    }

    /// Sends a request and reads the answer to its end, and gives its status. When it is dropped before that, the
    /// stream is reset and the connection stays.
    pub(super) async fn exchange(
        &self,
        message: Message,
        gathered: &mut Gathered<'_>,
        now: impl Fn() -> u64,
    ) -> Result<u16, Broken> {
        let mut sender = self.sender.clone();
        poll_fn(|cx| sender.poll_ready(cx)).await.map_err(Broken::Unsent)?;
        let Message { head, body } = message;
        let is_bodiless = body.is_empty();
        let (answer, mut outgoing) = sender.send_request(head, is_bodiless).map_err(Broken::Unsent)?;
        drop(sender);
        if !is_bodiless {
            // Kept in memory until the server has room for it.
            outgoing.send_data(body, true).map_err(|error| Broken::Sent { error, begun: false })?;
        }
        let answer = answer.await.map_err(|error| Broken::Sent { error, begun: false })?;
        self.heard.set(Some(now()));
        let (head, body) = answer.into_parts();
        gathered.headers(|| head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
        self.read_to_end(body, gathered, now).await?;
        Ok(head.status.as_u16())
    }

    async fn read_to_end(
        &self,
        mut body: RecvStream,
        gathered: &mut Gathered<'_>,
        now: impl Fn() -> u64,
    ) -> Result<(), Broken> {
        let mut length = 0;
        while let Some(bytes) = body.data().await {
            let bytes = match bytes {
                Ok(bytes) => bytes,
                Err(error) if is_early_end(&error) => return Ok(()),
                Err(error) => return Err(Broken::Sent { error, begun: true }),
            };
            self.heard.set(Some(now()));
            length += bytes.len();
            if length > MOST_BODY_BYTES {
                return Err(Broken::TooLong);
            }
            gathered.more(&bytes);
            body.flow_control()
                .release_capacity(bytes.len())
                .map_err(|error| Broken::Sent { error, begun: true })?;
        }
        match body.trailers().await {
            Err(error) if !is_early_end(&error) => Err(Broken::Sent { error, begun: true }),
            _ => Ok(()),
        }
    }
}

/// RFC 9113, section 8.1: a server that has answered before it had the whole request may ask for no more of it so.
fn is_early_end(error: &h2::Error) -> bool {
    error.is_reset() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR)
}

/// Drives a connection until the server has answered a ping, and says whether it did. What a server allows is the
/// first that it sends, so it is known then.
pub(super) async fn answers(driver: &mut Driver) -> bool {
    let Some(mut pings) = driver.ping_pong() else { return false };
    let mut pong = pin!(pings.ping(Ping::opaque()));
    let mut driver = pin!(driver);
    poll_fn(|cx| {
        if driver.as_mut().poll(cx).is_ready() {
            return std::task::Poll::Ready(false);
        }
        pong.as_mut().poll(cx).map(|pong| pong.is_ok())
    })
    .await
}

impl Message {
    /// `None` when its host, path or headers are none in HTTP/2.
    pub(super) fn new(parts: &Parts<'_>, is_secure: bool) -> Option<Self> {
        let uri = Uri::builder()
            .scheme(if is_secure { "https" } else { "http" })
            .authority(parts.host.as_ref())
            .path_and_query(parts.path.as_ref())
            .build()
            .ok()?;
        let request = Request::builder().method(parts.method).version(Version::HTTP_2).uri(uri);
        let mut head = request.body(()).ok()?;
        for (name, value) in &parts.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            head.headers_mut().append(name, HeaderValue::from_bytes(value).ok()?);
        }
        Some(Self { head, body: Bytes::copy_from_slice(&parts.body) })
    }
}

impl Broken {
    /// Whether all requests on the connection are broken.
    pub(super) fn is_of_connection(&self) -> bool {
        matches!(self, Self::Sent { error, .. } if error.is_io() || error.is_go_away())
    }

    /// `reused`: the connection had carried an answer before the request was sent.
    pub(super) fn class(&self, reused: bool) -> ErrorClass {
        match self {
            Self::TooLong => ErrorClass::Protocol,
            Self::Unsent(error) => class_of(error, false, reused),
            Self::Sent { error, begun } => class_of(error, *begun, reused),
        }
    }
}

/// Likewise. `begun`: the head of the answer had come.
pub(super) fn class_of(error: &h2::Error, begun: bool, reused: bool) -> ErrorClass {
    if let Some(error) = error.get_io() {
        return class_of_io(error, begun, reused);
    }
    if error.is_library() {
        return ErrorClass::Protocol;
    }
    if !error.is_remote() {
        return ErrorClass::Other;
    }
    // A server that goes away, or has no room for the stream, has not worked on it: that says nothing of the request.
    // Whatever else resets a stream does, so that it is no matter of the connection's age.
    let is_unworked = error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM);
    unanswered(begun, reused && is_unworked)
}
