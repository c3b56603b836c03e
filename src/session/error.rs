//! What can end a session early.

use std::time::Duration;

use crate::{load::LoadError, runtime::RuntimeError};

/// An error of a session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// A runtime failed.
    #[error("{arm}: {source}")]
    Runtime {
        /// The arm.
        arm: String,
        /// What failed.
        source: RuntimeError,
    },
    /// A service did not get ready.
    #[error("{arm}: service {service} {what}")]
    NotReady {
        /// The arm.
        arm: String,
        /// The service.
        service: String,
        /// What it did instead.
        what: String,
        /// The last lines it wrote.
        log: Vec<String>,
    },
    /// The load could not be sent.
    #[error("cannot send the load: {0}")]
    Load(#[from] LoadError),
    /// A record could not be saved.
    #[error("cannot save what was measured: {0}")]
    Save(Box<dyn std::error::Error + Send + Sync>),
    /// No HTTP client for health checks.
    #[error("cannot make a client for health checks: {0}")]
    Client(#[source] reqwest::Error),
    /// The user asked to end.
    #[error("interrupted")]
    Interrupted,
}

impl SessionError {
    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Runtime { source, .. } => source.hint(),
            Self::NotReady { log, service, .. } if log.is_empty() => Some(format!(
                "{service} wrote nothing; check its health path and that it listens on the port it is told"
            )),
            Self::NotReady { log, .. } => Some(format!("its last lines:\n{}", log.join("\n"))),
            _ => None,
        }
    }

    pub(super) fn runtime(arm: &str) -> impl FnOnce(RuntimeError) -> Self {
        let arm = arm.to_owned();
        move |source| Self::Runtime { arm, source }
    }

    pub(super) fn late(limit: Duration) -> String {
        format!("was not ready after {}", crate::model::units::format_duration(limit))
    }
}
