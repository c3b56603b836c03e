//! The built-in supervisor as a runtime, on the real program.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use qbench::{
    model::{
        process::{InstanceState, InstanceStatus, ProcessId},
        target::RuntimeKind,
        workload::Service,
    },
    runtime::{Arm, Runtime as _, RuntimeError, Sandbox, builtin::Builtin},
};

use crate::arms::{ArmFolder, app, arm, eventually, service};

const SERVER: &str = "
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(os.environ['NODE_APP_INSTANCE'].encode())
    def log_message(self, *a): pass
print('up', file=sys.stderr, flush=True)
http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), Handler).serve_forever()
";

/// A web service of two instances and a worker, with times that are never used up.
fn services(folder: &Path) -> Vec<Service> {
    fs::write(folder.join("server.py"), SERVER).unwrap();
    fs::write(folder.join("worker.sh"), "exec sleep 1000").unwrap();
    let app = |program, script, instances| {
        let mut app = app(folder, program, script);
        app.instances = instances;
        app.stop.kill_timeout = Duration::from_secs(20);
        app.listen_timeout = Duration::from_secs(60);
        app.restart.min_uptime = Duration::ZERO;
        app
    };
    let worker = service("worker", app("/bin/sh", "worker.sh", 1));
    vec![service("web", app("/usr/bin/python3", "server.py", 2)), Service { http: None, ..worker }]
}

fn arm_in(folder: &Path) -> Arm {
    arm(folder, RuntimeKind::Builtin, services(folder))
}

fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_qbench").into()
}

async fn until(builtin: &mut Builtin, wanted: impl Fn(&InstanceStatus) -> bool) -> Vec<InstanceStatus> {
    let all = async || builtin.status().await.ok().filter(|status| status.iter().all(&wanted));
    eventually("instances as they should be", all).await.0
}

fn is_online(status: &InstanceStatus) -> bool {
    status.state == InstanceState::Online
}

fn processes(status: &[InstanceStatus]) -> Vec<ProcessId> {
    status.iter().filter_map(|status| status.process).collect()
}

#[tokio::test]
async fn the_whole_of_a_life() {
    let folder = ArmFolder::new();
    let arm = arm_in(folder.path());
    let sandbox = arm.sandbox.clone();
    let mut builtin = Builtin::new(arm, program());
    assert_eq!(builtin.probe_environment().await.unwrap().runtime, RuntimeKind::Builtin);
    builtin.prepare().await.unwrap();
    builtin.start().await.unwrap();
    let status = until(&mut builtin, is_online).await;
    assert_eq!(status.len(), 3);
    let mode = |name: &str| fs::metadata(sandbox.dir().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("pm"), mode("pm/control.sock"), mode("supervisor.log")), (0o700, 0o600, 0o600));

    let found = builtin.processes().await.unwrap();
    // The supervisor is its keeper and its brain.
    assert_eq!((found.service.len(), found.overhead_fixed.len()), (3, 2));
    assert!(found.service.iter().chain(&found.overhead_fixed).all(|process| process.is_alive()));
    let endpoints = builtin.endpoints();
    assert_eq!(endpoints.iter().map(|e| e.instance).collect::<Vec<_>>(), [0, 1]);
    assert!(endpoints.iter().all(|e| TcpStream::connect(e.address).is_ok()));
    assert_eq!(builtin.logs("web", 9).await.unwrap(), ["up", "up"]);

    let killed = builtin.kill_instance("web", 1).await.unwrap();
    let again = until(&mut builtin, |s| is_online(s) && s.process != Some(killed)).await;
    assert_eq!(again.iter().map(|s| s.restarts).collect::<Vec<_>>(), [Some(0), Some(1), Some(0)]);

    builtin.reload("web").await.unwrap();
    let reloaded = builtin.status().await.unwrap();
    for (new, old) in reloaded.iter().zip(&again) {
        assert_eq!(new.process == old.process, new.service == "worker");
    }
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
    assert!(sandbox.marked_processes().is_empty());
    let left: Vec<_> = fs::read_dir(sandbox.dir()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["release"]);
}

