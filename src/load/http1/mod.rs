//! The answers to our requests, read from bytes as they come in.
//!
//! A [`ResponseParser`] belongs to one connection that has at most one request under way. It is told when a request
//! goes out ([`ResponseParser::begin`]), is fed whatever arrives, and says when the answer has ended, how, and whether
//! the connection is good for another request. Who wants to see heads and bodies passes a [`Sink`]; with `()` nothing
//! is copied, whatever the size of the answer.
//!
//! The outcome depends on the bytes alone, never on how the network cut them up. RFC 9112 decides what is an answer,
//! and where it leaves a choice we choose as hyper does.
//!
//! Deliberately absent: sockets, clocks, requests, pipelining, and any decoding of contents.

mod chunked;
mod response;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_differential;

pub(in crate::load) use response::ResponseParser;

/// Receives what an answer holds. Each method does nothing unless it is written anew.
pub(in crate::load) trait Sink {
    /// The head of the final answer, once. The heads of informational answers are not shown.
    fn head(&mut self, _status: u16, _headers: &[httparse::Header<'_>]) {}

    /// The next bytes of the body, without the framing of chunks; never empty.
    fn body(&mut self, _bytes: &[u8]) {}
}

/// Sees nothing, costs nothing.
impl Sink for () {}

/// How far an answer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::load) enum Progress {
    /// The answer goes on, or has not begun.
    More,
    /// The answer has ended within these bytes.
    Done {
        /// What it was.
        answer: Answer,
        /// Bytes after its end, which nobody asked for.
        surplus: usize,
    },
}

/// An answer that came whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::load) struct Answer {
    /// From 200 to 999: informational answers come before an answer, they are none.
    pub(in crate::load) status: u16,
    /// Whether the connection may carry another request: the answer allows it, and there was no surplus.
    pub(in crate::load) reusable: bool,
    /// Bytes of the body, without the framing of chunks.
    pub(in crate::load) body_len: u64,
}

/// Bytes that are no answer. The connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::load) enum Malformed {
    /// Neither a status line nor headers.
    #[error("head of the answer is not HTTP/1")]
    Head,
    /// A `Content-Length` that is no number or several.
    #[error("content-length of the answer is not one number")]
    Length,
    /// A `Transfer-Encoding` from a server that cannot know what it means.
    #[error("answer of HTTP/1.0 has a transfer-encoding")]
    Coding,
    /// A chunk or trailer that breaks the rules of the chunked coding.
    #[error("chunks of the answer are malformed")]
    Chunk,
    /// More of something than we are ready to read.
    #[error("answer has {0}")]
    TooLong(Excess),
    /// 101, which we never ask for.
    #[error("answer switches to another protocol")]
    Upgrade,
    /// Bytes while no request was under way.
    #[error("bytes came without a request")]
    Unasked,
}

/// What an answer has too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::load) enum Excess {
    /// See [`response::MOST_HEAD_BYTES`].
    #[error("a head of more than 64 KiB")]
    Head,
    /// See [`response::MOST_HEADERS`].
    #[error("more than 128 headers")]
    Headers,
    /// See [`response::MOST_INFORMATIONAL`].
    #[error("more than 32 informational answers before it")]
    Informational,
    /// See [`response::MOST_BODY_BYTES`].
    #[error("a body of more than 64 MiB")]
    Body,
    /// See [`chunked::MOST_LINE_BYTES`].
    #[error("a chunk whose size line has more than 4 KiB")]
    ChunkLine,
    /// See [`chunked::MOST_TRAILER_BYTES`].
    #[error("trailers of more than 16 KiB")]
    Trailers,
}

/// Why there is no answer although the server has closed its side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::load) enum Broken {
    /// Nothing came: a connection that the server gave up between two requests looks like this.
    #[error("connection closed before the first byte of the answer")]
    BeforeFirstByte,
    /// Something came, and so far it was right.
    #[error("connection closed inside the answer")]
    InsideAnswer,
    /// What came was no answer.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}
