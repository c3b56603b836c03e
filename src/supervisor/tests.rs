//! The supervisor on real processes, asked over its socket.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    AppSpec, Client, Event, HttpCheck, InstanceReport, InstanceState, Port, Request, Response, Spec,
    SupervisorError, output_log, run_until,
};

/// Far beyond what anything here takes, even on a slow day.
const LIMIT: Duration = Duration::from_secs(60);

/// Serves 200 on `$PORT` unless the file `broken` lies in the working folder.
const SERVER: &str = "
import http.server, os, sys
if os.path.exists('broken'): sys.exit(7)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == '/health' else 404); self.end_headers()
    def log_message(self, *a): pass
http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), Handler).serve_forever()
";

/// The folder of a test. When the test fails, what it started in there is killed.
struct Folder(TempDir);

impl Folder {
    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let Ok(processes) = procfs::process::all_processes() else { return };
        for process in processes.flatten() {
            if process.cwd().is_ok_and(|cwd| cwd == self.path()) {
                kill(process.pid.cast_unsigned());
            }
        }
    }
}

struct Running {
    dir: Folder,
    client: Client,
    work: JoinHandle<Result<(), SupervisorError>>,
    shutdown: oneshot::Sender<()>,
}

impl Running {
    async fn of(apps: impl FnOnce(&Path) -> Vec<AppSpec>) -> Self {
        let dir = Folder(tempfile::tempdir().unwrap());
        let spec = Spec { apps: apps(dir.path()) };
        let (shutdown, told) = oneshot::channel();
        let socket = dir.path().join("socket");
        let work = {
            let socket = socket.clone();
            tokio::spawn(async move { run_until(spec, &socket, async { drop(told.await) }).await })
        };
        let client = connect(&socket).await;
        Self { dir, client, work, shutdown }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    async fn ask(&mut self, request: Request) -> Result<Response, SupervisorError> {
        self.client.call(&request, LIMIT).await
    }

    async fn status(&mut self) -> Vec<InstanceReport> {
        match self.ask(Request::Status).await {
            Ok(Response::Status(reports)) => reports,
            other => panic!("{other:?}"),
        }
    }

    /// The pids of all instances, all of which must have one.
    async fn pids(&mut self) -> Vec<u32> {
        self.status().await.iter().map(|report| report.pid.unwrap()).collect()
    }

    /// Waits until every instance is as wanted.
    async fn until(&mut self, wanted: impl Fn(&InstanceReport) -> bool) -> Vec<InstanceReport> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let reports = self.status().await;
            if reports.iter().all(&wanted) {
                return reports;
            }
            assert!(Instant::now() < deadline, "{reports:#?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// What an instance wrote, once it has written a whole line.
    async fn first_line(&self, instance: u32) -> String {
        let path = output_log(self.dir.path(), "app", instance);
        let read = async {
            loop {
                if let Some((line, _)) =
                    fs::read_to_string(&path).ok().as_deref().and_then(|t| t.split_once('\n'))
                {
                    return line.to_owned();
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LIMIT, read).await.unwrap()
    }

    async fn end(mut self) {
        assert_eq!(self.ask(Request::Shutdown).await.unwrap(), Response::Done);
        self.work.await.unwrap().unwrap();
        assert!(!self.dir.path().join("socket").exists());
    }
}

async fn connect(socket: &Path) -> Client {
    let connected = async {
        loop {
            match Client::connect(socket).await {
                Ok(client) => return client,
                Err(_) => sleep(Duration::from_millis(2)).await,
            }
        }
    };
    timeout(LIMIT, connected).await.unwrap()
}

fn app(dir: &Path, program: &str, args: &[&str]) -> AppSpec {
    AppSpec {
        name: "app".to_owned(),
        program: program.into(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        cwd: dir.to_owned(),
        env: BTreeMap::new(),
        instances: 1,
        port: None,
        instance_variable: "INSTANCE".to_owned(),
        ready: None,
        kill_timeout_ms: 30_000,
        listen_timeout_ms: 30_000,
        restart_delay_ms: 0,
        exp_backoff_restart_delay_ms: None,
        min_uptime_ms: 0,
        max_restarts: 16,
        log_dir: dir.to_owned(),
    }
}

fn shell(dir: &Path, script: &str) -> AppSpec {
    app(dir, "/bin/sh", &["-c", script])
}

fn server(dir: &Path, instances: u32) -> AppSpec {
    let first = free_ports(instances as u16 + 1);
    AppSpec {
        instances,
        port: Some(Port { variable: "PORT".to_owned(), first }),
        ready: Some(HttpCheck { path: "/health".to_owned() }),
        ..app(dir, "/usr/bin/python3", &["-c", SERVER])
    }
}

/// The first of so many ports in a row, free now and given to no other test of this process. They lie below those
/// that outgoing connections take.
fn free_ports(count: u16) -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let first = 10_000 + (std::process::id() % 6_000) as u16 + TAKEN.fetch_add(count, Ordering::Relaxed);
        if (first..first + count).all(is_free) {
            return first;
        }
    }
}

fn exists(pid: u32) -> bool {
    test_kill_process(Pid::from_raw(pid.cast_signed()).unwrap()).is_ok() && !is_zombie(pid)
}

fn is_zombie(pid: u32) -> bool {
    let stat = procfs::process::Process::new(pid.cast_signed()).and_then(|process| process.stat());
    stat.map_or(true, |stat| stat.state == 'Z')
}

fn kill(pid: u32) {
    // That it has ended already is no reason to fail.
    let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL);
}

#[tokio::test]
async fn a_killed_instance_is_started_again() {
    let mut running = Running::of(|dir| vec![server(dir, 2)]).await;
    assert!(running.status().await.iter().all(|r| r.state == InstanceState::Stopped && r.pid.is_none()));
    running.ask(Request::Start).await.unwrap();
    running.until(|r| r.state == InstanceState::Online).await;
    let before = running.pids().await;
    kill(before[1]);
    let after = running.until(|r| r.state == InstanceState::Online && r.restarts == r.instance).await;
    assert_eq!(after[0].pid, Some(before[0]));
    assert_ne!(after[1].pid, Some(before[1]));
    assert_eq!(after[1].last_end.as_deref(), Some("was ended by signal 9"));
    running.end().await;
    assert!(!exists(before[0]));
}

#[tokio::test]
async fn a_restart_waits_its_delay() {
    let mut running =
        Running::of(|dir| vec![AppSpec { restart_delay_ms: 300, ..shell(dir, "exec sleep 1000") }]).await;
    running.ask(Request::Subscribe).await.unwrap();
    running.ask(Request::Start).await.unwrap();
    kill(running.pids().await[0]);
    let mut waiting_since = None;
    loop {
        let Event::Changed(report) = timeout(LIMIT, running.client.event()).await.unwrap().unwrap() else {
            panic!("an event of another kind")
        };
        match report.state {
            InstanceState::Waiting => {
                assert_eq!(report.pid, None);
                waiting_since = Some(Instant::now());
            }
            InstanceState::Online if report.restarts == 1 => break,
            _ => {}
        }
    }
    // The lower bound only: events may be late, but hardly by more than the first was.
    assert!(waiting_since.unwrap().elapsed() > Duration::from_millis(150));
    running.end().await;
}

#[tokio::test]
async fn an_instance_that_always_fails_is_given_up_even_with_a_delay() {
    let failing = |dir: &Path| AppSpec {
        min_uptime_ms: 60_000,
        max_restarts: 4,
        restart_delay_ms: 10,
        ..shell(dir, "exit 3")
    };
    let mut running = Running::of(|dir| vec![failing(dir)]).await;
    running.ask(Request::Start).await.unwrap();
    let report = running.until(|r| r.state == InstanceState::Errored).await.remove(0);
    assert_eq!((report.restarts, report.unstable_restarts), (3, 4));
    assert_eq!(report.last_end.as_deref(), Some("exited with status 3"));
    running.end().await;
}

#[tokio::test]
async fn a_program_that_is_not_there_is_reported() {
    let mut running =
        Running::of(|dir| vec![AppSpec { max_restarts: 2, ..app(dir, "/nonexistent/program", &[]) }]).await;
    let error = running.ask(Request::Start).await.unwrap_err().to_string();
    assert!(error.contains("instance 0 of app: could not be started: No such file"), "{error}");
    running.until(|r| r.state == InstanceState::Errored).await;
    running.end().await;
}

#[tokio::test]
async fn what_ignores_sigint_is_killed_after_the_kill_timeout() {
    let deaf = "trap '' INT; echo deaf; while :; do sleep 1; done";
    let mut running = Running::of(|dir| vec![AppSpec { kill_timeout_ms: 200, ..shell(dir, deaf) }]).await;
    running.ask(Request::Start).await.unwrap();
    running.first_line(0).await;
    let pid = running.pids().await[0];
    let began = Instant::now();
    running.ask(Request::Stop).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert!(!exists(pid));
    let report = running.status().await.remove(0);
    assert_eq!(
        (report.state, report.last_end.as_deref()),
        (InstanceState::Stopped, Some("was ended by signal 9"))
    );
    running.end().await;
}

#[tokio::test]
async fn sigint_gives_a_process_time_to_end_well() {
    let polite = "trap 'echo bye >> said; exit 0' INT; echo up; while :; do sleep 0.01; done";
    let mut running = Running::of(|dir| vec![shell(dir, polite)]).await;
    running.ask(Request::Start).await.unwrap();
    running.first_line(0).await;
    running.ask(Request::Stop).await.unwrap();
    assert_eq!(fs::read_to_string(running.dir.path().join("said")).unwrap(), "bye\n");
    assert_eq!(running.status().await[0].last_end.as_deref(), Some("exited with status 0"));
    running.end().await;
}

#[tokio::test]
async fn descendants_end_with_a_stop_and_with_a_crash() {
    // One that ignores SIGINT in the same session, and one in a session of its own.
    let script = "(trap '' INT; exec sleep 1000) & a=$!; setsid sleep 1000 & b=$!
        trap 'exit 0' INT; echo $a $b; while :; do sleep 0.01; done";
    let mut running = Running::of(|dir| vec![AppSpec { kill_timeout_ms: 300, ..shell(dir, script) }]).await;
    running.ask(Request::Start).await.unwrap();
    let line = running.first_line(0).await;
    let pids: Vec<u32> = line.split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.iter().all(|pid| exists(*pid)), "{line}");
    running.ask(Request::Stop).await.unwrap();
    assert!(!pids.iter().any(|pid| exists(*pid)), "{line}");

    fs::remove_file(output_log(running.dir.path(), "app", 0)).unwrap();
    running.ask(Request::Start).await.unwrap();
    let line = running.first_line(0).await;
    let pids: Vec<u32> = line.split(' ').map(|pid| pid.parse().unwrap()).collect();
    kill(running.pids().await[0]);
    running.until(|r| r.state == InstanceState::Online && r.restarts == 1).await;
    assert!(!exists(pids[0]), "of the crashed leader's session");
    // Nothing ties a process in a session of its own to a leader that is gone.
    kill(pids[1]);
    running.end().await;
}

#[tokio::test]
async fn a_reload_replaces_one_instance_after_the_other() {
    let mut running = Running::of(|dir| vec![server(dir, 3)]).await;
    running.ask(Request::Start).await.unwrap();
    running.until(|r| r.state == InstanceState::Online).await;
    let before = running.pids().await;
    let mut watcher = connect(&running.socket()).await;
    watcher.call(&Request::Subscribe, LIMIT).await.unwrap();
    running.ask(Request::Reload { app: "app".to_owned() }).await.unwrap();
    let after = running.until(|r| r.state == InstanceState::Online && r.restarts == 1).await;
    assert!(after.iter().zip(&before).all(|(report, old)| report.pid != Some(*old)));
    let mut changes = Vec::new();
    while changes.len() < 9 {
        match timeout(LIMIT, watcher.event()).await.unwrap().unwrap() {
            Event::Changed(report) => changes.push((report.instance, report.state)),
            other => panic!("{other:?}"),
        }
    }
    let steps = [InstanceState::Stopping, InstanceState::Launching, InstanceState::Online];
    let expected: Vec<_> = (0..3).flat_map(|instance| steps.map(|state| (instance, state))).collect();
    assert_eq!(changes, expected);
    running.end().await;
}

#[tokio::test]
async fn a_reload_onto_a_broken_release_keeps_the_old_processes() {
    let mut running = Running::of(|dir| vec![AppSpec { restart_delay_ms: 50, ..server(dir, 2) }]).await;
    running.ask(Request::Start).await.unwrap();
    running.until(|r| r.state == InstanceState::Online).await;
    let before = running.pids().await;
    let broken = running.dir.path().join("broken");
    fs::write(&broken, "").unwrap();
    let error = running.ask(Request::Reload { app: "app".to_owned() }).await.unwrap_err().to_string();
    assert!(error.contains("at instance 0 of app: the new process exited with status 7; 1 of 2"), "{error}");
    assert_eq!(running.status().await[1].pid, Some(before[1]));
    // Once the release is repaired, the instance comes back by itself.
    fs::remove_file(broken).unwrap();
    running.until(|r| r.state == InstanceState::Online).await;
    assert_eq!(running.pids().await[1], before[1]);
    running.end().await;
}

#[tokio::test]
async fn a_reload_that_is_never_ready_ends_at_the_listen_timeout() {
    let late = |dir: &Path| AppSpec { listen_timeout_ms: 100, ..server(dir, 2) };
    let mut running = Running::of(|dir| {
        let script = "exec sleep 1000".to_owned();
        vec![AppSpec { program: "/bin/sh".into(), args: vec!["-c".to_owned(), script], ..late(dir) }]
    })
    .await;
    running.ask(Request::Start).await.unwrap();
    let before = running.pids().await;
    let error = running.ask(Request::Reload { app: "app".to_owned() }).await.unwrap_err().to_string();
    assert!(error.contains("instance 0 of app: the new process was not ready after 100ms"), "{error}");
    assert_eq!(running.pids().await[1], before[1]);
    running.end().await;
}

#[tokio::test]
async fn a_reload_without_a_check_notices_a_process_that_ends_at_once() {
    let script = "test ! -e broken && echo up && exec sleep 1000";
    let unchecked = |dir: &Path| AppSpec {
        instances: 2,
        min_uptime_ms: 5_000,
        restart_delay_ms: 60_000,
        ..shell(dir, script)
    };
    let mut running = Running::of(|dir| vec![unchecked(dir)]).await;
    running.ask(Request::Start).await.unwrap();
    running.first_line(0).await;
    running.first_line(1).await;
    let before = running.pids().await;
    fs::write(running.dir.path().join("broken"), "").unwrap();
    let error = running.ask(Request::Reload { app: "app".to_owned() }).await.unwrap_err().to_string();
    assert!(error.contains("instance 0 of app: the new process exited with status 1"), "{error}");
    assert_eq!(running.status().await[1].pid, Some(before[1]));
    running.end().await;
}

#[tokio::test]
async fn only_one_reload_at_a_time_and_a_stop_ends_it() {
    let deaf = "trap '' INT; echo deaf; while :; do sleep 0.05; done";
    let mut running = Running::of(|dir| vec![AppSpec { kill_timeout_ms: 500, ..shell(dir, deaf) }]).await;
    running.ask(Request::Start).await.unwrap();
    running.first_line(0).await;
    let reload = Request::Reload { app: "app".to_owned() };
    let mut other = connect(&running.socket()).await;
    let first = tokio::spawn({
        let reload = reload.clone();
        async move { other.call(&reload, LIMIT).await }
    });
    running.until(|r| r.state == InstanceState::Stopping).await;
    let second = running.ask(reload).await.unwrap_err().to_string();
    assert!(second.contains("a reload of app is under way"), "{second}");
    running.ask(Request::Stop).await.unwrap();
    let first = first.await.unwrap().unwrap_err().to_string();
    assert!(first.contains("asked for something else"), "{first}");
    assert!(running.status().await.iter().all(|r| r.state == InstanceState::Stopped));
    running.end().await;
}

#[tokio::test]
async fn scaling_adds_and_removes_instances_with_their_own_ports() {
    let mut running = Running::of(|dir| vec![server(dir, 1)]).await;
    running.ask(Request::Start).await.unwrap();
    let scale = |instances| Request::Scale { app: "app".to_owned(), instances };
    running.ask(scale(2)).await.unwrap();
    let reports = running.until(|r| r.state == InstanceState::Online).await;
    assert_eq!(reports.len(), 2);
    running.ask(scale(1)).await.unwrap();
    assert!(!exists(reports[1].pid.unwrap()));
    assert_eq!(running.pids().await, [reports[0].pid.unwrap()]);
    assert!(running.ask(scale(5000)).await.is_err());
    running.end().await;
}

#[tokio::test]
async fn a_restart_replaces_every_process_of_its_app_only() {
    let mut running = Running::of(|dir| {
        let other = AppSpec { name: "other".to_owned(), ..shell(dir, "exec sleep 1000") };
        vec![AppSpec { instances: 2, ..shell(dir, "exec sleep 1000") }, other]
    })
    .await;
    running.ask(Request::Start).await.unwrap();
    let before = running.pids().await;
    running.ask(Request::Restart { app: "app".to_owned() }).await.unwrap();
    let after = running.pids().await;
    assert!(before[0] != after[0] && before[1] != after[1] && before[2] == after[2]);
    assert!(running.ask(Request::Restart { app: "nobody".to_owned() }).await.is_err());
    running.end().await;
}

#[tokio::test]
async fn an_instance_has_its_variables_a_session_and_no_descriptor_of_ours() {
    let script = "import os, time
names = [os.environ[name] for name in ('PORT', 'INSTANCE', 'OWN')]
held = [os.path.realpath('/proc/self/fd/' + fd) for fd in os.listdir('/proc/self/fd')]
print(*names, os.getsid(0) == os.getpid(), os.readlink('/proc/self/fd/0'), [f for f in held if 'anon_inode' in f], flush=True)
time.sleep(1000)";
    let mut running = Running::of(|dir| {
        let env = BTreeMap::from([("OWN".to_owned(), "value".to_owned())]);
        let port = Some(Port { variable: "PORT".to_owned(), first: 4000 });
        vec![AppSpec { env, port, ..app(dir, "/usr/bin/python3", &["-c", script]) }]
    })
    .await;
    running.ask(Request::Start).await.unwrap();
    assert_eq!(running.first_line(0).await, "4000 0 value True /dev/null []");
    running.end().await;
}

#[tokio::test]
async fn garbage_is_answered_and_harms_nobody() {
    let mut running = Running::of(|dir| vec![shell(dir, "exec sleep 1000")]).await;
    let mode = fs::metadata(running.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut stream = BufReader::new(UnixStream::connect(running.socket()).await.unwrap());
    for garbage in
        [&b"\n"[..], b"\xff\xfe\n", b"{}\n", b"\"dance\"\n", b"{\"reload\":{\"app\":\"a\",\"b\":1}}\n"]
    {
        stream.get_mut().write_all(garbage).await.unwrap();
        let mut answer = String::new();
        timeout(LIMIT, stream.read_line(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("{\"answer\":{\"failed\":\"not a request"), "{answer}");
    }
    stream.get_mut().write_all(b"\"status\"\n").await.unwrap();
    let mut answer = String::new();
    timeout(LIMIT, stream.read_line(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("{\"answer\":{\"status\":["), "{answer}");
    // A line without an end is refused at its bound, and the connection ended.
    stream.get_mut().write_all(&vec![b'x'; (64 << 10) + 1]).await.unwrap();
    let mut answer = String::new();
    timeout(LIMIT, stream.read_line(&mut answer)).await.unwrap().unwrap();
    assert!(answer.contains("longer than 65536 bytes"), "{answer}");
    answer.clear();
    assert_eq!(timeout(LIMIT, stream.read_line(&mut answer)).await.unwrap().unwrap_or(0), 0);
    assert_eq!(running.status().await.len(), 1);
    running.end().await;
}

#[tokio::test]
async fn a_second_supervisor_is_refused_and_a_dead_ones_socket_replaced() {
    let running = Running::of(|dir| vec![shell(dir, "exec sleep 1000")]).await;
    let again = run_until(Spec { apps: Vec::new() }, &running.socket(), std::future::pending()).await;
    assert!(matches!(again, Err(SupervisorError::AlreadyRunning { .. })));
    running.end().await;

    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    run_until(Spec { apps: Vec::new() }, &socket, std::future::ready(())).await.unwrap();
    assert!(!socket.exists());
}

#[tokio::test]
async fn the_shutdown_passed_in_stops_everything_first() {
    let mut running =
        Running::of(|dir| vec![AppSpec { instances: 3, ..shell(dir, "exec sleep 1000") }]).await;
    running.ask(Request::Start).await.unwrap();
    let pids = running.pids().await;
    assert!(pids.iter().all(|pid| exists(*pid)));
    let _ = running.shutdown.send(());
    timeout(LIMIT, running.work).await.unwrap().unwrap().unwrap();
    assert!(!pids.iter().any(|pid| exists(*pid)));
    let error = timeout(LIMIT, running.client.call(&Request::Status, LIMIT)).await.unwrap();
    assert!(error.is_err());
}
