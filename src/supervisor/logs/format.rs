//! What becomes of a line on its way: nothing, a time in front of it, or a JSON object. Pure; where the bytes come
//! from and go to is elsewhere.

use jiff::{Timestamp, tz::TimeZone};

use super::{Target, clock::Stamp};

/// The most text that is made at once. So a flood of empty lines, each with a time in front, cannot swell memory.
pub(super) const TEXT_BYTES: usize = 256 * 1024;

/// The format of one stream, compiled.
#[derive(Debug)]
pub(super) enum Formatter {
    Raw,
    Stamped(Stamp),
    Json {
        stamp: Option<Stamp>,
        /// Everything after the timestamp; the same for each line.
        rest: String,
    },
}

impl Formatter {
    pub(super) fn new(target: &Target) -> Self {
        let stamp = target.format.timestamp.as_deref().map(Stamp::compile);
        if target.format.json {
            let kind = if target.out { "out" } else { "err" };
            let mut rest =
                format!(",\"type\":\"{kind}\",\"process_id\":{},\"app_name\":", target.instance).into_bytes();
            push_json_string(&mut rest, target.app.as_bytes());
            rest.extend_from_slice(b"}\n");
            return Self::Json { stamp, rest: String::from_utf8_lossy(&rest).into_owned() };
        }
        stamp.map_or(Self::Raw, Self::Stamped)
    }

    /// Whether lines pass unchanged, so that the kernel may move them without our looking at them.
    pub(super) fn is_raw(&self) -> bool {
        matches!(self, Self::Raw)
    }

    /// Appends `lines` to `text`, every one ended by a newline, and returns how many bytes of `lines` that was:
    /// all of them, or so many whole lines, but at least one, that the text has no more than `limit` bytes.
    pub(super) fn append(
        &self,
        lines: &[u8],
        (at, zone): (Timestamp, &TimeZone),
        limit: usize,
        text: &mut Vec<u8>,
    ) -> usize {
        let stamped = |stamp: &Stamp| stamp.text(&at.to_zoned(zone.clone()));
        let around = match self {
            Self::Raw => {
                let fitting = lines.get(..limit).and_then(last_line_end);
                let taken =
                    if lines.len() <= limit { None } else { fitting.or_else(|| first_line_end(lines)) };
                let lines = taken.and_then(|taken| lines.get(..taken)).unwrap_or(lines);
                text.extend_from_slice(lines);
                if lines.last().is_some_and(|last| *last != b'\n') {
                    text.push(b'\n');
                }
                return lines.len();
            }
            // Moment formats first and then adds a colon and a space; so does PM2.
            Self::Stamped(stamp) => (stamped(stamp) + ": ").into_bytes(),
            Self::Json { stamp, rest } => {
                let mut after = b",\"timestamp\":".to_vec();
                let time = stamp.as_ref().map_or_else(|| format!("{at:.3}"), stamped);
                push_json_string(&mut after, time.as_bytes());
                after.extend_from_slice(rest.as_bytes());
                after
            }
        };
        let most = text.len().saturating_add(limit);
        let mut taken = 0;
        for whole in lines.split_inclusive(|byte| *byte == b'\n') {
            let length_before = text.len();
            let line = whole.strip_suffix(b"\n").unwrap_or(whole);
            if let Self::Json { .. } = self {
                text.extend_from_slice(b"{\"message\":");
                push_json_string(text, line);
                text.extend_from_slice(&around);
            } else {
                text.extend_from_slice(&around);
                text.extend_from_slice(line);
                text.push(b'\n');
            }
            if text.len() > most && taken > 0 {
                text.truncate(length_before);
                break;
            }
            taken += whole.len();
        }
        taken
    }
}

/// Where the last whole line of `bytes` ends, if there is one.
pub(super) fn last_line_end(bytes: &[u8]) -> Option<usize> {
    bytes.iter().rposition(|byte| *byte == b'\n').map(|position| position + 1)
}

/// Where the first line of `bytes` ends.
pub(super) fn first_line_end(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n').map(|position| position + 1)
}

/// How many lines `bytes` are; one without an end counts.
pub(super) fn count_lines(bytes: &[u8]) -> u64 {
    bytes.split_inclusive(|byte| *byte == b'\n').count() as u64
}

