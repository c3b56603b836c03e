//! What can go wrong, on either end of the control socket.

use std::{io, path::PathBuf, time::Duration};

/// An error of the supervisor or of its client.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The specification makes no sense.
    #[error("app {app}: {reason}")]
    Spec {
        /// The app's name.
        app: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It was started with arguments that it does not know.
    #[error("the processes of a supervisor are started by the program itself, with a folder")]
    Usage,
    /// Another supervisor answers on that socket.
    #[error("a supervisor already listens on {}", path.display())]
    AlreadyRunning {
        /// The socket.
        path: PathBuf,
    },
    /// A file or socket could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// Making, listening on, connecting to.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A system call failed.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The supervisor refused or failed to do what it was asked.
    #[error("{0}")]
    Refused(String),
    /// The supervisor went away before it answered.
    #[error("the supervisor closed the connection")]
    Closed,
    /// The supervisor wrote something that is no answer.
    #[error("the supervisor's answer cannot be read: {0}")]
    Garbled(String),
    /// No answer in time.
    #[error("the supervisor did not answer within {limit:?}")]
    TimedOut {
        /// The limit.
        limit: Duration,
    },
}
