//! Epochs judged again, sessions rehearsed with a known truth, and the calibration of a machine.

use std::{fs, path::Path};

use serde_json::Value;

use crate::support::{Outcome, Qbench, assert_nothing_is_left, demo_in, folder};

fn verdict(args: &[&str]) -> Outcome {
    let folder = folder();
    Qbench::new(folder.path(), &[&["verdict", "--format", "json"], args].concat()).run()
}

fn counts(outcome: &Outcome) -> Value {
    outcome.json()
}

#[test]
fn a_rehearsal_counts_every_session_and_repeats_itself() {
    let args = ["--rehearse", "noise", "--effect", "5%", "--sessions", "50"];
    let first = counts(&verdict(&args).exits_with(0));
    assert_eq!(first["sessions"], 50);
    for counts in [&first["overall"], &first["metrics"]["p50"]] {
        let sum: u64 = counts.as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(sum, 50, "{counts}");
    }
    assert!(first["mean_epochs"].as_f64().unwrap() >= 10.0);
    assert_eq!(first, counts(&verdict(&args).exits_with(0)), "the same seed, the same sessions");
    let other = counts(&verdict(&[&args[..], &["--seed", "2"]].concat()).exits_with(0));
    assert_ne!(first["mean_epochs"], other["mean_epochs"]);
}

#[test]
fn large_effects_are_told_and_damage_never_passes() {
    let all = |verdict: &str, args: &[&str]| {
        let found = counts(&self::verdict(&[args, &["--sessions", "40"]].concat()).exits_with(0));
        assert_eq!(found["overall"][verdict], 40, "{args:?}: {found}");
    };
    all("pass", &["--rehearse", "drift", "--noise", "1%"]);
    all("fail", &["--rehearse", "drift", "--noise", "1%", "--effect", "30%"]);
    all("pass", &["--rehearse", "noise", "--noise", "1%", "--stored", "4x4", "--effect", "-1%"]);
    all("fail", &["--rehearse", "noise", "--noise", "1%", "--stored", "4x4", "--effect", "60%"]);
    for damage in ["ragged", "truncated", "empty", "nan"] {
        let args = ["--rehearse", "noise", "--damage", damage, "--sessions", "40"];
        let found = counts(&verdict(&args).exits_with(0));
        assert_eq!(found["overall"]["pass"], 0, "{damage}: {found}");
    }
}

#[test]
fn wrong_arguments_name_themselves() {
    for (args, words) in [
        (&["--rehearse", "noise", "--effect", "5"][..], "such as 5%"),
        (&["--rehearse", "noise", "--stored", "3"], "such as 3x2"),
        (&["--rehearse", "nonsense"], "one-sided-spikes"),
        (&["--rehearse", "noise", "--sessions", "0"], "--sessions"),
        (&[], "--from"),
        (&["--from", "only-one.json"], "--from"),
    ] {
        verdict(args).exits_with(2).stderr_has(words);
    }
    verdict(&["--from", "absent.json", "absent.json"]).exits_with(3).stderr_has("absent.json");
}

fn paths(folder: &Path) -> [String; 2] {
    let session = fs::read_dir(folder.join("reports")).unwrap().next().unwrap().unwrap().path();
    ["baseline-bare.json", "candidate-bare.json"].map(|name| session.join(name).to_str().unwrap().to_owned())
}

/// As if nothing had disturbed it: other tests run beside this one.
fn undisturbed(path: &str) {
    let mut record: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    for epoch in record["epochs"].as_array_mut().unwrap() {
        for (_, condition) in epoch["conditions"].as_object_mut().unwrap() {
            *condition = Value::Null;
        }
    }
    fs::write(path, record.to_string()).unwrap();
}

#[test]
fn a_session_is_judged_again_as_it_was_and_drawn_from() {
    let folder = folder();
    demo_in(folder.path());
    let args = ["validate", "bare", "bare", "--epochs", "7", "--window", "1s", "--format", "json"];
    Qbench::new(folder.path(), &args).run().exits_with_one_of(&[0, 1, 4, 5]);
    let [baseline, candidate] = paths(folder.path());
    undisturbed(&baseline);
    undisturbed(&candidate);
    let run = |args: &[&str]| {
        let args = [&["verdict", "--format", "json", "--from", &baseline, &candidate], args].concat();
        Qbench::new(folder.path(), &args).run()
    };
    let again = run(&[]).exits_with_one_of(&[0, 1, 4, 5]).stderr_has("the session stops after 7 epochs");
    let comparison = again.json()["comparison"].take();
    assert_eq!(comparison["grade"], "paired");
    assert_eq!(comparison["metrics"][0]["evidence"]["n"], serde_json::json!([7, 7]));
    assert!(!again.json()["explanation"].as_array().unwrap().is_empty());
    let drawn = run(&["--resample", "30", "--epochs", "10"]).exits_with(0).json();
    assert_eq!(drawn["sessions"], 30);
    // What was measured was the same thing twice: twice as slow is beyond any doubt.
    let slower = run(&["--resample", "30", "--effect", "300%", "--epochs", "15"]).exits_with(0).json();
    assert_eq!(slower["metrics"]["p50"]["fail"], 30, "{slower}");
    assert_nothing_is_left(folder.path());
}

#[test]
fn a_calibration_is_measured_kept_and_used() {
    let folder = folder();
    demo_in(folder.path());
    let run = |args: &[&str]| Qbench::new(folder.path(), args).run();
    let args =
        ["calibrate", "bare", "--sessions", "3", "--epochs", "2", "--window", "1s", "--format", "json"];
    run(&[&args[..], &["--dry-run"]].concat()).exits_with(0).stdout_has("3 sessions like this one");
    let path = folder.path().join("baselines/bare/demo.calibration.json");
    assert!(!path.exists(), "a dry run does nothing");
    run(&args).exits_with_one_of(&[0, 5]);
    // Every epoch may be disturbed by the tests beside this one, which leaves nothing to calibrate from; the records
    // are there, and count as if they had been left alone.
    let mut records = Vec::new();
    for session in fs::read_dir(folder.path().join("reports")).unwrap().flatten() {
        let file = session.path().join("calibration-bare.json").to_str().unwrap().to_owned();
        undisturbed(&file);
        records.push(file);
    }
    assert_eq!(records.len(), 3);
    let from: Vec<&str> = records.iter().map(String::as_str).collect();
    let twice = [from[0], from[0], from[1]];
    run(&[&["calibrate", "bare", "--from"], &twice[..]].concat()).exits_with(2).stderr_has("more than once");
    let json =
        run(&[&["calibrate", "bare", "--format", "json", "--from"], &from[..]].concat()).exits_with(0).json();
    let calibration: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(json["calibration"], calibration);
    for metric in ["p50", "mean", "memory", "cpu_per_request"] {
        let noise = &calibration["metrics"][metric];
        assert!(
            noise["session_sd_bound"].as_f64().unwrap() > noise["session_sd"].as_f64().unwrap(),
            "{noise}"
        );
        assert!(noise["epoch_sd"].as_f64().unwrap() > 0.0, "{noise}");
    }
    assert_nothing_is_left(folder.path());
}
