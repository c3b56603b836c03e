//! A test's folder, its connection to the supervisor, and what can be seen of processes from outside. Also part of the
//! integration tests.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{
    fixture::MARK,
    supervisor::{
        AppSpec, Client, Event, InstanceReport, InstanceState, Request, Response, Select, SupervisorError,
        control_socket,
    },
};

/// Far beyond what anything here takes, even on a slow day.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(5);

/// The folder of a test. Whatever was started in there and is left, when the test fails, is killed.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::Builder::new().prefix("qbsup").rand_bytes(4).tempdir_in("/tmp").unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The folder of the supervisor.
    pub(crate) fn home(&self) -> PathBuf {
        self.path().join("pm")
    }

    pub(crate) fn touch(&self, name: &str) {
        fs::write(self.path().join(name), "").unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.path().join(name)).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap_or_default()
    }

    /// The living processes that were started in here.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mark = format!("{MARK}={}", self.path().display());
        let is_marked = |pid: u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
                || fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(self.path()))
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| *pid != std::process::id() && is_marked(*pid) && exists(*pid)).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        // One that is killed may just have started another.
        loop {
            let left = self.processes();
            if left.is_empty() || std::time::Instant::now() > deadline {
                return;
            }
            left.into_iter().for_each(kill);
        }
    }
}

/// A test's folder and its connection to the supervisor whose folder is `pm` in there.
pub(crate) struct Desk {
    pub(crate) folder: Folder,
    pub(crate) client: Client,
}

impl Desk {
    /// Connects as soon as the supervisor listens.
    pub(crate) async fn open(folder: Folder) -> Self {
        let client = connect(&folder).await;
        Self { folder, client }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Another connection.
    pub(crate) async fn other(&self) -> Client {
        connect(&self.folder).await
    }

    /// A connection on which every event from now on comes.
    pub(crate) async fn subscriber(&self) -> Client {
        let mut client = self.other().await;
        client.call(&Request::Subscribe, LIMIT).await.unwrap();
        client
    }

    pub(crate) async fn ask(&mut self, request: Request) -> Result<Response, SupervisorError> {
        self.client.call(&request, LIMIT).await
    }

    #[track_caller]
    pub(crate) fn done(&mut self, request: Request) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let answer = self.ask(request).await;
            assert!(matches!(answer, Ok(Response::Done)), "{place}: {answer:?}");
        }
    }

    /// The reason why the supervisor did not.
    #[track_caller]
    pub(crate) fn refused(&mut self, request: Request) -> impl Future<Output = String> {
        let place = std::panic::Location::caller();
        async move {
            match self.ask(request).await {
                Err(SupervisorError::Refused(reason)) => reason,
                other => panic!("{place}: {other:?}"),
            }
        }
    }

    /// Has these apps run, and waits until all are online.
    pub(crate) async fn run(&mut self, apps: Vec<AppSpec>) -> Vec<InstanceReport> {
        self.done(Request::Apply { apps }).await;
        self.done(Request::Start(Select::All)).await;
        self.until_online().await
    }

    /// Every instance, as the supervisor of now tells: when another has taken over, it is asked.
    pub(crate) async fn status(&mut self) -> Vec<InstanceReport> {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.ask(Request::Status).await {
                Ok(Response::Status(reports)) => return reports,
                Ok(other) => panic!("{other:?}"),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            self.client = self.other().await;
        }
    }

    /// The pids of all instances, all of which must have one.
    pub(crate) async fn pids(&mut self) -> Vec<u32> {
        pids(&self.status().await)
    }

    /// Waits until every instance is as wanted.
    #[track_caller]
    pub(crate) fn until(
        &mut self,
        wanted: impl Fn(&InstanceReport) -> bool,
    ) -> impl Future<Output = Vec<InstanceReport>> {
        let place = std::panic::Location::caller();
        async move {
            let deadline = Instant::now() + LIMIT;
            loop {
                let reports = self.status().await;
                if reports.iter().all(&wanted) {
                    return reports;
                }
                assert!(Instant::now() < deadline, "{place}: {reports:#?}");
                sleep(PAUSE).await;
            }
        }
    }

    #[track_caller]
    pub(crate) fn until_online(&mut self) -> impl Future<Output = Vec<InstanceReport>> {
        self.until(is_online)
    }

    /// Waits until a file has so many whole lines, and returns them.
    #[track_caller]
    #[expect(clippy::unused_self, reason = "it reads as the other things to wait for do")]
    pub(crate) fn lines(&self, file: &Path, count: usize) -> impl Future<Output = Vec<String>> {
        let place = std::panic::Location::caller();
        let file = file.to_owned();
        async move {
            let deadline = Instant::now() + LIMIT;
            loop {
                let text = fs::read(&file).unwrap_or_default();
                let text = String::from_utf8_lossy(&text).into_owned();
                let whole = text.rfind('\n').map_or("", |end| &text[..end]);
                let lines: Vec<String> = whole.lines().map(str::to_owned).collect();
                if lines.len() >= count {
                    return lines;
                }
                assert!(Instant::now() < deadline, "{place}: {} of {count} lines", lines.len());
                sleep(PAUSE).await;
            }
        }
    }
}

async fn connect(folder: &Folder) -> Client {
    let socket = control_socket(&folder.home());
    let connected = async {
        loop {
            match Client::connect(&socket).await {
                Ok(client) => return client,
                Err(_) => sleep(PAUSE).await,
            }
        }
    };
    timeout(LIMIT, connected).await.unwrap()
}

/// The next event that is wanted.
pub(crate) async fn event<T>(client: &mut Client, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = wanted(client.event().await.unwrap()) {
                return found;
            }
        }
    };
    timeout(LIMIT, found).await.unwrap()
}

/// The reason that the next warning gives.
pub(crate) async fn warning(client: &mut Client) -> String {
    event(client, |event| match event {
        Event::Warning { message, .. } => Some(message),
        _ => None,
    })
    .await
}

/// Waits until something holds that the supervisor has no word for.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + LIMIT;
        while !holds() {
            assert!(Instant::now() < deadline, "{place}: in vain: {what}");
            sleep(PAUSE).await;
        }
    }
}

pub(crate) fn is_online(report: &InstanceReport) -> bool {
    report.state == InstanceState::Online
}

#[track_caller]
pub(crate) fn pids(reports: &[InstanceReport]) -> Vec<u32> {
    reports.iter().map(|report| report.pid.unwrap()).collect()
}

/// The body of the answer to `GET /` on a connection of its own; `None` when there is none.
pub(crate) async fn get(port: u16) -> Option<String> {
    let asked = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        // Without a length Node sends pieces: here always one.
        let body = if head.contains("chunked") { body.lines().nth(1)? } else { body };
        Some(body.to_owned())
    };
    timeout(LIMIT, asked).await.unwrap()
}

/// Whether there is such a process, and more of it than its exit status.
pub(crate) fn exists(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

pub(crate) fn kill(pid: u32) {
    // That it has ended already is no reason to fail.
    let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL);
}
