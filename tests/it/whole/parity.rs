//! The scenarios on all four runtimes, and that they show what is known of each.

use super::qse_on;
use crate::support::{Qbench, assert_nothing_is_left};

fn cell<'a>(rows: &'a [serde_json::Value], scenario: &str, target: &str) -> &'a serde_json::Value {
    let found = rows.iter().find(|row| row["scenario"] == scenario && row["target"]["target"] == target);
    found.unwrap_or_else(|| panic!("no {scenario} on {target}"))
}

/// The largest value of a figure over the repetitions.
fn worst(row: &serde_json::Value, figure: &str) -> f64 {
    let runs = row["runs"].as_array().unwrap_or_else(|| panic!("{row}"));
    runs.iter()
        .map(|run| run[figure].as_f64().unwrap_or_else(|| panic!("no {figure} in {run}")))
        .fold(f64::MIN, f64::max)
}

#[test]
fn every_scenario_runs_on_every_runtime() {
    let Some(folder) = qse_on(&["docker", "pm2"]) else { return };
    let targets = ["bare", "builtin", "pm2", "docker"];
    let args = [&["parity", "--repeat", "2", "--format", "json"], &targets[..]].concat();
    let rows = Qbench::new(folder.path(), &args).run().exits_with(1).json()["rows"].take();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 12);
    for target in targets {
        let started = cell(rows, "start-all", target);
        assert!((worst(started, "online_share") - 1.0).abs() < 1e-9, "{started}");
        assert!(worst(started, "ready_seconds") > 0.0);
        let reloaded = cell(rows, "zero-downtime-reload", target);
        assert!(
            (worst(reloaded, "new_release_share") - 1.0).abs() < 1e-9,
            "{target} serves the new release: {reloaded}"
        );
        assert!(
            (worst(reloaded, "replaced_share") - 1.0).abs() < 1e-9,
            "{target} runs new processes: {reloaded}"
        );
    }
    // PM2 drops requests of an app without a signal handler; a restarted container is away for a while.
    assert!(worst(cell(rows, "zero-downtime-reload", "pm2"), "errors") > 0.0);
    let docker = cell(rows, "zero-downtime-reload", "docker");
    assert!(worst(docker, "errors") > 0.0, "{docker}");
    assert!(worst(docker, "longest_gap_seconds") > 0.1, "hundreds of milliseconds: {docker}");
    // A killed instance comes back where there is a supervisor, and only there.
    for target in ["builtin", "pm2", "docker"] {
        let killed = cell(rows, "restart-resilience", target);
        assert!(worst(killed, "respawn_seconds") > 0.0, "{killed}");
        assert!(worst(killed, "serve_seconds") >= worst(killed, "respawn_seconds"), "{killed}");
    }
    let bare = cell(rows, "restart-resilience", "bare");
    assert_eq!(bare["runs"][0]["respawn_seconds"], serde_json::Value::Null, "{bare}");
    assert_nothing_is_left(folder.path());
}

#[test]
fn recreate_and_the_host_network_work_too() {
    let Some(folder) = qse_on(&["docker"]) else { return };
    let path = folder.path().join("qbench.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let target = "\n[target.docker-host]\nruntime = \"docker\"\nreload = \"recreate\"\nnetwork = \"host\"\n";
    std::fs::write(&path, text + target).unwrap();
    let args =
        ["parity", "docker-host", "--scenario", "zero-downtime-reload", "--repeat", "1", "--format", "json"];
    let rows = Qbench::new(folder.path(), &args).run().exits_with_one_of(&[0, 1]).json()["rows"].take();
    let row = &rows[0];
    assert_eq!(row["target"]["options"]["network"], "host", "{row}");
    assert!((worst(row, "new_release_share") - 1.0).abs() < 1e-9, "{row}");
    assert!((worst(row, "replaced_share") - 1.0).abs() < 1e-9, "{row}");
    assert_nothing_is_left(folder.path());
}
