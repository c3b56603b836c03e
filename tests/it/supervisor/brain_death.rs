//! The brain is killed: what runs, runs on, and whatever was under way goes on.

use std::time::Duration;

use super::{
    Supervisor,
    desk::{eventually, get, is_online, kill, pids, warning},
    fixture::{named, out_log, server, shell, sleeper, with_env, workers},
    supervisor::{AppSpec, HttpCheck, InstanceState, Liveness, Request, Select},
};

const ROUNDS: u32 = 4;

#[tokio::test]
async fn the_same_processes_run_on() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    let stopped = AppSpec { autostart: false, ..named("stopped", sleeper(&dir)) };
    let apps = vec![AppSpec { instances: 3, ..sleeper(&dir) }, named("server", server(&dir, 2)), stopped];
    supervisor.done(Request::Apply { apps }).await;
    supervisor.done(Request::Start(Select::All)).await;
    let as_wanted = |r: &_| is_online(r) != (r.app == "stopped");
    supervisor.until(as_wanted).await;
    supervisor.done(Request::Restart(Select::Id(1))).await;
    let before = supervisor.until(as_wanted).await;
    for _ in 0..ROUNDS {
        supervisor.kill_brain().await;
        let after = supervisor.status().await;
        for (after, before) in after.iter().zip(&before) {
            assert_eq!((after.pid, after.start_ticks), (before.pid, before.start_ticks));
            assert_eq!((after.state, after.restarts, after.id), (before.state, before.restarts, before.id));
            assert_eq!((&after.last_end, &after.out_log), (&before.last_end, &before.out_log));
            assert!(after.uptime_ms >= before.uptime_ms);
        }
    }
    // What it took over it can still end, start, and see crash.
    supervisor.done(Request::Stop(Select::Id(0))).await;
    assert_eq!(supervisor.status().await[0].last_end.as_deref(), Some("was ended by signal 2"));
    supervisor.done(Request::Start(Select::Id(0))).await;
    kill(before[2].pid.unwrap());
    let after = supervisor.until(|r| as_wanted(r) && (r.id != 2 || r.restarts == 1)).await;
    assert_eq!(after[2].last_end.as_deref(), Some("was ended by signal 9"));
    supervisor.end().await;
}

#[tokio::test]
async fn a_process_that_ends_meanwhile_is_noticed() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    let mut before = supervisor.run(vec![AppSpec { instances: 2, ..sleeper(&dir) }]).await;
    for round in 1..=ROUNDS {
        let identity = supervisor.identity().await;
        kill(identity.brain);
        // Before or after the next one is there: both must do.
        kill(before[1].pid.unwrap());
        let after = supervisor.until(|r| is_online(r) && r.restarts == round * r.instance).await;
        assert_eq!(after[0].pid, before[0].pid);
        assert_eq!(after[1].last_end.as_deref(), Some("was ended by signal 9"));
        before = after;
    }
    assert_eq!(supervisor.folder.processes().len(), 4);
    supervisor.end().await;
}

#[tokio::test]
async fn processes_that_are_being_started_are_found_again() {
    const INSTANCES: u32 = 15;
    for delay_us in [0, 300, 1_000, 2_000, 4_000, 8_000] {
        let mut supervisor = Supervisor::new().await;
        let dir = supervisor.path().to_owned();
        let apps = vec![AppSpec { instances: INSTANCES, ..sleeper(&dir) }];
        supervisor.done(Request::Apply { apps }).await;
        let identity = supervisor.identity().await;
        let mut other = supervisor.other().await;
        let starting = tokio::spawn(async move {
            // It may be answered, or the connection may end.
            let _ = other.call(&Request::Start(Select::All), super::desk::LIMIT).await;
        });
        tokio::time::sleep(Duration::from_micros(delay_us)).await;
        kill(identity.brain);
        starting.await.unwrap();
        supervisor.until_replaced(identity).await;
        // None if it died before it had read the request; one that it began is finished by the next.
        supervisor.until(|r| r.state != InstanceState::Launching).await;
        supervisor.done(Request::Start(Select::All)).await;
        let reports = supervisor.until_online().await;
        assert!(reports.iter().all(|report| report.restarts == 0), "{reports:#?}");
        // Keeper and brain beside them, and no second process of any.
        let folder = &supervisor.folder;
        let wanted = INSTANCES as usize + 2;
        assert_eq!(folder.processes().len(), wanted, "after {delay_us} µs: {reports:#?}");
        supervisor.end().await;
    }
}

