//! A reload under way when the supervisor's processes die.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::task::JoinHandle;

use super::{
    Supervisor,
    desk::{LIMIT, exists, get, is_online, pids},
    fixture::{out_log, shell, with_env, workers},
    supervisor::{AppSpec, Client, Request, Response, Select, SupervisorError},
};

/// Asks over and over, each time on a new connection; an answer that does not come is a failure.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    asking: JoinHandle<u32>,
}

impl Load {
    pub(super) fn on(port: u16) -> Self {
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
        Self { stop, asking }
    }

    /// How many were answered.
    pub(super) async fn end(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.asking.await.unwrap()
    }
}

fn begin(mut client: Client) -> JoinHandle<Result<Response, SupervisorError>> {
    tokio::spawn(async move { client.call(&Request::Reload(Select::All), LIMIT).await })
}

#[tokio::test]
async fn it_is_finished_by_the_next() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    let Some(spec) = workers(&dir, 2) else { return supervisor.end().await };
    let port = spec.port.as_ref().unwrap().first;
    let before = supervisor.run(vec![spec.clone()]).await;
    let load = Load::on(port);
    let waiting = with_env(spec, &[("WAIT", "to listen"), ("RELEASE", "two")]);
    supervisor.done(Request::Apply { apps: vec![waiting] }).await;
    let reloading = begin(supervisor.other().await);
    // The first new one is there, and waits.
    supervisor.lines(&out_log(&dir, 0), 2).await;
    supervisor.kill_brain().await;
    assert!(matches!(reloading.await.unwrap(), Err(SupervisorError::Closed)));
    supervisor.kill_keeper().await;
    assert_eq!(supervisor.pids().await, pids(&before));
    supervisor.folder.touch("go");
    supervisor.done(Request::Await(Select::All)).await;
    let after = supervisor.until_online().await;
    assert!(after.iter().zip(&before).all(|(after, before)| after.pid != before.pid && after.restarts == 1));
    assert!(before.iter().all(|report| !exists(report.pid.unwrap())));
    assert!(load.end().await > 0);
    assert!(get(port).await.unwrap().starts_with("two "));
    // Two workers, keeper and brain: no candidate is left over.
    assert_eq!(supervisor.folder.processes().len(), 4);
    supervisor.end().await;
}

#[tokio::test]
async fn one_that_fails_is_put_back_by_the_next() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    let Some(spec) = workers(&dir, 2) else { return supervisor.end().await };
    let port = spec.port.as_ref().unwrap().first;
    let before = supervisor.run(vec![spec.clone()]).await;
    let load = Load::on(port);
    let broken = with_env(spec, &[("WAIT", "to listen"), ("RELEASE", "two"), ("FAIL_AT", "1")]);
    supervisor.done(Request::Apply { apps: vec![broken] }).await;
    let reloading = begin(supervisor.other().await);
    supervisor.lines(&out_log(&dir, 0), 2).await;
    supervisor.kill_brain().await;
    assert!(reloading.await.unwrap().is_err());
    supervisor.folder.touch("go");
    let reason = supervisor.refused(Request::Await(Select::All)).await;
    assert!(reason.contains("exited with status 7; 1 instances were put back"), "{reason}");
    // How it ended is known to the one after that, too.
    supervisor.kill_brain().await;
    assert_eq!(supervisor.refused(Request::Await(Select::All)).await, reason);
    let after = supervisor.until_online().await;
    assert_eq!(after[1].pid, before[1].pid);
    assert!(load.end().await > 0);
    assert!(get(port).await.unwrap().starts_with("one "));
    supervisor.end().await;
}

/// Kills at every point of a reload that a delay happens to hit.
#[tokio::test]
async fn wherever_it_is_the_next_one_finishes_it() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    let Some(spec) = workers(&dir, 2) else { return supervisor.end().await };
    let port = spec.port.as_ref().unwrap().first;
    let mut before = supervisor.run(vec![spec]).await;
    let load = Load::on(port);
    for delay_ms in [0, 5, 15, 40, 80, 130, 200, 300] {
        let identity = supervisor.identity().await;
        let reloading = begin(supervisor.other().await);
        tokio::time::sleep(std::time::Duration::from_millis(delay_ms)).await;
        super::desk::kill(identity.brain);
        let began = reloading.await.unwrap();
        supervisor.until_replaced(identity).await;
        supervisor.done(Request::Await(Select::All)).await;
        let after = supervisor.until_online().await;
        let replaced = after.iter().zip(&before).filter(|(after, before)| after.pid != before.pid).count();
        // All, or none when it was killed before it had read the request.
        assert!(replaced == 2 || (replaced == 0 && began.is_err()), "{replaced} after {delay_ms} ms");
        assert_eq!(supervisor.folder.processes().len(), 4, "after {delay_ms} ms");
        before = after;
    }
    assert!(load.end().await > 0);
    supervisor.end().await;
}

#[tokio::test]
async fn one_in_place_is_finished_by_the_next() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    let script =
        "trap 'until [ -e go ]; do sleep 0.01; done; exit 0' INT; echo up; while :; do sleep 0.01; done";
    let before = supervisor.run(vec![AppSpec { instances: 3, ..shell(&dir, script) }]).await;
    for id in 0..3 {
        supervisor.lines(&out_log(&dir, id), 1).await;
    }
    let reloading = begin(supervisor.other().await);
    supervisor.until(|r| r.instance != 0 || !is_online(r)).await;
    supervisor.kill_brain().await;
    assert!(reloading.await.unwrap().is_err());
    supervisor.folder.touch("go");
    supervisor.done(Request::Await(Select::All)).await;
    let after = supervisor.until_online().await;
    assert!(after.iter().zip(&before).all(|(after, before)| after.pid != before.pid && after.restarts == 1));
    assert_eq!(supervisor.folder.processes().iter().filter(|pid| pids(&after).contains(pid)).count(), 3);
    supervisor.end().await;
}
