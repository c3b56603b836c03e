//! What is measured beside the window, on request: replacements, the highest rate, and memory over a soak.
//!
//! No test here expects a time or a rate: a busy machine has others. They expect the figures to be there.

use std::{fs, path::Path};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    schema::assert_meets_schema,
    support::{Qbench, assert_nothing_is_left, demo_in, folder},
};

/// The records below a folder, by their file's name.
fn records(folder: &Path) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(records(&path));
        } else if path.extension().is_some_and(|extension| extension == "json")
            && path.file_stem().is_some_and(|stem| stem != "comparison")
        {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            found.push((name, serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap()));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

#[test]
fn a_reload_and_a_restart_of_every_arm_are_timed() {
    let folder = folder();
    demo_in(folder.path());
    let args = ["collect", "builtin", "--epochs", "1", "--window", "1s", "--times"];
    Qbench::new(folder.path(), &args).run().exits_with(0);
    let records = records(&folder.path().join("baselines"));
    let [(_, record)] = &records[..] else { panic!("{records:?}") };
    assert_meets_schema(record);
    for role in ["target", "control", "control-again"] {
        let arm = &record["epochs"][0]["arms"][role];
        for figure in ["reload_s", "restart_s"] {
            assert!(arm[figure].as_f64().is_some_and(|seconds| seconds > 0.0), "{role} {figure}: {arm}");
        }
        assert!(
            arm["service"]["memory"]["anonymous"].as_u64().is_some(),
            "read before the processes changed"
        );
        assert!(arm["throughput"].is_null());
    }
    assert_nothing_is_left(folder.path());
}

#[test]
fn what_is_not_asked_for_is_not_measured() {
    let folder = folder();
    demo_in(folder.path());
    Qbench::new(folder.path(), &["collect", "bare", "--epochs", "1", "--window", "1s"]).run().exits_with(0);
    let records = records(&folder.path().join("baselines"));
    let [(_, record)] = &records[..] else { panic!("{records:?}") };
    let arm = &record["epochs"][0]["arms"]["target"];
    assert!(arm["reload_s"].is_null() && arm["restart_s"].is_null() && arm["throughput"].is_null(), "{arm}");
    assert!(record["soak"].is_null());
}

#[test]
fn the_highest_rate_of_every_arm_is_searched() {
    let folder = folder();
    demo_in(folder.path());
    let args = ["collect", "builtin", "--epochs", "1", "--window", "1s", "--throughput", "50ms"];
    let outcome = Qbench::new(folder.path(), &args).run().exits_with(0);
    let records = records(&folder.path().join("baselines"));
    let [(_, record)] = &records[..] else { panic!("{records:?}") };
    assert_meets_schema(record);
    for role in ["target", "control", "control-again"] {
        let throughput = &record["epochs"][0]["arms"][role]["throughput"];
        // On a machine with few cores the load may come to its own limit before the service does; then it says so.
        let is_found = throughput.as_f64().is_some_and(|rate| rate > 0.0);
        assert!(is_found || outcome.stderr.contains("no throughput: "), "{role}: {throughput}");
    }
    assert_nothing_is_left(folder.path());
}

#[test]
fn a_soak_keeps_the_least_memory_of_each_window_of_both_sides() {
    let folder = folder();
    demo_in(folder.path());
    let args = ["validate", "bare", "bare", "--epochs", "1", "--window", "1s", "--soak", "12s"];
    Qbench::new(folder.path(), &args).arg("--soak-window").arg("2s").run().exits_with_one_of(&[0, 1, 4, 5]);
    let records = records(&folder.path().join("reports"));
    assert_eq!(records.len(), 2, "{records:?}");
    for (name, record) in &records {
        assert_meets_schema(record);
        let soak = &record["soak"];
        let windows = soak["windows"].as_array().unwrap();
        let middles: Vec<f64> = windows.iter().map(|window| window["at_s"].as_f64().unwrap()).collect();
        assert_eq!(middles, [1.0, 3.0, 5.0, 7.0, 9.0, 11.0], "{name}");
        for window in windows {
            assert!(window["least_anonymous"].as_u64().is_some_and(|bytes| bytes > 0), "{name}: {soak}");
        }
        assert!(soak["requests"]["succeeded"].as_u64().unwrap() > 0, "{name}: {soak}");
    }
    assert_nothing_is_left(folder.path());
}

#[test]
fn an_interrupt_within_a_soak_keeps_its_whole_windows() {
    let folder = folder();
    demo_in(folder.path());
    let args = ["validate", "bare", "bare", "--epochs", "1", "--window", "1s", "--soak", "8m"];
    let running = Qbench::new(folder.path(), &args).arg("--soak-window").arg("1s").spawn();
    let reports = folder.path().join("reports");
    let windows = || -> Vec<usize> {
        let of = |(_, record): (String, Value)| record["soak"]["windows"].as_array().map_or(0, Vec::len);
        records(&reports).into_iter().map(of).collect()
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while windows().iter().filter(|count| **count > 0).count() < 2 {
        assert!(std::time::Instant::now() < deadline, "no window was saved");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    running.signal(Signal::INT);
    running.wait().exits_with(130);
    assert!(windows().iter().all(|count| *count > 0));
    assert_nothing_is_left(folder.path());
}

#[test]
fn a_soak_too_short_to_judge_is_refused_before_it_is_run() {
    let folder = folder();
    demo_in(folder.path());
    Qbench::new(folder.path(), &["validate", "bare", "bare", "--soak", "10m"])
        .run()
        .exits_with(2)
        .stderr_has("6 are needed");
    Qbench::new(folder.path(), &["validate", "bare", "bare", "--soak-window", "10s"]).run().exits_with(2);
    Qbench::new(folder.path(), &["validate", "bare", "bare", "--soak", "30m", "--times", "--dry-run"])
        .run()
        .exits_with(0)
        .stdout_has("in each of 12 windows of 2m30s")
        .stdout_has("a reload and of a restart");
}

#[test]
fn a_soak_of_more_windows_than_are_judged_is_refused() {
    let folder = folder();
    demo_in(folder.path());
    Qbench::new(folder.path(), &["validate", "bare", "bare", "--soak", "1h", "--soak-window", "1s"])
        .run()
        .exits_with(2)
        .stderr_has("at most 500 are judged");
}
