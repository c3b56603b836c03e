//! The control socket: what can be asked, answered and told, and the tasks that serve clients.
//!
//! One JSON value a line, both ways. A client asks one thing at a time; what it cannot mean is answered with an
//! error and harms nobody else.

use std::{
    future::pending,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{
        Notify,
        broadcast::{self, error::RecvError},
        mpsc, oneshot,
    },
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    SupervisorError,
    spec::{AppSpec, Mode},
};

/// The longest request.
const REQUEST_MAX_BYTES: usize = 4 << 20;
/// Clients served at a time; more wait to be accepted.
const CLIENTS_MAX: usize = 64;
/// How long a full house waits before it asks those to leave who want nothing.
const CROWD_PAUSE: Duration = Duration::from_millis(100);
/// How long a client may take to read a line.
const TELL_LIMIT: Duration = Duration::from_secs(60);
/// The pause after a connection could not be accepted, for want of descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long clients may take to read their last answer when the supervisor ends.
const FAREWELL: Duration = Duration::from_millis(500);

/// What a client may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Take these specifications: new apps are added, those of a known name are changed. What runs, runs on as it is
    /// until it is started, restarted, reloaded or scaled.
    Apply {
        /// Complete specifications.
        apps: Vec<AppSpec>,
    },
    /// Start what does not run. Answered once all are spawned.
    Start(Select),
    /// Wait until none is being started any more: each is online, or has ended, or its time is up. Answered well when
    /// all are online.
    Settle(Select),
    /// Stop. Answered once all have ended.
    Stop(Select),
    /// Stop and start all selected instances at once. Answered once all are spawned anew.
    Restart(Select),
    /// Replace the instances of each selected app one after the other, each by one that is ready. Answered when all
    /// are, or when one could not be and what was replaced before was put back.
    Reload(Select),
    /// Wait until no selected app is being reloaded; answered with how the last reload of each ended.
    Await(Select),
    /// Stop, and forget. Answered once all have ended.
    Delete(Select),
    /// Change the number of instances of an app. Answered once the new are spawned and the surplus has ended.
    Scale {
        /// Which.
        app: String,
        /// How many from now on.
        instances: u32,
    },
    /// Count restarts from 0 again.
    Reset(Select),
    /// Send a signal, by its number, to the first process of each.
    Signal {
        /// To which.
        select: Select,
        /// Its number.
        signal: i32,
    },
    /// Empty log files.
    Flush(Select),
    /// Open all log files anew: something else has renamed them.
    ReopenLogs,
    /// Every instance as it is now.
    Status,
    /// Who answers here.
    Identify,
    /// Be told every event from now on, on this connection.
    Subscribe,
    /// Go on as this program from now on; nothing that runs is touched.
    Upgrade {
        /// The program, absolute.
        program: PathBuf,
    },
    /// Stop every app, then end. Answered once all have ended.
    Shutdown,
}

/// Which instances a request is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Select {
    /// All of them.
    All,
    /// Those of this app.
    App(String),
    /// Those of the apps of this namespace.
    Namespace(String),
    /// The one with this id.
    Id(u32),
}

impl Select {
    /// Whether it is about this instance.
    pub fn includes(&self, report: &InstanceReport) -> bool {
        match self {
            Self::All => true,
            Self::App(name) => report.app == *name,
            Self::Namespace(namespace) => report.namespace == *namespace,
            Self::Id(id) => report.id == *id,
        }
    }
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// It is done.
    Done,
    /// The answer to [`Request::Status`], by app in the order they were added, then by instance.
    Status(Vec<InstanceReport>),
    /// The answer to [`Request::Identify`].
    Identity(Identity),
    /// It was not done, or not all of it, and why.
    Failed(String),
}

