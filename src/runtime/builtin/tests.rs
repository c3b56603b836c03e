//! The adapter on the real supervisor, started from this very program.

use std::{
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use tempfile::TempDir;

use super::*;
use crate::{
    model::{
        request::Variables,
        target::Target,
        workload::{ExecMode, HttpService, Workload},
    },
    runtime::Sandbox,
};

const SERVER: &str = "
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write((os.environ['NAME'] + os.environ['INSTANCE']).encode())
    def log_message(self, *a): pass
print('up', file=sys.stderr, flush=True)
http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), Handler).serve_forever()
";

/// Not a test: what the other tests start as the supervisor, in this very program. Without a specification in
/// the environment, as in an ordinary run of the tests, there is nothing to do.
#[test]
fn supervise() {
    let (Some(spec), Some(socket)) = (std::env::var_os("TEST_SPEC"), std::env::var_os("TEST_SOCKET")) else {
        return;
    };
    let spec = serde_json::from_slice(&fs::read(spec).unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(supervisor::run(spec, socket.into())).unwrap();
}

fn program(dir: &Path) -> PathBuf {
    let path = dir.join("program");
    let module = module_path!().split_once("::").unwrap().1;
    let exe = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\nTEST_SPEC=\"$3\" TEST_SOCKET=\"$5\" exec {} --exact {module}::supervise --nocapture\n",
        exe.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    path
}

fn service(name: &str, program: &str, script: &str, instances: u32) -> Service {
    let app = App {
        program: program.into(),
        args: vec!["-c".to_owned(), script.to_owned()],
        script: "/nowhere".into(),
        is_binary: true,
        cwd: "/".into(),
        env: BTreeMap::from([("NAME".to_owned(), name.to_owned())]),
        instances,
        exec_mode: ExecMode::Fork,
        instance_variable: "INSTANCE".to_owned(),
        kill_timeout: Duration::from_secs(20),
        listen_timeout: Duration::from_secs(20),
        restart_delay: Duration::ZERO,
        exp_backoff_restart_delay: None,
        min_uptime: Duration::ZERO,
        max_restarts: 16,
        raw: serde_json::Map::new(),
        not_applied: Vec::new(),
    };
    let http = name.starts_with("web").then(|| HttpService {
        health: "/health".to_owned(),
        release: None,
        requests: Vec::new(),
        variables: Variables::default(),
    });
    Service { name: name.to_owned(), http, env: BTreeMap::new(), app: Some(app), compose: None }
}

/// The first of so many ports in a row, free now and given to no other test here.
fn free_ports(count: u16) -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    loop {
        let first = 17_000 + (std::process::id() % 2_000) as u16 + TAKEN.fetch_add(count, Ordering::Relaxed);
        if (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
}

/// The builtin runtime on a web service of two instances and a worker.
fn builtin() -> (TempDir, Builtin) {
    let dir = tempfile::tempdir().unwrap();
    let first = free_ports(3);
    let workload = Workload {
        name: "w".to_owned(),
        root: "/".into(),
        port_variable: "PORT".to_owned(),
        first_port: None,
        release_variable: None,
        services: vec![
            service("web", "/usr/bin/python3", SERVER, 2),
            service("worker", "/bin/sh", "exec sleep 1000", 1),
        ],
        ecosystem: None,
        compose: None,
        digests: BTreeMap::new(),
    };
    let arm = Arm {
        name: "builtin".to_owned(),
        target: Target::of(RuntimeKind::Builtin),
        workload: Arc::new(workload),
        ports: BTreeMap::from([("web".to_owned(), first)]),
        sandbox: Sandbox::existing(dir.path().to_owned()),
    };
    let program = program(dir.path());
    (dir, Builtin::new(arm, program))
}

async fn until(builtin: &mut Builtin, wanted: impl Fn(&InstanceStatus) -> bool) -> Vec<InstanceStatus> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status = builtin.status().await.unwrap();
        if status.iter().all(&wanted) {
            return status;
        }
        assert!(Instant::now() < deadline, "{status:#?}");
        sleep(Duration::from_millis(5)).await;
    }
}

fn is_online(status: &InstanceStatus) -> bool {
    status.state == InstanceState::Online
}

