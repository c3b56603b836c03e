//! The thread: waits for pipes, commands and the clock, and hands out turns.

use std::{
    collections::{HashMap, VecDeque},
    io,
    os::fd::OwnedFd,
    sync::{Arc, mpsc},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
    io::ioctl_fionread,
    process::geteuid,
};
use tokio::sync::mpsc::UnboundedSender;

use super::{
    Command, JournalFds, LogNews, Stream, Target,
    descriptor::{grow, high, pipe_bytes},
    format::Formatter,
    turn::{Outcome, Phase, Source},
    works::Works,
};

/// How long descendants of a finished process may still write.
const GRACE: Duration = Duration::from_millis(500);
/// How often a stream that cannot go on is looked at. Its pipe must not fill in this time.
const WAIT: Duration = Duration::from_millis(20);
/// How often an unfinished line is looked at; only for kernels that do not report each write to a pipe.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How often the clock is looked at where files are rotated by it.
const CLOCK: Duration = Duration::from_secs(15);
/// A round that moved less is followed by a rest, so that many small writes cost few rounds.
const SMALL_ROUND_BYTES: usize = 4096;
const REST: Duration = Duration::from_millis(1);
/// How many pipes are enlarged for a user who is not root. The kernel gives a user 64 MiB of them; once that is used
/// up, every new pipe of his, in any program, is tiny.
const LARGE_PIPES: usize = 24;
/// Names the eventfd among the streams.
const WAKE: u64 = u64::MAX;
const EVENTS: usize = 64;

pub(super) struct Mover {
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    commands: mpsc::Receiver<Command>,
    news: UnboundedSender<LogNews>,
    sources: HashMap<u64, Source>,
    /// Those that get a turn in the next round.
    ready: VecDeque<u64>,
    works: Works,
    /// When the next source is to be looked at without an event.
    next_look: Option<Instant>,
    next_clock: Instant,
}

/// What the commands ask of the loop.
enum Next {
    Go,
    Stop,
    /// The handle is gone.
    Abort,
}

impl Mover {
    pub(super) fn new(
        journal: JournalFds,
        wake: Arc<OwnedFd>,
        commands: mpsc::Receiver<Command>,
        news: UnboundedSender<LogNews>,
    ) -> io::Result<Self> {
        let epoll = high(epoll::create(CreateFlags::CLOEXEC)?);
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        Ok(Self {
            epoll,
            wake,
            commands,
            works: Works::new(journal, news.clone())?,
            news,
            sources: HashMap::new(),
            ready: VecDeque::new(),
            next_look: None,
            next_clock: Instant::now() + CLOCK,
        })
    }

    pub(super) fn run(mut self) {
        while self.round() {}
        self.works.close();
    }

    /// Waits, and does what there is to do; tells whether there will be another round.
    pub(super) fn round(&mut self) -> bool {
        // Waiting fails only for lack of memory in the kernel; then it is tried again, not in a spin.
        if self.wait().is_err() {
            sleep(WAIT);
        }
        match self.obey() {
            Next::Go => {
                self.look();
                self.turns();
                return true;
            }
            Next::Stop => self.drain(),
            Next::Abort => {}
        }
        false
    }

    fn wait(&mut self) -> io::Result<()> {
        let timeout = self.timeout().and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut events = Vec::with_capacity(EVENTS);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let (id, flags) = (event.data.u64(), event.flags);
            if id == WAKE {
                // Only resets the counter.
                let _ = rustix::io::read(&self.wake, &mut [0; 8]);
            } else if let Some(source) = self.sources.get_mut(&id) {
                source.ended |= flags.intersects(EventFlags::HUP | EventFlags::ERR);
                queue(&mut self.ready, source);
            }
        }
        Ok(())
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let clock = self.works.rotates_by_clock().then_some(self.next_clock);
        let next = self.next_look.into_iter().chain(clock).min()?;
        // A nanosecond early would be a spin.
        Some(next.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
    }