/// The processes of a supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The version of the program.
    pub version: String,
    /// The process that does the work.
    pub brain: u32,
    /// The process that outlives it.
    pub keeper: u32,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// An instance changed.
    Changed(InstanceReport),
    /// An instance was scaled away or deleted.
    Removed {
        /// Its app.
        app: String,
        /// Which.
        instance: u32,
    },
    /// The reload of an app ended, well or for this reason.
    Reloaded {
        /// Which.
        app: String,
        /// Why not.
        failed: Option<String>,
    },
    /// Something a person should know: a log that cannot be written, an app that refused to say more.
    Warning {
        /// Of which app, if of one.
        app: Option<String>,
        /// What.
        message: String,
    },
    /// The subscriber read too slowly: so many events were dropped.
    Missed(u64),
}

/// The state of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// Not running, and not meant to.
    Stopped,
    /// Spawned, not ready yet.
    Launching,
    /// Ready.
    Online,
    /// Told to end.
    Stopping,
    /// Ended by itself; it will be started again after a pause.
    Waiting,
    /// Given up on.
    Errored,
}

/// An instance at one moment. Nothing of its environment is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceReport {
    /// Its app.
    pub app: String,
    /// Which, from 0.
    pub instance: u32,
    /// A number of its own among all instances; never used twice.
    pub id: u32,
    /// The namespace of its app.
    pub namespace: String,
    /// How its app comes by its sockets.
    pub mode: Mode,
    /// Its state.
    pub state: InstanceState,
    /// Its process, while it has one.
    pub pid: Option<u32>,
    /// Field 22 of `/proc/PID/stat`, which with the pid names the process for good.
    pub start_ticks: Option<u64>,
    /// Time since it was spawned.
    pub uptime_ms: Option<u64>,
    /// Restarts so far, asked for or not.
    pub restarts: u32,
    /// Unstable ends in a row.
    pub unstable_restarts: u32,
    /// How its last process ended, or why it could not be started.
    pub last_end: Option<String>,
    /// Resident memory of its tree; only in the answer to [`Request::Status`].
    pub memory_bytes: Option<u64>,
    /// CPU time its tree has taken since the last such answer, in percent of one CPU.
    pub cpu_percent: Option<u32>,
    /// Where its standard output goes.
    pub out_log: Option<PathBuf>,
    /// Where its standard error goes.
    pub err_log: Option<PathBuf>,
}

/// A line from the supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    Answer(Response),
    Event(Event),
}

/// A request on its way to the actor.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) request: Request,
    pub(super) reply: oneshot::Sender<Response>,
}

/// Listens at `path`, for this user only. A socket that nobody listens on any more is replaced.
pub(super) fn bind(path: &Path) -> Result<OwnedFd, SupervisorError> {
    use std::{
        fs,
        os::unix::{
            fs::PermissionsExt as _,
            net::{UnixListener as Listener, UnixStream as Stream},
        },
    };
    if Stream::connect(path).is_ok() {
        return Err(SupervisorError::AlreadyRunning { path: path.to_owned() });
    }
    let mut aside = path.as_os_str().to_owned();
    aside.push("~");
    let listening = || -> io::Result<OwnedFd> {
        match fs::remove_file(&aside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = Listener::bind(&aside)?;
        // Renamed only now, so that under its own name the socket is never open to others and never refuses.
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o600))?;
        fs::rename(&aside, path)?;
        listener.set_nonblocking(true)?;
        Ok(listener.into())
    };
    listening().map_err(|source| SupervisorError::File { action: "listen on", path: path.to_owned(), source })
}

