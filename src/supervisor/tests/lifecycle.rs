//! What clients ask for, by every way of saying which instances they mean.

use std::fs;

use super::{
    Running,
    desk::{LIMIT, event, exists, is_online, pids},
    fixture::{app, named, out_log, python, shell, sleeper, with_env},
    supervisor::{AppSpec, Event, InstanceReport, InstanceState, Port, Request, Response, Select},
};

/// Three apps of two namespaces: ids 0 and 1 are of `app`, 2 of `other`, 3 of `far`.
async fn three_apps() -> (Running, Vec<InstanceReport>) {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let two = AppSpec { instances: 2, ..sleeper(&dir) };
    let far = AppSpec { namespace: "elsewhere".to_owned(), ..named("far", sleeper(&dir)) };
    let reports = running.run(vec![two, named("other", sleeper(&dir)), far]).await;
    (running, reports)
}

fn selects() -> [(Select, &'static [usize]); 4] {
    [
        (Select::All, &[0, 1, 2, 3]),
        (Select::App("app".to_owned()), &[0, 1]),
        (Select::Namespace("elsewhere".to_owned()), &[3]),
        (Select::Id(2), &[2]),
    ]
}

/// Which of the reports differ.
fn differing<T: PartialEq>(
    before: &[InstanceReport],
    after: &[InstanceReport],
    what: impl Fn(&InstanceReport) -> T,
) -> Vec<usize> {
    (0..before.len()).filter(|at| what(&before[*at]) != what(&after[*at])).collect()
}

#[tokio::test]
async fn a_report_says_who_and_where_but_nothing_of_the_environment() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let spec = with_env(AppSpec { instances: 2, ..sleeper(&dir) }, &[("SECRET", "hunter2")]);
    running.done(Request::Apply { apps: vec![spec] }).await;
    let stopped = running.status().await;
    assert!(stopped.iter().all(|r| r.state == InstanceState::Stopped && r.pid.is_none()), "{stopped:#?}");
    running.done(Request::Start(Select::All)).await;
    let reports = running.until_online().await;
    for (number, report) in (0..).zip(&reports) {
        assert_eq!((report.app.as_str(), report.namespace.as_str()), ("app", "default"));
        assert_eq!((report.instance, report.id, report.restarts), (number, number, 0));
        assert_eq!(report.out_log, Some(out_log(&dir, number)));
        assert!(exists(report.pid.unwrap()) && report.start_ticks.is_some() && report.uptime_ms.is_some());
        assert!(report.memory_bytes.unwrap() > 0);
    }
    assert!(!format!("{reports:?}").contains("hunter2"));
    running.end().await;
}

#[tokio::test]
async fn a_stop_and_a_start_reach_just_what_was_meant() {
    let (mut running, _) = three_apps().await;
    for (select, meant) in selects() {
        let before = running.until_online().await;
        running.done(Request::Stop(select.clone())).await;
        let stopped = running.status().await;
        assert_eq!(differing(&before, &stopped, |r| r.pid), meant, "{select:?}");
        for at in meant {
            assert_eq!(stopped[*at].state, InstanceState::Stopped);
            assert_eq!(stopped[*at].last_end.as_deref(), Some("was ended by signal 2"));
            assert!(!exists(before[*at].pid.unwrap()));
        }
        running.done(Request::Start(select)).await;
    }
    running.until_online().await;
    running.end().await;
}

#[tokio::test]
async fn a_restart_reaches_just_what_was_meant() {
    let (mut running, _) = three_apps().await;
    for (select, meant) in selects() {
        let before = running.until_online().await;
        running.done(Request::Restart(select.clone())).await;
        let after = running.until_online().await;
        assert_eq!(differing(&before, &after, |r| r.pid), meant, "{select:?}");
        assert_eq!(differing(&before, &after, |r| r.restarts), meant, "{select:?}");
    }
    running.end().await;
}

#[tokio::test]
async fn a_reload_reaches_just_what_was_meant() {
    let (mut running, _) = three_apps().await;
    for (select, meant) in selects() {
        let before = running.until_online().await;
        running.done(Request::Reload(select.clone())).await;
        running.done(Request::Await(select.clone())).await;
        let after = running.until_online().await;
        assert_eq!(differing(&before, &after, |r| r.pid), meant, "{select:?}");
    }
    running.end().await;
}

