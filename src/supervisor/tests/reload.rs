//! Reloads in place: each process is stopped before its successor starts.

use super::{
    Running,
    desk::{LIMIT, event},
    fixture::{out_log, server, shell, with_env},
    supervisor::{AppSpec, Event, InstanceState, Request, Select},
};

fn reload() -> Request {
    Request::Reload(Select::App("app".to_owned()))
}

#[tokio::test]
async fn it_replaces_one_instance_after_the_other() {
    let mut running = Running::new().await;
    let spec = server(running.path(), 3);
    let before = running.run(vec![spec]).await;
    let mut subscriber = running.subscriber().await;
    running.done(reload()).await;
    let after = running.until(|r| r.state == InstanceState::Online && r.restarts == 1).await;
    assert!(after.iter().zip(&before).all(|(after, before)| after.pid != before.pid));
    let mut changes = Vec::new();
    let failed = event(&mut subscriber, |event| match event {
        Event::Changed(report) => {
            changes.push((report.instance, report.state));
            None
        }
        Event::Reloaded { app, failed } => Some((app, failed)),
        _ => None,
    });
    assert_eq!(failed.await, ("app".to_owned(), None));
    let steps = [InstanceState::Stopping, InstanceState::Launching, InstanceState::Online];
    let expected: Vec<_> = (0..3).flat_map(|instance| steps.map(|state| (instance, state))).collect();
    assert_eq!(changes, expected);
    running.end().await;
}

#[tokio::test]
async fn onto_a_broken_release_it_keeps_the_others_and_says_why() {
    let mut running = Running::new().await;
    let mut spec = server(running.path(), 2);
    spec.restart.delay_ms = 50;
    let before = running.run(vec![spec]).await;
    running.folder.touch("broken");
    let reason = running.refused(reload()).await;
    assert!(reason.starts_with("app: the reload failed: the new process exited with status 7"), "{reason}");
    // The release of before is broken too: it is the same folder.
    assert!(reason.contains("1 instances do not start with the former release either"), "{reason}");
    assert_eq!(running.refused(Request::Await(Select::All)).await, reason);
    assert_eq!(running.status().await[1].pid, before[1].pid);
    // Once the release is repaired, the instance comes back by itself.
    running.folder.remove("broken");
    let after = running.until_online().await;
    assert_eq!(after[1].pid, before[1].pid);
    running.done(reload()).await;
    running.done(Request::Await(Select::All)).await;
    running.end().await;
}

#[tokio::test]
async fn a_specification_that_fails_is_given_up_for_the_one_of_before() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let script = "test \"$FAIL_AT\" != \"$INSTANCE\" && echo $RELEASE && exec sleep 100000";
    let mut spec =
        AppSpec { instances: 3, ..with_env(shell(&dir, script), &[("RELEASE", "one"), ("FAIL_AT", "")]) };
    spec.restart.min_uptime_ms = 300;
    let before = running.run(vec![spec.clone()]).await;
    for id in 0..3 {
        running.lines(&out_log(&dir, id), 1).await;
    }
    let broken = with_env(spec.clone(), &[("RELEASE", "two"), ("FAIL_AT", "1")]);
    running.done(Request::Apply { apps: vec![broken] }).await;
    let reason = running.refused(reload()).await;
    assert!(reason.contains("the new process exited with status 1; 2 instances were put back"), "{reason}");
    let after = running.until_online().await;
    assert_eq!(after[2].pid, before[2].pid);
    assert_eq!(running.lines(&out_log(&dir, 0), 3).await, ["one", "two", "one"]);
    assert_eq!(running.lines(&out_log(&dir, 1), 2).await, ["one", "one"]);
    // What is started from now on is of the former release as well.
    running.done(Request::Restart(Select::Id(2))).await;
    assert_eq!(running.lines(&out_log(&dir, 2), 2).await, ["one", "one"]);
    running.end().await;
}

#[tokio::test]
async fn one_that_is_never_ready_ends_at_the_listen_timeout() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let mut spec = server(&dir, 2);
    (spec.program, spec.args) = ("/bin/sleep".into(), vec!["100000".to_owned()]);
    spec.ready.timeout_ms = 100;
    running.done(Request::Apply { apps: vec![spec] }).await;
    running.done(Request::Start(Select::All)).await;
    let before = running.pids().await;
    let reason = running.refused(reload()).await;
    assert!(reason.contains("the new process was not ready after 100ms"), "{reason}");
    assert_eq!(running.pids().await[1], before[1]);
    running.end().await;
}

#[tokio::test]
async fn without_a_check_a_process_that_ends_at_once_is_noticed() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let script = "test ! -e broken && echo up && exec sleep 100000";
    let mut spec = AppSpec { instances: 2, ..shell(&dir, script) };
    spec.restart.min_uptime_ms = 5_000;
    spec.restart.delay_ms = 60_000;
    let before = running.run(vec![spec]).await;
    running.lines(&out_log(&dir, 0), 1).await;
    running.lines(&out_log(&dir, 1), 1).await;
    running.folder.touch("broken");
    let reason = running.refused(reload()).await;
    assert!(reason.contains("the new process exited with status 1"), "{reason}");
    assert_eq!(running.status().await[1].pid, before[1].pid);
    running.end().await;
}

#[tokio::test]
async fn only_one_at_a_time_and_a_stop_ends_it() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let mut spec = shell(&dir, "trap '' INT; echo deaf; while :; do sleep 0.05; done");
    spec.stop.kill_timeout_ms = 1_000;
    running.run(vec![spec.clone()]).await;
    running.lines(&out_log(&dir, 0), 1).await;
    let mut other = running.other().await;
    let first = tokio::spawn(async move { other.call(&reload(), LIMIT).await });
    running.until(|r| r.state == InstanceState::Stopping).await;
    let under_way = "a reload of app is under way";
    assert_eq!(running.refused(reload()).await, under_way);
    assert_eq!(running.refused(Request::Apply { apps: vec![spec] }).await, under_way);
    assert_eq!(running.refused(Request::Scale { app: "app".to_owned(), instances: 2 }).await, under_way);
    running.done(Request::Stop(Select::All)).await;
    let reason = first.await.unwrap().unwrap_err().to_string();
    assert!(reason.contains("the reload was given up: it was asked for something else"), "{reason}");
    assert!(running.status().await.iter().all(|r| r.state == InstanceState::Stopped));
    running.end().await;
}

#[tokio::test]
async fn several_may_be_replaced_at_a_time() {
    let mut running = Running::new().await;
    let mut spec = server(running.path(), 4);
    spec.reload.parallel = 4;
    running.run(vec![spec]).await;
    let mut subscriber = running.subscriber().await;
    running.done(reload()).await;
    let mut stopped = 0;
    // All are told to end before the first new one is ready.
    let first_ready = event(&mut subscriber, |event| match event {
        Event::Changed(report) if report.state == InstanceState::Stopping => {
            stopped += 1;
            None
        }
        Event::Changed(report) if report.state == InstanceState::Online => Some(()),
        _ => None,
    });
    first_ready.await;
    assert_eq!(stopped, 4);
    running.end().await;
}
