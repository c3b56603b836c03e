//! What the actor knows of apps, their instances and their processes.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{sync::oneshot, task::JoinHandle, time::Instant};

use super::{
    super::{
        cluster::Cluster,
        control::{InstanceReport, InstanceState, Response},
        cron::Cron,
        launch::{Drain, Notifier, Report},
        poller::Watch,
        process::End,
        roll::Roll,
        spec::AppSpec,
        state::{Machine, Policy, State},
    },
    Token,
    remember::RunNote,
    spares::Unattached,
    transparent::Generations,
    wrapping::Inherited,
};

/// Which instance: the app's number and the instance's within it.
pub(super) type Key = (u32, u32);
/// The number of a process that was started: the time of its start, so that none is used twice.
pub(super) type RunId = u64;

pub(super) struct App {
    pub(super) spec: AppSpec,
    /// The specification that all instances last ran with: the one to go back to.
    pub(super) settled: AppSpec,
    pub(super) policy: Policy,
    pub(super) instances: BTreeMap<u32, Instance>,
    /// The IPC channels of its processes, and in cluster mode its listening sockets.
    pub(super) cluster: Option<Cluster>,
    /// The sockets that its processes inherit.
    pub(super) inherited: Inherited,
    /// The sockets that its processes believe to be their own.
    pub(super) generations: Generations,
    /// Listening sockets whose worker is gone, watched until there is another.
    pub(super) orphans: Vec<Watch<Token>>,
    pub(super) rolling: Option<Rolling>,
    /// How the last reload ended.
    pub(super) last_roll: Result<(), String>,
    pub(super) cron: Option<(Cron, Instant)>,
    /// It is to be forgotten once all its instances have ended.
    pub(super) leaving: bool,
}

pub(super) struct Instance {
    /// Unique among all instances.
    pub(super) id: u32,
    pub(super) machine: Machine,
    /// Its process.
    pub(super) run: Option<RunId>,
    pub(super) timer: Option<Instant>,
    /// It is to disappear once it has stopped.
    pub(super) surplus: bool,
    pub(super) last_end: Option<String>,
    /// CPU ticks of its tree, and when they were read.
    pub(super) cpu: Option<(u64, Instant)>,
}

/// A reload under way.
pub(super) struct Rolling {
    pub(super) roll: Roll,
    /// Instances that are replaced in place.
    pub(super) in_place: BTreeMap<u32, InPlace>,
    /// Whoever waits for it, each with all the apps it waits for.
    pub(super) replies: Vec<(Vec<u32>, oneshot::Sender<Response>)>,
}

/// An instance that is replaced in place.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct InPlace {
    /// Its process of before.
    pub(super) former: Option<RunId>,
    /// It is online without having been asked, and is believed only once it has lived for its minimum uptime: a broken
    /// release would otherwise replace every instance before anybody noticed.
    #[serde(skip)]
    pub(super) settled_at: Option<Instant>,
}

/// A process.
pub(super) struct Run {
    pub(super) key: Key,
    pub(super) role: Role,
    pub(super) pid: u32,
    pub(super) start_ticks: Option<u64>,
    pub(super) parent: Parent,
    pub(super) pidfd: Watch<Token>,
    /// Its end of the IPC channel, for waiting only.
    pub(super) channel: Option<Watch<Token>>,
    pub(super) spawned: Duration,
    pub(super) ready: bool,
    /// A candidate must be ready by then.
    pub(super) ready_by: Option<Instant>,
    pub(super) phase: Phase,
    /// When it is killed if it has not ended.
    pub(super) kill_at: Option<Instant>,
    /// The rest of its tree and session, by pid, from when its end begins.
    pub(super) members: Vec<(u32, Watch<Token>)>,
    pub(super) end: Option<End>,
    /// What its wrapper, which became it, had to say, and why it could not.
    pub(super) report: Option<(Report, Watch<Token>)>,
    pub(super) failure: Option<String>,
    /// In transparent mode: what it asks, to which generation it belongs, and whether it has answered all that was its own.
    pub(super) notifier: Option<(Notifier, Watch<Token>)>,
    pub(super) generation: u64,
    pub(super) drain: Option<Drain>,
    /// The output of a spare.
    pub(super) unattached: Option<Unattached>,
    /// The task that asks whether it is ready, or alive.
    pub(super) check: Option<Check>,
}