/// Text as a JSON string; bytes that are no UTF-8 become U+FFFD.
fn push_json_string(out: &mut Vec<u8>, bytes: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for chunk in bytes.utf8_chunks() {
        let mut rest = chunk.valid().as_bytes();
        // Nearly all bytes pass unchanged, so they are copied by the stretch.
        while let Some(at) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)) {
            let (clean, special) = rest.split_at(at);
            out.extend_from_slice(clean);
            match special[0] {
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
                byte => {
                    out.extend_from_slice(b"\\u00");
                    out.push(HEX[usize::from(byte >> 4)]);
                    out.push(HEX[usize::from(byte & 15)]);
                }
            }
            rest = &special[1..];
        }
        out.extend_from_slice(rest);
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use jiff::{Timestamp, tz::TimeZone};
    use proptest::prelude::*;

    use super::{
        super::{Format, Target},
        Formatter, TEXT_BYTES, count_lines, last_line_end, push_json_string,
    };

    fn formatter(timestamp: Option<&str>, json: bool) -> Formatter {
        let format = Format { timestamp: timestamp.map(str::to_owned), json };
        Formatter::new(&Target {
            app: "a\"b".to_owned(),
            instance: 3,
            out: true,
            format,
            ..Target::default()
        })
    }

    fn text(formatter: &Formatter, lines: &[u8]) -> String {
        let mut text = Vec::new();
        let at: Timestamp = "2024-02-03T16:05:09.047Z".parse().unwrap();
        formatter.append(lines, (at, &TimeZone::UTC), TEXT_BYTES, &mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn lines_are_written_as_pm2_writes_them() {
        assert_eq!(text(&formatter(None, false), b"a\nb"), "a\nb\n");
        assert_eq!(text(&formatter(Some("HH:mm"), false), b"a\n\nb"), "16:05: a\n16:05: \n16:05: b\n");
        assert_eq!(
            text(&formatter(None, true), b"say \"hi\"\x01\xff\n"),
            "{\"message\":\"say \\\"hi\\\"\\u0001\u{fffd}\",\"timestamp\":\"2024-02-03T16:05:09.047Z\",\
             \"type\":\"out\",\"process_id\":3,\"app_name\":\"a\\\"b\"}\n"
        );
        assert!(text(&formatter(Some("YYYY"), true), b"x\n").contains("\"timestamp\":\"2024\""));
    }

    #[test]
    fn a_flood_of_short_lines_is_cut_at_a_line() {
        let lines = vec![b'\n'; 64 * 1024];
        let mut out = Vec::new();
        let at = (Timestamp::UNIX_EPOCH, &TimeZone::UTC);
        let stamped = formatter(Some("YYYY-MM-DD HH:mm:ss"), false);
        let taken = stamped.append(&lines, at, TEXT_BYTES, &mut out);
        assert!(taken < lines.len());
        assert!(out.len() <= TEXT_BYTES && out.ends_with(b": \n"));
        for (limit, expected) in [(0, "one\n"), (6, "one\n"), (8, "one\ntwo\n"), (99, "one\ntwo\n3\n")] {
            let mut out = Vec::new();
            let taken = formatter(None, false).append(b"one\ntwo\n3", at, limit, &mut out);
            assert_eq!((out.as_slice(), taken), (expected.as_bytes(), expected.len().min(9)));
        }
    }

    #[test]
    fn control_characters_are_escaped() {
        let mut out = Vec::new();
        push_json_string(&mut out, b"\n\r\t\\\x1b");
        assert_eq!(out, b"\"\\n\\r\\t\\\\\\u001b\"");
    }

    proptest! {
        /// Whatever the cuts, the same text comes out: the law that lets batches end anywhere.
        #[test]
        fn any_cut_of_the_input_gives_the_same_lines(
            input in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'"'), any::<u8>()], 0..400),
            cuts in proptest::collection::vec(1_usize..50, 1..40),
            json in any::<bool>(),
            stamped in any::<bool>(),
        ) {
            let formatter = formatter(stamped.then_some("HH"), json);
            let whole = text_lossless(&formatter, &input);
            let (mut pieces, mut waiting, mut cuts) = (Vec::new(), Vec::new(), cuts.iter().cycle());
            let mut rest = &input[..];
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(*cuts.next().unwrap_or(&1)));
                waiting.extend_from_slice(now);
                rest = later;
                if let Some(end) = last_line_end(&waiting) {
                    pieces.extend(text_lossless(&formatter, &waiting[..end]));
                    waiting.drain(..end);
                }
            }
            pieces.extend(text_lossless(&formatter, &waiting));
            prop_assert_eq!(pieces.len(), whole.len());
            prop_assert_eq!(count_lines(&input), count_lines(&whole));
            prop_assert_eq!(pieces, whole);
        }
    }

    fn text_lossless(formatter: &Formatter, lines: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        formatter.append(lines, (Timestamp::UNIX_EPOCH, &TimeZone::UTC), usize::MAX, &mut text);
        text
    }
}
