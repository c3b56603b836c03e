//! AMP version 1, the framing of PM2's sockets: a byte `0x10 | count`, then each argument after its length.
//!
//! Deliberately absent: sockets, and any meaning of what is carried.

use serde_json::Value;

/// The count shares a byte with the version.
const ARGUMENTS_MAX: usize = 15;
/// No answer of PM2 comes near this: a thousand instances with large environments are some tens of megabytes.
pub(super) const FRAME_MAX_BYTES: usize = 64 << 20;
const VERSION: u8 = 1;
const LENGTH_BYTES: usize = 4;

/// One argument of a frame.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Argument {
    /// `j:` and JSON.
    Json(Value),
    /// `s:` and UTF-8.
    Text(String),
    /// Anything else.
    Blob(Vec<u8>),
}

/// Why bytes are not a frame, or arguments cannot be one. Never quotes them: they may hold an environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    /// Another protocol.
    #[error("a frame of version {0}, not {VERSION}")]
    Version(u8),
    /// Too many arguments for the count's four bits.
    #[error("a frame of {0} arguments, more than {ARGUMENTS_MAX}")]
    TooMany(usize),
    /// Over [`FRAME_MAX_BYTES`].
    #[error("a frame of more than {FRAME_MAX_BYTES} bytes")]
    TooLong,
    /// After `j:`.
    #[error("an argument that is not JSON")]
    NotJson,
    /// After `s:`.
    #[error("an argument that is not UTF-8")]
    NotText,
}

/// A frame's bytes.
pub(super) fn encode(arguments: &[Argument]) -> Result<Vec<u8>, FrameError> {
    if arguments.len() > ARGUMENTS_MAX {
        return Err(FrameError::TooMany(arguments.len()));
    }
    let mut frame = vec![VERSION << 4 | arguments.len() as u8];
    for argument in arguments {
        let bytes = packed(argument);
        let length = u32::try_from(bytes.len()).map_err(|_| FrameError::TooLong)?;
        frame.extend(length.to_be_bytes());
        frame.extend(bytes);
        if frame.len() > FRAME_MAX_BYTES {
            return Err(FrameError::TooLong);
        }
    }
    Ok(frame)
}

/// The frame at the beginning of `bytes` and its length; `None` while some of it is yet to come.
pub(super) fn decode(bytes: &[u8]) -> Result<Option<(Vec<Argument>, usize)>, FrameError> {
    let Some(meta) = bytes.first() else { return Ok(None) };
    if meta >> 4 != VERSION {
        return Err(FrameError::Version(meta >> 4));
    }
    let mut parts = Vec::new();
    let mut at = 1;
    // The lengths first: an argument is only looked into once the whole frame is there.
    for _ in 0..meta & 0x0f {
        let Some(length) = bytes[at..].first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let start = at + LENGTH_BYTES;
        let end = start.saturating_add(u32::from_be_bytes(*length) as usize);
        if end > FRAME_MAX_BYTES {
            return Err(FrameError::TooLong);
        }
        let Some(part) = bytes.get(start..end) else { return Ok(None) };
        parts.push(part);
        at = end;
    }
    let arguments = parts.into_iter().map(unpacked).collect::<Result<_, _>>()?;
    Ok(Some((arguments, at)))
}

fn packed(argument: &Argument) -> Vec<u8> {
    match argument {
        Argument::Json(value) => format!("j:{value}").into_bytes(),
        Argument::Text(text) => format!("s:{text}").into_bytes(),
        Argument::Blob(bytes) => bytes.clone(),
    }
}

