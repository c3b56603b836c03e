//! What is looked at from time to time: memory, whether an instance still answers, the calendar.

use super::{
    Running,
    desk::{LIMIT, get, warning},
    fixture::{python, server, sleeper, with_env},
    supervisor::{AppSpec, HttpCheck, InstanceState, Liveness, Request, Select},
};

#[tokio::test]
async fn what_holds_more_memory_than_it_may_is_restarted() {
    // The first process holds next to nothing, its child everything; the second time it is content with little.
    let script = "import os, subprocess, sys, time
hog = 'import time; held = b\"x\" * (200 << 20); time.sleep(100000)'
if not os.path.exists('once'):
    open('once', 'w').close()
    subprocess.run([sys.executable, '-c', hog])
time.sleep(100000)";
    let mut running = Running::new().await;
    let mut spec = python(running.path(), script);
    spec.restart.max_memory_bytes = Some(100 << 20);
    let mut subscriber = running.subscriber().await;
    running.done(Request::Apply { apps: vec![spec] }).await;
    running.done(Request::Start(Select::All)).await;
    let told = warning(&mut subscriber).await;
    assert!(told.starts_with("instance 0 of app holds ") && told.contains("more than 104857600"), "{told}");
    let report = running.until(|r| r.state == InstanceState::Online && r.restarts == 1).await.remove(0);
    assert_eq!(report.last_end.as_deref(), Some("was ended by signal 2"));
    running.end().await;
}

#[tokio::test]
async fn an_instance_that_hangs_is_replaced() {
    let mut running = Running::new().await;
    let mut spec = server(running.path(), 1);
    let http = HttpCheck { path: "/health".to_owned() };
    spec.liveness = Some(Liveness { http, interval_ms: 50, timeout_ms: 1_500, failures: 2 });
    let before = running.run(vec![spec]).await;
    let mut subscriber = running.subscriber().await;
    running.folder.touch("hung");
    let told = warning(&mut subscriber).await;
    assert_eq!(told, "instance 0 of app was killed: it did not answer /health 2 times in a row");
    running.folder.remove("hung");
    let after = running.until(|r| r.state == InstanceState::Online && r.restarts == 1).await;
    assert_ne!(after[0].pid, before[0].pid);
    running.end().await;
}

#[tokio::test]
async fn the_calendar_restarts_what_runs() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let mut spec = sleeper(&dir);
    spec.restart.cron = Some("* * * * * *".to_owned());
    let stopped = AppSpec { autostart: false, name: "stopped".to_owned(), ..spec.clone() };
    running.done(Request::Apply { apps: vec![spec, stopped] }).await;
    running.done(Request::Start(Select::All)).await;
    let reports = running.until(|r| r.restarts >= 2 || r.app == "stopped").await;
    assert_eq!((reports[1].state, reports[1].restarts), (InstanceState::Stopped, 0));
    running.end().await;
}

#[tokio::test]
async fn ready_is_what_answers_200_and_nothing_before_it() {
    let mut running = Running::new().await;
    let spec = with_env(server(running.path(), 1), &[]);
    let port = spec.port.as_ref().unwrap().first;
    running.folder.touch("hung");
    running.done(Request::Apply { apps: vec![spec] }).await;
    running.done(Request::Start(Select::All)).await;
    let connected = async {
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, connected).await.unwrap();
    assert_eq!(running.status().await[0].state, InstanceState::Launching, "it listens, and answers nobody");
    running.folder.remove("hung");
    running.until_online().await;
    assert!(get(port).await.is_some());
    running.end().await;
}
