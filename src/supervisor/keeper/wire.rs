//! The messages between brain and keeper: one datagram each on a SEQPACKET socket.
//!
//! A byte for the kind, then its fields: numbers little-endian, a name as a byte of length and UTF-8, a list as names to
//! the end. Descriptors travel beside the bytes, one for each name of a PUT and one for a sealed note. There is one
//! encoding of each message, so that what decodes encodes to the same bytes again.
//!
//! Deliberately absent: versions. A kind that the other side does not know is refused and counted there, and a kind is
//! never given another meaning.

use super::limits::Origin;

/// The longest message, in bytes. The socket's buffer takes several.
pub(super) const MESSAGE_MAX_BYTES: usize = 64 * 1024;
/// The most descriptors in one message; the kernel allows 253.
pub(super) const DESCRIPTORS_MAX: usize = 200;
/// The longest name or key, in bytes.
pub(super) const NAME_MAX_BYTES: usize = u8::MAX as usize;

/// The end of a process that the keeper had become the parent of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Tells this exit from another of the same pid; what an acknowledgement names.
    pub(crate) serial: u64,
    pub(crate) pid: u32,
    /// As waitpid gives it; `ExitStatus::from_raw` reads it.
    pub(crate) status: i32,
}

/// What the keeper knows beyond what it was given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) origin: Origin,
    /// How many brains have ended under this keeper and those it took over from.
    pub(crate) restarts: u32,
    /// How the last of them ended, as waitpid gives it.
    pub(crate) last_status: Option<i32>,
    /// Messages that were not understood.
    pub(crate) refused: u32,
    /// Exits that were dropped because too many were not acknowledged.
    pub(crate) dropped_exits: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// Holds the descriptors beside it under these names, instead of what had these names.
    Put(Vec<&'a str>),
    Delete(Vec<&'a str>),
    Note {
        key: &'a str,
        value: &'a [u8],
    },
    /// A note whose value is the memfd beside it.
    Sealed {
        key: &'a str,
    },
    Forget(Vec<&'a str>),
    /// The exits of these serials have been acted upon.
    Acknowledge(Vec<u64>),
    Replay,
    /// The path that the next brain is started from.
    Program(&'a [u8]),
    End,
    Exit(Exit),
    ReplayEnd(Summary),
}

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

mod kind {
    pub(super) const PUT: u8 = 1;
    pub(super) const DELETE: u8 = 2;
    pub(super) const NOTE: u8 = 3;
    pub(super) const SEALED: u8 = 4;
    pub(super) const FORGET: u8 = 5;
    pub(super) const ACKNOWLEDGE: u8 = 6;
    pub(super) const REPLAY: u8 = 7;
    pub(super) const PROGRAM: u8 = 8;
    pub(super) const END: u8 = 9;
    pub(super) const EXIT: u8 = 16;
    pub(super) const REPLAY_END: u8 = 17;
}

impl<'a> Message<'a> {
    /// Names are to be [`valid`] ones; another would be refused by the reader.
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Message::Put(names) => list(kind::PUT, names),
            Message::Delete(names) => list(kind::DELETE, names),
            Message::Note { key, value } => {
                let mut out = list(kind::NOTE, &[key]);
                out.extend_from_slice(value);
                out
            }
            Message::Sealed { key } => list(kind::SEALED, &[key]),
            Message::Forget(keys) => list(kind::FORGET, keys),
            Message::Acknowledge(serials) => {
                let mut out = vec![kind::ACKNOWLEDGE];
                out.extend(serials.iter().flat_map(|serial| serial.to_le_bytes()));
                out
            }
            Message::Replay => vec![kind::REPLAY],
            Message::Program(path) => {
                let mut out = vec![kind::PROGRAM];
                out.extend_from_slice(path);
                out
            }
            Message::End => vec![kind::END],
            Message::Exit(exit) => {
                let mut out = vec![kind::EXIT];
                put_exit(&mut out, exit);
                out
            }
            Message::ReplayEnd(summary) => {
                let mut out = vec![kind::REPLAY_END];
                put_summary(&mut out, summary);
                out
            }
        }
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        let message = match reader.byte()? {
            kind::PUT => Message::Put(reader.names()?),
            kind::DELETE => Message::Delete(reader.names()?),
            kind::NOTE => Message::Note { key: reader.name()?, value: reader.rest() },
            kind::SEALED => Message::Sealed { key: reader.name()? },
            kind::FORGET => Message::Forget(reader.names()?),
            kind::ACKNOWLEDGE => {
                let mut serials = Vec::new();
                while !reader.0.is_empty() {
                    serials.push(reader.u64()?);
                }
                Message::Acknowledge(serials)
            }
            kind::REPLAY => Message::Replay,
            kind::PROGRAM => Message::Program(reader.rest()),
            kind::END => Message::End,
            kind::EXIT => Message::Exit(reader.exit()?),
            kind::REPLAY_END => Message::ReplayEnd(reader.summary()?),
            _ => return Err(Malformed),
        };
        reader.finish().map(|()| message)
    }

    /// How many descriptors belong beside it.
    pub(super) fn descriptors(&self) -> usize {
        match self {
            Message::Put(names) => names.len(),
            Message::Sealed { .. } => 1,
            _ => 0,
        }
    }
}

/// Whether this can be a name or a key.
pub(super) fn valid(name: &str) -> bool {
    (1..=NAME_MAX_BYTES).contains(&name.len())
}

pub(super) fn put_name(out: &mut Vec<u8>, name: &str) {
    debug_assert!(valid(name), "names are checked before they are encoded");
    out.push(name.len() as u8);
    out.extend_from_slice(name.as_bytes());
}

pub(super) fn put_option<const N: usize>(out: &mut Vec<u8>, value: Option<[u8; N]>) {
    out.push(u8::from(value.is_some()));
    out.extend_from_slice(value.as_ref().map_or(&[], |bytes| bytes.as_slice()));
}

pub(super) fn put_exit(out: &mut Vec<u8>, exit: &Exit) {
    out.extend_from_slice(&exit.serial.to_le_bytes());
    out.extend_from_slice(&exit.pid.to_le_bytes());
    out.extend_from_slice(&exit.status.to_le_bytes());
}

pub(super) fn put_summary(out: &mut Vec<u8>, summary: &Summary) {
    put_option(out, summary.origin.oom_score_adj.map(i32::to_le_bytes));
    put_option(out, summary.origin.nofile_soft.map(u64::to_le_bytes));
    put_option(out, summary.last_status.map(i32::to_le_bytes));
    for count in [summary.restarts, summary.refused, summary.dropped_exits] {
        out.extend_from_slice(&count.to_le_bytes());
    }
}

fn list(kind: u8, names: &[&str]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + names.iter().map(|name| 1 + name.len()).sum::<usize>());
    out.push(kind);
    for name in names {
        put_name(&mut out, name);
    }
    out
}

