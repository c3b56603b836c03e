//! Death between any two system calls, and within writes: the mover runs on this thread and is unwound away.
//!
//! Unwinding does for us what the kernel does at a kill: it closes the descriptors, and nothing else is done.

use std::{
    collections::VecDeque,
    fs::File,
    io::Write,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
};

use rustix::{
    event::{EventfdFlags, eventfd},
    pipe::{PipeFlags, pipe_with},
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{
    super::{Command, mover::Mover},
    Death, Dice, JournalFds, LogNews, Stream, Target, assert_plan, die_after,
    disk::{SmallDisk, assert_told},
    numbered, plan,
};

struct Writer {
    kept: OwnedFd,
    pipe: Option<File>,
    waiting: VecDeque<u8>,
    written: u64,
    lines: u64,
}

impl Writer {
    fn new(lines: u64) -> Self {
        let (kept, pipe) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        Self { kept, pipe: Some(pipe.into()), waiting: VecDeque::new(), written: 0, lines }
    }

    /// Writes a piece that may end anywhere in a line; closes the pipe after the last.
    fn feed(&mut self, writer: u64, bytes: usize) {
        while self.waiting.len() < bytes && self.written < self.lines {
            self.waiting.extend((numbered(writer, self.written) + "\n").bytes());
            self.written += 1;
        }
        let piece: Vec<u8> = self.waiting.iter().copied().take(bytes).collect();
        if let Some(pipe) = &mut self.pipe
            && let Ok(written) = pipe.write(&piece)
        {
            self.waiting.drain(..written);
        }
        if self.written == self.lines && self.waiting.is_empty() {
            self.pipe = None;
        }
    }
}

struct Life {
    mover: Mover,
    commands: mpsc::Sender<Command>,
    wake: Arc<OwnedFd>,
    news: UnboundedReceiver<LogNews>,
}

impl Life {
    fn begin(journal: &JournalFds) -> Self {
        let clone = |fd: &OwnedFd| fd.try_clone().unwrap();
        let staging = (clone(&journal.staging.0), clone(&journal.staging.1));
        let journal = JournalFds { memory: clone(&journal.memory), staging };
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap());
        let (commands, received) = mpsc::channel();
        let (tell, news) = unbounded_channel();
        let mover = Mover::new(journal, Arc::clone(&wake), received, tell).unwrap();
        Self { mover, commands, wake, news }
    }

    fn round(&mut self) {
        rustix::io::write(&self.wake, &1_u64.to_ne_bytes()).unwrap();
        self.mover.round();
    }

    fn attach(&self, id: usize, writer: &Writer, target: &Target) {
        let pipe = writer.kept.try_clone().unwrap();
        self.commands.send(Command::Attach(Stream { id: id as u64, pipe, target: target.clone() })).unwrap();
    }
}

/// How a test's mover lives.
struct Scene<'a> {
    targets: &'a [Target],
    /// What is written at once, at most.
    piece_bytes: u64,
    lines: u64,
    /// Beyond so many rounds it is not unwound but dropped, which is no different.
    rounds: u64,
    /// How many steps it lives, at most.
    steps: u64,
}

fn live(
    journal: &JournalFds,
    writers: &mut [Writer],
    scene: &Scene<'_>,
    dice: &mut Dice,
    ended: &mut [bool],
) {
    let &Scene { targets, piece_bytes, rounds, .. } = scene;
    let mut life = Life::begin(journal);
    let first = dice.below(targets.len() as u64) as usize;
    for offset in 0..targets.len() {
        let id = (first + offset) % targets.len();
        // What has ended was removed from the keeper, most of the time.
        if !ended[id] || dice.below(4) == 0 {
            life.attach(id, &writers[id], &targets[id]);
        }
        if dice.below(4) == 0 {
            life.round();
        }
    }
    for _ in 0..rounds {
        for (id, writer) in writers.iter_mut().enumerate() {
            if dice.below(3) > 0 {
                writer.feed(id as u64, 1 + dice.below(piece_bytes) as usize);
            }
        }
        life.round();
        while let Ok(news) = life.news.try_recv() {
            if let LogNews::Ended(id) = news {
                ended[id as usize] = true;
            }
        }
        if ended.iter().all(|ended| *ended) {
            return;
        }
    }
}

/// Runs movers one after the other until all is written; how many of them died. `between` is called in between.
fn many_lives(scene: &Scene<'_>, seed: u64, mut between: impl FnMut(&mut Dice)) -> u64 {
    let mut dice = Dice(seed);
    let journal = JournalFds::create().unwrap();
    let mut writers: Vec<Writer> = scene.targets.iter().map(|_| Writer::new(scene.lines)).collect();
    let mut ended = vec![false; scene.targets.len()];
    let mut deaths = 0;
    while !ended.iter().all(|ended| *ended) {
        between(&mut dice);
        die_after(Some(dice.below(scene.steps)));
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            live(&journal, &mut writers, scene, &mut dice, &mut ended);
        }));
        die_after(None);
        match outcome {
            Ok(()) => {}
            Err(cause) if cause.is::<Death>() => deaths += 1,
            Err(cause) => std::panic::resume_unwind(cause),
        }
    }
    deaths
}

#[test]
fn dying_between_any_two_steps_loses_doubles_and_tears_nothing() {
    let mut deaths = 0;
    for seed in [0x9e37_79b9, 0x1234_5678_9abc, 77] {
        let folder = tempfile::tempdir().unwrap();
        let targets = plan(folder.path(), false);
        let scene = Scene { targets: &targets, piece_bytes: 3000, lines: 1500, rounds: u64::MAX, steps: 150 };
        deaths += many_lives(&scene, seed, |_| {});
        assert_plan(folder.path(), &vec![1500; targets.len()]);
    }
    eprintln!("died {deaths} times");
    assert!(deaths > 100, "only {deaths} deaths");
}

#[test]
fn dying_while_the_disk_is_full_keeps_the_count_of_what_is_dropped() {
    const LINES: u64 = 80_000;
    let disk = SmallDisk::new(64, 0);
    let target = |name: &str, shared| Target { file: Some(disk.path(name)), shared, ..Target::default() };
    let targets = [target("plain.log", false), target("both.log", true), target("both.log", true)];
    let scene = Scene { targets: &targets, piece_bytes: 150_000, lines: LINES, rounds: 20, steps: 40 };
    let mut lives = 0;
    let deaths = many_lives(&scene, 4711, |dice| {
        lives += 1;
        disk.free();
        if lives < 150 && dice.below(4) > 0 {
            disk.fill(64 << 20);
        }
    });
    let plain = assert_told(&disk.path("plain.log"), &[(0, LINES)], true);
    let both = assert_told(&disk.path("both.log"), &[(1, LINES), (2, LINES)], false);
    eprintln!("died {deaths} times, {plain} and {both} lines dropped");
    assert!(plain + both > 0);
}