#[tokio::test]
async fn a_reset_reaches_just_what_was_meant() {
    let (mut running, _) = three_apps().await;
    for (select, meant) in selects() {
        running.done(Request::Restart(Select::All)).await;
        let before = running.until_online().await;
        running.done(Request::Reset(select.clone())).await;
        let after = running.status().await;
        assert_eq!(differing(&before, &after, |r| r.restarts), meant, "{select:?}");
        assert!(meant.iter().all(|at| after[*at].restarts == 0));
    }
    running.end().await;
}

#[tokio::test]
async fn a_deletion_forgets_just_what_was_meant() {
    for (select, meant) in selects() {
        let (mut running, before) = three_apps().await;
        let mut subscriber = running.subscriber().await;
        running.done(Request::Delete(select.clone())).await;
        let left: Vec<usize> = running.status().await.iter().map(|report| report.id as usize).collect();
        let expected: Vec<usize> = (0..4).filter(|id| !meant.contains(id)).collect();
        assert_eq!(left, expected, "{select:?}");
        for at in meant {
            assert!(!exists(before[*at].pid.unwrap()));
            let removed = |event| match event {
                Event::Removed { app, instance } => Some((app, instance)),
                _ => None,
            };
            // All events of one kind come in the order of the instances.
            let told = event(&mut subscriber, removed).await;
            assert!(meant.iter().any(|at| (&before[*at].app, before[*at].instance) == (&told.0, told.1)));
        }
        // A new app of that name gets ids that were never used before.
        if select == Select::App("app".to_owned()) {
            let dir = running.path().to_owned();
            let reports = running.run(vec![sleeper(&dir)]).await;
            assert_eq!(reports.iter().map(|r| r.id).max(), Some(4));
        }
        running.end().await;
    }
}

#[tokio::test]
async fn a_signal_reaches_the_first_process_of_just_what_was_meant() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let told =
        |name| named(name, shell(&dir, "trap 'echo told' USR1; echo up; while :; do sleep 0.01; done"));
    let two = AppSpec { instances: 2, ..told("app") };
    let far = AppSpec { namespace: "elsewhere".to_owned(), ..told("far") };
    running.run(vec![two, told("other"), far]).await;
    for id in 0..4 {
        running.lines(&out_log(&dir, id), 1).await;
    }
    let mut expected = [1; 4];
    for (select, meant) in selects() {
        running.done(Request::Signal { select, signal: 10 }).await;
        for at in meant {
            expected[*at] += 1;
        }
        for (id, count) in (0..).zip(expected) {
            let lines = running.lines(&out_log(&dir, id), count).await;
            assert_eq!(lines.len(), count, "{id}");
        }
    }
    let reason = running.refused(Request::Signal { select: Select::All, signal: 999 }).await;
    assert!(reason.contains("999 is not the number of a signal"), "{reason}");
    running.end().await;
}

#[tokio::test]
async fn a_flush_empties_the_files_of_just_those_apps() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let talker = |name| named(name, shell(&dir, "echo up; exec sleep 100000"));
    running.run(vec![talker("app"), talker("other")]).await;
    for id in 0..2 {
        running.lines(&out_log(&dir, id), 1).await;
    }
    running.done(Request::Flush(Select::App("app".to_owned()))).await;
    super::desk::eventually("an empty file", || fs::read(out_log(&dir, 0)).unwrap().is_empty()).await;
    assert_eq!(fs::read_to_string(out_log(&dir, 1)).unwrap(), "up\n");
    running.end().await;
}

#[tokio::test]
async fn what_there_is_not_is_refused_by_every_request() {
    let (mut running, before) = three_apps().await;
    let unknown = [
        (Select::App("nobody".to_owned()), "there is no app \"nobody\""),
        (Select::Namespace("nowhere".to_owned()), "there is no namespace \"nowhere\""),
        (Select::Id(77), "there is no instance with the id 77"),
    ];
    for (select, expected) in unknown {
        let requests = [
            Request::Start(select.clone()),
            Request::Stop(select.clone()),
            Request::Restart(select.clone()),
            Request::Reload(select.clone()),
            Request::Await(select.clone()),
            Request::Delete(select.clone()),
            Request::Reset(select.clone()),
            Request::Flush(select.clone()),
            Request::Signal { select, signal: 10 },
        ];
        for request in requests {
            assert_eq!(running.refused(request.clone()).await, expected, "{request:?}");
        }
    }
    let reason = running.refused(Request::Scale { app: "nobody".to_owned(), instances: 2 }).await;
    assert_eq!(reason, "there is no app \"nobody\"");
    assert_eq!(running.pids().await, pids(&before));
    running.end().await;
}

