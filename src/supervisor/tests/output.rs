//! Where the output of apps goes.

use std::fs;

use super::{
    Running,
    desk::eventually,
    fixture::{app, named, out_log, python, shell, sleeper},
    supervisor::{AppSpec, InstanceState, Request, Select},
};

#[tokio::test]
async fn each_instance_has_its_own_files() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let script = "echo out $INSTANCE; echo err $INSTANCE >&2; exec sleep 100000";
    running.run(vec![AppSpec { instances: 2, ..shell(&dir, script) }]).await;
    for id in 0..2 {
        assert_eq!(running.lines(&out_log(&dir, id), 1).await, [format!("out {id}")]);
        assert_eq!(running.lines(&dir.join(format!("err-{id}.log")), 1).await, [format!("err {id}")]);
    }
    running.end().await;
}

#[tokio::test]
async fn merged_and_combined_files_keep_lines_whole() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let script = "i=0; while [ $i -lt 500 ]; do printf \"$INSTANCE \"; echo $i; i=$((i+1)); done
        echo $INSTANCE done >&2; exec sleep 100000";
    let mut spec = AppSpec { instances: 3, ..shell(&dir, script) };
    spec.logs.merge = true;
    spec.logs.combined = Some(dir.join("all.log"));
    running.run(vec![spec]).await;
    for (file, count) in [("out.log", 1500), ("all.log", 1503)] {
        let lines = running.lines(&dir.join(file), count).await;
        assert_eq!(lines.len(), count);
        for instance in 0..3 {
            let of_it = lines.iter().filter_map(|line| line.strip_prefix(&format!("{instance} ")));
            let numbers: Vec<usize> = of_it.filter_map(|rest| rest.parse().ok()).collect();
            assert_eq!(numbers, (0..500).collect::<Vec<_>>(), "{file}");
        }
    }
    assert_eq!(running.lines(&dir.join("err.log"), 3).await.len(), 3);
    running.end().await;
}

#[tokio::test]
async fn lines_may_be_json_or_carry_the_time() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let talker = |name, file: &str| {
        let mut spec = named(name, shell(&dir, "echo 'it \"said\" so'; exec sleep 100000"));
        spec.logs.out = Some(dir.join(file));
        spec.logs.merge = true;
        spec
    };
    let mut json = talker("json", "json.log");
    json.logs.json = true;
    let mut dated = talker("dated", "dated.log");
    dated.logs.date_format = Some("YYYY-MM-DD".to_owned());
    running.run(vec![json, dated]).await;
    let line = running.lines(&dir.join("json.log"), 1).await.remove(0);
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&value["message"], &value["app_name"]),
        (&"it \"said\" so".into(), &"json".into()),
        "{value}"
    );
    let line = running.lines(&dir.join("dated.log"), 1).await.remove(0);
    let today = jiff::Zoned::now().date();
    let yesterday = today.yesterday().unwrap();
    let expected = [today, yesterday].map(|day| format!("{day}: it \"said\" so"));
    assert!(expected.contains(&line), "{line}");
    running.end().await;
}

#[tokio::test]
async fn what_is_discarded_blocks_nobody() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    // A shell that is waiting for a command passes over a SIGINT, so it is none.
    let script = "import os, time
for stream in 1, 2: os.write(stream, b\"x\" * 3_000_000)
open('done', 'w').close(); time.sleep(100000)";
    let mut spec = python(&dir, script);
    (spec.logs.out, spec.logs.err) = (None, None);
    let report = running.run(vec![spec]).await.remove(0);
    assert_eq!((report.out_log, report.err_log), (None, None));
    eventually("the end of the output", || dir.join("done").exists()).await;
    running.end().await;
}

#[tokio::test]
async fn files_renamed_by_others_are_opened_anew() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let script = "echo one; until [ -e go ]; do sleep 0.01; done; echo two; exec sleep 100000";
    running.run(vec![shell(&dir, script)]).await;
    let (file, aside) = (out_log(&dir, 0), dir.join("aside.log"));
    running.lines(&file, 1).await;
    fs::rename(&file, &aside).unwrap();
    running.done(Request::ReopenLogs).await;
    running.folder.touch("go");
    assert_eq!(running.lines(&file, 1).await, ["two"]);
    assert_eq!(running.lines(&aside, 1).await, ["one"]);
    running.end().await;
}

#[tokio::test]
async fn one_that_floods_stdout_keeps_nobody_from_being_answered() {
    let mut running = Running::new().await;
    let dir = running.path().to_owned();
    let flood = |name, text: &str| {
        let mut spec = named(name, app(&dir, "/usr/bin/yes", &[text]));
        spec.logs.out = Some(dir.join(format!("{name}.log")));
        (spec.logs.rotate_bytes, spec.logs.rotate_keep) = (1 << 20, 2);
        spec
    };
    running
        .run(vec![flood("short", "y"), flood("long", &"x".repeat(5000)), named("quiet", sleeper(&dir))])
        .await;
    for _ in 0..20 {
        assert_eq!(running.status().await.len(), 3);
        running.done(Request::Restart(Select::App("quiet".to_owned()))).await;
    }
    running.done(Request::Stop(Select::All)).await;
    assert!(running.status().await.iter().all(|r| r.state == InstanceState::Stopped));
    running.end().await;
}
