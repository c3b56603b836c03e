//! The record's schema: committed, the one that the types give, and met by the committed baselines.

use std::{
    fs,
    path::{Path, PathBuf},
};

use qbench::model::record::Record;

pub(crate) fn committed_schema() -> serde_json::Value {
    let path = root().join("baselines/record.schema.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Asserts that a record's JSON meets the committed schema.
#[track_caller]
pub(crate) fn assert_meets_schema(record: &serde_json::Value) {
    let validator = jsonschema::validator_for(&committed_schema()).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(record).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

#[test]
fn the_committed_schema_is_the_one_of_the_types() {
    let schema = serde_json::to_value(schemars::schema_for!(Record)).unwrap();
    let path = root().join("baselines/record.schema.json");
    if std::env::var_os("QBENCH_UPDATE_SCHEMA").is_some() {
        fs::write(&path, serde_json::to_string_pretty(&schema).unwrap() + "\n").unwrap();
    }
    // Not `assert_eq!`: the two together fill screens.
    let same = committed_schema() == schema;
    assert!(same, "a record changed: raise the format's version, then update with QBENCH_UPDATE_SCHEMA=1");
}

#[test]
fn the_schema_refuses_what_is_no_record() {
    let validator = jsonschema::validator_for(&committed_schema()).unwrap();
    assert!(!validator.is_valid(&serde_json::json!({ "format": { "name": "qbench-record" } })));
}

#[test]
fn every_committed_baseline_meets_the_schema_and_loads() {
    let mut found = 0;
    for target in
        fs::read_dir(root().join("baselines")).unwrap().flatten().filter(|entry| entry.path().is_dir())
    {
        for file in fs::read_dir(target.path()).unwrap().flatten() {
            let text = fs::read_to_string(file.path()).unwrap();
            assert_meets_schema(&serde_json::from_str(&text).unwrap());
            let record = qbench::store::load(&file.path()).unwrap();
            assert!(record.session.is_complete() && record.epochs.len() >= 6, "{}", file.path().display());
            found += 1;
        }
    }
    assert!(found > 0, "there is a baseline to compare with");
}
