//! Which sessions form a baseline, which baseline is in force, and which may go.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::*;

const TARGET: &str = "pm2";

fn id(number: u32) -> String {
    format!("20260101T00{number:04}Z-0000")
}

fn record(number: u32, appended_to: Option<u32>, complete: bool) -> Value {
    json!({
        "format": { "name": FORMAT_NAME, "major": FORMAT_MAJOR, "minor": 0 },
        "qbench_version": "0.1.0",
        "session": {
            "id": id(number), "started_at": "2026-01-01T00:00:00Z", "seed": 1,
            "design": { "kind": "fixed", "epochs": 1 }, "measured_epochs": 0,
            "ended": complete.then_some("all-measured"), "appended_to": appended_to.map(id),
        },
        "target": {
            "target": TARGET, "runtime": "pm2", "version": "7", "path": "/pm2", "stands_in_for": null, "options": {},
        },
        "arms": {},
        "workload": { "name": "demo", "files": {}, "services": [] },
        "host": {
            "cpu_model": "x", "cpu_count": 1, "memory_gib": 1, "kernel": "6", "governor": null,
            "virtual_machine": false, "cgroup_cpu_milli": null, "node_version": null,
        },
        "load": {
            "rate_per_second": 1.0, "window_s": 1.0, "slot_s": 1.0, "warmup_s": 1.0, "connections": 1,
            "connection_use": "keep-alive", "timeout_s": 1.0, "precision": "balanced", "requests_digest": "",
        },
        "thresholds": {},
        "epochs": [],
        "soak": null,
    })
}

/// A folder with these sessions: (number, the one it was added to, whether it came to its end).
fn stored(sessions: &[(u32, Option<u32>, bool)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (number, appended_to, complete) in sessions {
        put(folder.path(), *number, &record(*number, *appended_to, *complete));
    }
    folder
}

fn put(folder: &Path, number: u32, record: &Value) {
    let path = path_of(folder, TARGET, "demo", &id(number));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, record.to_string()).unwrap();
}

fn read_all(folder: &Path) -> Baselines {
    Baselines::read(folder, TARGET, None).unwrap()
}

fn accept(folder: &Path, number: u32) {
    let path = Accepted::path(folder, TARGET, "demo");
    Accepted::new(id(number), "2026-01-01T00:00:00Z".to_owned()).save(&path).unwrap();
}

fn numbers(stored: &[&Stored]) -> Vec<String> {
    stored.iter().map(|stored| stored.record.session.id.clone()).collect()
}

#[test]
fn a_session_is_the_group_it_was_added_to() {
    let folder = stored(&[(1, None, true), (2, None, true), (3, Some(1), true), (4, Some(1), false)]);
    let found = read_all(folder.path());
    let groups: Vec<(&str, usize)> =
        found.groups.iter().map(|group| (group.id.as_str(), group.sessions.len())).collect();
    assert_eq!(groups, [(id(1).as_str(), 3), (id(2).as_str(), 1)]);
    assert_eq!(numbers(&found.groups[0].counted()), [id(1), id(3)]);
    assert_eq!(numbers(&found.groups[0].left_out()), [id(4)]);
    assert!(found.unreadable.is_empty());
}

#[test]
fn where_nothing_came_to_its_end_the_newest_counts_alone() {
    let folder = stored(&[(1, None, false), (2, Some(1), false)]);
    let group = read_all(folder.path()).newest().unwrap();
    assert!(!group.has_complete());
    assert_eq!(numbers(&group.counted()), [id(2)]);
    assert_eq!(numbers(&group.left_out()), [id(1)]);
}

#[test]
fn the_chosen_group_is_in_force_else_the_newest() {
    let folder = stored(&[(1, None, true), (2, None, true), (3, Some(1), true)]);
    assert_eq!(read_all(folder.path()).in_force().unwrap().id, id(2));
    accept(folder.path(), 1);
    assert_eq!(read_all(folder.path()).in_force().unwrap().id, id(1));
    assert_eq!(read_all(folder.path()).newest().unwrap().id, id(2));
}

#[test]
fn a_choice_of_what_is_gone_is_no_choice_of_something_else() {
    let folder = stored(&[(2, None, true)]);
    accept(folder.path(), 1);
    let error = read_all(folder.path()).in_force().unwrap_err();
    assert!(matches!(&error, StoreError::NoGroup { session, named_by: Some(_), .. } if *session == id(1)));
    assert!(error.hint().unwrap().contains("demo.accepted.json"));
    assert!(read_all(folder.path()).beyond(1).is_err(), "nobody knows what may go");
}