    fn obey(&mut self) -> Next {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Attach(stream)) => self.attach(stream),
                Ok(Command::Finish(id)) => {
                    if let Some(source) = self.sources.get_mut(&id) {
                        source.phase = Phase::Finishing { until: Instant::now() + GRACE };
                        queue(&mut self.ready, source);
                    }
                }
                Ok(Command::Reopen) => {
                    self.works.reopen();
                    for source in self.sources.values_mut() {
                        queue(&mut self.ready, source);
                    }
                }
                Ok(Command::Truncate { app, done }) => {
                    let chosen = |source: &&Source| app.as_ref().is_none_or(|app| source.app == *app);
                    let sinks = self.sources.values().filter(chosen).flat_map(|source| source.outs.clone());
                    let mut sinks: Vec<usize> = sinks.collect();
                    sinks.sort_unstable();
                    sinks.dedup();
                    // Whoever asked may be gone.
                    let _ = done.send(self.works.empty(&sinks));
                }
                Ok(Command::Stop) => return Next::Stop,
                Err(mpsc::TryRecvError::Empty) => return Next::Go,
                Err(mpsc::TryRecvError::Disconnected) => return Next::Abort,
            }
        }
    }

    fn attach(&mut self, stream: Stream) {
        let Stream { id, pipe, target } = stream;
        let added = epoll::add(&self.epoll, &pipe, EventData::new_u64(id), EventFlags::IN | EventFlags::ET);
        if added.is_err() {
            // No pipe, or no memory: nothing will come from here.
            let _ = self.news.send(LogNews::Ended(id));
            return;
        }
        if let Some(old) = self.sources.remove(&id) {
            self.works.release(&old.outs);
            let _ = epoll::delete(&self.epoll, &old.pipe);
        }
        let formatter = Formatter::new(&target);
        let Target { app, file, combined, rotate, shared, .. } = target;
        let mut outs: Vec<usize> =
            [file, combined].into_iter().flatten().map(|path| self.works.obtain(path, &rotate)).collect();
        if let [first, second] = outs[..]
            && first == second
        {
            self.works.release(&[second]);
            outs.truncate(1);
        }
        let may_grow = self.sources.len() < LARGE_PIPES || geteuid().is_root();
        let capacity = if may_grow { grow(&pipe) } else { pipe_bytes(&pipe) };
        let source = Source {
            id,
            pipe,
            capacity,
            app,
            outs,
            formatter,
            shared,
            phase: Phase::Flowing,
            ended: false,
            counted: false,
            held: None,
            look: None,
            queued: false,
        };
        let source = self.sources.entry(id).insert_entry(source).into_mut();
        // With an edge-triggered event, what is there already might not be told.
        queue(&mut self.ready, source);
    }

    /// Queues those whose time has come.
    fn look(&mut self) {
        let now = Instant::now();
        if self.next_clock <= now {
            self.next_clock = now + CLOCK;
            self.works.rotate_idle();
        }
        if self.next_look.is_none_or(|next| now < next) {
            return;
        }
        self.next_look = None;
        for source in self.sources.values_mut() {
            if source.look.is_some_and(|look| look <= now) {
                source.look = None;
                queue(&mut self.ready, source);
            }
            self.next_look = earlier(self.next_look, source.look);
        }
    }

    /// One turn for each that is ready.
    fn turns(&mut self) {
        self.works.moved = 0;
        let count = self.ready.len();
        for _ in 0..count {
            let Some(id) = self.ready.pop_front() else { break };
            let Some(source) = self.sources.get_mut(&id) else { continue };
            source.queued = false;
            let now = Instant::now();
            if let Phase::Finishing { until } = source.phase
                && until <= now
            {
                let left = ioctl_fionread(&source.pipe).unwrap_or(0);
                source.phase = Phase::Last { left };
            }
            source.look = match self.works.turn(source) {
                Outcome::More => {
                    queue(&mut self.ready, source);
                    None
                }
                Outcome::Idle { unfinished } => unfinished.then(|| now + LOOK_AGAIN),
                Outcome::Wait => Some(now + WAIT),
                Outcome::Ended => {
                    self.end(id);
                    continue;
                }
            };
            if let Phase::Finishing { until } = source.phase {
                source.look = earlier(source.look, Some(until));
            }
            self.next_look = earlier(self.next_look, source.look);
        }
        self.works.shrink();
        if count > 0 && self.works.moved < SMALL_ROUND_BYTES {
            sleep(REST);
        }
    }

    fn end(&mut self, id: u64) {
        let Some(source) = self.sources.remove(&id) else { return };
        self.works.forget(&source);
        // The keeper holds the same pipe, so closing ours would not remove it from epoll.
        let _ = epoll::delete(&self.epoll, &source.pipe);
        drop(source);
        let _ = self.news.send(LogNews::Ended(id));
    }

    /// Moves what is in the pipes now, and no more, however much comes.
    fn drain(&mut self) {
        for source in self.sources.values_mut() {
            let there = ioctl_fionread(&source.pipe).unwrap_or(0);
            self.works.moved = 0;
            while (self.works.moved as u64) < there {
                if !matches!(self.works.turn(source), Outcome::More) {
                    break;
                }
            }
        }
    }
}

fn queue(ready: &mut VecDeque<u64>, source: &mut Source) {
    if !source.queued {
        source.queued = true;
        ready.push_back(source.id);
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}
