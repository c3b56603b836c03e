//! The real PM2 on real Node apps. Each test has a PM2 daemon of its own.

use std::{env, fs, os::unix::fs::PermissionsExt as _, path::Path, time::Instant};

use qbench::{
    model::{
        process::{InstanceState, InstanceStatus, ProcessId},
        target::RuntimeKind,
        workload::{ExecMode, Service},
    },
    runtime::{Arm, Runtime as _, RuntimeError, Sandbox, pm2::Pm2},
};
use serde_json::json;

use crate::arms::{ArmFolder, app, arm, eventually, get, service, until_ready};

/// Answers its pid and the release, as read at its start.
const SERVER: &str = r#"
const release = require("fs").readFileSync(process.env.RELEASE_FILE, "utf8");
const server = require("http").createServer((request, response) => response.end(`${process.pid} ${release}`));
process.on("SIGINT", () => { server.close(() => process.exit(0)); server.closeIdleConnections(); });
server.listen(process.env.PORT, "127.0.0.1", () => console.log("serving"));
"#;

/// Whether there is a PM2 to test with; its absence fails where it is required.
async fn pm2_is_here() -> bool {
    let folder = ArmFolder::new();
    let probed = Pm2::new(arm(folder.path(), RuntimeKind::Pm2, Vec::new())).probe_environment().await;
    match probed {
        Ok(identity) => {
            assert!(identity.version.starts_with(|c: char| c.is_ascii_digit()), "{identity:?}");
            true
        }
        Err(RuntimeError::Missing { reason, hint, .. }) => {
            let required = env::var("QBENCH_TEST_REQUIRE").is_ok_and(|names| names.contains("pm2"));
            assert!(!required, "PM2 is required here: {reason}; {hint}");
            eprintln!("skipped: {reason}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

fn node(folder: &Path, name: &str, exec_mode: ExecMode, instances: u32) -> Service {
    fs::write(folder.join("server.js"), SERVER).unwrap();
    let mut app = app(folder, "node", "server.js");
    app.exec_mode = exec_mode;
    app.instances = instances;
    app.raw = keys(&json!({"name": name, "script": "server.js", "instances": instances}));
    service(name, app)
}

fn keys(block: &serde_json::Value) -> serde_json::Map<String, serde_json::Value> {
    block.as_object().cloned().unwrap_or_default()
}

fn with(services: impl Fn(&Path) -> Vec<Service>) -> (ArmFolder, Arm) {
    let folder = ArmFolder::new();
    let arm = arm(folder.path(), RuntimeKind::Pm2, services(folder.path()));
    arm.sandbox.deploy("one").unwrap();
    (folder, arm)
}

fn a_cluster_and_a_fork(folder: &Path) -> Vec<Service> {
    vec![node(folder, "web", ExecMode::Cluster, 2), node(folder, "api", ExecMode::Fork, 1)]
}

async fn online(pm2: &mut Pm2, service: &str) -> Vec<InstanceStatus> {
    let mut status = pm2.status().await.unwrap();
    status.retain(|status| status.service == service && status.state == InstanceState::Online);
    status
}

fn processes_of(status: &[InstanceStatus]) -> Vec<ProcessId> {
    status.iter().filter_map(|status| status.process).collect()
}

fn assert_nothing_is_left(sandbox: &Sandbox) {
    assert_eq!(sandbox.marked_processes(), []);
    assert!(!sandbox.dir().join("pm2").exists());
}

#[tokio::test]
async fn from_start_to_teardown() {
    if !pm2_is_here().await {
        return;
    }
    let (_folder, arm) = with(a_cluster_and_a_fork);
    let sandbox = arm.sandbox.clone();
    let mut pm2 = Pm2::new(arm);
    pm2.prepare().await.unwrap();
    let began = Instant::now();
    pm2.start().await.unwrap();
    let started = began.elapsed();
    let ready = until_ready(&pm2).await;
    eprintln!("start {started:?}, then ready after {ready:?}");

    // The cluster shares one address, the fork has its own.
    let endpoints = pm2.endpoints();
    assert_eq!(
        endpoints.iter().map(|e| (e.service.as_str(), e.instance)).collect::<Vec<_>>(),
        [("web", 0), ("api", 0)]
    );
    let status = pm2.status().await.unwrap();
    let seen: Vec<_> = status.iter().map(|s| (s.service.as_str(), s.instance, s.state, s.restarts)).collect();
    let fresh = (InstanceState::Online, Some(0));
    assert_eq!(
        seen,
        [("api", 0, fresh.0, fresh.1), ("web", 0, fresh.0, fresh.1), ("web", 1, fresh.0, fresh.1)]
    );
    assert!(status.iter().all(|status| status.uptime.is_some()));

    let processes = pm2.processes().await.unwrap();
    assert_eq!(processes.service.len(), 3);
    assert_eq!(processes.overhead_fixed.len(), 1);
    assert!(processes.overhead_per_instance.is_empty());
    // The mark is what everything is found again by, and PM2 and Node both rewrite their command line.
    let marked = sandbox.marked_processes();
    assert!(
        processes.service.iter().chain(&processes.overhead_fixed).all(|process| marked.contains(process))
    );

    let (lines, _) = eventually("a line of the log", async || {
        Some(pm2.logs("web", 10).await.unwrap()).filter(|lines| lines.iter().any(|line| line == "serving"))
    })
    .await;
    assert!(lines.len() <= 10);

    let began = Instant::now();
    pm2.stop().await.unwrap();
    eprintln!("stop {:?}", began.elapsed());
    assert_eq!(sandbox.marked_processes(), []);
    assert_eq!(pm2.status().await.unwrap(), []);

    pm2.start().await.unwrap();
    until_ready(&pm2).await;
    assert_eq!(online(&mut pm2, "web").await.len(), 2);

    let began = Instant::now();
    pm2.teardown().await.unwrap();
    eprintln!("teardown {:?}", began.elapsed());
    assert_nothing_is_left(&sandbox);
    pm2.teardown().await.unwrap();
}

#[tokio::test]
async fn a_reload_and_a_restart_replace_every_process() {
    if !pm2_is_here().await {
        return;
    }
    let (_folder, arm) = with(a_cluster_and_a_fork);
    let sandbox = arm.sandbox.clone();
    let mut pm2 = Pm2::new(arm);
    pm2.start().await.unwrap();
    until_ready(&pm2).await;

    for (release, service) in [("two", "web"), ("three", "api")] {
        let before = processes_of(&online(&mut pm2, service).await);
        sandbox.deploy(release).unwrap();
        let began = Instant::now();
        pm2.reload(service).await.unwrap();
        eprintln!("reload of {service} {:?}", began.elapsed());
        until_ready(&pm2).await;
        let after = processes_of(&online(&mut pm2, service).await);
        assert_eq!(after.len(), before.len());
        assert!(before.iter().all(|process| !after.contains(process)));
        let address = pm2.endpoints().iter().find(|e| e.service == service).unwrap().address;
        assert!(get(address).unwrap().ends_with(release));
    }

    for service in ["web", "api"] {
        let before = processes_of(&online(&mut pm2, service).await);
        let began = Instant::now();
        pm2.restart(service).await.unwrap();
        eprintln!("restart of {service} {:?}", began.elapsed());
        until_ready(&pm2).await;
        let after = processes_of(&online(&mut pm2, service).await);
        assert_eq!(after.len(), before.len());
        assert!(before.iter().all(|process| !after.contains(process)));
    }
    assert!(matches!(pm2.reload("nobody").await, Err(RuntimeError::NoInstance { .. })));
    pm2.teardown().await.unwrap();
    assert_nothing_is_left(&sandbox);
}

#[tokio::test]
async fn a_killed_instance_comes_back() {
    if !pm2_is_here().await {
        return;
    }
    let (_folder, arm) = with(a_cluster_and_a_fork);
    let mut pm2 = Pm2::new(arm);
    pm2.start().await.unwrap();
    until_ready(&pm2).await;
    for (service, instance) in [("web", 1), ("api", 0)] {
        let instances = online(&mut pm2, service).await.len();
        let killed = pm2.kill_instance(service, instance).await.unwrap();
        let (back, after) = eventually("the instance back", async || {
            let online = online(&mut pm2, service).await;
            let back = online.iter().find(|status| status.instance == instance)?.clone();
            (online.len() == instances && back.process.is_some_and(|process| process != killed))
                .then_some(back)
        })
        .await;
        eprintln!("{service} killed, back after {after:?}");
        assert_eq!(back.restarts, Some(1));
    }
    until_ready(&pm2).await;
    assert!(matches!(pm2.kill_instance("web", 7).await, Err(RuntimeError::NoInstance { .. })));
    pm2.teardown().await.unwrap();
}

#[tokio::test]
async fn forked_instances_have_ports_of_their_own_also_when_scaled() {
    if !pm2_is_here().await {
        return;
    }
    let (_folder, arm) = with(|folder| vec![node(folder, "api", ExecMode::Fork, 2)]);
    let first = arm.ports["api"];
    let mut pm2 = Pm2::new(arm);
    pm2.start().await.unwrap();
    until_ready(&pm2).await;
    let ports = |pm2: &Pm2| -> Vec<u16> { pm2.endpoints().iter().map(|e| e.address.port()).collect() };
    assert_eq!(ports(&pm2), [first, first + 1]);
    pm2.reload("api").await.unwrap();
    until_ready(&pm2).await;
    pm2.scale("api", 3).await.unwrap();
    assert_eq!(ports(&pm2), [first, first + 1, first + 2]);
    until_ready(&pm2).await;
    pm2.scale("api", 3).await.unwrap();
    pm2.scale("api", 1).await.unwrap();
    until_ready(&pm2).await;
    let left = pm2.status().await.unwrap();
    assert_eq!(left.iter().map(|status| status.instance).collect::<Vec<_>>(), [0]);
    assert_eq!(ports(&pm2).len(), 1);
    pm2.teardown().await.unwrap();
}

#[tokio::test]
async fn after_a_crash_of_the_daemon_it_starts_again() {
    if !pm2_is_here().await {
        return;
    }
    let (_folder, arm) = with(a_cluster_and_a_fork);
    let sandbox = arm.sandbox.clone();
    let mut pm2 = Pm2::new(arm);
    pm2.start().await.unwrap();
    until_ready(&pm2).await;
    let daemon = pm2.processes().await.unwrap().overhead_fixed[0];
    pm2.crash_runtime().await.unwrap();
    assert!(!daemon.is_alive());
    assert_eq!(pm2.processes().await.unwrap().overhead_fixed, []);
    assert!(pm2.status().await.is_err());

    pm2.start().await.unwrap();
    until_ready(&pm2).await;
    assert_eq!(online(&mut pm2, "web").await.len(), 2);
    pm2.teardown().await.unwrap();
    assert_nothing_is_left(&sandbox);
}

#[tokio::test]
async fn a_start_that_fails_half_way_leaves_nothing_after_teardown() {
    if !pm2_is_here().await {
        return;
    }
    let (_folder, arm) = with(|folder| {
        let mut broken = app(folder, "node", "missing.js");
        broken.raw = keys(&json!({"script": "missing.js"}));
        vec![node(folder, "web", ExecMode::Cluster, 1), service("broken", broken)]
    });
    let sandbox = arm.sandbox.clone();
    let mut pm2 = Pm2::new(arm);
    let error = pm2.start().await.unwrap_err();
    assert!(
        matches!(error, RuntimeError::Command { ref output, .. } if output.contains("missing.js")),
        "{error}"
    );
    pm2.teardown().await.unwrap();
    assert_nothing_is_left(&sandbox);
}

#[tokio::test]
async fn asking_a_wrapper_for_its_version_leaves_no_daemon() {
    if !pm2_is_here().await {
        return;
    }
    let (folder, mut arm) = with(|_| Vec::new());
    let direct = Pm2::new(arm.clone()).probe_environment().await.unwrap();
    let wrapper = folder.path().join("pm2");
    fs::write(&wrapper, format!("#!/bin/sh\nexec {} \"$@\"\n", direct.path)).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o700)).unwrap();
    arm.target.pm2_program = Some(wrapper.clone());
    let sandbox = arm.sandbox.clone();
    let identity = Pm2::new(arm).probe_environment().await.unwrap();
    assert_eq!(identity.version, direct.version);
    assert_eq!(identity.path, wrapper.display().to_string());
    assert_nothing_is_left(&sandbox);
}
