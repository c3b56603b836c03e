//! Workers of a Node cluster, whose successors start beside them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::{
    Running,
    desk::{LIMIT, event, eventually, get, kill, pids},
    fixture::{out_log, with_env, workers},
    supervisor::{AppSpec, Event, InstanceState, ReadyWhen, Request, Select},
};

fn reload() -> Request {
    Request::Reload(Select::App("app".to_owned()))
}

fn port(spec: &AppSpec) -> u16 {
    spec.port.as_ref().unwrap().first
}

/// The releases that answer, over so many connections.
async fn releases(port: u16) -> Vec<String> {
    let mut found = Vec::new();
    for _ in 0..20 {
        let answer = get(port).await.unwrap();
        found.push(answer.split(' ').next().unwrap().to_owned());
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Asks over and over, each time on a new connection, until told to stop; the number of answers.
fn load(port: u16) -> (Arc<AtomicBool>, tokio::task::JoinHandle<u32>) {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let asking = tokio::spawn(async move {
        let mut answers = 0;
        while !told.load(Ordering::Relaxed) {
            assert!(get(port).await.is_some(), "a request was lost after {answers} others");
            answers += 1;
        }
        answers
    });
    (stop, asking)
}

#[tokio::test]
async fn they_share_a_port_and_are_ready_once_they_listen() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let Some(spec) = workers(&dir, 2) else { return running.end().await };
    let port = port(&spec);
    running.done(Request::Apply { apps: vec![with_env(spec, &[("WAIT", "to listen")])] }).await;
    running.done(Request::Start(Select::All)).await;
    running.lines(&out_log(&dir, 0), 1).await;
    running.lines(&out_log(&dir, 1), 1).await;
    assert!(running.status().await.iter().all(|r| r.state == InstanceState::Launching));
    running.folder.touch("go");
    running.until_online().await;
    assert_eq!(releases(port).await, ["one"]);
    running.end().await;
}

#[tokio::test]
async fn a_reload_loses_no_request() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let Some(spec) = workers(&dir, 2) else { return running.end().await };
    let port = port(&spec);
    let before = running.run(vec![spec.clone()]).await;
    let (stop, asking) = load(port);
    running.done(Request::Apply { apps: vec![with_env(spec, &[("RELEASE", "two")])] }).await;
    running.done(reload()).await;
    assert_eq!(releases(port).await, ["two"]);
    running.done(reload()).await;
    stop.store(true, Ordering::Relaxed);
    assert!(asking.await.unwrap() > 0);
    let after = running.until_online().await;
    for (after, before) in after.iter().zip(&before) {
        assert_eq!(after.restarts, 2);
        assert_ne!(after.pid, before.pid);
    }
    running.end().await;
}

#[tokio::test]
async fn the_old_ones_serve_until_the_new_say_that_they_are_ready() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let Some(mut spec) = workers(&dir, 2) else { return running.end().await };
    spec.ready.when = ReadyWhen::Message;
    let before = running.run(vec![spec.clone()]).await;
    let waiting = with_env(spec.clone(), &[("WAIT", "to say"), ("RELEASE", "two")]);
    running.done(Request::Apply { apps: vec![waiting] }).await;
    let mut other = running.other().await;
    let reloaded = tokio::spawn(async move { other.call(&reload(), LIMIT).await });
    // The new one of the first instance is there, and does not say so.
    running.lines(&out_log(&dir, 0), 2).await;
    assert_eq!(running.pids().await, pids(&before));
    assert!(!reloaded.is_finished());
    running.folder.touch("go");
    reloaded.await.unwrap().unwrap();
    let after = running.until_online().await;
    assert!(after.iter().zip(&before).all(|(after, before)| after.pid != before.pid));
    assert_eq!(releases(port(&spec)).await, ["two"]);
    running.end().await;
}

#[tokio::test]
async fn a_broken_release_leaves_the_old_one_serving_and_the_answer_says_why() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let Some(spec) = workers(&dir, 2) else { return running.end().await };
    let before = running.run(vec![spec.clone()]).await;
    let mut subscriber = running.subscriber().await;
    let (stop, asking) = load(port(&spec));
    running.folder.touch("broken");
    let reason = running.refused(reload()).await;
    let expected = "app: the reload failed: the new process exited with status 7; the old processes serve on";
    assert_eq!(reason, expected);
    assert_eq!(running.pids().await, pids(&before));
    stop.store(true, Ordering::Relaxed);
    assert!(asking.await.unwrap() > 0);
    let failed = event(&mut subscriber, |event| match event {
        Event::Reloaded { failed, .. } => Some(failed),
        _ => None,
    });
    assert!(failed.await.unwrap().contains("status 7"));
    assert_eq!(running.refused(Request::Await(Select::All)).await, expected);
    running.folder.remove("broken");
    running.done(reload()).await;
    running.end().await;
}

