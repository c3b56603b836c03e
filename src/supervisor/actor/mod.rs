//! The one owner of every instance: takes messages, steps state machines, does what they say.
//!
//! Whatever would be missed after a `kill -9` is put into the vault before it matters (`remember`), and taken from
//! there when the next supervisor begins (`adopt`).

mod adopt;
mod app;
mod calls;
mod channel;
mod ending;
mod launching;
mod output;
mod remember;
mod rolling;
mod spares;
mod transparent;
mod watching;
mod wrapping;

use std::{
    collections::{BTreeMap, VecDeque},
    future::{Future, pending},
    io::{self, Write as _},
    mem::discriminant,
    path::PathBuf,
    pin::pin,
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::{Instant, sleep_until},
};

use self::app::{App, Instance, Key, Run, RunId};
use super::{
    control::{Call, Event, Response},
    keeper::News,
    logs::{LogMover, LogNews},
    poller::Poller,
    state::{Action, Input, State, Then},
    text,
    vault::Vault,
};

/// Messages of checks that wait for the actor; further ones wait with their senders.
const NOTICES: usize = 256;

/// How long after its start a supervisor gives back the memory that only the start needed, and how often after that.
const REST_AFTER: Duration = Duration::from_millis(500);
const REST_EVERY: Duration = Duration::from_secs(60);

/// What a watched descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A process, which has ended.
    Process(RunId),
    /// A process of the session of one that has ended.
    Member(RunId),
    /// The IPC channel of a process.
    Channel(RunId),
    /// A listening socket of an app whose worker is gone.
    Orphan(u32),
    /// A process that asks before it binds or listens.
    Notifier(RunId),
    /// The wrapper of a process has something to report.
    Report(RunId),
    /// The keeper has something to say.
    Keeper,
}

pub(super) struct Actor {
    /// The files of this supervisor.
    dir: PathBuf,
    vault: Vault,
    poller: Poller<Token>,
    apps: BTreeMap<u32, App>,
    runs: BTreeMap<RunId, Run>,
    /// How many streams of each process are not in their files to the end yet.
    streams: BTreeMap<RunId, u8>,
    logs: LogMover,
    log_news: mpsc::UnboundedReceiver<LogNews>,
    calls: mpsc::Receiver<Call>,
    events: broadcast::Sender<Event>,
    notices: mpsc::Receiver<Notice>,
    to_self: mpsc::Sender<Notice>,
    /// Calls that are answered once none of their instances is stopping.
    pending: Vec<(Vec<Key>, oneshot::Sender<Response>)>,
    /// Calls that are answered once none of their instances is being started.
    settling: Vec<(Vec<Key>, oneshot::Sender<Response>)>,
    next_app: u32,
    next_id: u32,
    last_run: RunId,
    /// When sockets that are out of use are looked at next.
    tidy_at: Option<Instant>,
    /// When processes that are finishing what they have begun are looked at next.
    drain_at: Option<Instant>,
    /// When the memory that only the last piece of work needed is given back.
    rest_at: Option<Instant>,
    /// When memory is looked at next, if any app has a limit.
    sample_at: Option<Instant>,
    /// The limit of open files that processes are to have: the keeper has raised ours.
    open_files: Option<u64>,
    closing: bool,
    /// What the next brain is to be started from; this one ends and touches nothing.
    replaced: bool,
}

/// What a check tells.
struct Notice {
    run: RunId,
    news: CheckNews,
}

enum CheckNews {
    Ready,
    /// It did not answer so many times in a row.
    Dead(String),
}

/// How the work of an actor ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Everything was stopped.
    Finished,
    /// Everything runs on, and another takes over.
    HandedOver,
    /// The keeper is gone: this process has to become it.
    KeeperGone,
}

/// What an actor is given.
pub(super) struct Connections {
    pub(super) calls: mpsc::Receiver<Call>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) logs: LogMover,
    pub(super) log_news: mpsc::UnboundedReceiver<LogNews>,
}

