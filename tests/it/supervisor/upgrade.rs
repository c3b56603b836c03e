//! Going on as another program: the same path as a death, and no more noticed.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use super::{
    Supervisor,
    desk::pids,
    fixture::{named, sleeper, workers},
    reload::Load,
    supervisor::{AppSpec, Request, Select},
};

fn program_of(pid: u32) -> std::path::PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default()
}

fn copy(dir: &Path, name: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    fs::copy(env!("CARGO_BIN_EXE_qbench"), &path).unwrap();
    path
}

#[tokio::test]
async fn nothing_that_runs_is_touched() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    let mut apps = vec![AppSpec { instances: 2, ..named("sleeper", sleeper(&dir)) }];
    apps.extend(workers(&dir, 2));
    let port = apps.last().unwrap().port.as_ref().map(|port| port.first);
    let before = supervisor.run(apps).await;
    let load = port.map(Load::on);
    let first = supervisor.identity().await;
    for name in ["second", "third"] {
        let program = copy(&dir, name);
        let identity = supervisor.identity().await;
        supervisor.done(Request::Upgrade { program: program.clone() }).await;
        let now = supervisor.until_replaced(identity).await;
        assert_eq!((program_of(now.brain), now.keeper), (program.clone(), first.keeper));
        // The keeper becomes the new program once the brain has proved itself.
        super::desk::eventually("the upgrade of the keeper", || program_of(now.keeper) == program).await;
        assert_eq!(pids(&supervisor.until_online().await), pids(&before));
    }
    supervisor.done(Request::Reload(Select::All)).await;
    if let Some(load) = load {
        assert!(load.end().await > 0);
    }
    supervisor.end().await;
}

#[tokio::test]
async fn a_program_that_is_no_supervisor_is_given_up_for_the_old_one() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    let before = supervisor.run(vec![sleeper(&dir)]).await;
    let identity = supervisor.identity().await;
    let broken = dir.join("broken-program");
    fs::write(&broken, "#!/bin/sh\nexit 3\n").unwrap();
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o700)).unwrap();
    supervisor.done(Request::Upgrade { program: broken }).await;
    let now = supervisor.until_replaced(identity.clone()).await;
    assert_eq!(now.keeper, identity.keeper);
    assert_eq!(program_of(now.brain), Path::new(env!("CARGO_BIN_EXE_qbench")));
    assert_eq!(pids(&supervisor.until_online().await), pids(&before));
    supervisor.end().await;
}

#[tokio::test]
async fn what_is_no_program_is_refused() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    for program in ["relative".into(), dir.join("missing"), dir.clone()] {
        let reason = supervisor.refused(Request::Upgrade { program }).await;
        assert!(reason.contains("is not the absolute path of a program"), "{reason}");
    }
    supervisor.end().await;
}
