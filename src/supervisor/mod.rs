//! The built-in supervisor: keeps programs running, in fork mode, for any kind of program.
//!
//! Deliberately absent: benchmarks, and anything else of this crate; the room can be lifted out as it is.
//!
//! Theory of operation. [`run`] is a process of its own. One `actor` owns every instance and is the only place
//! where anything changes; what an instance does next is decided by `state`, a pure table. Around the actor stand
//! small tasks that only wait and then send it a message: one guard per running process (`tree`), one readiness
//! check per starting process (`readiness`), and one per client of the control socket (`control`). Every change
//! of an instance is published to the clients that subscribed.
//!
//! Each process leads a session of its own. Nothing ties its life to the supervisor's: when the supervisor is
//! killed, its processes run on, and whoever started it must find them by their environment.

mod actor;
mod client;
mod control;
mod error;
mod readiness;
mod roll;
mod spawn;
mod spec;
mod state;
mod tree;

#[cfg(test)]
mod tests;

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{broadcast, mpsc},
    time::timeout,
};

pub use client::Client;
pub use control::{Event, InstanceReport, InstanceState, Request, Response};
pub use error::SupervisorError;
pub use spawn::in_own_session;
pub use spec::{AppSpec, HttpCheck, Port, Spec, error_log, output_log};

/// Requests that wait for the actor; further clients wait at their socket.
const CALLS: usize = 64;
/// Events kept for a subscriber that reads slowly.
const EVENTS: usize = 1024;
/// How long the last answers may take to be written when the supervisor ends.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Supervises the apps of `spec` until a client asks for shutdown or SIGTERM or SIGINT arrives; then every process
/// is stopped first. Nothing is started before a client asks for it.
///
/// # Errors
/// When the specification makes no sense, a folder for logs cannot be made, or the socket cannot be had.
pub async fn run(spec: Spec, socket: PathBuf) -> Result<(), SupervisorError> {
    let cannot = |source| SupervisorError::System { action: "listen for signals", source };
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let told = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    run_until(spec, &socket, told).await
}

/// The same, ended by `shutdown` instead of by signals.
async fn run_until(
    spec: Spec,
    socket: &Path,
    shutdown: impl Future<Output = ()>,
) -> Result<(), SupervisorError> {
    spec.validate()?;
    for app in &spec.apps {
        std::fs::create_dir_all(&app.log_dir).map_err(|source| SupervisorError::File {
            action: "make",
            path: app.log_dir.clone(),
            source,
        })?;
    }
    let listener = control::listen(socket)?;
    let (calls, mailbox) = mpsc::channel(CALLS);
    let (events, source) = broadcast::channel(EVENTS);
    let clients = tokio::spawn(control::serve(listener, calls, source));
    actor::Actor::new(spec, mailbox, events).work(shutdown).await;
    // The actor is gone, so the clients' tasks end by themselves once they have written their last answer.
    let _ = timeout(LAST_ANSWERS, clients).await;
    match std::fs::remove_file(socket) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(SupervisorError::File { action: "remove", path: socket.to_owned(), source })
        }
        _ => Ok(()),
    }
}