fn unpacked(part: &[u8]) -> Result<Argument, FrameError> {
    if let Some(json) = part.strip_prefix(b"j:") {
        return serde_json::from_slice(json).map(Argument::Json).map_err(|_| FrameError::NotJson);
    }
    if let Some(text) = part.strip_prefix(b"s:") {
        return std::str::from_utf8(text)
            .map(|text| Argument::Text(text.to_owned()))
            .map_err(|_| FrameError::NotText);
    }
    Ok(Argument::Blob(part.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
    use serde_json::json;

    use super::*;

    fn call() -> Vec<Argument> {
        vec![
            Argument::Json(json!({"type": "call", "method": "ping", "args": [{}]})),
            Argument::Text("1".to_owned()),
        ]
    }

    #[test]
    fn a_call_has_the_bytes_that_pm2_reads() {
        let frame = encode(&[Argument::Json(json!({"a": 1})), Argument::Text("7".to_owned())]).unwrap();
        assert_eq!(frame, b"\x12\x00\x00\x00\x09j:{\"a\":1}\x00\x00\x00\x03s:7");
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        assert_eq!(decode(b"\x22\x00"), Err(FrameError::Version(2)));
        assert_eq!(decode(b"\x11\xff\xff\xff\xff"), Err(FrameError::TooLong));
        assert_eq!(decode(b"\x11\x00\x00\x00\x03j:{"), Err(FrameError::NotJson));
        assert_eq!(decode(b"\x11\x00\x00\x00\x03s:\xff"), Err(FrameError::NotText));
        assert_eq!(encode(&vec![Argument::Text(String::new()); 16]), Err(FrameError::TooMany(16)));
    }

    #[test]
    fn arguments_together_are_bounded_too() {
        // Two arguments that are each within the limit: the second alone would pass.
        let half = (FRAME_MAX_BYTES / 2) as u32;
        let mut bytes = vec![0x12];
        bytes.extend(half.to_be_bytes());
        bytes.resize(1 + LENGTH_BYTES + half as usize, b' ');
        bytes.extend(half.to_be_bytes());
        assert_eq!(decode(&bytes), Err(FrameError::TooLong));
    }

    #[test]
    fn every_part_of_a_frame_asks_for_more() {
        let frame = encode(&call()).unwrap();
        for length in 0..frame.len() {
            assert_eq!(decode(&frame[..length]), Ok(None), "{length} of {} bytes", frame.len());
        }
        assert_eq!(decode(&frame), Ok(Some((call(), frame.len()))));
    }

    fn argument() -> impl Strategy<Value = Argument> {
        let json = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            prop::collection::vec(".*", 0..4).prop_map(Value::from),
        ];
        let blob = prop::collection::vec(any::<u8>(), 0..40).prop_filter("these carry a type", |bytes| {
            !bytes.starts_with(b"j:") && !bytes.starts_with(b"s:")
        });
        prop_oneof![
            json.prop_map(Argument::Json),
            ".*".prop_map(Argument::Text),
            blob.prop_map(Argument::Blob)
        ]
    }

    proptest! {
        #[test]
        fn a_frame_is_read_as_it_was_written(
            arguments in prop::collection::vec(argument(), 0..=ARGUMENTS_MAX),
            behind in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut bytes = encode(&arguments).unwrap();
            let length = bytes.len();
            bytes.extend(behind);
            prop_assert_eq!(decode(&bytes), Ok(Some((arguments, length))));
        }

        #[test]
        fn arbitrary_bytes_are_a_frame_or_an_error_or_incomplete(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Ok(Some((arguments, length))) = decode(&bytes) {
                prop_assert!(length <= bytes.len() && arguments.len() == usize::from(bytes[0] & 0x0f));
            }
        }

        #[test]
        fn short_arguments_of_arbitrary_bytes_never_panic(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 0..=ARGUMENTS_MAX),
        ) {
            let mut bytes = vec![0x10 | parts.len() as u8];
            for part in &parts {
                bytes.extend((part.len() as u32).to_be_bytes());
                bytes.extend(part);
            }
            match decode(&bytes) {
                Ok(whole) => prop_assert_eq!(whole.map(|(_, length)| length), Some(bytes.len())),
                Err(error) => prop_assert!(matches!(error, FrameError::NotJson | FrameError::NotText)),
            }
        }
    }
}
