//! Nothing is left after an interrupt, nor after `kill -9` and `doctor --clean`: no process, container, network, image.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::qse_on;
use crate::support::{Qbench, assert_nothing_is_left};

/// What the Engine still has of the sandboxes below a folder.
fn of_engine(base: &Path) -> Vec<String> {
    let list = |args: &[&str]| {
        let output = Command::new("docker").args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let base = base.display().to_string();
    let label = "{{.ID}} {{.Label \"qbench.sandbox\"}}";
    let mut left = list(&["ps", "--all", "--format", label]);
    left += &list(&["network", "ls", "--format", label]);
    left.lines().filter(|line| line.contains(&base)).map(str::to_owned).collect()
}

fn wait_for_containers(base: &Path) {
    let deadline = Instant::now() + Duration::from_secs(180);
    while of_engine(base).is_empty() {
        assert!(Instant::now() < deadline, "no container was started");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn an_interrupt_ends_containers_and_pm2() {
    let Some(folder) = qse_on(&["docker", "pm2"]) else { return };
    let running =
        Qbench::new(folder.path(), &["validate", "docker", "pm2", "--epochs", "50", "--window", "2s"])
            .spawn();
    wait_for_containers(folder.path());
    running.signal(Signal::INT);
    running.wait().exits_with(130);
    assert_eq!(of_engine(folder.path()), Vec::<String>::new());
    assert_nothing_is_left(folder.path());
}

#[test]
fn what_a_killed_run_left_of_docker_and_pm2_is_cleared() {
    let Some(folder) = qse_on(&["docker", "pm2"]) else { return };
    let running =
        Qbench::new(folder.path(), &["validate", "docker", "pm2", "--epochs", "50", "--window", "2s"])
            .spawn();
    wait_for_containers(folder.path());
    running.signal(Signal::KILL);
    running.wait().exits_with(-9);
    assert!(!of_engine(folder.path()).is_empty());
    Qbench::new(folder.path(), &["doctor", "--clean"]).run().exits_with(0).stdout_has("cleared");
    assert_eq!(of_engine(folder.path()), Vec::<String>::new());
    assert_nothing_is_left(folder.path());
}
