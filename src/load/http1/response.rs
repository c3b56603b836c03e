//! One answer after the other on a connection: heads, what they say about bodies, and the bodies.

use std::mem::{self, MaybeUninit};

use super::{Answer, Broken, Excess, Malformed, Progress, Sink, chunked::Chunked};

/// Most bytes of a head, blank lines before it included: several times what common servers are ready to send. A head
/// that comes in pieces is kept, so this bounds the memory of a connection.
pub(super) const MOST_HEAD_BYTES: usize = 64 << 10;

/// Most headers of a head. They are found in an array on the stack, of 32 bytes each.
pub(super) const MOST_HEADERS: usize = 128;

/// Most informational answers before an answer. A server may send several 103, but not for ever.
pub(super) const MOST_INFORMATIONAL: u8 = 32;

/// Most bytes of a body. They are only counted; but an answer beyond this is not what a load is about, and a stream
/// that does not end would pass for a slow answer.
pub(super) const MOST_BODY_BYTES: u64 = 64 << 20;

/// Reads the answers that come over one connection, to one request at a time.
#[derive(Debug)]
pub(in crate::load) struct ResponseParser {
    /// The beginning of a head whose end has not come. Empty, and without memory, at all other times.
    held: Vec<u8>,
    /// What is known of the answer.
    answer: Answer,
    phase: Phase,
    /// Bytes of blank lines before the present head: they count, but are not held.
    blank_bytes: u32,
    informational: u8,
    is_head: bool,
    has_begun: bool,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Nothing: no request is under way.
    Idle,
    Head,
    /// A body of which so much is left.
    Length(u64),
    Chunked(Chunked),
    /// A body that ends when the server closes its side.
    UntilClose,
    /// Nothing any more.
    Failed(Malformed),
}

impl ResponseParser {
    /// A connection over which nothing has gone yet.
    pub(in crate::load) fn new() -> Self {
        Self::in_phase(Phase::Idle, false)
    }

    fn in_phase(phase: Phase, is_head: bool) -> Self {
        Self {
            held: Vec::new(),
            answer: Answer { status: 0, reusable: false, body_len: 0 },
            phase,
            blank_bytes: 0,
            informational: 0,
            is_head,
            has_begun: false,
        }
    }

    /// A request has been sent: the next bytes are its answer, which has no body if the method was HEAD. Whatever was
    /// before is forgotten.
    pub(in crate::load) fn begin(&mut self, is_head: bool) {
        *self = Self::in_phase(Phase::Head, is_head);
    }

    /// Whether any byte of the answer has come since the request was sent.
    pub(in crate::load) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Takes bytes that have come, and shows `sink` what they hold. The end of the answer may be among them; a body
    /// that ends with the connection ends with [`Self::close`].
    ///
    /// # Errors
    ///
    /// When the bytes are no answer. The same error comes again for all further bytes until [`Self::begin`].
    pub(in crate::load) fn feed(
        &mut self,
        bytes: &[u8],
        sink: &mut impl Sink,
    ) -> Result<Progress, Malformed> {
        if bytes.is_empty() {
            return Ok(Progress::More);
        }
        self.has_begun = true;
        match self.advance(bytes, sink) {
            Ok(None) => Ok(Progress::More),
            Ok(Some(used)) => {
                let surplus = bytes.len() - used;
                self.phase = Phase::Idle;
                self.answer.reusable &= surplus == 0;
                Ok(Progress::Done { answer: self.answer, surplus })
            }
            Err(malformed) => {
                self.fail(malformed);
                Err(malformed)
            }
        }
    }

    /// The server has closed its side. Gives the answer if that is how its body ends.
    ///
    /// # Errors
    ///
    /// When there is no whole answer.
    pub(in crate::load) fn close(&mut self) -> Result<Answer, Broken> {
        let held = mem::take(&mut self.held);
        match mem::replace(&mut self.phase, Phase::Idle) {
            Phase::UntilClose => Ok(self.answer),
            Phase::Failed(malformed) => Err(malformed.into()),
            Phase::Idle => Err(Broken::BeforeFirstByte),
            Phase::Head if !self.has_begun => Err(Broken::BeforeFirstByte),
            // What is held was last looked at when a line ended; what came after that may be no part of a head.
            Phase::Head => match read_head(&held, self.is_head, &mut ()) {
                Ok(_) => Err(Broken::InsideAnswer),
                Err(malformed) => Err(malformed.into()),
            },
            Phase::Length(_) | Phase::Chunked(_) => Err(Broken::InsideAnswer),
        }
    }

