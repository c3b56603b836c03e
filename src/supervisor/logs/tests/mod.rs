//! Tests of the whole module on real pipes and files.

mod chaos;
mod death;
mod disk;
mod flow;
mod rotating;
mod speed;

use std::{
    cell::Cell,
    fs::{self, File},
    io::{self, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use flate2::read::GzDecoder;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::sync::mpsc::UnboundedReceiver;

use super::{Format, JournalFds, LogMover, LogNews, Rotate, Stream, Target};

/// How long anything may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);

thread_local! {
    static STEPS_TO_LIVE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Carried by the unwinding that stands for our being killed.
struct Death;

fn die_after(steps: Option<u64>) {
    STEPS_TO_LIVE.set(steps);
}

/// An instant at which a test may have this thread die.
pub(super) fn may_die() {
    if let Some(left) = STEPS_TO_LIVE.get() {
        if left == 0 {
            STEPS_TO_LIVE.set(None);
            std::panic::resume_unwind(Box::new(Death));
        }
        STEPS_TO_LIVE.set(Some(left - 1));
    }
}

/// As [`may_die`], before a write that is then cut in two, since we may die within it.
pub(super) fn may_die_within(bytes: &[u8]) -> &[u8] {
    may_die();
    if STEPS_TO_LIVE.get().is_some() && bytes.len() > 64 { &bytes[..bytes.len() / 2] } else { bytes }
}

/// A mover in a folder of its own.
struct Rig {
    mover: LogMover,
    news: UnboundedReceiver<LogNews>,
    told: Vec<LogNews>,
    /// Removed last, as the mover would make it anew.
    folder: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        Self::with(JournalFds::create().unwrap())
    }

    fn with(journal: JournalFds) -> Self {
        let (mover, news) = LogMover::start(journal).unwrap();
        Self { folder: tempfile::tempdir().unwrap(), mover, news, told: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn target(&self, file: &str) -> Target {
        Target { app: "app".to_owned(), out: true, file: Some(self.path(file)), ..Target::default() }
    }

    /// Attaches a new pipe; returns its write end.
    fn attach(&self, id: u64, target: Target) -> File {
        let (pipe, writer) = a_pipe();
        self.mover.attach(Stream { id, pipe, target });
        writer.into()
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.path(file)).unwrap_or_default()
    }

    fn wait_for_text(&self, file: &str, expected: &str) {
        wait_until(&format!("{file} to be {expected:?}"), || self.text(file) == expected);
    }

    fn wait_for_news(&mut self, wanted: impl Fn(&LogNews) -> bool) -> LogNews {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Ok(news) = self.news.try_recv() {
                self.told.push(news);
            }
            if let Some(found) = self.told.iter().position(&wanted) {
                return self.told.remove(found);
            }
            assert!(Instant::now() < deadline, "no such news, but {:?}", self.told);
            sleep(Duration::from_millis(2));
        }
    }

    fn wait_for_end(&mut self, id: u64) {
        self.wait_for_news(|news| *news == LogNews::Ended(id));
    }
}

fn a_pipe() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC).unwrap()
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        sleep(Duration::from_millis(2));
    }
}

/// The rotated files of a log, oldest first, without what is compressed already, and then the log itself.
fn family(path: &Path) -> Vec<PathBuf> {
    let stem = path.file_stem().unwrap().to_str().unwrap().to_owned() + "__";
    let mut names: Vec<(String, u32, PathBuf)> = Vec::new();
    for entry in fs::read_dir(path.parent().unwrap()).unwrap() {
        let found = entry.unwrap().path();
        let name = found.file_name().unwrap().to_str().unwrap();
        let Some(rest) = name.strip_prefix(&stem) else { continue };
        assert!(rest.strip_suffix(".tmp").is_none(), "{name} was left");
        let rest = rest.trim_end_matches(".gz").trim_end_matches(".log");
        let number = rest[19..].trim_start_matches('-').parse().unwrap_or(0);
        names.push((rest[..19].to_owned(), number, found));
    }
    names.sort();
    names.dedup_by(|b, a| (&a.0, a.1) == (&b.0, b.1));
    names.into_iter().map(|(_, _, path)| path).chain([path.to_owned()]).collect()
}

