//! A connection of HTTP/1.1 over TLS: the bytes and the parser of the plain engine, over a stream that is not ours.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::dial::Stream;
use crate::{
    load::http1::{Broken, Progress, ResponseParser, Sink},
    model::sample::ErrorClass,
};

/// An open connection. Nothing happens on it but within [`Http1::exchange`].
pub(super) struct Http1 {
    stream: Stream,
    parser: ResponseParser,
    /// It has carried an answer before.
    reused: bool,
}

/// An answer that came whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The connection may carry another request.
    pub(super) is_reusable: bool,
}

/// A request on its way out.
struct Outgoing<'r> {
    left: &'r [u8],
    is_flushed: bool,
    /// Why no more of it can be written. The server may have answered before that, which says more.
    broken: Option<io::Error>,
}

impl Http1 {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, parser: ResponseParser::new(), reused: false }
    }

    /// Whether another request may be sent. Without one under way there can only be the end of the connection, or
    /// something that nobody asked for.
    pub(super) async fn is_usable(&mut self) -> bool {
        poll_fn(|cx| {
            let mut byte = [0; 1];
            let read = Pin::new(&mut self.stream).poll_read(cx, &mut ReadBuf::new(&mut byte));
            Poll::Ready(read.is_pending())
        })
        .await
    }

    /// Sends a request and reads the answer to its end, through a buffer for all connections of the thread. After an
    /// error the connection is of no more use.
    pub(super) async fn exchange(
        &mut self,
        request: &[u8],
        is_head: bool,
        buffer: &RefCell<Box<[u8]>>,
        sink: &mut impl Sink,
    ) -> Result<Answer, ErrorClass> {
        self.parser.begin(is_head);
        let mut outgoing = Outgoing { left: request, is_flushed: false, broken: None };
        let answer = poll_fn(|cx| {
            outgoing.write(&mut self.stream, cx);
            self.read(cx, &mut outgoing, &mut buffer.borrow_mut(), sink)
        })
        .await?;
        self.reused = true;
        Ok(answer)
    }

    fn read(
        &mut self,
        cx: &mut Context<'_>,
        outgoing: &mut Outgoing<'_>,
        buffer: &mut [u8],
        sink: &mut impl Sink,
    ) -> Poll<Result<Answer, ErrorClass>> {
        loop {
            let mut room = ReadBuf::new(buffer);
            let read = match Pin::new(&mut self.stream).poll_read(cx, &mut room) {
                Poll::Pending => {
                    return match outgoing.broken.take() {
                        Some(error) => Poll::Ready(Err(self.class_of(&error))),
                        None => Poll::Pending,
                    };
                }
                Poll::Ready(read) => read,
            };
            if let Err(error) = read {
                return Poll::Ready(Err(self.class_of(&error)));
            }
            if room.filled().is_empty() {
                return Poll::Ready(self.ended());
            }
            match self.parser.feed(room.filled(), sink) {
                Ok(Progress::More) => {}
                // More than it said it would send: what comes next on this connection could be anything.
                Ok(Progress::Done { surplus, .. }) if surplus > 0 => {
                    return Poll::Ready(Err(ErrorClass::Protocol));
                }
                Ok(Progress::Done { answer, .. }) => {
                    let is_reusable = answer.reusable && outgoing.is_flushed;
                    return Poll::Ready(Ok(Answer { status: answer.status, is_reusable }));
                }
                Err(_) => return Poll::Ready(Err(ErrorClass::Protocol)),
            }
        }
    }

    /// The server has closed its side, which is how some answers end.
    fn ended(&mut self) -> Result<Answer, ErrorClass> {
        match self.parser.close() {
            Ok(answer) => Ok(Answer { status: answer.status, is_reusable: false }),
            Err(Broken::Malformed(_)) => Err(ErrorClass::Protocol),
            Err(Broken::InsideAnswer) => Err(ErrorClass::ResetMidAnswer),
            Err(Broken::BeforeFirstByte) => Err(unanswered(false, self.reused)),
        }
    }

    fn class_of(&self, error: &io::Error) -> ErrorClass {
        class_of_io(error, self.parser.has_begun(), self.reused)
    }
}

impl Outgoing<'_> {
    /// Writes what there is room for.
    fn write(&mut self, stream: &mut Stream, cx: &mut Context<'_>) {
        if self.broken.is_none()
            && let Poll::Ready(Err(error)) = self.poll_write(stream, cx)
        {
            self.broken = Some(error);
        }
    }

    fn poll_write(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.left.is_empty() {
            let written = ready!(Pin::new(&mut *stream).poll_write(cx, self.left))?;
            self.left = &self.left[written..];
        }
        if !self.is_flushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }
}

/// What it means that a connection broke. `begun`: some of the answer had come. `reused`: the connection had carried an
/// answer before.
pub(super) fn class_of_io(error: &io::Error, begun: bool, reused: bool) -> ErrorClass {
    match error.kind() {
        // Only TLS finds that bytes are not what they should be, or that the server says so of ours: in TLS 1.3 it may
        // refuse us after our side of the handshake is complete.
        io::ErrorKind::InvalidData => ErrorClass::Tls,
        io::ErrorKind::TimedOut => ErrorClass::Timeout,
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        // TLS: the connection ended without the word for its end.
        | io::ErrorKind::UnexpectedEof => unanswered(begun, reused),
        _ => ErrorClass::Other,
    }
}

/// No whole answer. A connection that was used before the server had most likely given up already.
pub(super) fn unanswered(begun: bool, reused: bool) -> ErrorClass {
    if begun {
        ErrorClass::ResetMidAnswer
    } else if reused {
        ErrorClass::StaleKeepAlive
    } else {
        ErrorClass::Reset
    }
}
