//! The built-in supervisor: keeps programs running, Node clusters among them, and outlives its own death.
//!
//! Deliberately absent: benchmarks, and anything else of this crate; the room can be lifted out as it is.
//!
//! Theory of operation. Two processes make a supervisor. The *keeper* (`keeper`) does next to nothing: it holds copies
//! of every descriptor and note that matters, and starts the other one again when it dies. The *brain*
//! does the work. Within it one `actor` owns every instance and is the only place where anything changes; what an
//! instance does next is decided by `state`, how a reload goes on by `roll`, both pure. The actor waits for all
//! descriptors at once (`poller`): ends of processes, messages of Node workers (`cluster`, in which the brain is the
//! primary), connections at sockets whose worker is gone. Beside it there are small tasks, one for each client of the
//! control socket (`control`) and one for each HTTP check (`readiness`), and one thread that moves output from pipes to
//! files (`logs`). Every change of an instance is published to the clients that subscribed.
//!
//! Whatever the next brain would miss is put into the `vault` before it matters. So a brain that is killed loses no
//! request and no line: listening sockets, pipes and channels stay open in the keeper, processes run on, and the next
//! brain finds each piece of work at the step it was left at (`actor/adopt`). When the keeper dies, the brain becomes
//! the keeper and starts a new brain.
//!
//! Each process leads a session of its own. Nothing ties its life to the supervisor's.

mod actor;
mod check;
mod client;
mod cluster;
mod control;
mod cron;
mod error;
mod keeper;
mod launch;
mod logs;
mod poller;
mod process;
mod readiness;
mod roll;
mod spec;
mod state;
mod sys;
mod text;
mod tree;
mod vault;

#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    fs::{self, DirBuilder},
    future::Future,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::DirBuilderExt as _,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    sync::{broadcast, mpsc},
    time::timeout,
};

use self::{
    actor::{Actor, Connections, Ended},
    keeper::{Replay, Start, Store},
    logs::{JournalFds, LogMover},
    vault::Vault,
};

pub use client::Client;
pub use control::{Event, Identity, InstanceReport, InstanceState, Request, Response, Select};
pub use error::SupervisorError;
pub use logs::{Follow, FollowedLine, tail};
pub use spec::{
    AppSpec, HttpCheck, Interval, Liveness, Logs, Mode, Port, Ready, ReadyWhen, Reload, Restart, Stop, User,
};
pub use sys::in_own_session;

/// Requests that wait for the actor; further clients wait at their socket.
const CALLS: usize = 64;
/// Events kept for a subscriber that reads slowly.
const EVENTS: usize = 1024;
/// How long the last answers may take to be written when the supervisor ends.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// The argument that makes the program one of a supervisor's processes.
pub const SUBCOMMAND: &str = "supervise";
/// The argument that makes the program a brain instead of a keeper.
const BRAIN: &str = "--brain";
/// The argument that makes it start a program for which more is to be done than to execute it.
const WRAPPER: &str = "--exec";
/// The name of the file, in the supervisor's folder, that Node workers load.
const DRAIN_SHIM_FILE: &str = "drain.js";
/// Under these names the keeper holds what belongs to no app.
const CONTROL_SOCKET: &str = "control";
const JOURNAL: [&str; 3] = ["journal", "journal/read", "journal/write"];

/// The control socket of the supervisor whose folder is `dir`.
pub fn control_socket(dir: &Path) -> PathBuf {
    dir.join("control.sock")
}

/// The arguments, after the program's name, that start a supervisor in `dir`: those that [`main`] understands.
pub fn arguments(dir: &Path) -> Vec<OsString> {
    vec![SUBCOMMAND.into(), dir.into()]
}

/// What the program does when its first argument is [`SUBCOMMAND`], with those that follow: with a folder it is the keeper of a supervisor whose
/// files are in there, with `--brain` after it the brain. Returns once everything has been stopped.
///
/// # Errors
/// When the arguments are not those of [`arguments`], another supervisor has that folder, or the system refuses what a
/// supervisor needs.
pub fn main(arguments: &[OsString]) -> Result<(), SupervisorError> {
    match arguments {
        [exec] if exec == WRAPPER => {
            let source = launch::run_wrapper();
            Err(SupervisorError::System { action: "start a program", source })
        }
        [dir] => run_keeper(Path::new(dir)),
        [dir, brain] if brain == BRAIN => run_brain(Path::new(dir)),
        _ => Err(SupervisorError::Usage),
    }
}

fn run_keeper(dir: &Path) -> Result<(), SupervisorError> {
    let cannot = |source| SupervisorError::System { action: "keep a supervisor", source };
    let keeper_arguments = self::arguments(dir);
    let mut brain_arguments = keeper_arguments.clone();
    brain_arguments.push(BRAIN.into());
    let manifest = keeper::inherited_manifest();
    // Whoever starts us may have left descriptors open; they are no business of what we start.
    launch::close_all_on_exec().map_err(cannot)?;
    let start =
        Start { program: None, keeper_arguments, brain_arguments, manifest, pace: keeper::Pace::default() };
    // From here on it waits, and needs next to nothing of what brought it here.
    text::let_go();
    keeper::run(start).map_err(cannot)
}

