//! The keeper is killed: the brain takes its place and starts another brain.

use super::{
    Supervisor,
    desk::{exists, is_online, kill, pids},
    fixture::{named, server, sleeper, workers},
    reload::Load,
    supervisor::{AppSpec, InstanceState, Request, Select},
};

const ROUNDS: u32 = 3;

#[tokio::test]
async fn the_same_processes_run_on() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    let before = supervisor
        .run(vec![AppSpec { instances: 3, ..sleeper(&dir) }, named("server", server(&dir, 1))])
        .await;
    for _ in 0..ROUNDS {
        supervisor.kill_keeper().await;
        let after = supervisor.status().await;
        assert!(after.iter().all(is_online), "{after:#?}");
        assert_eq!(pids(&after), pids(&before));
    }
    supervisor.done(Request::Stop(Select::Id(0))).await;
    assert!(!exists(before[0].pid.unwrap()));
    assert_eq!(supervisor.status().await[0].state, InstanceState::Stopped);
    supervisor.end().await;
}

#[tokio::test]
async fn both_may_die_again_and_again_and_crashes_are_noticed() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    let mut before = supervisor.run(vec![AppSpec { instances: 2, ..sleeper(&dir) }]).await;
    for round in 1..=ROUNDS {
        supervisor.kill_keeper().await;
        supervisor.kill_brain().await;
        kill(before[1].pid.unwrap());
        let after = supervisor.until(|r| is_online(r) && r.restarts == round * r.instance).await;
        assert_eq!(after[0].pid, before[0].pid);
        before = after;
    }
    assert_eq!(supervisor.folder.processes().len(), 4);
    supervisor.end().await;
}

#[tokio::test]
async fn a_process_that_ends_at_the_same_time_is_noticed() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    let mut before = supervisor.run(vec![AppSpec { instances: 2, ..sleeper(&dir) }]).await;
    for round in 1..=ROUNDS {
        let identity = supervisor.identity().await;
        kill(identity.keeper);
        kill(before[1].pid.unwrap());
        supervisor.until_replaced(identity).await;
        let after = supervisor.until(|r| is_online(r) && r.restarts == round * r.instance).await;
        assert_eq!(after[0].pid, before[0].pid);
        before = after;
    }
    supervisor.end().await;
}

#[tokio::test]
async fn node_workers_serve_on_and_no_request_is_lost() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    let Some(spec) = workers(&dir, 2) else { return supervisor.end().await };
    let before = supervisor.run(vec![spec.clone()]).await;
    let load = Load::on(spec.port.as_ref().unwrap().first);
    for _ in 0..ROUNDS {
        supervisor.kill_keeper().await;
        supervisor.kill_brain().await;
    }
    assert_eq!(supervisor.pids().await, pids(&before));
    supervisor.done(Request::Reload(Select::All)).await;
    assert!(load.end().await > 0);
    supervisor.end().await;
}

#[tokio::test]
async fn the_one_that_took_its_place_ends_everything_when_told() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    supervisor.run(vec![AppSpec { instances: 3, ..sleeper(&dir) }]).await;
    supervisor.kill_keeper().await;
    supervisor.terminate().await;
}