#[tokio::test]
async fn scaling_adds_and_removes_instances_with_their_own_ports() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    running.run(vec![super::fixture::server(&dir, 1)]).await;
    let scale = |instances| Request::Scale { app: "app".to_owned(), instances };
    running.done(scale(2)).await;
    let reports = running.until_online().await;
    assert_eq!(reports.len(), 2);
    running.done(scale(1)).await;
    assert!(!exists(reports[1].pid.unwrap()));
    assert_eq!(running.pids().await, [reports[0].pid.unwrap()]);
    assert!(running.refused(scale(5000)).await.contains("more than 1024"));
    running.done(scale(0)).await;
    assert_eq!(running.status().await, []);
    running.done(scale(1)).await;
    let again = running.until_online().await;
    assert_eq!((again.len(), again[0].instance), (1, 0));
    running.end().await;
}

#[tokio::test]
async fn another_specification_holds_for_what_is_started_after_it() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let talker = |word: &str, instances| AppSpec {
        instances,
        ..shell(&dir, &format!("echo {word}; exec sleep 100000"))
    };
    let before = running.run(vec![talker("one", 2)]).await;
    running.lines(&out_log(&dir, 1), 1).await;
    running.done(Request::Apply { apps: vec![talker("two", 3)] }).await;
    let applied = running.status().await;
    assert_eq!(applied.iter().map(|r| r.pid).collect::<Vec<_>>(), [before[0].pid, before[1].pid, None]);
    running.done(Request::Restart(Select::Id(1))).await;
    assert_eq!(running.lines(&out_log(&dir, 1), 2).await, ["one", "two"]);
    // One instance less: it ends without being asked.
    running.done(Request::Apply { apps: vec![talker("three", 1)] }).await;
    running.until(|report| report.instance == 0).await;
    running.end().await;
}

#[tokio::test]
async fn a_specification_without_sense_changes_nothing() {
    let (mut running, before) = three_apps().await;
    let dir = running.path().to_owned();
    let relative = AppSpec { cwd: "somewhere".into(), ..named("new", sleeper(&dir)) };
    let reason = running.refused(Request::Apply { apps: vec![named("app", sleeper(&dir)), relative] }).await;
    assert!(reason.starts_with("app new: the working folder somewhere is not an absolute"), "{reason}");
    let twice = vec![named("new", sleeper(&dir)), named("new", sleeper(&dir))];
    assert!(running.refused(Request::Apply { apps: twice }).await.contains("the name is used twice"));
    assert_eq!(running.status().await.len(), before.len());
    running.end().await;
}

#[tokio::test]
async fn what_is_not_to_start_with_the_others_starts_by_its_name() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let manual = AppSpec { autostart: false, ..named("manual", sleeper(&dir)) };
    running.done(Request::Apply { apps: vec![sleeper(&dir), manual] }).await;
    running.done(Request::Start(Select::All)).await;
    let reports = running.status().await;
    assert!(is_online(&reports[0]) && reports[1].state == InstanceState::Stopped, "{reports:#?}");
    running.done(Request::Start(Select::App("manual".to_owned()))).await;
    running.until_online().await;
    running.end().await;
}

#[tokio::test]
async fn whoever_waits_hears_when_all_are_ready_or_why_one_is_not() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let settle = || Request::Settle(Select::App("app".to_owned()));
    running.folder.touch("hung");
    running.done(Request::Apply { apps: vec![super::fixture::server(&dir, 2)] }).await;
    running.done(Request::Start(Select::All)).await;
    let mut other = running.other().await;
    let waiting = tokio::spawn(async move { other.call(&settle(), LIMIT).await });
    let reports = running.status().await;
    assert!(reports.iter().all(|report| report.state == InstanceState::Launching), "{reports:#?}");
    assert!(!waiting.is_finished());
    running.folder.remove("hung");
    waiting.await.unwrap().unwrap();
    running.until_online().await;

    running.folder.touch("broken");
    let mut failing = super::fixture::server(&dir, 1);
    (failing.restart.min_uptime_ms, failing.restart.max_unstable) = (3_600_000, 2);
    running.done(Request::Apply { apps: vec![failing.clone()] }).await;
    running.done(Request::Restart(Select::All)).await;
    let reason = running.refused(settle()).await;
    assert!(reason.contains("instance 0 of app") && reason.contains("exited with status 7"), "{reason}");

    let mut deaf = failing;
    (deaf.program, deaf.args, deaf.ready.timeout_ms) = ("/bin/sleep".into(), vec!["100000".to_owned()], 100);
    running.done(Request::Apply { apps: vec![deaf] }).await;
    running.done(Request::Restart(Select::All)).await;
    let reason = running.refused(settle()).await;
    assert!(reason.contains("instance 0 of app") && reason.contains("not ready yet"), "{reason}");
    running.end().await;
}

