//! Starts without a wrapper.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::super::{LaunchError, sys};
use super::stage::{Play, Running};

fn refused(play: &Play<'_>) -> String {
    match play.start(None) {
        Ok(_) => panic!("started"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_child_gets_exactly_what_it_was_given() {
    let mut play = Play::shell("env; pwd; readlink /proc/self/fd/0; echo $0 $1");
    play.args.extend(["a b".into(), "ü".into()]);
    play.env = vec![("ONLY".into(), "this=one".into())];
    play.cwd = PathBuf::from("/usr");
    let (text, code) = play.start(None).unwrap().finish();
    assert_eq!(code, Some(0));
    // The shell adds PWD itself.
    assert!(text.contains("ONLY=this=one") && !text.contains("CARGO"), "{text}");
    assert!(text.ends_with("/usr\n/dev/null\na b ü"), "{text}");
}

#[test]
fn it_leads_a_session_and_no_signal_is_blocked_or_ignored() {
    // This process ignores SIGPIPE, as every Rust program does.
    let play = Play::program("/bin/cat", vec!["/proc/self/stat".into(), "/proc/self/status".into()]);
    let child = play.start(None).unwrap();
    let id = child.id().to_string();
    let (text, _) = child.finish();
    let stat: Vec<_> = text.lines().next().unwrap().split(' ').collect();
    assert_eq!((stat[0], stat[4], stat[5]), (&*id, &*id, &*id), "pid, group, session");
    for mask in ["SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"] {
        assert!(text.contains(mask), "{text}");
    }
}

#[test]
fn only_the_given_descriptors_arrive() {
    let (read, write) = std::io::pipe().unwrap();
    let mut play = Play::shell("ls /proc/$$/fd; cat <&7");
    play.pass = vec![(read.as_fd(), 7)];
    let child = play.start(None).unwrap();
    (&write).write_all(b"through seven").unwrap();
    drop(write);
    let (text, _) = child.finish();
    assert_eq!(text, "0\n1\n2\n7\nthrough seven");
}

#[test]
fn sources_and_targets_may_be_each_others() {
    let file = |text: &str| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    };
    let (a, b) = (file("a"), file("b"));
    let first = sys::duplicate_above(&a, 300).unwrap();
    let second = sys::duplicate_above(&b, 300).unwrap();
    let (one, two) = (first.as_raw_fd(), second.as_raw_fd());
    let mut play = Play::shell(&format!("cat /proc/$$/fd/{one} /proc/$$/fd/{two}"));
    play.pass = vec![(first.as_fd(), two), (second.as_fd(), one)];
    assert_eq!(play.start(None).unwrap().finish().0, "ba");
    // The same number on both sides must come out open.
    play.pass = vec![(first.as_fd(), one), (second.as_fd(), two)];
    assert_eq!(play.start(None).unwrap().finish().0, "ab");
}

#[test]
fn each_failure_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let script = |name: &str, text: &str, mode: u32| {
        let path = scratch.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let program = |path: &Path| Play::program(path, Vec::new());
    assert!(refused(&program(Path::new("/no/such"))).contains("/no/such: No such file"));
    let plain = script("plain", "x", 0o644);
    assert!(refused(&program(&plain)).contains("Permission denied"));
    let orphan = script("orphan", "#!/no/interpreter\n", 0o755);
    assert!(refused(&program(&orphan)).contains("interpreter"));
    let mut lost = Play::shell("true");
    lost.cwd = scratch.path().join("nowhere");
    assert!(refused(&lost).contains("enter the working directory"));
    lost.cwd = plain;
    assert!(refused(&lost).contains("Not a directory"));
    let mut odd = Play::shell("true");
    odd.env = vec![("A=B".into(), String::new())];
    assert!(matches!(odd.start(None), Err(LaunchError::Variable { .. })));
    odd.env = vec![("SECRET".into(), "se\0cret".into())];
    assert_eq!(refused(&odd), "the variable SECRET contains a NUL byte");
    odd.env.clear();
    let null = std::fs::File::open("/dev/null").unwrap();
    for pass in [vec![(null.as_fd(), 2)], vec![(null.as_fd(), 5), (null.as_fd(), 5)]] {
        odd.pass = pass;
        assert!(matches!(odd.start(None), Err(LaunchError::Target { .. })));
    }
}

#[test]
fn output_and_errors_are_where_they_belong() {
    let mut child: Running = Play::shell("echo out; echo err >&2").start(None).unwrap();
    assert_eq!((child.line(), child.line()), ("out".to_owned(), "err".to_owned()));
    let mut rest = String::new();
    child.out.read_to_string(&mut rest).unwrap();
    assert!(rest.is_empty() && child.wait().exit_status() == Some(0));
}
