//! Limits of the number of processes, with fork bombs.

use std::time::Duration;

use super::super::{Cgroup, Identity, Limit, LimitKind, Orders, ProcessCap, cap_processes};
use super::stage::{Play, is_root, read_report, until};

#[test]
fn a_fork_bomb_in_a_cgroup_is_contained_and_killed() {
    const MAXIMUM: u32 = 20;
    let name = format!("test-{}", std::process::id());
    let Ok(cgroup) = Cgroup::create(&name, MAXIMUM) else { return };
    let orders = Orders { cgroup: Some(cgroup.procs()), ..Orders::default() };
    let (mut bomb, report) = Play::role(&["bomb"]).start_wrapped(orders);
    read_report(&report).unwrap();
    until("the bomb to reach its limit", || (cgroup.size().unwrap() == MAXIMUM).then_some(()));
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(cgroup.size().unwrap(), MAXIMUM);
    // We can still start something, and the group is busy.
    assert_eq!(Play::shell("echo alive").start(None).unwrap().finish().0, "alive");
    assert!(cgroup.remove().is_err());
    let cgroup = Cgroup::adopt(cgroup.directory().to_path_buf());
    cgroup.kill().unwrap();
    assert_eq!(bomb.wait().terminating_signal(), Some(libc::SIGKILL));
    // The others are reaped by whoever adopts orphans here.
    until("the group to be empty", || (cgroup.size().unwrap() == 0).then_some(()));
    cgroup.remove().unwrap();
    // A limit of the same name can be made again.
    let again = Cgroup::create(&name, 5).unwrap();
    again.remove().unwrap();
}

#[test]
fn a_fork_bomb_of_another_user_is_contained() {
    if !is_root() {
        return;
    }
    // A user nobody else has, since the limit counts all its processes.
    let number = (200_000 + std::process::id()).to_string();
    let identity = Identity { user: Some(number.clone()), group: Some(number) };
    let limits = vec![Limit { kind: LimitKind::Processes, maximum: 10 }];
    let orders = Orders { identity: Some(identity), limits, ..Orders::default() };
    let script = "i=0; while [ $i -lt 50 ]; do sleep 60 & i=$((i+1)); done; echo all";
    let (mut child, report) = Play::shell(script).start_wrapped(orders);
    read_report(&report).unwrap();
    assert!(child.line().to_lowercase().contains("fork"), "the shell says that it cannot fork");
}

#[test]
fn without_a_cgroup_only_another_user_can_be_limited() {
    let name = format!("test-cap-{}", std::process::id());
    match cap_processes(&name, 7, true) {
        Ok(ProcessCap::Cgroup(cgroup)) => cgroup.remove().unwrap(),
        Ok(ProcessCap::PerUser { maximum }) => {
            assert_eq!(maximum, 7);
            let error = cap_processes(&name, 7, false).unwrap_err().to_string();
            assert!(error.contains("not supported here"), "{error}");
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_group_of_v2_is_killed_at_once() {
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(std::path::Path::new);
    let Some(root) = roots.into_iter().find(|root| root.join("cgroup.controllers").exists()) else { return };
    let directory = root.join(format!("qbench-test-v2-{}", std::process::id()));
    if std::fs::create_dir(&directory).is_err() {
        return;
    }
    let cgroup = Cgroup::adopt(directory);
    let orders = Orders { cgroup: Some(cgroup.procs()), ..Orders::default() };
    let (mut child, report) = Play::shell("sleep 60 & setsid sleep 60 & wait").start_wrapped(orders);
    read_report(&report).unwrap();
    let members = || std::fs::read_to_string(cgroup.procs()).unwrap().lines().count();
    until("both children", || (members() == 3).then_some(()));
    cgroup.kill().unwrap();
    assert_eq!(child.wait().terminating_signal(), Some(libc::SIGKILL));
    until("the group to be empty", || cgroup.remove().ok());
}
