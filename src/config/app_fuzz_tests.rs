//! Nothing that a file may hold makes the reading of apps panic.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{
    app::{Surroundings, resolve},
    app_keys::KNOWN,
    app_tests::Folder,
    ecosystem, ecosystem_apps,
};

/// A value of any kind, among them such as the keys look for.
fn any_value() -> impl Strategy<Value = Value> {
    const WORDS: [&str; 26] = [
        "",
        "0",
        "max",
        "1G",
        "2m",
        "true",
        "NULL",
        "~",
        "~/x",
        "root",
        "json",
        "cluster",
        "fork",
        "* * * * *",
        "node@",
        "none",
        "server.js",
        "unix:/x",
        "/",
        "é",
        "a b",
        "\u{0}",
        "-1",
        "9e999",
        "NaN",
        "99999999999999999999K",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-300_i64..300).prop_map(Value::from),
        proptest::sample::select(&WORDS[..]).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        const KEYS: [&str; 8] = ["listen", "liveness", "rotate", "health", "path", "A", "env", "keep"];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((proptest::sample::select(&KEYS[..]), inner), 0..4).prop_map(|pairs| {
                pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Value>()
            }),
        ]
    })
}

#[test]
fn no_value_of_any_key_makes_it_panic() {
    let folder = Folder::new();
    let values = proptest::collection::vec((0..KNOWN.len() + 2, any_value()), 1..6);
    proptest!(ProptestConfig::with_cases(500), |(values in values)| {
        let mut raw: Map<String, Value> = [("script".to_owned(), json!("server.js"))].into_iter().collect();
        for (at, value) in values {
            let key = KNOWN.get(at).copied().unwrap_or(if at == KNOWN.len() { "env_x" } else { "mergeLogs" });
            raw.insert(key.to_owned(), value);
        }
        let root = json!({ "apps": [raw], "deploy": { "x": { "env": { "D": 1 } } } });
        if let Ok(blocks) = ecosystem::blocks(root.clone(), Path::new("e.json")) {
            let surroundings = Surroundings {
                shown_as: Path::new("e.json"),
                folder: folder.0.path(),
                environment: Some("x"),
                deploy: root.get("deploy"),
                own_executable: Path::new("/opt/qbench"),
            };
            if let Ok((app, _)) = resolve(&blocks[0], &surroundings) {
                prop_assert!(app.instances >= 1 && app.cwd.is_absolute() && app.program.is_absolute());
                prop_assert!(app.env.iter().all(|(name, value)| !name.contains('=') && !value.contains('\0')));
            }
        }
    });
}

#[test]
fn no_text_of_a_whole_file_makes_it_panic() {
    const TEXT: &str = "{ apps: [{ name: 'web', script: 'server.js', instances: 'max', exec_mode: 'fork', cron: '0 3 * * *',
        uid: 0, gid: 0, out_file: '~/o.log', max_memory_restart: '1G', min_uptime: '2m', stop_exit_codes: [1, '2'],
        env: { A: 'é', PORT: 80 }, env_x: { B: {} }, qbench: { listen: ['80'], liveness: { path: '/' } } }] }";
    let folder = Folder::new();
    let path = folder.0.path().join("e.json");
    let length = TEXT.chars().count();
    proptest!(ProptestConfig::with_cases(500), |(at in 0..length, cut in 0_usize..20, put in ".{0,6}")| {
        let mut chars: Vec<char> = TEXT.chars().collect();
        chars.splice(at..(at + cut).min(length), put.chars());
        std::fs::write(&path, chars.into_iter().collect::<String>()).unwrap();
        for environment in [None, Some("x")] {
            let _ = ecosystem_apps(&path, environment, Path::new("/opt/qbench"));
        }
    });
}