#[tokio::test]
async fn a_program_that_is_not_there_is_reported() {
    let mut running = Running::new().await;
    let mut spec = app(running.path(), "/nonexistent/program", &[]);
    spec.restart.max_unstable = 2;
    running.done(Request::Apply { apps: vec![spec] }).await;
    let reason = running.refused(Request::Start(Select::All)).await;
    assert!(reason.starts_with("instance 0 of app: could not be started: "), "{reason}");
    assert!(reason.contains("/nonexistent/program: No such file"), "{reason}");
    running.until(|report| report.state == InstanceState::Errored).await;
    running.end().await;
}

#[tokio::test]
async fn an_instance_has_its_variables_a_session_and_no_descriptor_of_ours() {
    let script = "import os, time
names = [os.environ.get(name) for name in ('PORT', 'INSTANCE', 'OWN', 'BASE', 'NODE_CHANNEL_FD')]
held = [os.path.realpath('/proc/self/fd/' + fd) for fd in os.listdir('/proc/self/fd')]
print(*names, os.getsid(0) == os.getpid(), os.readlink('/proc/self/fd/0'), sorted(held)[:-2], flush=True)
time.sleep(100000)";
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let mut spec = with_env(python(&dir, script), &[("OWN", "value"), ("BASE", "9229")]);
    spec.instances = 2;
    spec.port = Some(Port { variable: "PORT".to_owned(), first: 4000 });
    spec.increment_variable = Some("BASE".to_owned());
    running.run(vec![spec]).await;
    for (id, numbers) in [(0, "4000 0 value 9229"), (1, "4001 1 value 9230")] {
        let line = running.lines(&out_log(&dir, id), 1).await.remove(0);
        let (words, held) = line.split_once(" [").unwrap();
        assert_eq!(words, format!("{numbers} None True /dev/null"));
        assert!(!held.contains("anon_inode") && !held.contains("socket:"), "{held}");
    }
    running.end().await;
}

#[tokio::test]
async fn a_port_that_is_also_to_be_counted_up_is_counted_once() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let mut spec = AppSpec { instances: 3, ..shell(&dir, "echo $PORT; exec sleep 100000") };
    spec.port = Some(Port { variable: "PORT".to_owned(), first: 4000 });
    spec.increment_variable = Some("PORT".to_owned());
    running.run(vec![spec]).await;
    for id in 0..3 {
        assert_eq!(running.lines(&out_log(&dir, id), 1).await, [(4000 + id).to_string()]);
    }
    running.end().await;
}

#[tokio::test]
async fn the_shutdown_passed_in_stops_everything_first() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let before = running.run(vec![AppSpec { instances: 3, ..sleeper(&dir) }]).await;
    let _ = running.shutdown.send(());
    tokio::time::timeout(LIMIT, running.work).await.unwrap().unwrap().unwrap();
    assert!(!pids(&before).into_iter().any(exists));
    assert!(running.desk.client.call(&Request::Status, LIMIT).await.is_err());
}

#[tokio::test]
async fn the_supervisor_says_who_it_is() {
    let mut running = Running::new().await;
    match running.ask(Request::Identify).await {
        Ok(Response::Identity(identity)) => {
            assert_eq!(
                (identity.version.as_str(), identity.brain),
                (env!("CARGO_PKG_VERSION"), std::process::id())
            );
        }
        other => panic!("{other:?}"),
    }
    let nowhere = Request::Upgrade { program: "relative".into() };
    assert!(running.refused(nowhere).await.contains("not the absolute path of a program"));
    running.end().await;
}