impl Actor {
    /// On failure the vault is given back: it has to be told.
    pub(super) fn new(
        dir: PathBuf,
        vault: Vault,
        connections: Connections,
    ) -> Result<Self, Box<(io::Error, Vault)>> {
        let Connections { calls, events, logs, log_news } = connections;
        let (to_self, notices) = mpsc::channel(NOTICES);
        let poller = match Poller::new() {
            Ok(poller) => poller,
            Err(error) => return Err(Box::new((error, vault))),
        };
        Ok(Self {
            dir,
            vault,
            poller,
            apps: BTreeMap::new(),
            runs: BTreeMap::new(),
            streams: BTreeMap::new(),
            logs,
            log_news,
            calls,
            events,
            notices,
            to_self,
            pending: Vec::new(),
            settling: Vec::new(),
            next_app: 0,
            next_id: 0,
            last_run: 0,
            tidy_at: None,
            drain_at: None,
            rest_at: Some(Instant::now() + REST_AFTER),
            sample_at: None,
            open_files: None,
            closing: false,
            replaced: false,
        })
    }

    /// Works until shutdown was asked for, by a client or by `shutdown`, and everything has ended, or until another
    /// process takes over.
    pub(super) async fn work(mut self, shutdown: impl Future<Output = ()>) -> (Ended, Vault) {
        let mut shutdown = pin!(shutdown);
        let _keeper = self.vault.watched(|fd| self.poller.watch(fd, Token::Keeper));
        let ended = loop {
            if self.closing && self.runs.is_empty() && self.streams.is_empty() {
                break Ended::Finished;
            }
            if self.replaced {
                break Ended::HandedOver;
            }
            let timer = self.next_timer();
            tokio::select! {
                ready = self.poller.ready() => {
                    // The poller itself fails only when the process is out of descriptors at its start.
                    for token in ready.unwrap_or_default() {
                        self.ready(token);
                    }
                }
                Some(news) = self.log_news.recv() => self.log_news(news),
                Some(notice) = self.notices.recv() => self.notice(notice),
                Some(call) = self.calls.recv() => self.call(call),
                () = until(timer) => self.timers_up(),
                () = &mut shutdown, if !self.closing => self.close(),
            }
            self.answer_pending();
            if self.vault.is_lost() {
                break Ended::KeeperGone;
            }
        };
        if ended != Ended::KeeperGone {
            // What is there is moved; what comes is the next one's.
            self.logs.stop();
        }
        (ended, self.vault)
    }

    fn ready(&mut self, token: Token) {
        match token {
            Token::Process(run) => self.process_ended(run),
            Token::Member(run) => self.member_ended(run),
            Token::Channel(run) => self.channel_ready(run),
            Token::Orphan(app) => self.orphan_ready(app),
            Token::Notifier(run) => self.notifier_ready(run),
            Token::Report(run) => self.report_ready(run),
            Token::Keeper => {
                while let Some(news) = self.vault.receive() {
                    match news {
                        News::Exit(exit) => self.keeper_saw_end(&exit),
                        News::Gone => return,
                    }
                }
            }
        }
    }

    fn notice(&mut self, Notice { run, news }: Notice) {
        match news {
            CheckNews::Ready => self.run_is_ready(run),
            CheckNews::Dead(why) => self.found_dead(run, &why),
        }
    }

    fn log_news(&mut self, news: LogNews) {
        match news {
            LogNews::Ended(stream) => self.forget_stream(stream),
            LogNews::Paused { path, reason } => {
                self.warn(None, format!("{} cannot be written: {reason}", path.display()));
            }
            LogNews::Resumed { path, dropped_lines, .. } => {
                self.warn(
                    None,
                    format!("{} is written again; {dropped_lines} lines were dropped", path.display()),
                );
            }
            LogNews::Rotated { .. } => {}
        }
    }

