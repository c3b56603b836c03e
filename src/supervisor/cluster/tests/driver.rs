//! A supervisor in small: spawns workers, turns the loop, replaces workers, and dies when told.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Read as _},
    net::TcpListener,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, kill_process},
};
use serde_json::Value;
use tempfile::TempDir;

use super::super::{
    Admission, Channel, Cluster, DRAIN_GRACE, DRAIN_SHIM, Options, Outcome, Policy, Vault, environment,
};

/// By when whatever a test waits for has happened on the slowest machine.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);
/// How long a turn of the loop waits at most.
const TURN: Duration = Duration::from_millis(5);

/// Keeps things in this process, beyond the life of a cluster.
#[derive(Debug, Default)]
pub(super) struct FakeVault {
    pub(super) descriptors: BTreeMap<String, OwnedFd>,
    pub(super) notes: BTreeMap<String, Vec<u8>>,
}

impl Vault for FakeVault {
    fn keep(&mut self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.descriptors.insert(name.to_owned(), descriptor.try_clone_to_owned()?);
        Ok(())
    }

    fn discard(&mut self, name: &str) {
        self.descriptors.remove(name);
    }

    fn note(&mut self, key: &str, value: &[u8]) -> io::Result<()> {
        self.notes.insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    fn forget(&mut self, key: &str) {
        self.notes.remove(key);
    }
}

/// The Node binaries to try.
pub(super) fn nodes() -> Vec<PathBuf> {
    match env::var("QBENCH_NODES") {
        Ok(list) => list.split(':').filter(|node| !node.is_empty()).map(PathBuf::from).collect(),
        Err(_) => vec![PathBuf::from("node")],
    }
}

/// A port that was free a moment ago.
pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// One application and its supervisor.
pub(super) struct Driver {
    pub(super) cluster: Option<Cluster>,
    pub(super) vault: FakeVault,
    pub(super) workers: BTreeMap<u64, Process>,
    /// Everything that was told, in order.
    pub(super) told: Vec<(u64, Outcome)>,
    pub(super) folder: TempDir,
    pub(super) variables: BTreeMap<String, String>,
    pub(super) kill_timeout: Duration,
    /// How often a worker had to be killed because it did not end.
    pub(super) killed: u32,
    node: PathBuf,
    pub(super) script: PathBuf,
    policy: Policy,
    next: u64,
    /// The supervisor dies after so many turns, again and again.
    pub(super) life: Option<u32>,
    turns: u32,
}

/// A worker's process.
pub(super) struct Process {
    pub(super) child: Child,
    pub(super) slot: u32,
    /// What the keeper would hold of its channel.
    pub(super) channel: OwnedFd,
    kill_at: Option<Instant>,
}

impl Driver {
    /// A supervisor of the application with this source, which has no worker yet.
    pub(super) fn new(node: &Path, source: &str) -> Self {
        Self::with_policy(node, source, Policy::ReusePort)
    }

    pub(super) fn with_policy(node: &Path, source: &str, policy: Policy) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("app.js");
        fs::write(&script, source).unwrap();
        fs::write(folder.path().join("drain.js"), DRAIN_SHIM).unwrap();
        Self {
            cluster: Some(Cluster::new("app", Options { policy, ..Options::default() })),
            vault: FakeVault::default(),
            workers: BTreeMap::new(),
            told: Vec::new(),
            folder,
            variables: BTreeMap::from([(DRAIN_GRACE.to_owned(), "1300".to_owned())]),
            kill_timeout: Duration::from_secs(20),
            killed: 0,
            node: node.to_owned(),
            script,
            policy,
            next: 1,
            life: None,
            turns: 0,
        }
    }

    /// The same, of an application that listens on a port of its own, which `PORT` tells it.
    pub(super) fn on_port(node: &Path, source: &str) -> (Self, u16) {
        let mut driver = Self::new(node, source);
        let port = free_port();
        driver.set("PORT", &port.to_string());
        (driver, port)
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.variables.insert(name.to_owned(), value.to_owned());
    }

    pub(super) fn cluster(&mut self) -> &mut Cluster {
        self.cluster.as_mut().unwrap()
    }

