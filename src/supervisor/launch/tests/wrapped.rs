//! Starts through the wrapper.

use std::os::fd::AsFd;
use std::path::PathBuf;

use super::super::{
    FIRST_PASSED, Identity, Limit, LimitKind, ListenAddress, Orders, Step, open_listener, pass_environment,
};
use super::stage::{Play, free_address, is_root, read_report, request, this_binary};

#[test]
fn the_app_has_the_wrappers_process_id_and_no_ignored_signal() {
    let mut play = Play::shell("echo $$ $0; readlink /proc/$$/exe; ls /proc/$$/fd; cat /proc/self/status");
    play.args.push("name".into());
    play.cwd = PathBuf::from("/usr");
    let (child, report) = play.start_wrapped(Orders::default());
    assert!(read_report(&report).unwrap().is_none());
    let id = child.id();
    let (text, code) = child.finish();
    assert_eq!(code, Some(0));
    assert!(text.starts_with(&format!("{id} name\n")), "{text}");
    assert!(!text.contains(&this_binary().display().to_string()), "{text}");
    assert!(text.contains("\n0\n1\n2\nName:"), "{text}");
    assert!(text.contains("SigIgn:\t0000000000000000"), "{text}");
}

#[test]
fn a_passed_socket_serves_and_outlives_a_crash() {
    let address = free_address();
    let socket = open_listener(&ListenAddress::Tcp(address)).unwrap();
    for life in ["first", "second"] {
        let mut play = Play::role(&["inheritor", life]);
        play.env = pass_environment(&["web"]);
        play.pass = vec![(socket.as_fd(), FIRST_PASSED)];
        let orders = Orders { listen_pid: true, ..Orders::default() };
        // A request from before the start waits in the queue.
        let early = std::thread::spawn(move || request(address));
        let (mut child, report) = play.start_wrapped(orders);
        read_report(&report).unwrap();
        assert_eq!(child.line(), "serving");
        assert_eq!(early.join().unwrap().unwrap(), life);
        assert_eq!(request(address).unwrap(), life);
    }
}

#[test]
fn the_environment_stays_out_of_the_argument_list() {
    let mut play = Play::shell("cat");
    play.env = vec![("PASSWORD".into(), "hunter2".into())];
    // The wrapper cannot open this before we let it: it waits where its arguments can be read.
    let scratch = tempfile::tempdir().unwrap();
    let gate = scratch.path().join("gate");
    rustix::fs::mknodat(rustix::fs::CWD, &gate, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let orders = Orders { cgroup: Some(gate.clone()), ..Orders::default() };
    let (child, report) = play.start_wrapped(orders);
    let read = |file: &str| std::fs::read(format!("/proc/{}/{file}", child.id())).unwrap();
    let secret = b"hunter2".as_slice();
    for file in ["cmdline", "environ"] {
        assert!(!read(file).windows(secret.len()).any(|part| part == secret), "{file}");
    }
    assert_eq!(std::fs::read_to_string(&gate).unwrap(), "0");
    read_report(&report).unwrap();
}

#[test]
fn another_user_with_its_groups_and_limits() {
    if !is_root() {
        return;
    }
    let script = "grep -E '^(Uid|Gid|Groups)' /proc/$$/status | tr -s ' \\t' ' '; ulimit -n; ulimit -c";
    for (user, group) in [("nobody", None), ("65534", Some("daemon")), ("4242", Some("4243"))] {
        let identity = Identity { user: Some(user.into()), group: group.map(str::to_owned) };
        let limits = vec![
            Limit { kind: LimitKind::OpenFiles, maximum: 100 },
            Limit { kind: LimitKind::CoreBytes, maximum: 0 },
        ];
        let orders = Orders { identity: Some(identity), limits, ..Orders::default() };
        let (child, report) = Play::shell(script).start_wrapped(orders);
        read_report(&report).unwrap();
        let (text, _) = child.finish();
        let uid = if user == "4242" { 4242 } else { 65534 };
        assert!(text.contains(&format!("Uid: {uid} {uid} {uid} {uid}")), "{text}");
        let gid = match group {
            None => 65534,
            Some("daemon") => 1,
            Some(_) => 4243,
        };
        assert!(text.contains(&format!("Gid: {gid} {gid} {gid} {gid}\nGroups: {gid}")), "{text}");
        assert!(text.ends_with("100\n0"), "{text}");
    }
}

#[test]
fn every_step_that_fails_is_told() {
    let fails = |play: &Play<'_>, orders: Orders| {
        let (mut child, report) = play.start_wrapped(orders);
        let failure = read_report(&report).unwrap_err();
        assert_eq!(child.wait().exit_status(), Some(125));
        failure
    };
    let shell = || Play::shell("true");
    let missing = Play::program("/no/such/program", Vec::new());
    let failure = fails(&missing, Orders::default());
    assert_eq!((failure.step, failure.errno), (Step::Program, libc::ENOENT));
    assert!(failure.to_string().contains("/no/such/program"), "{failure}");
    let mut lost = shell();
    lost.cwd = PathBuf::from("/no/such/directory");
    assert_eq!(fails(&lost, Orders::default()).step, Step::Directory);
    let identity = |user: &str| Some(Identity { user: Some(user.into()), group: None });
    let failure = fails(&shell(), Orders { identity: identity("no such user"), ..Orders::default() });
    assert_eq!((failure.step, failure.errno), (Step::Identity, libc::ENOENT));
    // Its group cannot be known.
    let failure = fails(&shell(), Orders { identity: identity("4242"), ..Orders::default() });
    assert_eq!(failure.step, Step::Identity);
    let cgroup = Some(PathBuf::from("/no/such/cgroup.procs"));
    assert_eq!(fails(&shell(), Orders { cgroup, ..Orders::default() }).step, Step::Cgroup);
}

#[test]
fn a_second_listener_is_refused_with_a_reason() {
    let (child, report) =
        Play::role(&["seccomp-twice"]).start_wrapped(Orders { transparent: true, ..Orders::default() });
    let _first = read_report(&report).unwrap().unwrap();
    assert_eq!(child.finish().0, format!("Some({})", libc::EBUSY));
}

#[test]
fn where_seccomp_is_forbidden_the_report_says_so() {
    let orders = Orders { transparent: true, ..Orders::default() };
    let (mut child, report) = Play::shell("true").start_wrapped_by("wrapper-without-seccomp", orders);
    let failure = read_report(&report).unwrap_err();
    assert_eq!((failure.step, failure.errno), (Step::Filter, libc::EPERM));
    assert!(failure.hint().unwrap().contains("forbids"));
    child.wait();
}
