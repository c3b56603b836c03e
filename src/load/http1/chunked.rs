//! The chunked transfer coding (RFC 9112, section 7.1), a byte at a time except for the contents of chunks.
//!
//! A size line may hold extensions and the last chunk may be followed by trailers; both are checked for form and
//! dropped. Lines end in CRLF here: unlike in a head, a bare LF is refused, as hyper and the RFC have it.

use super::{Excess, Malformed, Sink, response::MOST_BODY_BYTES};

/// Most bytes of a line that begins a chunk, its CRLF included. Extensions are next to unknown in the wild, so this is
/// generous; without a bound a server could keep us reading one for ever.
pub(super) const MOST_LINE_BYTES: u16 = 4 << 10;

/// Most bytes after the last chunk, the empty line included. As much as hyper takes.
pub(super) const MOST_TRAILER_BYTES: u16 = 16 << 10;

/// Where in a chunked body we are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunked {
    step: Step,
    /// Bytes of the present line, or of the trailers.
    spent: u16,
    /// The size of the chunk as far as it is known, then what is left of it. Fits since bodies are bounded.
    size: u32,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The first digit of a size, which must be there.
    SizeStart,
    /// Another digit, or what ends the digits.
    Size,
    /// White space between a size and its extensions.
    SizePadding,
    /// Inside extensions.
    Extension,
    /// The LF of a size line.
    SizeLf,
    /// Contents.
    Data,
    /// The CR after contents.
    DataCr,
    /// The LF after contents.
    DataLf,
    /// The first byte of a trailer, or the CR of the empty line that ends the body.
    TrailerStart,
    /// Inside a trailer's name.
    TrailerName,
    /// Inside a trailer's value.
    TrailerValue,
    /// The LF of a trailer.
    TrailerLf,
    /// The LF of the empty line.
    EndLf,
    /// Nothing: the body has ended.
    End,
}

impl Chunked {
    pub(super) fn new() -> Self {
        Self { step: Step::SizeStart, spent: 0, size: 0 }
    }

    /// Takes bytes of the body and counts its contents in `body_len`. Gives how many bytes there were up to its end,
    /// or `None` when the body goes on.
    ///
    /// # Errors
    ///
    /// When the bytes are not a chunked body, or too much of one.
    pub(super) fn decode(
        &mut self,
        bytes: &[u8],
        body_len: &mut u64,
        sink: &mut impl Sink,
    ) -> Result<Option<usize>, Malformed> {
        let mut rest = bytes;
        while let Some((&byte, after)) = rest.split_first() {
            if self.step == Step::Data {
                let (data, after) = rest.split_at(rest.len().min(self.size as usize));
                sink.body(data);
                *body_len += data.len() as u64;
                self.size -= data.len() as u32;
                rest = after;
                if self.size == 0 {
                    self.step = Step::DataCr;
                }
                continue;
            }
            rest = after;
            self.count()?;
            self.step = self.after(byte, *body_len)?;
            if self.step == Step::End {
                return Ok(Some(bytes.len() - rest.len()));
            }
        }
        Ok(None)
    }

    /// Counts a byte that is not contents.
    fn count(&mut self) -> Result<(), Malformed> {
        let (most, excess) = match self.step {
            Step::TrailerStart | Step::TrailerName | Step::TrailerValue | Step::TrailerLf | Step::EndLf => {
                (MOST_TRAILER_BYTES, Excess::Trailers)
            }
            _ => (MOST_LINE_BYTES, Excess::ChunkLine),
        };
        self.spent += 1;
        if self.spent > most { Err(Malformed::TooLong(excess)) } else { Ok(()) }
    }

    /// The step after a byte that is not contents.
    fn after(&mut self, byte: u8, body_len: u64) -> Result<Step, Malformed> {
        let next = match (self.step, byte) {
            (Step::SizeStart | Step::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.add_digit(byte, body_len)?;
                Step::Size
            }
            (Step::Size | Step::SizePadding, b' ' | b'\t') => Step::SizePadding,
            (Step::Size | Step::SizePadding, b';') => Step::Extension,
            (Step::Size | Step::SizePadding | Step::Extension, b'\r') => Step::SizeLf,
            // Some servers do not look for the CR; what one takes for an extension would be contents to the other.
            (Step::Extension, byte) if byte != b'\n' => Step::Extension,
            (Step::SizeLf, b'\n') => {
                self.spent = 0;
                if self.size == 0 { Step::TrailerStart } else { Step::Data }
            }
            (Step::DataCr, b'\r') => Step::DataLf,
            (Step::DataLf, b'\n') => {
                self.spent = 0;
                Step::SizeStart
            }
            (Step::TrailerStart, b'\r') => Step::EndLf,
            (Step::TrailerStart | Step::TrailerName, byte) if is_name(byte) => Step::TrailerName,
            (Step::TrailerName, b':') => Step::TrailerValue,
            (Step::TrailerValue, b'\r') => Step::TrailerLf,
            (Step::TrailerValue, byte) if is_value(byte) => Step::TrailerValue,
            (Step::TrailerLf, b'\n') => Step::TrailerStart,
            (Step::EndLf, b'\n') => Step::End,
            _ => return Err(Malformed::Chunk),
        };
        Ok(next)
    }

    fn add_digit(&mut self, digit: u8, body_len: u64) -> Result<(), Malformed> {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            letter => (letter | 0x20) - b'a' + 10,
        };
        // Neither shift nor sum overflows: the size so far is within the bound, which has room above it.
        let size = u64::from(self.size) << 4 | u64::from(value);
        if body_len + size > MOST_BODY_BYTES {
            return Err(Malformed::TooLong(Excess::Body));
        }
        self.size = size as u32;
        Ok(())
    }
}

/// Whether a byte may stand in a field name (RFC 9110, section 5.6.2).
fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

/// Whether a byte may stand in a field value (RFC 9110, section 5.5).
fn is_value(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}