/// What a process is to its instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    /// Its process.
    Main,
    /// To become that once it is ready.
    Candidate,
    /// It was that, or was to become it.
    Retiring,
    /// In reserve, for whichever crashes.
    Spare,
}

/// Who is told how a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parent {
    /// This process.
    Ourselves,
    /// The keeper: the process was started by a brain that has ended since.
    Keeper,
    /// Neither: the keeper of then has ended as well.
    Nobody,
}

/// How far the end of a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// It is to run.
    Running,
    /// It was asked over its channel to finish what it has begun.
    Draining,
    /// It was sent SIGINT.
    Interrupted,
    /// It was sent SIGKILL.
    Killed,
}

/// A running check, ended when dropped.
pub(super) struct Check(pub(super) JoinHandle<()>);

impl Drop for Check {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl App {
    pub(super) fn new(spec: AppSpec) -> Self {
        Self {
            policy: spec.policy(),
            settled: spec.clone(),
            spec,
            instances: BTreeMap::new(),
            cluster: None,
            inherited: Inherited::default(),
            generations: Generations::default(),
            orphans: Vec::new(),
            rolling: None,
            last_roll: Ok(()),
            cron: None,
            leaving: false,
        }
    }

    /// Takes another specification for whatever is started from now on.
    pub(super) fn adopt(&mut self, spec: AppSpec) {
        self.policy = spec.policy();
        self.cron = None;
        self.spec = spec;
    }

    pub(super) fn report(&self, number: u32, run: Option<&Run>) -> Option<InstanceReport> {
        let instance = self.instances.get(&number)?;
        let [out_log, err_log] = self.log_files(number);
        Some(InstanceReport {
            app: self.spec.name.clone(),
            instance: number,
            id: instance.id,
            namespace: self.spec.namespace.clone(),
            mode: self.spec.mode.clone(),
            state: match instance.machine.state {
                State::Stopped => InstanceState::Stopped,
                State::Launching { .. } => InstanceState::Launching,
                State::Online => InstanceState::Online,
                State::Stopping { .. } => InstanceState::Stopping,
                State::Waiting => InstanceState::Waiting,
                State::Errored => InstanceState::Errored,
            },
            pid: run.map(|run| run.pid),
            start_ticks: run.and_then(|run| run.start_ticks),
            uptime_ms: run.map(|run| run.uptime().as_millis() as u64),
            restarts: instance.machine.restarts,
            unstable_restarts: instance.machine.unstable,
            last_end: instance.last_end.clone(),
            memory_bytes: None,
            cpu_percent: None,
            out_log,
            err_log,
        })
    }

    /// The files of an instance's output and errors.
    pub(super) fn log_files(&self, number: u32) -> [Option<PathBuf>; 2] {
        let id = self.instances.get(&number).map(|instance| instance.id).unwrap_or_default();
        let logs = &self.spec.logs;
        [&logs.out, &logs.err].map(|file| file.as_ref().map(|file| logs.file_of(file, id)))
    }
}

impl Instance {
    pub(super) fn new(id: u32) -> Self {
        Self {
            id,
            machine: Machine::new(),
            run: None,
            timer: None,
            surplus: false,
            last_end: None,
            cpu: None,
        }
    }
}

impl Run {
    /// A process as it was noted.
    pub(super) fn new(note: &RunNote, pid: u32, parent: Parent, pidfd: Watch<Token>) -> Self {
        Self {
            key: note.key,
            role: note.role,
            pid,
            start_ticks: note.start_ticks,
            parent,
            pidfd,
            channel: None,
            spawned: Duration::from_nanos(note.spawned_ns),
            ready: note.ready,
            ready_by: None,
            phase: note.phase,
            kill_at: None,
            members: Vec::new(),
            end: None,
            report: None,
            failure: None,
            notifier: None,
            generation: note.generation,
            drain: None,
            unattached: None,
            check: None,
        }
    }

    pub(super) fn uptime(&self) -> Duration {
        super::now().saturating_sub(self.spawned)
    }
}