/// Serves clients until the actor is gone. `source` is where subscribers' events come from.
pub(super) async fn serve(
    listener: UnixListener,
    calls: mpsc::Sender<Call>,
    source: broadcast::Receiver<Event>,
) {
    let mut clients = JoinSet::new();
    let crowded = Arc::new(Notify::new());
    loop {
        tokio::select! {
            accepted = listener.accept(), if clients.len() < CLIENTS_MAX => match accepted {
                // A client that goes away in the middle of a line is its own affair.
                Ok((stream, _)) => {
                    let client = attend(stream, calls.clone(), source.resubscribe(), Arc::clone(&crowded));
                    drop(clients.spawn(client));
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = clients.join_next() => {}
            // Whoever waits for nothing makes room for those who do.
            () = sleep(CROWD_PAUSE), if clients.len() >= CLIENTS_MAX => crowded.notify_waiters(),
            () = calls.closed() => break,
        }
    }
    let _ = timeout(FAREWELL, async { while clients.join_next().await.is_some() {} }).await;
}

async fn attend(
    stream: UnixStream,
    calls: mpsc::Sender<Call>,
    source: broadcast::Receiver<Event>,
    crowded: Arc<Notify>,
) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut partial = Vec::new();
    let mut subscription = None;
    let mut answer: Option<oneshot::Receiver<Response>> = None;
    loop {
        let line = tokio::select! {
            biased;
            response = maybe(answer.as_mut()), if answer.is_some() => {
                answer = None;
                // The actor drops a call only when it ends.
                Line::Answer(response.unwrap_or_else(|_| Response::Failed("the supervisor is ending".to_owned())))
            }
            event = next(subscription.as_mut()) => match event {
                Some(event) => Line::Event(event),
                None => return Ok(()),
            },
            asked = read_line(&mut read, &mut partial), if answer.is_none() => match asked? {
                Asked::Nothing => return Ok(()),
                Asked::TooLong => {
                    let failed = Response::Failed(format!("a request is longer than {REQUEST_MAX_BYTES} bytes"));
                    return tell(&mut write, &Line::Answer(failed)).await;
                }
                Asked::Line(line) => match serde_json::from_slice(&line) {
                    Ok(Request::Subscribe) => {
                        subscription = Some(source.resubscribe());
                        Line::Answer(Response::Done)
                    }
                    Ok(request) => {
                        let (reply, response) = oneshot::channel();
                        answer = Some(response);
                        // When the actor is gone the reply is dropped with the call, and that is answered above.
                        let _ = calls.send(Call { request, reply }).await;
                        continue;
                    }
                    Err(e) => Line::Answer(Response::Failed(format!("not a request: {e}"))),
                },
            },
            () = calls.closed(), if answer.is_none() => return Ok(()),
            () = crowded.notified(), if answer.is_none() && subscription.is_none() => return Ok(()),
        };
        // One that does not read in all that time does not want it.
        timeout(TELL_LIMIT, tell(&mut write, &line)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    }
}

async fn maybe<T>(answer: Option<&mut oneshot::Receiver<T>>) -> Result<T, oneshot::error::RecvError> {
    match answer {
        Some(answer) => answer.await,
        None => pending().await,
    }
}

/// The next event of a subscription; `None` when there will be no more. Without one it never completes.
async fn next(subscription: Option<&mut broadcast::Receiver<Event>>) -> Option<Event> {
    let Some(subscription) = subscription else { return pending().await };
    match subscription.recv().await {
        Ok(event) => Some(event),
        Err(RecvError::Lagged(missed)) => Some(Event::Missed(missed)),
        Err(RecvError::Closed) => None,
    }
}

enum Asked {
    Line(Vec<u8>),
    TooLong,
    Nothing,
}

/// Reads a line into `partial`, which keeps what is there when the future is dropped half way.
async fn read_line(read: &mut (impl AsyncBufRead + Unpin), partial: &mut Vec<u8>) -> io::Result<Asked> {
    loop {
        let room = (REQUEST_MAX_BYTES + 1).saturating_sub(partial.len()) as u64;
        if room == 0 {
            return Ok(Asked::TooLong);
        }
        if read.take(room).read_until(b'\n', partial).await? == 0 {
            return Ok(Asked::Nothing);
        }
        if partial.ends_with(b"\n") {
            return Ok(Asked::Line(std::mem::take(partial)));
        }
    }
}

async fn tell(write: &mut (impl AsyncWrite + Unpin), line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    write.write_all(&text).await
}