    /// Steps instances, and whatever follows from that, until nothing more does.
    fn step(&mut self, inputs: impl Iterator<Item = (Key, Input)>) {
        let mut queue: VecDeque<(Key, Input)> = inputs.collect();
        while let Some((key, input)) = queue.pop_front() {
            let Some(app) = self.apps.get_mut(&key.0) else { continue };
            let Some(instance) = app.instances.get_mut(&key.1) else { continue };
            let before = instance.machine.state;
            let actions = instance.machine.step(&app.policy, input);
            let after = instance.machine.state;
            if discriminant(&before) != discriminant(&after) {
                instance.timer = None;
            }
            let relevant = before != after || matches!(input, Input::Exited { .. } | Input::Replaced);
            if relevant {
                self.remember_instance(key);
            }
            let crashed = before == State::Online && matches!(input, Input::Exited { .. });
            for action in actions {
                if crashed && action == Action::Spawn && self.take_spare(key).is_some() {
                    queue.push_front((key, Input::Spawned));
                    continue;
                }
                // What follows from a spawn comes before anything else, as if it were part of it.
                if let Some(input) = self.act(key, action) {
                    queue.push_front((key, input));
                }
            }
            // One process may follow another without a change of state.
            if relevant {
                self.publish(key);
            }
            self.observe_in_place(key, input, after);
            self.remove_surplus(key);
        }
    }

    fn act(&mut self, key: Key, action: Action) -> Option<Input> {
        match action {
            Action::Spawn => return Some(self.spawn_main(key)),
            Action::Check => {
                if let Some(run) = self.instance(key).and_then(|instance| instance.run) {
                    self.begin_check(run);
                }
            }
            Action::End => match self.instance(key).and_then(|instance| instance.run) {
                Some(run) => self.end(run),
                None => return Some(Input::Exited { uptime: Duration::ZERO, code: None }),
            },
            Action::Timer(after) => {
                if let Some(instance) = self.instance_mut(key) {
                    instance.timer = Some(Instant::now() + after);
                }
            }
        }
        None
    }

    /// What is done now needs code that is not needed for long.
    fn rest_soon(&mut self) {
        self.rest_at = Some(Instant::now() + REST_AFTER);
    }

    fn timers_up(&mut self) {
        let now = Instant::now();
        let is_up = |timer: Option<Instant>| timer.is_some_and(|at| at <= now);
        for key in self.all_keys() {
            if let Some(instance) = self.instance_mut(key).filter(|instance| is_up(instance.timer)) {
                instance.timer = None;
                self.step([(key, Input::TimeUp)].into_iter());
            }
        }
        let due: Vec<RunId> =
            self.runs.iter().filter(|(_, run)| is_up(run.kill_at)).map(|(id, _)| *id).collect();
        for run in due {
            self.time_is_up(run);
        }
        self.rolls_overdue(now);
        self.crons_due(now);
        if is_up(self.drain_at) {
            self.look_at_drains();
        }
        if is_up(self.tidy_at) {
            self.tidy();
        }
        if is_up(self.rest_at) {
            text::let_go();
            self.rest_at = Some(Instant::now() + REST_EVERY);
        }
        if is_up(self.sample_at) {
            self.sample();
        }
    }

    fn next_timer(&self) -> Option<Instant> {
        let instances = self.apps.values().flat_map(|app| app.instances.values());
        let apps = self.apps.values().flat_map(|app| {
            let settled = app.rolling.iter().flat_map(|rolling| rolling.in_place.values());
            settled.filter_map(|step| step.settled_at).chain(app.cron.as_ref().map(|(_, at)| *at))
        });
        let runs = self.runs.values().flat_map(|run| [run.kill_at, run.ready_by]).flatten();
        instances
            .filter_map(|instance| instance.timer)
            .chain(apps)
            .chain(runs)
            .chain(self.sample_at)
            .chain(self.tidy_at)
            .chain(self.drain_at)
            .chain(self.rest_at)
            .min()
    }

