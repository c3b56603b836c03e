//! Programs other than Node that serve without a gap: on sockets that they inherit, and on sockets that they believe to
//! have opened themselves; and what else the wrapper does for a process. It is the real program that has the wrapper.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use rustix::process::getuid;

use super::{
    Supervisor,
    desk::{eventually, get, is_online, kill, pids},
    fixture::{free_ports, out_log, python, shell, with_env},
    reload::Load,
    supervisor::{AppSpec, InstanceState, Mode, Port, ReadyWhen, Request, Select, User},
};

/// Answers with its release, one connection after the other. Told to end, it takes no other one.
const SERVE: &str = "
def serve(listener):
    told = []
    signal.signal(signal.SIGINT, lambda *_: told.append(1))
    listener.settimeout(0.05)
    body = f\"{os.environ['RELEASE']} {os.getpid()}\".encode()
    while not told:
        try: connection, _ = listener.accept()
        except (TimeoutError, BlockingIOError): continue
        connection.settimeout(30)
        connection.recv(65536)
        connection.sendall(b'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n%s' % (len(body), body))
        connection.close()
";

fn script(beginning: &str) -> String {
    format!(
        "import os, signal, socket, sys, time\n{SERVE}\nif os.path.exists('broken'): sys.exit(7)\n{beginning}"
    )
}

/// On a socket that it inherits, at this port.
fn on_inherited(dir: &Path, port: u16) -> AppSpec {
    let beginning = "
assert os.environ['LISTEN_PID'] == str(os.getpid()) and os.environ['LISTEN_FDS'] == '1'
print('up', flush=True)
serve(socket.socket(fileno=3))";
    let mut spec = with_env(python(dir, &script(beginning)), &[("RELEASE", "one")]);
    spec.mode = Mode::Sockets(vec![format!("127.0.0.1:{port}")]);
    spec.instances = 2;
    spec.restart.min_uptime_ms = 200;
    spec
}

/// On a socket that it binds itself.
fn on_its_own(dir: &Path, port: u16) -> AppSpec {
    let beginning = "
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
print('up', flush=True)
while os.path.exists('mute'): time.sleep(0.002)
listener.bind(('127.0.0.1', int(os.environ['PORT'])))
listener.listen(100)
serve(listener)";
    let mut spec = with_env(python(dir, &script(beginning)), &[("RELEASE", "one")]);
    spec.mode = Mode::Transparent;
    spec.port = Some(Port { variable: "PORT".to_owned(), first: port });
    spec.ready.when = ReadyWhen::Listening;
    spec
}

/// Has the app run, or on its way to be ready; `false`, and words about it, where the kernel refuses what it needs.
async fn runs(supervisor: &mut Supervisor, spec: AppSpec) -> bool {
    supervisor.done(Request::Apply { apps: vec![spec] }).await;
    supervisor.done(Request::Start(Select::All)).await;
    match supervisor.ask(Request::Settle(Select::All)).await {
        Ok(_) => true,
        Err(_) if supervisor.status().await[0].state == InstanceState::Launching => true,
        Err(error) if error.to_string().contains("kernel") => {
            eprintln!("skipped: {error}");
            false
        }
        Err(error) => panic!("{error}\n{}", supervisor.folder.read("err-0.log")),
    }
}

/// A reload, a broken one, and one while brains and keepers die, all under load.
async fn replaced_under_load(supervisor: &mut Supervisor, spec: AppSpec, port: u16) {
    let load = Load::on(port);
    let mut before = supervisor.until_online().await;
    for release in ["two", "three"] {
        let next = with_env(spec.clone(), &[("RELEASE", release)]);
        supervisor.done(Request::Apply { apps: vec![next] }).await;
        supervisor.done(Request::Reload(Select::All)).await;
        let after = supervisor.until_online().await;
        assert!(after.iter().zip(&before).all(|(after, before)| after.pid != before.pid));
        assert!(get(port).await.unwrap().starts_with(release));
        before = after;
        supervisor.kill_brain().await;
        supervisor.kill_keeper().await;
    }
    supervisor.folder.touch("broken");
    let reason = supervisor.refused(Request::Reload(Select::All)).await;
    assert!(reason.contains("the new process exited with status 7"), "{reason}");
    assert_eq!(supervisor.pids().await, pids(&before));
    supervisor.folder.remove("broken");
    for _ in 0..3 {
        let identity = supervisor.identity().await;
        let mut other = supervisor.other().await;
        let reloading =
            tokio::spawn(async move { other.call(&Request::Reload(Select::All), super::desk::LIMIT).await });
        let restarts = before[0].restarts;
        before = supervisor.until(|r| r.instance > 0 || r.restarts > restarts).await;
        kill(identity.brain);
        let _ = reloading.await.unwrap();
        supervisor.until_replaced(identity).await;
        supervisor.done(Request::Await(Select::All)).await;
    }
    supervisor.until_online().await;
    assert!(load.end().await > 0);
}

