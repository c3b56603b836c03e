//! The services under migration, resolved from `qbench.toml` and the workload's own files.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    request::{Request, Variables},
    supervision::{Additions, FilterEnv, Logs, Restart, Stop, User},
};

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
    /// Its name, with the chosen environment appended where the file asks for that.
    pub name: String,
    /// The group it belongs to; PM2's default is `default`.
    pub namespace: String,
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
    /// `env` with `port` and the chosen `env_NAME` merged over it.
    pub env: BTreeMap<String, String>,
    /// What it does not get of the environment that its supervisor has.
    pub filter_env: FilterEnv,
    /// What `PORT` of `env` says, where that is a port.
    pub port: Option<u16>,
    /// Processes to run.
    pub instances: u32,
    /// Fork or cluster.
    pub exec_mode: ExecMode,
    /// Tells a process which instance it is; PM2's default is `NODE_APP_INSTANCE`.
    pub instance_variable: String,
    /// A variable of `env`, there a whole number, that each instance gets with its own number added.
    pub increment_variable: Option<String>,
    /// As whom it runs; as its supervisor when absent.
    pub user: Option<User>,
    /// Whether starting everything starts it; PM2's default is yes.
    pub autostart: bool,
    /// A new process counts as ready once it has sent `"ready"` over its IPC channel.
    pub wait_ready: bool,
    /// How long a start may take; PM2's default is 3000 ms.
    pub listen_timeout: Duration,
    /// How it is told to end.
    pub stop: Stop,
    /// What follows when it ends by itself.
    pub restart: Restart,
    /// Where its output goes.
    pub logs: Logs,
    /// What it asks for beyond PM2.
    pub additions: Additions,
    /// The app's block of the ecosystem file as read, for PM2, which understands keys that we do not.
    pub raw: serde_json::Map<String, serde_json::Value>,
    /// Keys of the file that bare does not act on.
    pub not_applied: Vec<String>,
    /// Keys of the file that the built-in supervisor does not act on.
    pub not_applied_by_builtin: Vec<String>,
}

impl App {
    /// A program that is executed by itself, with PM2's defaults for everything else.
    pub fn of(name: &str, program: PathBuf, cwd: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            script: program.clone(),
            program,
            args: Vec::new(),
            is_binary: true,
            cwd,
            env: BTreeMap::new(),
            filter_env: FilterEnv::Nothing,
            port: None,
            instances: 1,
            exec_mode: ExecMode::Fork,
            instance_variable: "NODE_APP_INSTANCE".to_owned(),
            increment_variable: None,
            user: None,
            autostart: true,
            wait_ready: false,
            listen_timeout: Duration::from_secs(3),
            stop: Stop::default(),
            restart: Restart::default(),
            logs: Logs::default(),
            additions: Additions::default(),
            raw: serde_json::Map::new(),
            not_applied: Vec::new(),
            not_applied_by_builtin: Vec::new(),
        }
    }

    /// Its name as PM2 has it in the names of files.
    pub fn file_stem(&self) -> String {
        let mut stem = String::with_capacity(self.name.len());
        for c in self.name.chars() {
            if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') {
                stem.push(c);
            } else {
                // A dash for each unit of UTF-16, which is what PM2 counts in.
                stem.extend(std::iter::repeat_n('-', c.len_utf16()));
            }
        }
        stem
    }
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