    fn remove_surplus(&mut self, key: Key) {
        let Some(app) = self.apps.get_mut(&key.0) else { return };
        let gone = app
            .instances
            .get(&key.1)
            .is_some_and(|instance| instance.surplus && instance.machine.state == State::Stopped);
        if !gone {
            return;
        }
        app.instances.remove(&key.1);
        let name = app.spec.name.clone();
        let is_last = app.leaving && app.instances.is_empty();
        self.vault.forget(&[remember::instance_note(key)]);
        let _ = self.events.send(Event::Removed { app: name, instance: key.1 });
        if is_last {
            if let Some(cluster) = self.apps.remove(&key.0).and_then(|app| app.cluster) {
                cluster.end(&mut self.vault);
            }
            self.vault.forget(&[remember::app_note(key.0)]);
        }
    }

    fn answer_pending(&mut self) {
        for (keys, reply) in std::mem::take(&mut self.pending) {
            if keys.iter().all(|key| self.is_settled(*key)) {
                // A client that did not wait for its answer has no use for it.
                let _ = reply.send(Response::Done);
            } else {
                self.pending.push((keys, reply));
            }
        }
        for (keys, reply) in std::mem::take(&mut self.settling) {
            if keys.iter().any(|key| self.is_starting(*key)) {
                self.settling.push((keys, reply));
            } else {
                let _ = reply.send(self.all_online(&keys));
            }
        }
    }

    fn is_starting(&self, key: Key) -> bool {
        let state = self.instance(key).map(|instance| instance.machine.state);
        matches!(state, Some(State::Launching { overdue: false } | State::Stopping { then: Then::Start }))
    }

    fn all_online(&self, keys: &[Key]) -> Response {
        let failed: Vec<String> = keys
            .iter()
            .filter_map(|key| {
                let instance = self.instance(*key)?;
                let why = match (instance.machine.state, &instance.last_end) {
                    (State::Online, _) => return None,
                    (State::Launching { .. }, _) => "it is not ready yet".to_owned(),
                    (_, Some(end)) => end.clone(),
                    (_, None) => "it does not run".to_owned(),
                };
                Some(format!("{}: {why}", self.name_of(*key)))
            })
            .collect();
        if failed.is_empty() { Response::Done } else { Response::Failed(failed.join("; ")) }
    }

    fn is_settled(&self, key: Key) -> bool {
        !self.instance(key).is_some_and(|instance| matches!(instance.machine.state, State::Stopping { .. }))
            && !self.runs.values().any(|run| run.key == key && run.kill_at.is_some())
    }

    fn publish(&self, key: Key) {
        if let Some(app) = self.apps.get(&key.0) {
            let run = app.instances.get(&key.1).and_then(|instance| self.runs.get(&instance.run?));
            // Nobody may be listening.
            if let Some(report) = app.report(key.1, run) {
                drop(self.events.send(Event::Changed(report)));
            }
        }
    }

    fn warn(&self, app: Option<u32>, message: String) {
        let app = app.and_then(|app| Some(self.apps.get(&app)?.spec.name.clone()));
        // Whoever starts a supervisor gives it a file for this.
        let _ = match &app {
            Some(app) => writeln!(io::stderr(), "{app}: {message}"),
            None => writeln!(io::stderr(), "{message}"),
        };
        let _ = self.events.send(Event::Warning { app, message });
    }

    fn all_keys(&self) -> Vec<Key> {
        self.apps.keys().flat_map(|app| self.keys_of(*app)).collect()
    }

    fn keys_of(&self, app: u32) -> Vec<Key> {
        let numbers = self.apps.get(&app).into_iter().flat_map(|app| app.instances.keys());
        numbers.map(|number| (app, *number)).collect()
    }

    fn name_of(&self, (app, number): Key) -> String {
        let name = self.apps.get(&app).map_or("?", |app| app.spec.name.as_str());
        format!("instance {number} of {name}")
    }

    fn instance(&self, (app, number): Key) -> Option<&Instance> {
        self.apps.get(&app)?.instances.get(&number)
    }

    fn instance_mut(&mut self, (app, number): Key) -> Option<&mut Instance> {
        self.apps.get_mut(&app)?.instances.get_mut(&number)
    }
}

/// The time since the machine started: the same clock for every supervisor process that follows another.
fn now() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.cast_unsigned(), now.tv_nsec as u32)
}

/// Completes at that time, or never.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}