#[tokio::test]
async fn inherited_sockets_lose_no_request() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    let port = free_ports(1);
    let spec = on_inherited(&dir, port);
    assert!(runs(&mut supervisor, spec.clone()).await);
    supervisor.lines(&out_log(&dir, 0), 1).await;
    assert!(get(port).await.unwrap().starts_with("one "));
    replaced_under_load(&mut supervisor, spec, port).await;
    supervisor.end().await;
}

#[tokio::test]
async fn an_address_that_is_taken_is_told() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let spec = on_inherited(&dir, taken.local_addr().unwrap().port());
    supervisor.done(Request::Apply { apps: vec![spec] }).await;
    let reason = supervisor.refused(Request::Start(Select::All)).await;
    assert!(reason.contains("in use"), "{reason}");
    supervisor.end().await;
}

#[tokio::test]
async fn sockets_that_processes_bind_themselves_lose_no_request() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    let port = free_ports(1);
    let spec = on_its_own(&dir, port);
    if !runs(&mut supervisor, spec.clone()).await {
        return supervisor.end().await;
    }
    assert!(get(port).await.unwrap().starts_with("one "));
    replaced_under_load(&mut supervisor, spec, port).await;
    supervisor.end().await;
}

#[tokio::test]
async fn what_binds_while_there_is_no_brain_waits_for_the_next() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    let port = free_ports(1);
    supervisor.folder.touch("mute");
    let mut spec = on_its_own(&dir, port);
    spec.ready.timeout_ms = 100;
    if !runs(&mut supervisor, spec).await {
        return supervisor.end().await;
    }
    // It has begun, and bound nothing.
    supervisor.lines(&out_log(&dir, 0), 1).await;
    let before = supervisor.status().await.remove(0);
    assert_eq!(before.state, InstanceState::Launching);
    let identity = supervisor.identity().await;
    kill(identity.brain);
    supervisor.folder.remove("mute");
    supervisor.until_replaced(identity).await;
    let after = supervisor.until_online().await.remove(0);
    assert_eq!(after.pid, before.pid);
    assert!(get(port).await.unwrap().starts_with("one "));
    supervisor.end().await;
}

#[tokio::test]
async fn an_app_runs_as_another_user() {
    if !getuid().is_root() {
        return eprintln!("skipped: only root may be somebody else");
    }
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    let mut spec = shell(&dir, "echo $(id -u) $(id -g) $(id -G); exec sleep 100000");
    spec.user = Some(User { uid: 65534, gid: 65534 });
    supervisor.run(vec![spec]).await;
    assert_eq!(supervisor.lines(&out_log(&dir, 0), 1).await, ["65534 65534 65534"]);
    // Another user's process is ours to end all the same.
    supervisor.kill_brain().await;
    supervisor.done(Request::Stop(Select::All)).await;
    supervisor.end().await;
}

#[tokio::test]
async fn a_fork_bomb_stays_within_its_limit_and_is_ended() {
    const PROCESSES: u32 = 20;
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    let bomb = "import os, time
while True:
    try: os.fork()
    except OSError: time.sleep(0.05)";
    let mut spec = python(&dir, bomb);
    spec.max_processes = Some(PROCESSES);
    spec.stop.kill_timeout_ms = 500;
    supervisor.done(Request::Apply { apps: vec![spec] }).await;
    if let Err(error) = supervisor.ask(Request::Start(Select::All)).await {
        // Where there are no control groups, and it would run as root, it is refused rather than not limited.
        assert!(error.to_string().contains("process"), "{error}");
        supervisor.done(Request::Stop(Select::All)).await;
        return supervisor.end().await;
    }
    let folder = &supervisor.folder;
    let count = || folder.processes().len();
    eventually("many processes", || count() > PROCESSES as usize / 2).await;
    assert!(count() <= PROCESSES as usize + 2, "{}", count());
    assert!(supervisor.status().await.iter().all(is_online));
    supervisor.done(Request::Stop(Select::All)).await;
    assert_eq!(supervisor.folder.processes().len(), 2);
    supervisor.end().await;
}
