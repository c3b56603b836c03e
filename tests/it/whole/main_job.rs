//! Collect, compare and validate the Node workload.

use std::fs;

use super::qse_on;
use crate::{
    schema::assert_meets_schema,
    support::{Qbench, assert_nothing_is_left},
};

/// Enough for an interval of 95%, short enough for every build.
const SHORT: [&str; 4] = ["--epochs", "6", "--window", "3s"];

#[test]
fn docker_against_pm2_in_one_session() {
    let Some(folder) = qse_on(&["docker", "pm2"]) else { return };
    let args = [&["validate", "docker", "pm2", "--format", "json"], &SHORT[..]].concat();
    // What the verdict is, is this machine's affair; that there is one with its evidence, is the test's.
    let comparison =
        Qbench::new(folder.path(), &args).run().exits_with_one_of(&[0, 1, 4, 5]).json()["comparison"].take();
    assert_eq!(comparison["grade"], "paired");
    assert_eq!(comparison["baseline"]["runtime"], "docker");
    assert_eq!(comparison["candidate"]["runtime"], "pm2");
    assert!(comparison["candidate"]["version"].as_str().unwrap().starts_with("7."), "{comparison}");
    assert_eq!(comparison["candidate"]["stands_in_for"], serde_json::Value::Null);
    let count = |key: &str| comparison["epochs"][key].as_u64().unwrap();
    let used = count("measured") - count("dropped");
    assert!(used >= 1 && count("measured") >= 6, "{comparison}");
    for metric in ["p50", "mean", "memory"] {
        let found = comparison["metrics"].as_array().unwrap().iter().find(|m| m["metric"] == metric).unwrap();
        let evidence = &found["evidence"];
        // On a disturbed machine so many epochs may be dropped that none of the metrics has an interval.
        if used < 6 {
            assert_eq!(evidence["kind"], "missing", "{found}");
            continue;
        }
        assert_eq!(evidence["kind"], "change", "{found}");
        assert_eq!(evidence["n"], serde_json::json!([used, used]));
        let at = |key: &str| evidence[key].as_f64().unwrap();
        assert!(at("low") <= at("estimate") && at("estimate") <= at("high"), "{found}");
    }
    assert_nothing_is_left(folder.path());
}

#[test]
fn docker_against_pm2_from_stored_records() {
    let Some(folder) = qse_on(&["docker", "pm2"]) else { return };
    for target in ["docker", "pm2"] {
        let args = [&["collect", target], &SHORT[..]].concat();
        Qbench::new(folder.path(), &args).run().exits_with(0).stdout_has(target);
        let stored =
            fs::read_dir(folder.path().join("baselines").join(target)).unwrap().next().unwrap().unwrap();
        let record: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(stored.path()).unwrap()).unwrap();
        assert_meets_schema(&record);
        let arm = &record["epochs"][0]["arms"]["target"];
        for part in ["service", "overhead_fixed"] {
            assert!(arm[part]["memory"]["anonymous"].as_u64().unwrap() > 0, "{target} {part}: {arm}");
            assert!(arm[part]["processes"].as_u64().unwrap() > 0, "{target} {part}: {arm}");
        }
    }
    Qbench::new(folder.path(), &["compare", "docker", "pm2"])
        .run()
        .exits_with_one_of(&[0, 1, 4, 5])
        .stdout_has("controlled")
        .stdout_has("p50 latency");
    assert_nothing_is_left(folder.path());
}

#[test]
fn the_built_in_supervisor_runs_node() {
    let Some(folder) = qse_on(&["bare"]) else { return };
    Qbench::new(folder.path(), &["collect", "builtin", "--epochs", "2", "--window", "2s"])
        .run()
        .exits_with(0)
        .stdout_has("builtin");
    assert_nothing_is_left(folder.path());
}
