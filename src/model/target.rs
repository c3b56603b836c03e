//! What a workload runs on.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The four runtimes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// The processes started directly, nothing between: the control.
    Bare,
    /// qbench's own supervisor.
    Builtin,
    /// The real PM2.
    Pm2,
    /// A Docker Engine.
    Docker,
}

impl RuntimeKind {
    /// All of them, in the order tables show them.
    pub const ALL: [Self; 4] = [Self::Bare, Self::Builtin, Self::Pm2, Self::Docker];

    /// The name used on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Builtin => "builtin",
            Self::Pm2 => "pm2",
            Self::Docker => "docker",
        }
    }
}

impl fmt::Display for RuntimeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for RuntimeKind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or(())
    }
}

/// What "reload" means on Docker, which has no reload of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReloadStrategy {
    /// `docker restart` of each container in turn.
    #[default]
    Restart,
    /// `compose up --force-recreate` of the service.
    Recreate,
}

/// How requests reach a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NetworkPath {
    /// A port published on loopback, through docker-proxy or NAT.
    #[default]
    Published,
    /// The host's own network, no translation.
    Host,
}

/// The options of a Docker target; they change the figures, so they are recorded and printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DockerOptions {
    /// The reload strategy.
    pub reload: ReloadStrategy,
    /// The network path.
    pub network: NetworkPath,
}

/// A named workload-on-a-runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The name given on the command line.
    pub name: String,
    /// The runtime asked for.
    pub runtime: RuntimeKind,
    /// Used when `runtime` is Docker.
    pub docker: DockerOptions,
    /// A command run once in the workload's folder before images are built (Docker only).
    pub before_build: Option<Vec<String>>,
    /// An explicit `pm2` program, else the one on PATH (PM2 only).
    pub pm2_program: Option<std::path::PathBuf>,
    /// Variables for every service on this target alone. Their names are recorded, their values never.
    pub env: std::collections::BTreeMap<String, String>,
}

impl Target {
    /// The target that carries a runtime's own name, with default options.
    pub fn of(runtime: RuntimeKind) -> Self {
        Self {
            name: runtime.name().to_owned(),
            runtime,
            docker: DockerOptions::default(),
            before_build: None,
            pm2_program: None,
            env: std::collections::BTreeMap::new(),
        }
    }
}

/// Which program really ran the workload. Printed in the first line of every table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuntimeIdentity {
    /// The target's name.
    pub target: String,
    /// The runtime that ran.
    pub runtime: RuntimeKind,
    /// Its version as it reports it.
    pub version: String,
    /// The program or socket it was reached by.
    pub path: String,
    /// Set when another runtime was asked for and this one stood in: which, and why.
    pub stands_in_for: Option<StandIn>,
    /// Options that change the figures, by name.
    pub options: std::collections::BTreeMap<String, String>,
}

impl RuntimeIdentity {
    /// One line for people: `pm2: PM2 7.0.4 (path)`, with the stand-in and options spelled out.
    pub fn describe(&self) -> String {
        use std::fmt::Write as _;
        let mut line = format!("{}: {} {} ({})", self.target, self.runtime, self.version, self.path);
        for (name, value) in &self.options {
            let _ = write!(line, ", {name} {value}");
        }
        if let Some(stand_in) = &self.stands_in_for {
            let _ = write!(line, ", STANDING IN FOR {}: {}", stand_in.runtime, stand_in.reason);
        }
        line
    }
}

/// A runtime that was asked for and was not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StandIn {
    /// The one asked for.
    pub runtime: RuntimeKind,
    /// Why it was not used.
    pub reason: String,
}
