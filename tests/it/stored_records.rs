//! Comparing stored records: missing, damaged, of another format, of another machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::support::{Qbench, folder};

/// The committed baseline of the demo workload on Docker.
fn committed() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("baselines/docker");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).collect();
    files.sort();
    files.pop().unwrap()
}

fn committed_json() -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(committed()).unwrap()).unwrap()
}

fn write(folder: &Path, name: &str, record: &serde_json::Value) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, record.to_string()).unwrap();
    path
}

/// The same measurements as if another session on the same machine had made them.
fn another_session(mut record: serde_json::Value) -> serde_json::Value {
    record["session"]["id"] = "20260101T000000Z-0000".into();
    record
}

#[test]
fn a_missing_record_says_how_to_make_one() {
    let folder = folder();
    fs::create_dir(folder.path().join("baselines")).unwrap();
    Qbench::new(folder.path(), &["compare", "docker", "pm2"])
        .run()
        .exits_with(2)
        .stderr_has("qbench collect docker");
}

#[test]
fn a_truncated_record_is_invalid_with_its_place() {
    let folder = folder();
    let text = fs::read(committed()).unwrap();
    let path = folder.path().join("cut.json");
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    let cut = path.to_str().unwrap();
    Qbench::new(folder.path(), &["compare", cut, cut])
        .run()
        .exits_with(5)
        .stderr_has("cut.json")
        .stderr_has("line");
}

#[test]
fn a_record_of_another_format_is_invalid() {
    let folder = folder();
    let mut record = committed_json();
    record["format"]["major"] = 3.into();
    let path = write(folder.path(), "newer.json", &record);
    let newer = path.to_str().unwrap();
    Qbench::new(folder.path(), &["compare", newer, newer]).run().exits_with(5).stderr_has("3.x");
}

#[test]
fn a_record_against_the_same_measurements_does_not_fail() {
    let folder = folder();
    let path = write(folder.path(), "again.json", &another_session(committed_json()));
    Qbench::new(folder.path(), &["compare", "--format", "json"])
        .arg(committed())
        .arg(path)
        .run()
        .exits_with_one_of(&[0, 4])
        .stdout_has("controlled");
}

#[test]
fn a_record_of_another_host_is_incomparable_unless_asked_for() {
    let folder = folder();
    let mut record = another_session(committed_json());
    record["host"]["cpu_model"] = "Another Processor 9000".into();
    let path = write(folder.path(), "elsewhere.json", &record);
    let args = |extra: &[&str]| {
        let args = [&["compare"], extra].concat();
        Qbench::new(folder.path(), &args).arg(committed()).arg(&path).run()
    };
    args(&[]).exits_with(5).stdout_has("INCOMPARABLE").stdout_has("Another Processor 9000");
    args(&["--across-hosts"]).exits_with_one_of(&[0, 4]).stdout_has("advisory");
}

#[test]
fn a_slower_record_fails() {
    let folder = folder();
    let mut record = another_session(committed_json());
    for epoch in record["epochs"].as_array_mut().unwrap() {
        for key in ["p50_s", "mean_s"] {
            let value = &mut epoch["arms"]["target"]["latency"][key];
            *value = (value.as_f64().unwrap() * 3.0).into();
        }
    }
    let path = write(folder.path(), "slower.json", &record);
    Qbench::new(folder.path(), &["compare"])
        .arg(committed())
        .arg(path)
        .run()
        .exits_with(1)
        .stdout_has("FAIL");
}

#[test]
fn a_record_without_its_measurements_never_passes() {
    let folder = folder();
    let mut record = another_session(committed_json());
    for epoch in record["epochs"].as_array_mut().unwrap() {
        epoch["arms"]["target"]["latency"]["p50_s"] = serde_json::Value::Null;
    }
    let path = write(folder.path(), "gaps.json", &record);
    Qbench::new(folder.path(), &["compare"]).arg(committed()).arg(path).run().exits_with_one_of(&[1, 4]);
}
