//! The four runtimes behind one trait, each in a sandbox of its own.
//!
//! Deliberately absent: any measuring, any judgement, any deciding of when. A runtime starts, tells and ends.
//!
//! Everything a runtime starts can be found again from its [`Sandbox`] alone, so that a `kill -9` of qbench
//! leaves nothing that [`cleanup`] cannot clear.

pub mod bare;
pub mod builtin;
pub mod cleanup;
mod command;
pub mod docker;
pub mod environment;
pub mod error;
mod log_tail;
pub mod pm2;
pub mod ports;
pub mod sandbox;
pub mod supervised;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;

pub use error::RuntimeError;
pub use sandbox::Sandbox;

use crate::model::{
    process::{InstanceStatus, ProcessId, Processes},
    target::{RuntimeIdentity, RuntimeKind, Target},
    workload::{Endpoint, Workload},
};

/// What an arm runs and where: given to a runtime when it is made.
#[derive(Clone, Debug)]
pub struct Arm {
    /// Unique in the session: `docker`, `pm2`, `control-1`.
    pub name: String,
    /// The target.
    pub target: Target,
    /// The workload.
    pub workload: Arc<Workload>,
    /// The first port of each HTTP service; instance `i` may use port + i.
    pub ports: BTreeMap<String, u16>,
    /// The arm's own folder and mark.
    pub sandbox: Sandbox,
}

/// What runs a workload.
///
/// The order of calls is `probe_environment`, `prepare`, then any number of `start` … `stop`, then `teardown`,
/// which may be called at any time and more than once. "Ready" is none of a runtime's business: the session asks
/// each service over HTTP.
#[async_trait]
pub trait Runtime: Send {
    /// Which of the four.
    fn kind(&self) -> RuntimeKind;

    /// What it runs and where.
    fn arm(&self) -> &Arm;

    /// Is it here, which version, by which path. Starts nothing.
    ///
    /// # Errors
    /// [`RuntimeError::Missing`] when it is not here, with what to do about it.
    async fn probe_environment(&mut self) -> Result<RuntimeIdentity, RuntimeError>;

    /// What must be done once and is not part of a start: building images, writing files.
    async fn prepare(&mut self) -> Result<(), RuntimeError>;

    /// Starts every service. Returns when the runtime says they are started, which is before they are ready.
    async fn start(&mut self) -> Result<(), RuntimeError>;

    /// Ends every service; the runtime itself may stay.
    async fn stop(&mut self) -> Result<(), RuntimeError>;

    /// Ends and starts one service.
    async fn restart(&mut self, service: &str) -> Result<(), RuntimeError>;

    /// Replaces the processes of one service the way this runtime's users would for a deployment.
    async fn reload(&mut self, service: &str) -> Result<(), RuntimeError>;

    /// Changes the number of instances of one service.
    async fn scale(&mut self, service: &str, instances: u32) -> Result<(), RuntimeError>;

    /// How many instances there are when all is well, all services together. Docker has its own idea of it.
    fn declared_instances(&self) -> usize {
        self.arm().workload.services.iter().map(|service| service.instances() as usize).sum()
    }

    /// Every instance as the runtime reports it.
    async fn status(&mut self) -> Result<Vec<InstanceStatus>, RuntimeError>;

    /// Where the HTTP services answer, as of the last `start` or `scale`.
    fn endpoints(&self) -> Vec<Endpoint>;

    /// The processes of the service and of the runtime, apart.
    async fn processes(&mut self) -> Result<Processes, RuntimeError>;

    /// `kill -9` of one instance's main process; returns which it was.
    async fn kill_instance(&mut self, service: &str, instance: u32) -> Result<ProcessId, RuntimeError>;

    /// The last lines a service wrote, for error messages; at most `lines`.
    async fn logs(&mut self, service: &str, lines: usize) -> Result<Vec<String>, RuntimeError>;

    /// `kill -9` of the supervisor or daemon itself.
    async fn crash_runtime(&mut self) -> Result<(), RuntimeError>;

    /// Leaves nothing: processes, containers, networks, images of ours, files.
    async fn teardown(&mut self) -> Result<(), RuntimeError>;
}

/// How long a command of a runtime may take before it is given up.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);