    /// Bytes of memory held for a head that is not complete.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.held.capacity()
    }

    fn fail(&mut self, malformed: Malformed) {
        self.held = Vec::new();
        self.phase = Phase::Failed(malformed);
    }

    /// Gives how many of the bytes belong to the answer if it ends among them.
    fn advance(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<Option<usize>, Malformed> {
        let mut rest = bytes;
        if matches!(self.phase, Phase::Head) {
            let Some(used) = self.read_heads(bytes, sink)? else { return Ok(None) };
            rest = &bytes[used..];
        }
        let before = bytes.len() - rest.len();
        let used = match &mut self.phase {
            Phase::Length(left) => {
                let body = &rest[..rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX))];
                if !body.is_empty() {
                    sink.body(body);
                }
                *left -= body.len() as u64;
                self.answer.body_len += body.len() as u64;
                (*left == 0).then_some(body.len())
            }
            Phase::Chunked(chunked) => chunked.decode(rest, &mut self.answer.body_len, sink)?,
            Phase::UntilClose => {
                self.answer.body_len += rest.len() as u64;
                if self.answer.body_len > MOST_BODY_BYTES {
                    return Err(Malformed::TooLong(Excess::Body));
                }
                if !rest.is_empty() {
                    sink.body(rest);
                }
                None
            }
            Phase::Idle => return Err(Malformed::Unasked),
            Phase::Failed(malformed) => return Err(*malformed),
            Phase::Head => None,
        };
        Ok(used.map(|used| before + used))
    }

    /// Reads heads up to the one that is not informational and enters the body behind it. Gives how many bytes that
    /// took, or `None` when all were taken and more are needed.
    fn read_heads(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<Option<usize>, Malformed> {
        let mut used = 0;
        while used < bytes.len() {
            let Some((head, taken)) = self.next_head(&bytes[used..], sink)? else { return Ok(None) };
            used += taken;
            self.phase = match head.framing {
                Framing::Informational if self.informational == MOST_INFORMATIONAL => {
                    return Err(Malformed::TooLong(Excess::Informational));
                }
                Framing::Informational => {
                    self.informational += 1;
                    self.blank_bytes = 0;
                    continue;
                }
                Framing::Length(length) => Phase::Length(length),
                Framing::Chunked => Phase::Chunked(Chunked::new()),
                Framing::UntilClose => Phase::UntilClose,
            };
            self.answer.status = head.status;
            self.answer.reusable = head.reusable;
            return Ok(Some(used));
        }
        Ok(None)
    }

    /// Reads one head, of which `bytes` are the first or the next. Gives it with the number of bytes it took of them,
    /// or holds them.
    fn next_head(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<Option<(Head, usize)>, Malformed> {
        // Whatever is cut off here would be too long, if it came to it.
        let room = MOST_HEAD_BYTES - self.blank_bytes as usize - self.held.len();
        let window = &bytes[..bytes.len().min(room)];
        let held_before = self.held.len();
        let head = if held_before == 0 {
            read_head(window, self.is_head, sink)?
        } else {
            self.hold(window);
            // A head ends with a line. Reading it anew for each byte would take time with the square of its length.
            if !window.contains(&b'\n') && window.len() < room {
                return Ok(None);
            }
            read_head(&self.held, self.is_head, sink)?
        };
        if let Some(head) = head {
            self.held = Vec::new();
            let taken = head.len - held_before;
            return Ok(Some((head, taken)));
        }
        if window.len() == room {
            return Err(Malformed::TooLong(Excess::Head));
        }
        if held_before == 0 {
            self.hold(window);
        }
        self.drop_blank_lines();
        Ok(None)
    }

    /// Grows by doubling, as a vector does, but not beyond what a head may have.
    fn hold(&mut self, bytes: &[u8]) {
        let needed = self.held.len() + bytes.len();
        if needed > self.held.capacity() {
            let capacity = needed.max(2 * self.held.capacity()).min(MOST_HEAD_BYTES);
            self.held.reserve_exact(capacity - self.held.len());
        }
        self.held.extend_from_slice(bytes);
    }

    /// Blank lines may come before a head. They would be read again and again with it, so they are dropped.
    fn drop_blank_lines(&mut self) {
        let mut blank = 0;
        loop {
            match &self.held[blank..] {
                [b'\n', ..] => blank += 1,
                [b'\r', b'\n', ..] => blank += 2,
                _ => break,
            }
        }
        if blank > 0 {
            self.held.drain(..blank);
            self.blank_bytes += blank as u32;
        }
    }
}

/// What matters of a head.
#[derive(Clone, Copy, Debug)]
struct Head {
    /// In bytes, blank lines before it included.
    len: usize,
    status: u16,
    framing: Framing,
    reusable: bool,
}

/// What comes after a head.
#[derive(Clone, Copy, Debug)]
enum Framing {
    /// Another head.
    Informational,
    Length(u64),
    Chunked,
    UntilClose,
}

/// Reads a head from its first byte on; `None` when its end is not there. A final head is shown to `sink`.
fn read_head(bytes: &[u8], is_head: bool, sink: &mut impl Sink) -> Result<Option<Head>, Malformed> {
    let mut headers = [const { MaybeUninit::uninit() }; MOST_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let len = match httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        bytes,
        &mut headers,
    ) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Malformed::TooLong(Excess::Headers)),
        Err(_) => return Err(Malformed::Head),
    };
    let (Some(version), Some(status)) = (response.version, response.code) else {
        return Err(Malformed::Head);
    };
    let fields = Fields::of(response.headers);
    let framing = fields.framing(status, version, is_head)?;
    if !matches!(framing, Framing::Informational) {
        sink.head(status, response.headers);
    }
    let reusable = fields.persistent(version) && !matches!(framing, Framing::UntilClose);
    Ok(Some(Head { len, status, framing, reusable }))
}

