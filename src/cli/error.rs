//! Every way a command can fail, with its exit code and hint.

use std::io;

use super::{ExitCode, demo::DemoError, load::LoadCliError};
use crate::{
    config::ConfigError, runtime::RuntimeError, session::SessionError, store::StoreError,
    supervisor::SupervisorError,
};

/// An error of a command.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// A configuration file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A record or report on disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A session.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A runtime, outside a session.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The load on its own.
    #[error(transparent)]
    Load(#[from] LoadCliError),
    /// The demo workload.
    #[error(transparent)]
    Demo(#[from] DemoError),
    /// The built-in supervisor.
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    /// The output cannot be written.
    #[error("cannot write the result: {0}")]
    Output(#[from] io::Error),
    /// The command line asks for something that is not there.
    #[error("{message}")]
    Usage {
        /// What.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// What was measured cannot be trusted.
    #[error("{message}")]
    Invalid {
        /// Why.
        message: String,
        /// What to do.
        hint: String,
    },
    /// Something of this machine.
    #[error("{message}")]
    Environment {
        /// What.
        message: String,
    },
}

impl CliError {
    pub(super) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: Some(hint.into()) }
    }

    pub(super) fn environment(message: impl Into<String>) -> Self {
        Self::Environment { message: message.into() }
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::Usage { .. } => ExitCode::Usage,
            Self::Invalid { .. } => ExitCode::Invalid,
            Self::Store(error) => of_store(error),
            Self::Session(SessionError::Interrupted) => ExitCode::Interrupted,
            Self::Session(SessionError::Runtime { source: RuntimeError::WorkloadLacks { .. }, .. }) => {
                ExitCode::Usage
            }
            Self::Load(error) if error.is_usage() => ExitCode::Usage,
            _ => ExitCode::Environment,
        }
    }

    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Invalid { hint, .. } => Some(hint.clone()),
            Self::Session(SessionError::Save(source)) => {
                source.downcast_ref::<StoreError>().and_then(StoreError::hint)
            }
            Self::Session(error) => error.hint(),
            Self::Runtime(error) => error.hint(),
            Self::Load(error) => error.hint(),
            Self::Usage { hint, .. } => hint.clone(),
            _ => None,
        }
    }
}

fn of_store(error: &StoreError) -> ExitCode {
    match error {
        StoreError::File { .. } => ExitCode::Environment,
        StoreError::None { .. } | StoreError::NoGroup { named_by: None, .. } => ExitCode::Usage,
        StoreError::Damaged { .. }
        | StoreError::Format { .. }
        | StoreError::Misplaced { .. }
        | StoreError::NoGroup { named_by: Some(_), .. } => ExitCode::Invalid,
    }
}
