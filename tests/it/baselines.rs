//! Stored baselines: sessions added to one another, one of them chosen, the old ones removed.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use serde_json::{Value, json};

use crate::support::{Outcome, Qbench, demo_in, folder};

const SHORT: [&str; 4] = ["--epochs", "2", "--window", "1s"];

/// A record as `collect` wrote it, as if nothing had disturbed it; measured once for all tests.
fn measured() -> Value {
    static MEASURED: OnceLock<Value> = OnceLock::new();
    MEASURED
        .get_or_init(|| {
            let folder = folder();
            demo_in(folder.path());
            qbench(folder.path(), &[&["collect", "bare"], &SHORT[..]].concat()).exits_with(0);
            let mut record = json_of(&records(folder.path())[0]);
            for epoch in record["epochs"].as_array_mut().unwrap() {
                for (_, condition) in epoch["conditions"].as_object_mut().unwrap() {
                    *condition = Value::Null;
                }
            }
            record
        })
        .clone()
}

fn qbench(folder: &Path, args: &[&str]) -> Outcome {
    Qbench::new(folder, args).run()
}

fn id(number: u32) -> String {
    format!("20260101T00{number:04}Z-00aa")
}

fn json_of(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The records of the target `bare`, oldest first.
fn records(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder.join("baselines/bare")).unwrap().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = files.filter(|path| !path.to_str().unwrap().contains("accepted")).collect();
    files.sort();
    files
}

/// Stores the measured record as another session, with whatever is changed about it.
fn put(folder: &Path, number: u32, change: impl FnOnce(&mut Value)) -> PathBuf {
    let mut record = measured();
    record["session"]["id"] = id(number).into();
    record["session"]["started_at"] = format!("2026-01-01T00:{:02}:{:02}Z", number / 60, number % 60).into();
    change(&mut record);
    let path = folder.join(format!("baselines/bare/demo-{}.json", id(number)));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, record.to_string()).unwrap();
    path
}

fn appended_to(number: u32) -> impl FnOnce(&mut Value) {
    move |record| record["session"]["appended_to"] = id(number).into()
}

fn cut_short(record: &mut Value) {
    record["session"]["ended"] = Value::Null;
}

/// A folder with the demo workload and two baselines, the first of two sessions.
fn two_baselines() -> tempfile::TempDir {
    let folder = folder();
    demo_in(folder.path());
    put(folder.path(), 1, |_| {});
    put(folder.path(), 2, appended_to(1));
    put(folder.path(), 3, |_| {});
    folder
}

#[test]
fn appending_adds_to_the_baseline_in_force() {
    let folder = folder();
    demo_in(folder.path());
    let append = [&["collect", "bare", "--append"], &SHORT[..]].concat();
    qbench(folder.path(), &append)
        .exits_with(2)
        .stderr_has("nothing to append to")
        .stderr_has("without --append");
    put(folder.path(), 1, |_| {});
    put(folder.path(), 2, |_| {});
    qbench(folder.path(), &["baseline", "accept", "bare", &id(1)]).exits_with(0).stdout_has(&id(1));
    qbench(folder.path(), &append).exits_with(0).stderr_has(&format!("appending to baseline {}", id(1)));
    let added = json_of(records(folder.path()).last().unwrap());
    assert_eq!(added["session"]["appended_to"], id(1));
    let list = qbench(folder.path(), &["baseline", "list", "--format", "json"]).exits_with(0).json();
    let listed = &list["baselines"];
    assert_eq!(listed[0]["complete_sessions"], 2);
    assert_eq!((&listed[0]["accepted"], &listed[1]["accepted"]), (&json!(true), &json!(false)));
    assert_eq!(listed[0]["changed_files"], json!([]));
}

#[test]
fn what_could_never_count_beside_the_others_is_not_measured() {
    let folder = two_baselines();
    let other_window = ["collect", "bare", "--append", "--epochs", "2", "--window", "2s"];
    qbench(folder.path(), &other_window).exits_with(2).stderr_has("load: window s was 1.0, is 2.0");
    fs::write(folder.path().join("bodies/ingest.json"), "{}").unwrap();
    qbench(folder.path(), &[&["collect", "bare", "--append"], &SHORT[..]].concat())
        .exits_with(2)
        .stderr_has("workload: files: bodies/ingest.json changed");
    assert_eq!(records(folder.path()).len(), 3);
}

