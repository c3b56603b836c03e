//! What can go wrong with a runtime. The hint is apart from the message.

use std::{io, path::PathBuf, time::Duration};

/// An error of a runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The runtime is not on this machine, or may not be used.
    #[error("{runtime} is not usable here: {reason}")]
    Missing {
        /// Which.
        runtime: &'static str,
        /// Why.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// The runtime cannot do this.
    #[error("{runtime} cannot {what}")]
    Unsupported {
        /// Which.
        runtime: &'static str,
        /// What it cannot do.
        what: String,
    },
    /// The workload lacks what this runtime needs.
    #[error("workload has no {what}, which {runtime} needs")]
    WorkloadLacks {
        /// Which.
        runtime: &'static str,
        /// What is missing.
        what: String,
        /// What to do.
        hint: String,
    },
    /// A port is taken by somebody else.
    #[error("port {port} of service {service} is taken")]
    PortTaken {
        /// The port.
        port: u16,
        /// The service it was for.
        service: String,
    },
    /// A command of the runtime failed.
    #[error("`{command}` failed ({status})")]
    Command {
        /// The command, without its environment.
        command: String,
        /// How it ended.
        status: String,
        /// The end of what it wrote.
        output: String,
    },
    /// It took too long.
    #[error("{what} took longer than {limit:?}")]
    TimedOut {
        /// What.
        what: String,
        /// The limit.
        limit: Duration,
    },
    /// The runtime answered something unexpected.
    #[error("{runtime} answered: {message}")]
    Answer {
        /// Which.
        runtime: &'static str,
        /// What.
        message: String,
    },
    /// No such service or instance.
    #[error("no instance {instance} of service {service}")]
    NoInstance {
        /// The service.
        service: String,
        /// The instance.
        instance: u32,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// Reading, writing, making.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A system call failed.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: String,
        /// Why.
        source: io::Error,
    },
}

impl RuntimeError {
    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { hint, .. } | Self::WorkloadLacks { hint, .. } => Some(hint.clone()),
            Self::PortTaken { port, .. } => Some(format!(
                "see who listens with `ss -ltnp 'sport = :{port}'`, or leave `first_port` out so that free ports are found"
            )),
            Self::Command { output, .. } if !output.is_empty() => Some(format!("it wrote:\n{output}")),
            _ => None,
        }
    }
}
