//! The bare runtime on real processes.

use std::{fs, path::Path};

use qbench::{
    model::{process::InstanceState, target::RuntimeKind, workload::Service},
    runtime::{Runtime as _, RuntimeError, bare::Bare},
};

use crate::arms::{ArmFolder, app, arm, eventually, get, service, until_ready};

/// Answers its pid, its instance and the release, as read at its start.
const SERVER: &str = r#"
import http.server, os
release = open(os.environ["RELEASE_FILE"]).read()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{os.getpid()} {os.environ['NODE_APP_INSTANCE']} {release}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
print("serving", os.environ["PORT"], flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

fn web(folder: &Path) -> Service {
    fs::write(folder.join("server.py"), SERVER).unwrap();
    let mut app = app(folder, "python3", "server.py");
    app.instances = 2;
    service("web", app)
}

/// A worker that only SIGKILL ends, as it only ends its child.
fn deaf(folder: &Path) -> Service {
    let script = "trap '' INT TERM\nsleep 600 &\necho $! > child\nwhile :; do sleep 600; done\n";
    fs::write(folder.join("deaf.sh"), script).unwrap();
    let mut app = app(folder, "sh", "deaf.sh");
    app.stop.kill_timeout = std::time::Duration::from_millis(200);
    Service { http: None, ..service("deaf", app) }
}

#[tokio::test]
async fn instances_answer_on_their_own_ports_and_a_reload_replaces_them() {
    let folder = ArmFolder::new();
    let arm = arm(folder.path(), RuntimeKind::Bare, vec![web(folder.path())]);
    let sandbox = arm.sandbox.clone();
    sandbox.deploy("one").unwrap();
    let mut bare = Bare::new(arm);
    bare.prepare().await.unwrap();
    bare.start().await.unwrap();
    until_ready(&bare).await;

    let before = bare.status().await.unwrap();
    assert_eq!(before.len(), 2);
    for (endpoint, status) in bare.endpoints().iter().zip(&before) {
        assert_eq!((endpoint.instance, status.state), (status.instance, InstanceState::Online));
        let pid = status.process.unwrap().pid;
        assert_eq!(get(endpoint.address).unwrap(), format!("{pid} {} one", status.instance));
    }
    let roots: Vec<_> = before.iter().filter_map(|status| status.process).collect();
    let processes = bare.processes().await.unwrap();
    assert_eq!(processes.service, roots);
    assert!(processes.overhead_fixed.is_empty());
    assert!(bare.logs("web", 10).await.unwrap().iter().any(|line| line.starts_with("serving ")));

    sandbox.deploy("two").unwrap();
    bare.reload("web").await.unwrap();
    until_ready(&bare).await;
    assert!(bare.endpoints().iter().all(|endpoint| get(endpoint.address).unwrap().ends_with(" two")));
    for (old, new) in before.iter().zip(bare.status().await.unwrap()) {
        assert_ne!(old.process, new.process);
        assert_eq!(new.restarts, Some(1));
    }

    bare.teardown().await.unwrap();
    assert!(sandbox.marked_processes().is_empty() && !sandbox.dir().join("logs").exists());
    bare.teardown().await.unwrap();
}

#[tokio::test]
async fn what_is_killed_stays_dead_until_the_next_start() {
    let folder = ArmFolder::new();
    let arm = arm(folder.path(), RuntimeKind::Bare, vec![web(folder.path())]);
    let sandbox = arm.sandbox.clone();
    sandbox.deploy("one").unwrap();
    let mut bare = Bare::new(arm);
    bare.start().await.unwrap();
    until_ready(&bare).await;

    let killed = bare.kill_instance("web", 1).await.unwrap();
    // Not only dead but reaped: a zombie would still have its folder.
    eventually("the killed process reaped", async || {
        (!Path::new(&format!("/proc/{}", killed.pid)).exists()).then_some(())
    })
    .await;
    let status = bare.status().await.unwrap();
    assert_eq!([status[0].state, status[1].state], [InstanceState::Online, InstanceState::Errored]);
    assert_eq!(status[1].process, None);
    assert_eq!(bare.processes().await.unwrap().service.len(), 1);
    assert!(matches!(bare.kill_instance("web", 1).await, Err(RuntimeError::NoInstance { instance: 1, .. })));

    bare.stop().await.unwrap();
    assert!(sandbox.marked_processes().is_empty());
    assert!(bare.status().await.unwrap().iter().all(|status| status.state == InstanceState::Stopped));
    bare.start().await.unwrap();
    until_ready(&bare).await;
    bare.teardown().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_ignores_signals_is_killed_with_its_child() {
    let folder = ArmFolder::new();
    let arm = arm(folder.path(), RuntimeKind::Bare, vec![deaf(folder.path())]);
    let sandbox = arm.sandbox.clone();
    let mut bare = Bare::new(arm);
    bare.start().await.unwrap();
    let child = folder.path().join("child");
    eventually("the child started", async || {
        fs::read_to_string(&child).ok().filter(|text| text.ends_with('\n'))
    })
    .await;
    bare.restart("deaf").await.unwrap();
    let status = bare.status().await.unwrap();
    assert_eq!((status[0].state, status[0].restarts), (InstanceState::Online, Some(1)));
    bare.stop().await.unwrap();
    assert!(sandbox.marked_processes().is_empty());
    bare.teardown().await.unwrap();
}

#[tokio::test]
async fn what_needs_a_supervisor_is_unsupported() {
    let folder = ArmFolder::new();
    let mut bare = Bare::new(arm(folder.path(), RuntimeKind::Bare, vec![deaf(folder.path())]));
    bare.start().await.unwrap();
    assert!(matches!(bare.scale("deaf", 2).await, Err(RuntimeError::Unsupported { .. })));
    assert!(matches!(bare.crash_runtime().await, Err(RuntimeError::Unsupported { .. })));
    assert!(matches!(bare.reload("nobody").await, Err(RuntimeError::NoInstance { .. })));
    bare.teardown().await.unwrap();
}

#[tokio::test]
async fn a_start_that_fails_half_way_is_torn_down() {
    let folder = ArmFolder::new();
    let broken = service("broken", app(folder.path(), "/no/such/program", "x"));
    let arm = arm(folder.path(), RuntimeKind::Bare, vec![deaf(folder.path()), broken]);
    let sandbox = arm.sandbox.clone();
    let mut bare = Bare::new(arm);
    let error = bare.start().await.unwrap_err();
    assert!(matches!(error, RuntimeError::System { ref action, .. } if action.contains("/no/such/program")));
    assert!(!sandbox.marked_processes().is_empty());
    bare.teardown().await.unwrap();
    assert!(sandbox.marked_processes().is_empty());
}