#[tokio::test]
async fn a_crash_of_the_supervisor_touches_nothing() {
    let folder = ArmFolder::new();
    let mut builtin = Builtin::new(arm_in(folder.path()), program());
    builtin.start().await.unwrap();
    let before = until(&mut builtin, is_online).await;
    for _ in 0..3 {
        let overhead = builtin.processes().await.unwrap().overhead_fixed;
        builtin.crash_runtime().await.unwrap();
        let after = until(&mut builtin, is_online).await;
        assert_eq!(processes(&after), processes(&before));
        let now = builtin.processes().await.unwrap().overhead_fixed;
        assert!(now[0] == overhead[0] && now[1] != overhead[1], "the keeper stays, the brain is another");
        assert!(!overhead[1].is_alive());
    }
    builtin.reload("web").await.unwrap();
    builtin.stop().await.unwrap();
    assert!(!processes(&before).iter().any(|process| process.is_alive()));
    builtin.teardown().await.unwrap();
}

#[tokio::test]
async fn what_is_left_of_one_whose_processes_were_all_killed_is_cleared_by_the_next_start() {
    let folder = ArmFolder::new();
    let arm = arm_in(folder.path());
    let mut builtin = Builtin::new(arm, program());
    builtin.start().await.unwrap();
    let before = until(&mut builtin, is_online).await;
    let overhead = builtin.processes().await.unwrap().overhead_fixed;
    // The brain first would only be replaced, the keeper first only succeeded: stopped, both can be killed.
    for process in &overhead {
        let pid = rustix::process::Pid::from_raw(process.pid.cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    }
    for process in &overhead {
        // A stopped brain whose keeper dies is hung up on by the kernel, so it may be gone already.
        process.kill();
    }
    eventually("the end of the supervisor", async || {
        (!overhead.iter().any(|process| process.is_alive())).then_some(())
    })
    .await;
    assert!(
        processes(&before).iter().all(|process| process.is_alive()),
        "nothing ties them to the supervisor"
    );
    assert!(builtin.status().await.unwrap_err().to_string().contains("not running"));
    builtin.start().await.unwrap();
    assert!(!processes(&before).iter().any(|process| process.is_alive()));
    until(&mut builtin, is_online).await;
    builtin.teardown().await.unwrap();
}

#[tokio::test]
async fn a_supervisor_that_ends_at_once_is_reported_with_its_words() {
    let folder = ArmFolder::new();
    let mute = folder.path().join("program");
    fs::write(&mute, "#!/bin/sh\necho no such luck >&2\nexit 9\n").unwrap();
    fs::set_permissions(&mute, fs::Permissions::from_mode(0o700)).unwrap();
    let mut builtin = Builtin::new(arm_in(folder.path()), mute);
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
    let folder = ArmFolder::new();
    let missing = folder.path().join("missing");
    let mut builtin = Builtin::new(arm_in(folder.path()), missing);
    assert!(matches!(builtin.probe_environment().await, Err(RuntimeError::Missing { .. })));

    let deep = Sandbox::existing(folder.path().join("x".repeat(100)));
    let mut builtin = Builtin::new(Arm { sandbox: deep, ..arm_in(folder.path()) }, program());
    assert!(builtin.prepare().await.unwrap_err().to_string().contains("at most 106 bytes"));

    let arm = arm_in(folder.path());
    let mut workload = (*arm.workload).clone();
    workload.services[1].app = None;
    let arm = Arm { workload: Arc::new(workload), ports: BTreeMap::new(), ..arm };
    let mut builtin = Builtin::new(arm, program());
    assert!(matches!(builtin.prepare().await, Err(RuntimeError::WorkloadLacks { .. })));
}