#[test]
fn compare_takes_all_complete_sessions_of_the_baseline_in_force() {
    let folder = two_baselines();
    put(folder.path(), 4, |record| {
        appended_to(1)(record);
        cut_short(record);
    });
    qbench(folder.path(), &["compare", "bare", "bare"]).exits_with(5).stdout_has("INCOMPARABLE");
    qbench(folder.path(), &["baseline", "accept", "bare", &id(2)]).exits_with(0);
    let outcome = qbench(folder.path(), &["compare", "bare", "bare", "--format", "json"])
        .exits_with_one_of(&[0, 4])
        .stderr_has("2 sessions, accepted, age: ")
        .stderr_has("left out: baselines/bare/demo-20260101T000004Z-00aa.json was interrupted");
    assert_eq!(outcome.json()["comparison"]["sessions"], json!([[id(1), id(2)], [id(3)]]));
}

#[test]
fn a_file_is_that_record_alone() {
    let folder = two_baselines();
    let [first, second, _] = &records(folder.path())[..] else { panic!("three records") };
    let outcome = Qbench::new(folder.path(), &["compare", "--format", "json"]).arg(first).arg(second).run();
    let outcome = outcome.exits_with_one_of(&[0, 4]);
    assert_eq!(outcome.json()["comparison"]["sessions"], json!([[id(1)], [id(2)]]));
}

#[test]
fn where_every_session_was_interrupted_the_newest_is_used_and_cannot_pass() {
    let folder = folder();
    demo_in(folder.path());
    put(folder.path(), 1, cut_short);
    let candidate = folder.path().join("candidate.json");
    fs::rename(put(folder.path(), 2, |_| {}), &candidate).unwrap();
    Qbench::new(folder.path(), &["compare", "bare"])
        .arg(&candidate)
        .run()
        .exits_with(4)
        .stderr_has("it cannot pass");
    qbench(folder.path(), &["baseline", "accept", "bare"]).exits_with(2).stderr_has("collect bare");
    qbench(folder.path(), &["baseline", "accept", "bare", &id(1)])
        .exits_with(2)
        .stderr_has("came to its end");
}

#[test]
fn whoever_compares_hears_what_changed_since_the_baseline() {
    let folder = two_baselines();
    qbench(folder.path(), &["baseline", "accept", "bare", &id(1)]).exits_with(0);
    fs::write(folder.path().join("bodies/ingest.json"), "{}").unwrap();
    qbench(folder.path(), &["compare", "bare", "bare"])
        .stderr_has("warning: the baseline is not of today's workload")
        .stderr_has("bodies/ingest.json");
    qbench(folder.path(), &["baseline", "list"]).exits_with(0).stdout_has("changed: bodies/ingest.json");
    qbench(folder.path(), &[&["collect", "bare"], &SHORT[..]].concat())
        .exits_with(0)
        .stderr_has("was of other files: bodies/ingest.json")
        .stderr_has("consider `qbench baseline accept bare`");
}

#[test]
fn a_damaged_choice_stops_whoever_relies_on_it_and_can_be_made_again() {
    let folder = two_baselines();
    fs::write(folder.path().join("baselines/bare/demo.accepted.json"), "{").unwrap();
    qbench(folder.path(), &["compare", "bare", "bare"])
        .exits_with(5)
        .stderr_has("demo.accepted.json")
        .stderr_has("baseline accept");
    qbench(folder.path(), &["baseline", "prune", "--keep", "1"]).exits_with(5);
    assert_eq!(records(folder.path()).len(), 3);
    qbench(folder.path(), &["baseline", "accept", "bare", &id(1)]).exits_with(0);
    qbench(folder.path(), &["compare", "bare", "bare"]).exits_with_one_of(&[0, 4]);
}