    pub(super) fn spawn(&mut self, slot: u32) -> u64 {
        self.spawn_held(slot, false)
    }

    pub(super) fn spawn_held(&mut self, slot: u32, held: bool) -> u64 {
        self.spawn_and_share(slot, held, false).0
    }

    /// Also gives the worker's end of the channel, when it is asked for.
    pub(super) fn spawn_and_share(&mut self, slot: u32, held: bool, share: bool) -> (u64, Option<OwnedFd>) {
        let worker = self.next;
        self.next += 1;
        let (channel, theirs) = Channel::pair().unwrap();
        let kept = channel.as_fd().try_clone_to_owned().unwrap();
        let admission = Admission { worker, slot, held, note: None };
        let outcomes = self.cluster.as_mut().unwrap().admit(&admission, channel, &mut self.vault);
        self.hear(worker, outcomes);
        let shared = share.then(|| theirs.try_clone().unwrap());
        // The shell moves the channel from where `Command` puts it to where it belongs, and becomes Node.
        let child = Command::new("/bin/sh")
            .args(["-c", "exec 3<&0 0</dev/null; exec \"$@\"", "sh"])
            .arg(&self.node)
            .arg("--require")
            .arg(self.folder.path().join("drain.js"))
            .arg(&self.script)
            .envs(environment(worker, 3))
            .envs(&self.variables)
            .current_dir(self.folder.path())
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.errors(worker)).unwrap())
            .spawn()
            .unwrap();
        self.workers.insert(worker, Process { child, slot, channel: kept, kill_at: None });
        (worker, shared)
    }

    /// What a worker wrote to its standard error.
    pub(super) fn error_text(&self, worker: u64) -> String {
        let mut text = String::new();
        fs::File::open(self.errors(worker)).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    fn errors(&self, worker: u64) -> PathBuf {
        self.folder.path().join(format!("{worker}.err"))
    }

    /// One turn of the loop.
    pub(super) fn turn(&mut self) {
        self.wait();
        for worker in self.workers.keys().copied().collect::<Vec<_>>() {
            loop {
                let reading = self.cluster.as_mut().unwrap().readable(worker, &mut self.vault);
                self.hear(worker, reading.outcomes);
                if !reading.more {
                    break;
                }
            }
            self.cluster().writable(worker);
        }
        self.cluster().accept_orphans();
        self.reap();
        self.turns += 1;
        if self.life.is_some_and(|life| self.turns.is_multiple_of(life)) {
            self.die();
        }
    }

    /// Turns the loop until something is so.
    pub(super) fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !is_so(self) {
            if Instant::now() > deadline {
                let errors: Vec<String> =
                    self.workers.keys().map(|&worker| self.error_text(worker)).collect();
                panic!("never: {what}; told {:?}; errors {errors:?}", self.told);
            }
            self.turn();
        }
    }

    /// Spawns a worker and waits until it listens.
    pub(super) fn start(&mut self, slot: u32) -> u64 {
        let worker = self.spawn(slot);
        self.until_listening(worker);
        worker
    }

    pub(super) fn until_listening(&mut self, worker: u64) {
        self.until("listening", |driver| driver.cluster().standing(worker).is_some_and(|it| it.listening));
    }

    /// Replaces the worker of a slot by a new one, first the new one, then the end of the old one.
    pub(super) fn reload(&mut self, slot: u32) -> u64 {
        let old: Vec<u64> = self
            .workers
            .iter()
            .filter(|(_, process)| process.slot == slot)
            .map(|(&worker, _)| worker)
            .collect();
        let new = self.start(slot);
        for &worker in &old {
            self.drain(worker);
        }
        self.until("the old worker's end", |driver| {
            old.iter().all(|worker| !driver.workers.contains_key(worker))
        });
        new
    }

    /// Begins the end of a worker.
    pub(super) fn drain(&mut self, worker: u64) {
        let outcomes = self.cluster.as_mut().unwrap().disconnect(worker, &mut self.vault);
        self.hear(worker, outcomes);
        let kill_at = Instant::now() + self.kill_timeout;
        if let Some(process) = self.workers.get_mut(&worker) {
            process.kill_at = Some(kill_at);
        }
    }

    /// Ends a worker of its own at once.
    pub(super) fn kill(&mut self, worker: u64) {
        self.signal(worker, Signal::KILL);
    }

    pub(super) fn signal(&mut self, worker: u64, signal: Signal) {
        if let Some(process) = self.workers.get(&worker) {
            let pid = Pid::from_raw(process.child.id().cast_signed()).unwrap();
            kill_process(pid, signal).unwrap();
        }
    }

    /// The supervisor dies, and another one takes over what the vault has.
    pub(super) fn die(&mut self) {
        drop(self.cluster.take());
        let listeners = self
            .vault
            .descriptors
            .iter()
            .map(|(name, descriptor)| (name.clone(), descriptor.try_clone().unwrap()))
            .collect();
        let note = self.vault.notes.get("c/app").cloned().unwrap_or_default();
        let options = Options { policy: self.policy, ..Options::default() };
        let (mut cluster, outcomes) = Cluster::restore("app", options, &note, listeners, &mut self.vault);
        assert_eq!(outcomes, []);
        for (&worker, process) in &self.workers {
            let channel = Channel::adopt(process.channel.try_clone().unwrap()).unwrap();
            let note = self.vault.notes.get(&format!("c/app/{worker}")).cloned();
            let admission = Admission { worker, slot: process.slot, held: false, note: note.as_deref() };
            let outcomes = cluster.admit(&admission, channel, &mut self.vault);
            self.told.extend(outcomes.into_iter().map(|outcome| (worker, outcome)));
        }
        self.cluster = Some(cluster);
    }

    /// What a worker's application said.
    pub(super) fn messages(&self) -> Vec<Value> {
        let message = |(_, outcome): &'_ (u64, Outcome)| match outcome {
            Outcome::Message(value) => Some(value.clone()),
            _ => None,
        };
        self.told.iter().filter_map(message).collect()
    }

    fn hear(&mut self, worker: u64, outcomes: Vec<Outcome>) {
        for outcome in outcomes {
            let ended = matches!(outcome, Outcome::Closed);
            if ended && self.workers.get(&worker).is_some_and(|process| process.kill_at.is_some()) {
                self.signal(worker, Signal::INT);
            }
            self.told.push((worker, outcome));
        }
    }

    fn wait(&self) {
        let cluster = self.cluster.as_ref().unwrap();
        let mut descriptors = Vec::new();
        for &worker in self.workers.keys() {
            if cluster.standing(worker).is_some_and(|standing| standing.connected)
                && let Some(channel) = cluster.channel(worker)
            {
                let write = if cluster.wants_write(worker) { PollFlags::OUT } else { PollFlags::empty() };
                descriptors.push(PollFd::from_borrowed_fd(channel, PollFlags::IN | write));
            }
        }
        for orphan in cluster.orphaned_listeners() {
            descriptors.push(PollFd::from_borrowed_fd(orphan.socket, PollFlags::IN));
        }
        let turn = Timespec { tv_sec: 0, tv_nsec: i64::from(TURN.subsec_nanos()) };
        let _ = poll(&mut descriptors, Some(&turn));
    }

    fn reap(&mut self) {
        let now = Instant::now();
        let mut ended = Vec::new();
        for (&worker, process) in &mut self.workers {
            if process.child.try_wait().unwrap().is_some() {
                ended.push(worker);
            } else if process.kill_at.is_some_and(|at| at < now) {
                process.kill_at = None;
                self.killed += 1;
                process.child.kill().unwrap();
            }
        }
        for worker in ended {
            let reading = self.cluster.as_mut().unwrap().readable(worker, &mut self.vault);
            self.told.extend(reading.outcomes.into_iter().map(|outcome| (worker, outcome)));
            self.cluster.as_mut().unwrap().remove(worker, &mut self.vault);
            self.workers.remove(&worker);
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        for process in self.workers.values_mut() {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
        if let Some(cluster) = self.cluster.take() {
            cluster.end(&mut self.vault);
        }
    }
}