#[test]
fn a_choice_is_read_strictly() {
    let folder = stored(&[(1, None, true)]);
    let path = Accepted::path(folder.path(), TARGET, "demo");
    assert_eq!(Accepted::load(&path).unwrap(), None);
    accept(folder.path(), 1);
    assert_eq!(Accepted::load(&path).unwrap().unwrap().group, id(1));
    let whole = fs::read_to_string(&path).unwrap();
    for (damage, text) in [
        ("cut off", whole[..whole.len() / 2].to_owned()),
        ("of a later version", whole.replace("\"major\": 1", "\"major\": 2")),
        ("of another kind", whole.replace("qbench-accepted", "qbench-record")),
        ("with an unknown key", whole.replace("\"group\"", "\"extra\": 1, \"group\"")),
    ] {
        fs::write(&path, text).unwrap();
        let error = Accepted::load(&path).unwrap_err();
        assert!(
            matches!(
                error,
                StoreError::Damaged { kind: Kind::Accepted, .. }
                    | StoreError::Format { kind: Kind::Accepted, .. }
            ),
            "{damage}: {error}"
        );
        assert!(error.to_string().contains("demo.accepted.json"), "{damage}: {error}");
        assert!(error.hint().unwrap().contains("baseline accept"), "{damage}");
    }
}

#[test]
fn what_is_newest_and_unreadable_is_not_passed_over() {
    let folder = stored(&[(1, None, true)]);
    let mut old_format = record(2, None, true);
    old_format["format"]["major"] = 1.into();
    put(folder.path(), 2, &old_format);
    assert!(matches!(read_all(folder.path()).newest(), Err(StoreError::Format { .. })));
    assert!(matches!(read_all(folder.path()).in_force(), Err(StoreError::Format { .. })));
    put(folder.path(), 3, &record(3, None, true));
    assert_eq!(read_all(folder.path()).newest().unwrap().id, id(3), "an older one is in nobody's way");
    assert_eq!(read_all(folder.path()).unreadable.len(), 1);
    assert!(matches!(read_all(folder.path()).find(&id(2)), Err(StoreError::Format { .. })));
}

#[test]
fn a_copy_under_another_name_is_no_session() {
    let folder = stored(&[(1, None, true)]);
    put(folder.path(), 2, &record(1, None, true));
    let found = read_all(folder.path());
    assert_eq!(found.groups.len(), 1);
    let error = &found.unreadable[0].error;
    assert!(matches!(error, StoreError::Misplaced { what: "session", .. }), "{error}");
}

#[test]
fn a_group_is_found_by_any_of_its_sessions() {
    let folder = stored(&[(1, None, true), (2, Some(1), true)]);
    assert_eq!(read_all(folder.path()).find(&id(2)).unwrap().id, id(1));
    assert!(matches!(
        read_all(folder.path()).find("nothing"),
        Err(StoreError::NoGroup { named_by: None, .. })
    ));
}

#[test]
fn the_oldest_go_but_never_the_chosen_nor_the_newest_complete() {
    let sessions = [(1, None, true), (2, None, true), (3, None, true), (4, None, false), (5, None, false)];
    let folder = stored(&sessions);
    let beyond = |keep| -> Vec<String> {
        let found = read_all(folder.path());
        found.beyond(keep).unwrap().iter().map(|group| group.id.clone()).collect()
    };
    assert_eq!(beyond(5), Vec::<String>::new());
    assert_eq!(beyond(3), [id(1), id(2)]);
    assert_eq!(beyond(1), [id(1), id(2), id(4)], "3 is the newest that came to its end");
    accept(folder.path(), 1);
    assert_eq!(beyond(1), [id(2), id(4)]);
}

#[test]
fn only_a_session_after_a_workload_is_a_records_name() {
    assert_eq!(split_name("my-demo-20261123T231433Z-1a2b.json"), Some(("my-demo", "20261123T231433Z-1a2b")));
    for other in [
        "a-workload-with-a-long.accepted.json",
        "demo-20261123T231433Z-1a2b.json.12.tmp",
        "-20261123T231433Z-1a2b.json",
        "demo-2026112xT231433Z-1a2b.json",
        "demo.json",
        "é-0261123T231433Z-1a2b.json",
    ] {
        assert_eq!(split_name(other), None, "{other}");
    }
}