#[tokio::test]
async fn an_end_that_has_begun_is_finished() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    let script =
        "trap 'until [ -e go ]; do sleep 0.01; done; exit 5' INT; echo up; while :; do sleep 0.01; done";
    supervisor.run(vec![AppSpec { instances: 2, ..shell(&dir, script) }]).await;
    for id in 0..2 {
        supervisor.lines(&out_log(&dir, id), 1).await;
    }
    let mut other = supervisor.other().await;
    let stopping =
        tokio::spawn(async move { other.call(&Request::Stop(Select::All), super::desk::LIMIT).await });
    supervisor.until(|r| r.state == InstanceState::Stopping).await;
    supervisor.kill_brain().await;
    assert!(stopping.await.unwrap().is_err());
    assert!(supervisor.status().await.iter().all(|r| r.state == InstanceState::Stopping));
    supervisor.folder.touch("go");
    let reports = supervisor.until(|r| r.state == InstanceState::Stopped).await;
    assert!(reports.iter().all(|r| r.last_end.as_deref() == Some("exited with status 5")), "{reports:#?}");
    supervisor.end().await;
}

#[tokio::test]
async fn what_waits_is_started_and_what_was_given_up_stays_so() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    let mut waiting = named("waiting", shell(&dir, "test -e go && exec sleep 100000"));
    (waiting.restart.delay_ms, waiting.restart.max_unstable) = (300, 1_000_000);
    let mut errored = named("errored", shell(&dir, "exit 3"));
    (errored.restart.min_uptime_ms, errored.restart.max_unstable) = (3_600_000, 3);
    supervisor.done(Request::Apply { apps: vec![waiting, errored] }).await;
    supervisor.done(Request::Start(Select::All)).await;
    supervisor.until(|r| r.app == "waiting" || r.state == InstanceState::Errored).await;
    supervisor.kill_brain().await;
    supervisor.folder.touch("go");
    let reports = supervisor.until(|r| is_online(r) || r.app == "errored").await;
    let given_up = reports.iter().find(|r| r.app == "errored").unwrap();
    assert_eq!((given_up.state, given_up.unstable_restarts), (InstanceState::Errored, 3));
    assert_eq!(given_up.last_end.as_deref(), Some("exited with status 3"));
    supervisor.end().await;
}

#[tokio::test]
async fn checks_go_on() {
    let mut supervisor = Supervisor::new().await;
    let mut spec = server(supervisor.path(), 1);
    let http = HttpCheck { path: "/health".to_owned() };
    spec.liveness = Some(Liveness { http, interval_ms: 50, timeout_ms: 1_500, failures: 2 });
    supervisor.folder.touch("hung");
    supervisor.done(Request::Apply { apps: vec![spec] }).await;
    supervisor.done(Request::Start(Select::All)).await;
    supervisor.kill_brain().await;
    // It was not ready, and is asked on.
    assert_eq!(supervisor.status().await[0].state, InstanceState::Launching);
    supervisor.folder.remove("hung");
    let before = supervisor.until_online().await;
    supervisor.kill_brain().await;
    let mut subscriber = supervisor.subscriber().await;
    supervisor.folder.touch("hung");
    assert!(warning(&mut subscriber).await.contains("did not answer /health"));
    supervisor.folder.remove("hung");
    let after = supervisor.until(|r| is_online(r) && r.restarts == 1).await;
    assert_ne!(after[0].pid, before[0].pid);
    supervisor.end().await;
}

#[tokio::test]
async fn node_workers_serve_on_and_no_request_is_lost() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    let Some(spec) = workers(&dir, 2) else { return supervisor.end().await };
    let port = spec.port.as_ref().unwrap().first;
    let before = supervisor.run(vec![spec.clone()]).await;
    let load = super::reload::Load::on(port);
    for _ in 0..ROUNDS {
        supervisor.kill_brain().await;
    }
    assert_eq!(supervisor.pids().await, pids(&before));
    supervisor.done(Request::Apply { apps: vec![with_env(spec, &[("RELEASE", "two")])] }).await;
    supervisor.done(Request::Reload(Select::All)).await;
    assert!(load.end().await > 0);
    assert!(get(port).await.unwrap().starts_with("two "));
    supervisor.end().await;
}

#[tokio::test]
async fn commands_that_come_while_there_is_none_are_answered_by_the_next() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    supervisor.run(vec![sleeper(&dir)]).await;
    for _ in 0..ROUNDS {
        let identity = supervisor.identity().await;
        kill(identity.brain);
        eventually("the end of the brain", || !super::desk::exists(identity.brain)).await;
        let mut client = supervisor.other().await;
        client.call(&Request::Restart(Select::All), super::desk::LIMIT).await.unwrap();
    }
    let report = supervisor.until_online().await.remove(0);
    assert_eq!(report.restarts, ROUNDS);
    supervisor.end().await;
}

#[tokio::test]
async fn one_that_is_told_to_end_ends_everything() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    supervisor.run(vec![AppSpec { instances: 3, ..sleeper(&dir) }]).await;
    supervisor.kill_brain().await;
    supervisor.terminate().await;
}
