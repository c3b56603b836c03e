//! What follows when an instance ends by itself.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Running,
    desk::{event, exists, kill},
    fixture::{server, shell, sleeper},
    supervisor::{Event, InstanceReport, InstanceState, Request, Select},
};

#[tokio::test]
async fn a_killed_instance_is_started_again() {
    let mut running = Running::new().await;
    let spec = server(running.path(), 2);
    let before = running.run(vec![spec]).await;
    kill(before[1].pid.unwrap());
    let after = running.until(|r| r.state == InstanceState::Online && r.restarts == r.instance).await;
    assert_eq!(after[0].pid, before[0].pid);
    assert_ne!(after[1].pid, before[1].pid);
    assert_eq!(after[1].last_end.as_deref(), Some("was ended by signal 9"));
    running.end().await;
    assert!(!exists(before[0].pid.unwrap()));
}

/// How long an instance waited before it was started again, each time, until it has waited so often.
async fn waits(running: &mut Running, times: usize) -> Vec<Duration> {
    let mut subscriber = running.subscriber().await;
    running.done(Request::Start(Select::All)).await;
    let mut waits = Vec::new();
    let mut since = None;
    while waits.len() < times {
        let report = event(&mut subscriber, changed).await;
        match report.state {
            InstanceState::Waiting => {
                assert_eq!(report.pid, None);
                since = Some(Instant::now());
            }
            _ => waits.extend(since.take().map(|since| since.elapsed())),
        }
    }
    waits
}

fn changed(event: Event) -> Option<InstanceReport> {
    match event {
        Event::Changed(report) => Some(report),
        _ => None,
    }
}

#[tokio::test]
async fn a_restart_waits_its_delay() {
    let mut running = Running::new().await;
    let mut spec = shell(running.path(), "exit 3");
    spec.restart.delay_ms = 300;
    running.done(Request::Apply { apps: vec![spec] }).await;
    let waited = waits(&mut running, 2).await;
    // The lower bound only: events may be late, but hardly by more than the one before.
    assert!(waited.iter().all(|wait| *wait > Duration::from_millis(150)), "{waited:?}");
    running.end().await;
}

#[tokio::test]
async fn a_growing_pause_grows() {
    let mut running = Running::new().await;
    let mut spec = shell(running.path(), "exit 3");
    spec.restart.backoff_ms = Some(100);
    running.done(Request::Apply { apps: vec![spec] }).await;
    // 100, 150, 225, 337, 506, 759 ms.
    let waited = waits(&mut running, 6).await;
    assert!(waited[5] > Duration::from_millis(500), "{waited:?}");
    running.end().await;
}

#[tokio::test]
async fn an_instance_that_always_fails_is_given_up_whatever_the_pause() {
    for (delay_ms, backoff_ms) in [(0, None), (10, None), (0, Some(5))] {
        let mut running = Running::new().await;
        let mut spec = shell(running.path(), "exit 3");
        spec.restart.min_uptime_ms = 3_600_000;
        spec.restart.max_unstable = 4;
        (spec.restart.delay_ms, spec.restart.backoff_ms) = (delay_ms, backoff_ms);
        running.done(Request::Apply { apps: vec![spec] }).await;
        running.done(Request::Start(Select::All)).await;
        let report = running.until(|r| r.state == InstanceState::Errored).await.remove(0);
        assert_eq!((report.restarts, report.unstable_restarts), (3, 4));
        assert_eq!(report.last_end.as_deref(), Some("exited with status 3"));
        // It is not forgotten: a start tries anew, and counts from 0.
        running.done(Request::Start(Select::All)).await;
        running.until(|r| r.state == InstanceState::Errored && r.unstable_restarts == 4).await;
        running.end().await;
    }
}

#[tokio::test]
async fn an_exit_code_that_means_done_ends_it_well() {
    let mut running = Running::new().await;
    let mut spec = shell(running.path(), "exit $(cat code)");
    spec.restart.stop_exit_codes = vec![0, 42];
    for code in ["0", "42"] {
        std::fs::write(running.path().join("code"), code).unwrap();
        running.done(Request::Apply { apps: vec![spec.clone()] }).await;
        running.done(Request::Start(Select::All)).await;
        let report = running.until(|r| r.state == InstanceState::Stopped).await.remove(0);
        assert_eq!((report.restarts, report.last_end), (0, Some(format!("exited with status {code}"))));
    }
    std::fs::write(running.path().join("code"), "1").unwrap();
    running.done(Request::Start(Select::All)).await;
    running.until(|r| r.restarts > 1).await;
    running.end().await;
}

#[tokio::test]
async fn what_is_not_to_be_restarted_stays_stopped() {
    let mut running = Running::new().await;
    let mut spec = sleeper(running.path());
    spec.restart.automatic = false;
    let before = running.run(vec![spec]).await;
    kill(before[0].pid.unwrap());
    let report = running.until(|r| r.state == InstanceState::Stopped).await.remove(0);
    assert_eq!((report.restarts, report.last_end.as_deref()), (0, Some("was ended by signal 9")));
    running.done(Request::Start(Select::All)).await;
    running.until_online().await;
    running.end().await;
}

#[tokio::test]
async fn many_crashes_at_once_are_all_dealt_with() {
    let mut running = Running::new().await;
    let mut spec = sleeper(running.path());
    spec.instances = 30;
    let mut before = running.run(vec![spec]).await;
    for round in 1..=3 {
        for report in &before {
            kill(report.pid.unwrap());
        }
        before = running.until(|r| r.state == InstanceState::Online && r.restarts == round).await;
    }
    assert_eq!(running.folder.processes().len(), 30);
    running.end().await;
}