#[tokio::test]
async fn the_whole_of_a_life() {
    let (dir, mut builtin) = builtin();
    assert_eq!(builtin.probe_environment().await.unwrap().runtime, RuntimeKind::Builtin);
    builtin.prepare().await.unwrap();
    builtin.start().await.unwrap();
    let status = until(&mut builtin, is_online).await;
    assert_eq!(status.len(), 3);
    let mode = fs::metadata(dir.path().join("spec.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let processes = builtin.processes().await.unwrap();
    assert_eq!((processes.service.len(), processes.overhead_fixed.len()), (3, 1));
    assert!(processes.service.iter().chain(&processes.overhead_fixed).all(|process| process.is_alive()));
    let endpoints = builtin.endpoints();
    assert_eq!(endpoints.iter().map(|e| e.instance).collect::<Vec<_>>(), [0, 1]);
    assert!(endpoints.iter().all(|e| std::net::TcpStream::connect(e.address).is_ok()));
    assert_eq!(builtin.logs("web", 9).await.unwrap(), ["up", "up"]);

    let killed = builtin.kill_instance("web", 1).await.unwrap();
    let again = until(&mut builtin, |s| is_online(s) && s.process != Some(killed)).await;
    assert_eq!(again.iter().map(|s| s.restarts).collect::<Vec<_>>(), [Some(0), Some(1), Some(0)]);

    builtin.reload("web").await.unwrap();
    assert!(
        builtin
            .status()
            .await
            .unwrap()
            .iter()
            .zip(&again)
            .all(|(new, old)| { (new.process == old.process) == (new.service == "worker") })
    );
    builtin.restart("worker").await.unwrap();
    builtin.scale("web", 3).await.unwrap();
    assert_eq!(until(&mut builtin, is_online).await.len(), 4);
    assert_eq!(builtin.endpoints().len(), 3);
    assert!(builtin.reload("nobody").await.is_err());

    builtin.stop().await.unwrap();
    assert!(builtin.status().await.unwrap().iter().all(|s| s.process.is_none()));
    builtin.start().await.unwrap();
    until(&mut builtin, is_online).await;
    builtin.teardown().await.unwrap();
    builtin.teardown().await.unwrap();
    assert!(builtin.arm.sandbox.marked_processes().is_empty());
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["program"]);
}

#[tokio::test]
async fn what_outlives_a_killed_supervisor_is_cleared_by_the_next_start() {
    let (_dir, mut builtin) = builtin();
    builtin.start().await.unwrap();
    let before = until(&mut builtin, is_online).await;
    let supervisor = builtin.processes().await.unwrap().overhead_fixed[0];
    builtin.crash_runtime().await.unwrap();
    assert!(!supervisor.is_alive());
    assert!(before.iter().all(|s| s.process.unwrap().is_alive()), "nothing ties them to the supervisor");
    assert!(builtin.status().await.unwrap_err().to_string().contains("not running"));
    builtin.start().await.unwrap();
    assert!(!before.iter().any(|s| s.process.unwrap().is_alive()));
    let after = until(&mut builtin, is_online).await;
    builtin.crash_runtime().await.unwrap();
    builtin.arm.sandbox.kill_marked().unwrap();
    assert!(!after.iter().any(|s| s.process.unwrap().is_alive()));
    builtin.teardown().await.unwrap();
}

#[tokio::test]
async fn a_supervisor_that_ends_at_once_is_reported_with_its_words() {
    let (dir, mut builtin) = builtin();
    fs::write(dir.path().join("program"), "#!/bin/sh\necho no such luck >&2\nexit 9\n").unwrap();
    match builtin.start().await.unwrap_err() {
        RuntimeError::Command { status, output, .. } => {
            assert!(status.contains('9') && output == "no such luck", "{status} {output}");
        }
        other => panic!("{other}"),
    }
    builtin.teardown().await.unwrap();
}

#[tokio::test]
async fn what_cannot_work_is_refused_before_a_start() {
    let (dir, mut builtin) = builtin();
    fs::remove_file(dir.path().join("program")).unwrap();
    assert!(matches!(builtin.probe_environment().await, Err(RuntimeError::Missing { .. })));
    builtin.arm.sandbox = Sandbox::existing(dir.path().join("x".repeat(100)));
    assert!(builtin.prepare().await.unwrap_err().to_string().contains("at most 106 bytes"));
    builtin.arm.sandbox = Sandbox::existing(dir.path().to_owned());
    let mut workload = (*builtin.arm.workload).clone();
    workload.services[1].app = None;
    builtin.arm.workload = Arc::new(workload);
    assert!(matches!(builtin.prepare().await, Err(RuntimeError::WorkloadLacks { .. })));
}
