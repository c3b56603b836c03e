//! The services under migration, resolved from `qbench.toml` and the workload's own files.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use super::request::{Request, Variables};

/// A workload with every file read and every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Its name, part of every record's file name.
    pub name: String,
    /// The folder its own files lie in.
    pub root: PathBuf,
    /// The environment variable that tells a process its port.
    pub port_variable: String,
    /// The first port to use, when the workload asks for certain ones; free ports are found otherwise.
    pub first_port: Option<u16>,
    /// The variable that names the file whose content is the deployed release; read by the services at their
    /// start, so that a reload onto a new release can be seen from outside.
    pub release_variable: Option<String>,
    /// The services, in the order of `qbench.toml`.
    pub services: Vec<Service>,
    /// The ecosystem file the apps came from.
    pub ecosystem: Option<EcosystemFile>,
    /// The compose file for Docker.
    pub compose: Option<PathBuf>,
    /// SHA-256 (hex) of each file that defines the workload, by its path relative to `root`.
    pub digests: BTreeMap<String, String>,
}

impl Workload {
    /// The service of that name.
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }
}

/// An ecosystem file, and what of it was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct EcosystemFile {
    /// The file.
    pub path: PathBuf,
    /// The `env_NAME` block merged over `env`, if any.
    pub environment: Option<String>,
}

/// One service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its name, the same in the ecosystem file.
    pub name: String,
    /// How it is reached over HTTP; `None` for a background worker.
    pub http: Option<HttpService>,
    /// Environment added by qbench, with `{address:SERVICE}` left to resolve once ports are known.
    pub env: BTreeMap<String, String>,
    /// The app that runs it on bare, builtin and PM2.
    pub app: Option<App>,
    /// The compose service that runs it on Docker.
    pub compose: Option<ComposeService>,
}

impl Service {
    /// The number of processes the app is declared with, at least 1.
    pub fn instances(&self) -> u32 {
        self.app.as_ref().map_or(1, |app| app.instances.max(1))
    }

    /// The number of instances on whichever runtime has the most of them: each may need a port.
    pub fn most_instances(&self) -> u32 {
        self.instances().max(self.compose.as_ref().map_or(1, |compose| compose.replicas))
    }
}

/// The HTTP face of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpService {
    /// Answers 200 when the service is ready, e.g. `/health`.
    pub health: String,
    /// A path whose answer contains the release it runs, e.g. `/version`.
    pub release: Option<String>,
    /// The requests of the load; empty when the service takes none.
    pub requests: Vec<Request>,
    /// The variables in them.
    pub variables: Variables,
}

/// How PM2 would run an app's instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecMode {
    /// A process an instance.
    Fork,
    /// Node's cluster module: the instances share a port.
    Cluster,
}

/// An app of an ecosystem file, with PM2's defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct App {
    /// The program to execute, absolute: the interpreter for a script, else the script itself.
    pub program: PathBuf,
    /// Its arguments: interpreter arguments, the script, the script's arguments.
    pub args: Vec<String>,
    /// The script as resolved, for PM2, which finds the interpreter itself.
    pub script: PathBuf,
    /// True when the script is executed by itself (PM2: `interpreter: "none"`).
    pub is_binary: bool,
    /// The working folder, absolute.
    pub cwd: PathBuf,
    /// `env` with the chosen `env_NAME` merged over it.
    pub env: BTreeMap<String, String>,
    /// Processes to run.
    pub instances: u32,
    /// Fork or cluster.
    pub exec_mode: ExecMode,
    /// Tells a process which instance it is; PM2's default is `NODE_APP_INSTANCE`.
    pub instance_variable: String,
    /// From SIGINT to SIGKILL; PM2's default is 1600 ms.
    pub kill_timeout: Duration,
    /// How long a start may take; PM2's default is 3000 ms.
    pub listen_timeout: Duration,
    /// The pause before a restart.
    pub restart_delay: Duration,
    /// First pause of a growing backoff, when set.
    pub exp_backoff_restart_delay: Option<Duration>,
    /// A process that lived shorter than this was unstable; PM2's default is 1000 ms.
    pub min_uptime: Duration,
    /// Unstable restarts before giving up; PM2's default is 16.
    pub max_restarts: u32,
    /// The app's block of the ecosystem file as read, for PM2, which understands keys that we do not.
    pub raw: serde_json::Map<String, serde_json::Value>,
    /// Keys of the file that bare and builtin do not act on.
    pub not_applied: Vec<String>,
}

/// A service of a compose file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComposeService {
    /// Its name in the compose file.
    pub name: String,
    /// `deploy.replicas` or `scale` where it is a plain number, else 1.
    pub replicas: u32,
}

/// Where an instance of a service answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The service's name.
    pub service: String,
    /// The instance, from 0; several instances may share one endpoint, which then carries 0.
    pub instance: u32,
    /// The address on loopback.
    pub address: SocketAddr,
}