#[test]
fn show_tells_where_a_baseline_comes_from_and_how_much_it_varies() {
    let folder = two_baselines();
    qbench(folder.path(), &["baseline", "show", "bare", &id(1)])
        .exits_with(0)
        .stdout_has("SHA-256")
        .stdout_has("p50 latency")
        .stdout_has("at least three");
    put(folder.path(), 4, appended_to(1));
    let shown = qbench(folder.path(), &["baseline", "show", "bare", &id(1), "--format", "json"]).json();
    assert_eq!(shown["sessions"].as_array().unwrap().len(), 3);
    assert!(shown["noise"]["p50"]["session_sd_bound"].is_number(), "{shown:#}");
    assert!(shown["load"]["requests_digest"].is_string() && shown["qbench_version"].is_string());
    let in_force = qbench(folder.path(), &["baseline", "show", "bare", "--format", "json"]).json();
    assert_eq!(in_force["baseline"]["group"], id(3));
    qbench(folder.path(), &["baseline", "show", "bare", "nothing"]).exits_with(2).stderr_has("baseline list");
}

#[test]
fn diff_names_what_differs() {
    let folder = two_baselines();
    put(folder.path(), 4, |record| {
        record["target"]["version"] = "9.9".into();
        record["host"]["kernel"] = "0.0.1".into();
        for epoch in record["epochs"].as_array_mut().unwrap() {
            let value = &mut epoch["arms"]["target"]["latency"]["p50_s"];
            *value = (value.as_f64().unwrap() * 2.0).into();
        }
    });
    let args = ["baseline", "diff", "bare", &id(2), &id(4)];
    qbench(folder.path(), &args).exits_with(0).stdout_has("target: version").stdout_has("+100.0%");
    let found = qbench(folder.path(), &[&args[..], &["--format", "json"]].concat()).json();
    let what: Vec<&str> =
        found["differences"].as_array().unwrap().iter().map(|one| one["what"].as_str().unwrap()).collect();
    assert_eq!(what, ["target: version", "host: kernel"]);
    qbench(folder.path(), &["baseline", "diff", "bare", &id(1), &id(2)])
        .exits_with(2)
        .stderr_has("same baseline");
}

#[test]
fn prune_removes_old_baselines_and_nothing_else() {
    let folder = two_baselines();
    put(folder.path(), 4, |_| {});
    put(folder.path(), 5, cut_short);
    let bare = folder.path().join("baselines/bare");
    let foreign = ["notes.json", "demo-20250101T000000Z-00aa.json", "demo-20250101T000000Z-00aa.json.tmp"];
    for name in foreign {
        fs::write(bare.join(name), "mine").unwrap();
    }
    qbench(folder.path(), &["baseline", "accept", "bare", &id(3)]).exits_with(0);
    let prune = ["baseline", "prune", "bare", "--keep", "1"];
    qbench(folder.path(), &[&prune[..], &["--dry-run"]].concat()).exits_with(0).stdout_has("would remove");
    assert_eq!(fs::read_dir(&bare).unwrap().count(), 5 + foreign.len() + 1);
    let outcome = qbench(folder.path(), &prune).exits_with(0);
    for number in [1, 2] {
        let name = format!("removed baselines/bare/demo-{}.json", id(number));
        assert!(outcome.stdout.contains(&name), "{}", outcome.stdout);
    }
    assert_eq!(outcome.stdout.lines().count(), 2, "3 is accepted, 4 the newest complete, 5 the newest");
    assert!(foreign.iter().all(|name| bare.join(name).exists()));
    assert_eq!(fs::read_dir(&bare).unwrap().count(), 3 + foreign.len() + 1);
    qbench(folder.path(), &prune).exits_with(0).stdout_has("nothing to remove");
}

#[test]
fn the_runtime_of_today_is_asked_only_on_request() {
    let folder = two_baselines();
    put(folder.path(), 4, |record| record["target"]["version"] = "0.0.1".into());
    let list = |extra: &[&str]| {
        let args = [&["baseline", "list", "--format", "json"], extra].concat();
        qbench(folder.path(), &args).exits_with(0).json()
    };
    assert!(list(&[])["baselines"][0]["runtime_today"].is_null());
    let checked = list(&["--check-runtimes"]);
    assert_eq!(checked["baselines"][0]["runtime_today"]["kind"], "same");
    assert_eq!(checked["baselines"][2]["runtime_today"]["kind"], "other");
}