/// Everything that was ever written to a log.
fn history(path: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for path in family(path) {
        if path.extension().is_some_and(|extension| extension == "gz") {
            GzDecoder::new(File::open(path).unwrap()).read_to_end(&mut all).unwrap();
        } else {
            match File::open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                file => {
                    file.unwrap().read_to_end(&mut all).unwrap();
                }
            }
        }
    }
    all
}

fn small(max_bytes: u64, gzip: bool) -> Rotate {
    Rotate { max_bytes, keep: 100_000, gzip, every: None }
}

/// Line `number` of a writer; any tear shows in it.
fn numbered(writer: u64, number: u64) -> String {
    let filler = (number * 31 + writer * 7) % 150;
    format!("<w{writer} {number} {}>", "x".repeat(filler as usize))
}

/// Asserts that each of these writers' lines is there once, in order and whole, and nothing else is.
fn assert_exactly(what: &str, text: &[u8], strip: impl Fn(&str) -> String, counts: &[(u64, u64)]) {
    let text = std::str::from_utf8(text).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{what} ends in a torn line");
    let mut next: Vec<(u64, u64, u64)> = counts.iter().map(|(writer, count)| (*writer, 0, *count)).collect();
    for (at, line) in text.lines().enumerate() {
        let line = strip(line);
        let mut words = line.trim_start_matches("<w").split(' ');
        let writer: Option<u64> = words.next().and_then(|word| word.parse().ok());
        let expected = next.iter_mut().find(|(known, ..)| Some(*known) == writer);
        let Some((writer, number, _)) = expected else { panic!("{what}:{at}: {line:?} is no line") };
        assert_eq!(line, numbered(*writer, *number), "{what}:{at}");
        *number += 1;
    }
    for (writer, seen, count) in next {
        assert_eq!(seen, count, "{what}: lines of writer {writer}");
    }
}

/// Streams of every kind that may meet a death: plain, merged, with times and a combined file, two that meet by
/// chance, and JSON. Writer n writes stream n.
fn plan(folder: &Path, gzip: bool) -> Vec<Target> {
    let rotate = |kilobytes: u64| small(kilobytes * 1024, false);
    let target = |name: &str, kilobytes: u64| Target {
        app: "app".to_owned(),
        out: true,
        file: Some(folder.join(name)),
        rotate: rotate(kilobytes),
        ..Target::default()
    };
    let merged = Target { shared: true, ..target("merged.log", 60) };
    let stamped = |name: &str| Target {
        combined: Some(folder.join("both.log")),
        format: Format { timestamp: Some("YYYY-MM-DD HH[h]mm ss.SSS Z".to_owned()), json: false },
        ..target(name, 50)
    };
    let json = Target {
        format: Format { timestamp: None, json: true },
        rotate: small(100 * 1024, gzip),
        ..target("json.log", 0)
    };
    vec![
        target("plain.log", 40),
        merged.clone(),
        merged,
        stamped("three.log"),
        stamped("four.log"),
        target("meet.log", 70),
        target("meet.log", 70),
        json,
    ]
}

/// Asserts that all that the streams of [`plan`] wrote is in the files it should be in.
fn assert_plan(folder: &Path, counts: &[u64]) {
    let count = |writer: u64| (writer, counts[writer as usize]);
    let raw = |line: &str| line.to_owned();
    let stamped = |line: &str| line.split_once(": ").map_or_else(String::new, |(_, line)| line.to_owned());
    let json = |line: &str| {
        let message = line.strip_prefix("{\"message\":\"").and_then(|line| line.split_once('"'));
        assert!(line.ends_with("\"app_name\":\"app\"}"), "{line}");
        message.map_or_else(String::new, |(message, _)| message.to_owned())
    };
    let check = |name: &str, strip: &dyn Fn(&str) -> String, writers: &[u64]| {
        let counts: Vec<(u64, u64)> = writers.iter().map(|writer| count(*writer)).collect();
        assert_exactly(name, &history(&folder.join(name)), strip, &counts);
    };
    check("plain.log", &raw, &[0]);
    check("merged.log", &raw, &[1, 2]);
    check("three.log", &stamped, &[3]);
    check("four.log", &stamped, &[4]);
    check("both.log", &stamped, &[3, 4]);
    check("meet.log", &raw, &[5, 6]);
    check("json.log", &json, &[7]);
}

/// Chance without a crate for it (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
