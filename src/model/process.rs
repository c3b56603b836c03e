//! Processes and instances as the outside sees them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A process that cannot be mistaken for another: a pid is reused, a pid with its start time is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// The pid in qbench's own pid namespace.
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: clock ticks since boot.
    pub start_ticks: u64,
}

/// The processes of an arm, by who pays for them. Each list holds roots: their descendants belong to them too,
/// unless they are roots of another list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Processes {
    /// The service's own trees.
    pub service: Vec<ProcessId>,
    /// The runtime's, whatever the number of instances: PM2's daemon, dockerd and containerd, the supervisor.
    pub overhead_fixed: Vec<ProcessId>,
    /// The runtime's, one or more an instance: container shims, docker-proxy.
    pub overhead_per_instance: Vec<ProcessId>,
    /// Below the ones above and yet no part of this arm: another arm's docker-proxy, a child of the same dockerd.
    pub not_of_this_arm: Vec<ProcessId>,
}

/// The state of an instance, in the words of a supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    /// Being started, or not ready yet.
    Launching,
    /// Running.
    Online,
    /// Told to end.
    Stopping,
    /// Ended, and not to be started again by itself.
    Stopped,
    /// Ended, to be started again after a pause.
    Waiting,
    /// Given up on.
    Errored,
}

/// One instance as its runtime reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceStatus {
    /// The service it belongs to.
    pub service: String,
    /// Which of the service's instances, from 0.
    pub instance: u32,
    /// Its state.
    pub state: InstanceState,
    /// Its main process, where it has one.
    pub process: Option<ProcessId>,
    /// How long it has been up, where known.
    pub uptime: Option<Duration>,
    /// How often the runtime has restarted it, where known.
    pub restarts: Option<u32>,
}
