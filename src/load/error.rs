//! What can go wrong with a load as a whole. What goes wrong with a request is counted, not returned.

use std::io;

/// A load that could not be begun or carried on.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is nothing to send to.
    #[error("load has no lanes")]
    NoLanes,
    /// A lane without an address or a request.
    #[error("lane {lane} has no {what}")]
    EmptyLane {
        /// Its name.
        lane: String,
        /// What it lacks.
        what: &'static str,
    },
    /// A rate that no clock can keep.
    #[error("rate of {0} requests per second is not above 0 and at most 1000000")]
    Rate(f64),
    /// Another part of the plan makes no sense.
    #[error("load plan makes no sense: {0}")]
    Plan(&'static str),
    /// A request that HTTP does not allow. Header values are not named: they may be secret.
    #[error("request {method} {path} of lane {lane} cannot be sent: {part}")]
    Request {
        /// The lane's name.
        lane: String,
        /// The request's method.
        method: String,
        /// The request's path.
        path: String,
        /// The method, the path, the header of some name.
        part: String,
    },
    /// Variables that cannot be used. Their values are not named.
    #[error("variables of lane {lane} cannot be used: {problem}")]
    Variables {
        /// The lane's name.
        lane: String,
        /// What is wrong.
        problem: String,
    },
    /// A certificate file, or the system's certificates.
    #[error("cannot use TLS: {0}")]
    Tls(String),
    /// No timer.
    #[error("cannot use a timer for the load: {0}")]
    Timer(io::Error),
    /// Real-time scheduling was asked for and is not allowed.
    #[error("cannot schedule the load in real time: {0}")]
    RealTime(io::Error),
    /// No thread.
    #[error("cannot start the load's thread: {0}")]
    Thread(io::Error),
    /// No event loop.
    #[error("cannot start the load's event loop: {0}")]
    EventLoop(io::Error),
    /// The load's thread ended without an outcome.
    #[error("load's thread ended unexpectedly")]
    Died,
}