/// The bytes not read yet.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn name(&mut self) -> Result<&'a str, Malformed> {
        let length = usize::from(self.byte()?);
        let (name, rest) = self.0.split_at_checked(length).filter(|_| length > 0).ok_or(Malformed)?;
        self.0 = rest;
        str::from_utf8(name).map_err(|_| Malformed)
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(super) fn exit(&mut self) -> Result<Exit, Malformed> {
        Ok(Exit { serial: self.u64()?, pid: self.u32()?, status: self.i32()? })
    }

    pub(super) fn summary(&mut self) -> Result<Summary, Malformed> {
        let origin = Origin {
            oom_score_adj: self.option()?.map(i32::from_le_bytes),
            nofile_soft: self.option()?.map(u64::from_le_bytes),
        };
        Ok(Summary {
            origin,
            last_status: self.option()?.map(i32::from_le_bytes),
            restarts: self.u32()?,
            refused: self.u32()?,
            dropped_exits: self.u32()?,
        })
    }

    pub(super) fn option<const N: usize>(&mut self) -> Result<Option<[u8; N]>, Malformed> {
        match self.byte()? {
            0 => Ok(None),
            1 => self.array().map(Some),
            _ => Err(Malformed),
        }
    }

    pub(super) fn finish(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    fn names(&mut self) -> Result<Vec<&'a str>, Malformed> {
        let mut names = Vec::new();
        while !self.0.is_empty() {
            names.push(self.name()?);
        }
        Ok(names)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (array, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*array)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*, strategy::Union};

    use super::super::limits::Origin;
    use super::{Exit, Malformed, Message, Summary};

    /// A message that owns its strings, to be borrowed from.
    #[derive(Debug, Clone)]
    enum Owned {
        List(u8, Vec<String>),
        Note(String, Vec<u8>),
        Serials(Vec<u64>),
        Path(Vec<u8>),
        Exit(Exit),
        End(Summary),
    }

    fn borrowed(owned: &Owned) -> Message<'_> {
        match owned {
            Owned::List(kind, names) => {
                let names = names.iter().map(String::as_str).collect();
                match kind {
                    0 => Message::Put(names),
                    1 => Message::Delete(names),
                    _ => Message::Forget(names),
                }
            }
            Owned::Note(key, value) if value.is_empty() => Message::Sealed { key },
            Owned::Note(key, value) => Message::Note { key, value },
            Owned::Serials(serials) => Message::Acknowledge(serials.clone()),
            Owned::Path(path) => Message::Program(path),
            Owned::Exit(exit) => Message::Exit(*exit),
            Owned::End(summary) => Message::ReplayEnd(*summary),
        }
    }

    fn messages() -> Union<BoxedStrategy<Owned>> {
        let summary = (
            option::of(any::<i32>()),
            option::of(any::<u64>()),
            option::of(any::<i32>()),
            any::<(u32, u32, u32)>(),
        )
            .prop_map(
                |(oom_score_adj, nofile_soft, last_status, (restarts, refused, dropped_exits))| {
                    let origin = Origin { oom_score_adj, nofile_soft };
                    Owned::End(Summary { origin, restarts, last_status, refused, dropped_exits })
                },
            );
        Union::new([
            (0..3u8, vec("\\PC{1,60}", 0..9)).prop_map(|(kind, names)| Owned::List(kind, names)).boxed(),
            ("\\PC{1,60}", vec(any::<u8>(), 0..99)).prop_map(|(key, value)| Owned::Note(key, value)).boxed(),
            vec(any::<u64>(), 0..9).prop_map(Owned::Serials).boxed(),
            vec(any::<u8>(), 0..99).prop_map(Owned::Path).boxed(),
            any::<(u64, u32, i32)>()
                .prop_map(|(serial, pid, status)| Owned::Exit(Exit { serial, pid, status }))
                .boxed(),
            summary.boxed(),
        ])
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same(owned in messages()) {
            let message = borrowed(&owned);
            let bytes = message.encode();
            prop_assert_eq!(Message::decode(&bytes), Ok(message));
        }

        #[test]
        fn any_bytes_are_refused_or_have_one_encoding(kind in 0..20u8, mut bytes in vec(any::<u8>(), 0..300)) {
            bytes.insert(0, kind);
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }

        #[test]
        fn a_message_cut_short_or_changed_does_not_panic(
            owned in messages(),
            cut in any::<prop::sample::Index>(),
            flip in any::<u8>(),
        ) {
            let mut bytes = borrowed(&owned).encode();
            let at = cut.index(bytes.len());
            let _ = Message::decode(&bytes[..at]);
            bytes[at] ^= flip;
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }
    }

    #[test]
    fn an_empty_message_or_name_is_malformed() {
        assert_eq!(Message::decode(&[]), Err(Malformed));
        assert_eq!(Message::decode(&[1, 0]), Err(Malformed));
        assert_eq!(Message::decode(&[7, 7]), Err(Malformed));
    }
}
