//! An Engine that may not be used, a disk that is full.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::Command,
};

use super::qse_on;
use crate::support::{Qbench, assert_nothing_is_left, demo_in, engine_is_required, folder};

fn is_root() -> bool {
    let root = rustix::process::getuid().is_root();
    assert!(root || !engine_is_required("docker"), "the whole tests run as root");
    if !root {
        eprintln!("skipped: this needs root");
    }
    root
}

#[test]
fn a_socket_without_permission_is_told_apart_from_no_docker() {
    if !is_root() {
        return;
    }
    let Some(folder) = qse_on(&["docker"]) else { return };
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    // Where the build lies may be closed to other users.
    let program = folder.path().join("qbench");
    fs::copy(env!("CARGO_BIN_EXE_qbench"), &program).unwrap();
    let output = Command::new(&program)
        .args(["collect", "docker", "--epochs", "1"])
        .current_dir(folder.path())
        .env("TMPDIR", folder.path())
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("permission"), "{stderr}");
    assert!(stderr.contains("hint:"), "{stderr}");
}

#[test]
fn a_full_disk_for_records_is_told_and_nothing_is_left() {
    if !is_root() {
        return;
    }
    let folder = folder();
    demo_in(folder.path());
    let baselines = folder.path().join("baselines");
    fs::create_dir(&baselines).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4k", "tmpfs"])
        .arg(&baselines)
        .status()
        .unwrap();
    assert!(mounted.success());
    let outcome = Qbench::new(folder.path(), &["collect", "bare", "--epochs", "1", "--window", "1s"]).run();
    let left: Vec<_> =
        fs::read_dir(baselines.join("bare")).into_iter().flatten().flatten().map(|e| e.path()).collect();
    assert!(Command::new("umount").arg(&baselines).status().unwrap().success());
    outcome.exits_with(3).stderr_has("cannot save").stderr_has("hint: free some space");
    assert!(left.is_empty(), "a part of a record is left: {left:?}");
    assert_nothing_is_left(folder.path());
}