#[tokio::test]
async fn one_that_never_listens_is_given_up_at_the_listen_timeout() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let Some(mut spec) = workers(&dir, 2) else { return running.end().await };
    let before = running.run(vec![spec.clone()]).await;
    running.folder.touch("mute");
    spec.ready.timeout_ms = 500;
    running.done(Request::Apply { apps: vec![spec.clone()] }).await;
    let reason = running.refused(reload()).await;
    assert!(
        reason.contains("the new process was not ready after 500ms; the old processes serve on"),
        "{reason}"
    );
    assert_eq!(running.pids().await, pids(&before));
    assert_eq!(releases(port(&spec)).await, ["one"]);
    // The one that was given up ends.
    let folder = &running.folder;
    eventually("the end of the new process", || folder.processes().len() == 2).await;
    running.end().await;
}

#[tokio::test]
async fn when_the_second_of_two_fails_the_first_is_put_back() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let Some(spec) = workers(&dir, 2) else { return running.end().await };
    let before = running.run(vec![spec.clone()]).await;
    let (stop, asking) = load(port(&spec));
    let broken = with_env(spec.clone(), &[("RELEASE", "two"), ("FAIL_AT", "1")]);
    running.done(Request::Apply { apps: vec![broken] }).await;
    let reason = running.refused(reload()).await;
    assert!(reason.contains("the new process exited with status 7; 1 instances were put back"), "{reason}");
    let after = running.until_online().await;
    assert_ne!(after[0].pid, before[0].pid);
    assert_eq!(after[1].pid, before[1].pid);
    assert_eq!(releases(port(&spec)).await, ["one"]);
    stop.store(true, Ordering::Relaxed);
    assert!(asking.await.unwrap() > 0);
    running.end().await;
}

#[tokio::test]
async fn a_killed_worker_is_replaced_and_the_other_serves() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let Some(spec) = workers(&dir, 2) else { return running.end().await };
    let port = port(&spec);
    let mut before = running.run(vec![spec]).await;
    for round in 1..=3 {
        kill(before[0].pid.unwrap());
        // Connections that wait at the dead one's socket get an answer, from the other one or its successor.
        assert_eq!(releases(port).await, ["one"]);
        before = running
            .until(|r| r.state == InstanceState::Online && r.restarts == round * (1 - r.instance))
            .await;
    }
    running.end().await;
}

#[tokio::test]
async fn a_spare_takes_the_place_of_one_that_crashes() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let Some(mut spec) = workers(&dir, 2) else { return running.end().await };
    spec.reload.hot_spare = true;
    let port = port(&spec);
    let mut before = running.run(vec![spec.clone()]).await;
    for round in 1..=3 {
        let folder = &running.folder;
        eventually("a spare", || folder.processes().len() == 3).await;
        let spare = folder.processes().into_iter().find(|pid| !pids(&before).contains(pid));
        kill(before[0].pid.unwrap());
        let after = running
            .until(|r| r.state == InstanceState::Online && r.restarts == round * (1 - r.instance))
            .await;
        assert_eq!((after[0].pid, after[1].pid), (spare, before[1].pid));
        assert_eq!(releases(port).await, ["one"]);
        // What it wrote as a spare is in the instance's file.
        let lines = running.lines(&out_log(&dir, 0), 1 + round as usize).await;
        assert!(lines.last().unwrap().ends_with(&spare.unwrap().to_string()), "{lines:?}");
        before = after;
    }
    // A spare of the former release is of no use.
    running.done(Request::Apply { apps: vec![with_env(spec, &[("RELEASE", "two")])] }).await;
    running.done(reload()).await;
    let reloaded = running.until_online().await;
    let folder = &running.folder;
    eventually("another spare", || folder.processes().len() == 3).await;
    kill(reloaded[1].pid.unwrap());
    running.until(|r| r.state == InstanceState::Online && r.pid != reloaded[1].pid).await;
    assert_eq!(releases(port).await, ["two"]);
    running.end().await;
}

#[tokio::test]
async fn scaling_down_loses_no_request() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let Some(spec) = workers(&dir, 1) else { return running.end().await };
    let port = port(&spec);
    running.run(vec![spec]).await;
    let (stop, asking) = load(port);
    for instances in [3, 1, 2] {
        running.done(Request::Scale { app: "app".to_owned(), instances }).await;
        assert_eq!(running.until_online().await.len(), instances as usize);
    }
    stop.store(true, Ordering::Relaxed);
    assert!(asking.await.unwrap() > 0);
    running.end().await;
}

#[tokio::test]
async fn every_line_before_a_sudden_exit_is_kept() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let Some(mut spec) = workers(&dir, 2) else { return running.end().await };
    let script = "for (let i = 0; i < 3000; i++) console.log(`${i} of 3000`); process.exit(0);";
    std::fs::write(dir.join("worker.js"), script).unwrap();
    spec.restart.stop_exit_codes = vec![0];
    running.done(Request::Apply { apps: vec![spec] }).await;
    running.done(Request::Start(Select::All)).await;
    running.until(|r| r.state == InstanceState::Stopped).await;
    let expected: Vec<String> = (0..3000).map(|i| format!("{i} of 3000")).collect();
    for id in 0..2 {
        assert_eq!(running.lines(&out_log(&dir, id), 3000).await, expected);
    }
    running.end().await;
}