/// The headers that say where the answer ends and what becomes of the connection.
struct Fields<'a> {
    length: Length,
    /// The last `Transfer-Encoding`, which holds the last coding.
    coding: Option<&'a [u8]>,
    close: bool,
    keep_alive: bool,
}

/// What the `Content-Length` headers say together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Length {
    Absent,
    Is(u64),
    /// They say nothing, or different things. Harmless where the length does not matter.
    Invalid,
}

impl<'a> Fields<'a> {
    fn of(headers: &[httparse::Header<'a>]) -> Self {
        let mut fields = Self { length: Length::Absent, coding: None, close: false, keep_alive: false };
        for header in headers {
            // The length of a name rules nearly all headers out at once.
            match header.name.len() {
                10 if header.name.eq_ignore_ascii_case("connection") => {
                    for option in elements(header.value) {
                        fields.close |= option.eq_ignore_ascii_case(b"close");
                        fields.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                14 if header.name.eq_ignore_ascii_case("content-length") => {
                    fields.length = fields.length.and(header.value);
                }
                17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                    fields.coding = Some(header.value);
                }
                _ => {}
            }
        }
        fields
    }

    /// RFC 9112, section 6.3, in its order.
    fn framing(&self, status: u16, version: u8, is_head: bool) -> Result<Framing, Malformed> {
        match status {
            0..100 => return Err(Malformed::Head),
            101 => return Err(Malformed::Upgrade),
            100..200 => return Ok(Framing::Informational),
            204 | 304 => return Ok(Framing::Length(0)),
            _ if is_head => return Ok(Framing::Length(0)),
            _ => {}
        }
        match (self.coding, self.length) {
            (Some(_), _) if version == 0 => Err(Malformed::Coding),
            (Some(coding), _) if is_chunked(coding) => Ok(Framing::Chunked),
            (Some(_), _) | (None, Length::Absent) => Ok(Framing::UntilClose),
            (None, Length::Invalid) => Err(Malformed::Length),
            (None, Length::Is(length)) if length > MOST_BODY_BYTES => Err(Malformed::TooLong(Excess::Body)),
            (None, Length::Is(length)) => Ok(Framing::Length(length)),
        }
    }

    /// HTTP/1.1 keeps a connection unless told otherwise, HTTP/1.0 does not.
    fn persistent(&self, version: u8) -> bool {
        !self.close && (version > 0 || self.keep_alive)
    }
}

impl Length {
    /// With one more header. Several are fine as long as they agree.
    fn and(self, value: &[u8]) -> Self {
        elements(value).fold(self, |length, element| match (length, decimal(element)) {
            (Self::Absent, Some(number)) => Self::Is(number),
            (Self::Is(before), Some(number)) if before == number => length,
            _ => Self::Invalid,
        })
    }
}

/// The elements of a list, empty ones included.
fn elements(value: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Whether the last coding of a list is `chunked`. A list that holds what no coding is called is no list; hyper sees it
/// so, too.
fn is_chunked(codings: &[u8]) -> bool {
    codings.is_ascii()
        && elements(codings).next_back().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"))
}

/// Digits only; `None` for anything else and for what does not fit.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}
