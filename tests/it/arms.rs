//! Arms built by hand, for the tests of single runtimes.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, Instant},
};

use qbench::{
    model::{
        request::Variables,
        target::{RuntimeKind, Target},
        workload::{App, HttpService, Service, Workload},
    },
    runtime::{Arm, Runtime, Sandbox, ports::PortAllocator},
};
use tempfile::TempDir;

/// Longer than anything takes, so that only a real failure ends a test by it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// One for all tests, as they run at the same time.
static PORTS: LazyLock<Mutex<PortAllocator>> = LazyLock::new(|| Mutex::new(PortAllocator::new(None)));

/// A folder for an arm. When a test fails half-way, its processes end with it.
pub(crate) struct ArmFolder(TempDir);

impl ArmFolder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for ArmFolder {
    fn drop(&mut self) {
        let _ = sandbox_in(self.path()).kill_marked();
    }
}

fn sandbox_in(folder: &Path) -> Sandbox {
    Sandbox::existing(folder.join("arm"))
}

/// An app run as `program args`, in fork mode, with PM2's defaults.
pub(crate) fn app(folder: &Path, program: &str, script: &str) -> App {
    let mut app = App::of(script, program.into(), folder.to_owned());
    app.args = vec![folder.join(script).display().to_string()];
    app.script = folder.join(script);
    app.is_binary = false;
    app
}

/// A service that answers HTTP.
pub(crate) fn service(name: &str, app: App) -> Service {
    let http = HttpService {
        health: "/".to_owned(),
        release: None,
        requests: Vec::new(),
        variables: Variables::default(),
    };
    Service { name: name.to_owned(), http: Some(http), env: BTreeMap::new(), app: Some(app), compose: None }
}

/// An arm with free ports, and its sandbox in `folder`.
pub(crate) fn arm(folder: &Path, runtime: RuntimeKind, services: Vec<Service>) -> Arm {
    let workload = Workload {
        name: "test".to_owned(),
        root: folder.to_owned(),
        port_variable: "PORT".to_owned(),
        first_port: None,
        release_variable: Some("RELEASE_FILE".to_owned()),
        services,
        ecosystem: None,
        compose: None,
        digests: BTreeMap::new(),
    };
    let mut allocator = PORTS.lock().unwrap();
    let ports = allocator.for_arm(&workload).unwrap();
    // As many again stay unused behind them, for instances that are added by scaling.
    allocator.for_arm(&workload).unwrap();
    let sandbox = sandbox_in(folder);
    fs::create_dir_all(sandbox.release_dir()).unwrap();
    Arm {
        name: runtime.name().to_owned(),
        target: Target::of(runtime),
        ports,
        workload: Arc::new(workload),
        sandbox,
    }
}

/// The body of a 200 to `GET /` on a connection of its own; `None` for anything else.
pub(crate) fn get(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.split(' ').nth(1).filter(|status| *status == "200")?;
    Some(body.to_owned())
}

/// Asks until there is an answer, and says how long that took.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> (T, Duration) {
    let asked = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return (answer, asked.elapsed());
        }
        assert!(asked.elapsed() < PATIENCE, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Until every endpoint answers.
pub(crate) async fn until_ready(runtime: &dyn Runtime) -> Duration {
    let endpoints = runtime.endpoints();
    let all = || endpoints.iter().all(|endpoint| get(endpoint.address).is_some());
    eventually("an answer of every endpoint", async || all().then_some(())).await.1
}
