//! How instances are told to end.

use std::{fs, time::Duration};

use tokio::time::Instant;

use super::{
    Running,
    desk::{eventually, exists, kill},
    fixture::{app, node, out_log, shell},
    supervisor::{InstanceState, Request, Select},
};

#[tokio::test]
async fn what_ignores_sigint_is_killed_after_the_kill_timeout() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let mut spec = shell(&dir, "trap '' INT; echo deaf; while :; do sleep 1; done");
    spec.stop.kill_timeout_ms = 200;
    let before = running.run(vec![spec]).await;
    running.lines(&out_log(&dir, 0), 1).await;
    let began = Instant::now();
    running.done(Request::Stop(Select::All)).await;
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert!(!exists(before[0].pid.unwrap()));
    let report = running.status().await.remove(0);
    let end = (report.state, report.last_end.as_deref());
    assert_eq!(end, (InstanceState::Stopped, Some("was ended by signal 9")));
    running.end().await;
}

#[tokio::test]
async fn sigint_gives_a_process_time_to_end_well() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let polite = "trap 'echo bye >> said; exit 0' INT; echo up; while :; do sleep 0.01; done";
    running.run(vec![shell(&dir, polite)]).await;
    running.lines(&out_log(&dir, 0), 1).await;
    running.done(Request::Stop(Select::All)).await;
    assert_eq!(running.folder.read("said"), "bye\n");
    assert_eq!(running.status().await[0].last_end.as_deref(), Some("exited with status 0"));
    running.end().await;
}

/// The pids that an instance wrote, in the last of so many lines.
async fn written_pids(running: &Running, count: usize) -> Vec<u32> {
    let line = running.lines(&out_log(running.path(), 0), count).await.pop().unwrap();
    let pids: Vec<u32> = line.split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.iter().all(|pid| exists(*pid)), "{line}");
    pids
}

#[tokio::test]
async fn descendants_end_with_a_stop_and_with_a_crash() {
    // One that ignores SIGINT in the same session, and one in a session of its own.
    let script = "(trap '' INT; exec sleep 100000) & a=$!; setsid sleep 100000 & b=$!
        trap 'exit 0' INT; echo $a $b; while :; do sleep 0.01; done";
    let mut running = Running::new().await;
    let mut spec = shell(running.path(), script);
    spec.stop.kill_timeout_ms = 300;
    running.run(vec![spec]).await;
    let pids = written_pids(&running, 1).await;
    running.done(Request::Stop(Select::All)).await;
    assert!(!pids.iter().any(|pid| exists(*pid)));

    fs::remove_file(out_log(running.path(), 0)).unwrap();
    running.done(Request::ReopenLogs).await;
    running.done(Request::Start(Select::All)).await;
    let pids = written_pids(&running, 1).await;
    kill(running.pids().await[0]);
    running.until(|r| r.state == InstanceState::Online && r.restarts == 1).await;
    assert!(!exists(pids[0]), "of the crashed leader's session");
    // Nothing ties a process in a session of its own to a leader that is gone.
    kill(pids[1]);
    eventually("its end", || !exists(pids[1])).await;
    // One that is told to end while it is still beginning could start more after it was looked at.
    written_pids(&running, 2).await;
    running.end().await;
}

#[tokio::test]
async fn without_treekill_descendants_are_left_alone() {
    let script = "sleep 100000 & echo $!; trap 'exit 0' INT; while :; do sleep 0.01; done";
    let mut running = Running::new().await;
    let mut spec = shell(running.path(), script);
    spec.stop.tree = false;
    let before = running.run(vec![spec]).await;
    let pids = written_pids(&running, 1).await;
    running.done(Request::Stop(Select::All)).await;
    assert!(!exists(before[0].pid.unwrap()));
    assert!(exists(pids[0]));
    kill(pids[0]);
    eventually("its end", || !exists(pids[0])).await;
    running.end().await;
}

#[tokio::test]
async fn grandchildren_end_too() {
    let script = "import subprocess, sys, time
depth = int(sys.argv[1])
if depth: subprocess.run([sys.executable, '-c', open('nest.py').read(), str(depth - 1)])
else:
    import os; print(os.getpid(), flush=True); time.sleep(100000)";
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    fs::write(dir.join("nest.py"), script).unwrap();
    let mut spec = app(&dir, "/usr/bin/python3", &["nest.py", "3"]);
    spec.stop.kill_timeout_ms = 600_000;
    running.run(vec![spec]).await;
    let pids = written_pids(&running, 1).await;
    running.done(Request::Stop(Select::All)).await;
    assert!(!exists(pids[0]));
    running.end().await;
}

#[tokio::test]
async fn a_shutdown_may_be_a_message() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let script = "
process.on('SIGINT', () => process.exit(9));
process.on('message', (message) => {
  console.log(message);
  if (message === 'shutdown') setTimeout(() => process.exit(0), 50);
});
console.log('up');";
    fs::write(dir.join("app.js"), script).unwrap();
    let Some(mut spec) = node(&dir, "app.js") else { return running.end().await };
    spec.stop.by_message = true;
    running.run(vec![spec]).await;
    running.lines(&out_log(&dir, 0), 1).await;
    running.done(Request::Stop(Select::All)).await;
    assert_eq!(running.status().await[0].last_end.as_deref(), Some("exited with status 0"));
    assert_eq!(running.lines(&out_log(&dir, 0), 2).await, ["up", "shutdown"]);
    running.end().await;
}

#[tokio::test]
async fn what_does_not_listen_to_the_message_is_killed() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    fs::write(dir.join("app.js"), "process.on('message', () => {}); console.log('up');").unwrap();
    let Some(mut spec) = node(&dir, "app.js") else { return running.end().await };
    spec.stop.by_message = true;
    spec.stop.kill_timeout_ms = 300;
    running.run(vec![spec]).await;
    running.lines(&out_log(&dir, 0), 1).await;
    running.done(Request::Stop(Select::All)).await;
    assert_eq!(running.status().await[0].last_end.as_deref(), Some("was ended by signal 9"));
    running.end().await;
}
