//! The main job on the demo workload, with nothing installed but qbench.

use std::{fs, path::Path};

use rustix::process::Signal;

use crate::{
    schema::assert_meets_schema,
    support::{Qbench, assert_nothing_is_left, demo_in, folder, marked_processes},
};

fn only_record(folder: &Path) -> serde_json::Value {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    serde_json::from_str(&fs::read_to_string(files.remove(0)).unwrap()).unwrap()
}

#[test]
fn collect_stores_a_whole_record_and_leaves_nothing() {
    for target in ["bare", "builtin"] {
        let folder = folder();
        demo_in(folder.path());
        Qbench::new(folder.path(), &["collect", target, "--epochs", "2", "--window", "1s"])
            .run()
            .exits_with(0)
            .stdout_has(target);
        let record = only_record(&folder.path().join("baselines").join(target));
        assert_meets_schema(&record);
        assert_eq!(record["session"]["ended"], "all-measured");
        let epochs = record["epochs"].as_array().unwrap();
        assert_eq!(epochs.len(), 2);
        for epoch in epochs {
            for role in ["target", "control", "control-again"] {
                let arm = &epoch["arms"][role];
                let requests = &arm["requests"];
                assert_eq!(requests["offered"], requests["succeeded"], "{role}: {requests}");
                assert!(arm["latency"]["p50_s"].as_f64().unwrap() > 0.0);
                assert!(arm["service"]["memory"]["anonymous"].as_u64().unwrap() > 0);
                // The built-in supervisor is its keeper and its brain.
                let overhead = if role == "target" && target == "builtin" { 2 } else { 0 };
                assert_eq!(arm["overhead_fixed"]["processes"], overhead);
            }
        }
        assert_nothing_is_left(folder.path());
    }
}

#[test]
fn a_record_keeps_no_secret() {
    let folder = folder();
    demo_in(folder.path());
    let path = folder.path().join("ecosystem.json");
    let mut ecosystem: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    ecosystem["apps"][0]["env"]["API_TOKEN"] = "hunter2-in-the-ecosystem".into();
    fs::write(&path, ecosystem.to_string()).unwrap();
    let outcome = Qbench::new(
        folder.path(),
        &["collect", "builtin", "--epochs", "1", "--window", "1s", "--format", "json"],
    )
    .env("SECRET_OF_THE_SHELL", "hunter2-in-the-shell")
    .run()
    .exits_with(0);
    let stored = only_record(&folder.path().join("baselines/builtin")).to_string();
    for text in [&outcome.stdout, &outcome.stderr, &stored] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn bare_against_itself_does_not_fail() {
    let folder = folder();
    demo_in(folder.path());
    // Too short for a narrow interval, so INCONCLUSIVE is as right as PASS, and INVALID may be
    // on a machine that is disturbed; FAIL would be a lie.
    let outcome = Qbench::new(
        folder.path(),
        &["validate", "bare", "bare", "--epochs", "6", "--window", "2s", "--format", "json"],
    )
    .run()
    .exits_with_one_of(&[0, 4, 5]);
    let comparison = outcome.json()["comparison"].take();
    assert_eq!(comparison["grade"], "paired");
    let p50 = &comparison["metrics"][0];
    assert_eq!(p50["metric"], "p50");
    let count = |key: &str| comparison["epochs"][key].as_u64().unwrap();
    let used = count("measured") - count("dropped");
    // On a disturbed machine epochs are dropped, as they should be; six undisturbed ones are what was asked for.
    if used == 6 {
        assert_eq!(p50["evidence"]["kind"], "change", "{p50}");
        assert_eq!(p50["evidence"]["n"], serde_json::json!([6, 6]));
    } else {
        assert_ne!(comparison["verdict"], "PASS", "{comparison}");
    }
    assert_nothing_is_left(folder.path());
}

#[test]
fn the_scenarios_run_on_the_built_in_supervisor() {
    let folder = folder();
    demo_in(folder.path());
    let outcome = Qbench::new(folder.path(), &["parity", "builtin", "--repeat", "1", "--format", "json"])
        .run()
        .exits_with_one_of(&[0, 1]);
    let rows = outcome.json()["rows"].take();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 3);
    let figures = |scenario: &str| {
        let row = rows.iter().find(|row| row["scenario"] == scenario).unwrap();
        row["runs"][0].clone()
    };
    assert_eq!(figures("start-all")["online_share"], 1.0);
    let reload = figures("zero-downtime-reload");
    assert_eq!(reload["new_release_share"], 1.0, "{reload}");
    assert_eq!(reload["replaced_share"], 1.0, "{reload}");
    let restart = figures("restart-resilience");
    assert!(restart["respawn_seconds"].as_f64().unwrap() > 0.0, "{restart}");
    assert!(
        restart["serve_seconds"].as_f64().unwrap() >= restart["respawn_seconds"].as_f64().unwrap(),
        "{restart}"
    );
    assert_nothing_is_left(folder.path());
}

#[test]
fn an_interrupt_saves_what_was_measured_and_leaves_nothing() {
    let folder = folder();
    demo_in(folder.path());
    let baselines = folder.path().join("baselines/builtin");
    let running =
        Qbench::new(folder.path(), &["collect", "builtin", "--epochs", "50", "--window", "1s"]).spawn();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while fs::read_dir(&baselines).map_or(0, Iterator::count) == 0 {
        assert!(std::time::Instant::now() < deadline, "no epoch was saved");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    running.signal(Signal::INT);
    running.wait().exits_with(130);
    let record = only_record(&baselines);
    assert_eq!(record["session"]["ended"], serde_json::Value::Null);
    assert!(!record["epochs"].as_array().unwrap().is_empty());
    assert_nothing_is_left(folder.path());
}

#[test]
fn a_second_interrupt_ends_at_once() {
    let folder = folder();
    demo_in(folder.path());
    let running =
        Qbench::new(folder.path(), &["collect", "builtin", "--epochs", "50", "--window", "1s"]).spawn();
    running.wait_until_it_started_something();
    running.signal(Signal::INT);
    running.signal(Signal::TERM);
    running.wait().exits_with(130).stderr_has("ended at once");
    Qbench::new(folder.path(), &["doctor", "--clean"]).run().exits_with(0);
    assert_nothing_is_left(folder.path());
}

#[test]
fn what_a_killed_run_left_is_found_and_cleared() {
    for target in ["bare", "builtin"] {
        let folder = folder();
        demo_in(folder.path());
        let running =
            Qbench::new(folder.path(), &["collect", target, "--epochs", "50", "--window", "1s"]).spawn();
        running.wait_until_it_started_something();
        running.signal(Signal::KILL);
        running.wait().exits_with(-9);
        assert!(
            !marked_processes(folder.path()).is_empty(),
            "kill -9 leaves something, or this test shows nothing"
        );
        Qbench::new(folder.path(), &["doctor"]).run().exits_with(0).stdout_has("left by a killed run");
        Qbench::new(folder.path(), &["doctor", "--clean"]).run().exits_with(0).stdout_has("cleared");
        assert_nothing_is_left(folder.path());
    }
}