fn run_brain(dir: &Path) -> Result<(), SupervisorError> {
    let cannot = |source| SupervisorError::System { action: "run a supervisor", source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    let lost = |error: keeper::Error| cannot(io::Error::other(error));
    let mut store = Store::from_env().map_err(lost)?;
    let worked = runtime.block_on(async {
        // Before the replay: from then on the keeper passes signals on.
        let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
        // The kernel hangs up on what is left of a process group without a parent; that is no wish of anybody's.
        let _hangups = signal(SignalKind::hangup()).map_err(cannot)?;
        let told = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let replay = store.replay().map_err(lost)?;
        // Where that is not allowed, the keeper could not change it either.
        let _ = replay.summary.origin.restore_oom_score();
        Ok(work(dir, Vault::new(store), replay, told).await)
    });
    let (done, vault) = worked?;
    let Some(mut store) = vault.into_store() else { return Ok(()) };
    match done {
        Ok(Ended::Finished) => store.end().map_err(lost),
        Err(error) => {
            // Another brain would find the same, again and again.
            let _ = store.end();
            Err(error)
        }
        Ok(Ended::HandedOver) => Ok(()),
        Ok(Ended::KeeperGone) => {
            let source = store.become_keeper(&keeper::own_program(), &self::arguments(dir));
            Err(SupervisorError::System { action: "take the place of the keeper", source })
        }
    }
}

/// Works in `dir` until it is told to end, or has to hand over.
async fn work(
    dir: &Path,
    mut vault: Vault,
    mut replay: Replay,
    shutdown: impl Future<Output = ()>,
) -> (Result<Ended, SupervisorError>, Vault) {
    let (listener, journal) = match open(dir, &mut vault, &mut replay) {
        Ok(opened) => opened,
        Err(error) => return (Err(error), vault),
    };
    let (logs, log_news) = match LogMover::start(journal) {
        Ok(started) => started,
        Err(source) => {
            return (Err(SupervisorError::System { action: "move log lines", source }), vault);
        }
    };
    let (sender, calls) = mpsc::channel(CALLS);
    let (events, source) = broadcast::channel(EVENTS);
    let clients = tokio::spawn(control::serve(listener, sender, source));
    let connections = Connections { calls, events, logs, log_news };
    let (ended, vault) = match Actor::new(dir.to_owned(), vault, connections) {
        Ok(mut actor) => {
            actor.adopt(replay);
            actor.work(shutdown).await
        }
        Err(failed) => {
            let (source, vault) = *failed;
            return (Err(SupervisorError::System { action: "wait for processes", source }), vault);
        }
    };
    if ended == Ended::KeeperGone {
        return (Ok(ended), vault);
    }
    // The actor is gone, so the clients' tasks end by themselves once they have written their last answer.
    let _ = timeout(LAST_ANSWERS, clients).await;
    if ended == Ended::HandedOver {
        return (Ok(ended), vault);
    }
    (remove(&control_socket(dir)).map(|()| ended), vault)
}

/// The control socket and the journal of the logs: those that the keeper holds, or new ones.
fn open(
    dir: &Path,
    vault: &mut Vault,
    replay: &mut Replay,
) -> Result<(UnixListener, JournalFds), SupervisorError> {
    let cannot = |source| SupervisorError::System { action: "run a supervisor", source };
    prepare(dir)?;
    let listener = match replay.fds.remove(CONTROL_SOCKET) {
        Some(held) => held,
        None => control::bind(&control_socket(dir))?,
    };
    let journal = match JOURNAL.map(|name| replay.fds.remove(name)) {
        [Some(memory), Some(read), Some(write)] => JournalFds { memory, staging: (read, write) },
        _ => JournalFds::create().map_err(cannot)?,
    };
    let journal_fds = [&journal.memory, &journal.staging.0, &journal.staging.1].map(AsFd::as_fd);
    let mut kept = vec![(CONTROL_SOCKET.to_owned(), listener.as_fd())];
    kept.extend(JOURNAL.map(str::to_owned).into_iter().zip(journal_fds));
    vault.keep(&kept);
    Ok((listening(listener).map_err(cannot)?, journal))
}

fn listening(socket: OwnedFd) -> io::Result<UnixListener> {
    let socket = std::os::unix::net::UnixListener::from(socket);
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket)
}

/// Makes the folder, and in it the file that Node workers load.
fn prepare(dir: &Path) -> Result<(), SupervisorError> {
    let failed =
        |action, path: &Path, source| SupervisorError::File { action, path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| failed("make", dir, e))?;
    let shim = dir.join(DRAIN_SHIM_FILE);
    if fs::read(&shim).is_ok_and(|text| text == cluster::DRAIN_SHIM.as_bytes()) {
        return Ok(());
    }
    // A worker that starts now must not read half of it.
    let aside = dir.join(format!("{DRAIN_SHIM_FILE}~"));
    fs::write(&aside, cluster::DRAIN_SHIM).map_err(|e| failed("write", &aside, e))?;
    fs::rename(&aside, &shim).map_err(|e| failed("write", &shim, e))
}

fn remove(path: &Path) -> Result<(), SupervisorError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(SupervisorError::File { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
