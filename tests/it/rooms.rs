//! The rooms of the crate import in the directions that the design allows, and third-party crates keep to theirs.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Room → the rooms it may import. `cli` may import everything.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("session", &["runtime", "load", "probe", "model"]),
    ("runtime", &["supervisor", "model"]),
    ("judge", &["stats", "model"]),
    ("load", &["model"]),
    ("probe", &["model"]),
    ("config", &["model"]),
    ("store", &["model"]),
    ("report", &["model"]),
    ("supervisor", &[]),
    ("stats", &[]),
    ("model", &[]),
];

/// Crate → the only places of `src/` that may name it.
const KEPT_TO: &[(&str, &[&str])] = &[
    ("clap", &["cli/"]),
    ("bollard", &["runtime/docker/"]),
    ("comfy_table", &["report/"]),
    ("indicatif", &["report/progress.rs", "report/live.rs"]),
    ("reqwest", &["session/"]),
    ("csv", &["config/variables.rs"]),
    ("regex", &["config/checks.rs", "load/check.rs"]),
    ("httparse", &["load/"]),
    ("h2", &["load/streams/"]),
    ("tokio_rustls", &["load/streams/"]),
    ("rustls_native_certs", &["load/streams/"]),
    ("hdrhistogram", &["model/sample.rs", "model/hdr.rs"]),
];

fn source_files() -> Vec<(String, String)> {
    fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    files
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect()
}

fn room_of(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The first path segments after every `crate::`, also inside `crate::{…}`.
fn imported_rooms(text: &str) -> BTreeSet<String> {
    let text = without_comments(text);
    let mut rooms = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let is_word_start = !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
        let rest = &text[at + "crate::".len()..];
        if !is_word_start {
            continue;
        }
        match rest.strip_prefix('{') {
            None => {
                rooms.insert(word(rest));
            }
            Some(group) => {
                let mut depth = 0;
                let mut at_start = true;
                for (offset, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => at_start = true,
                        c if c.is_alphabetic() && depth == 0 && at_start => {
                            rooms.insert(word(&group[offset..]));
                            at_start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    rooms
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn rooms_import_only_what_they_may() {
    let mut wrong = Vec::new();
    for (file, text) in source_files() {
        let room = room_of(&file);
        if matches!(room, "main" | "lib" | "cli") {
            continue;
        }
        let (_, allowed) = MAY_IMPORT
            .iter()
            .find(|(name, _)| *name == room)
            .unwrap_or_else(|| panic!("src/{file} is in no room of the design"));
        for imported in imported_rooms(&text) {
            if imported != room && !allowed.contains(&imported.as_str()) {
                wrong.push(format!("src/{file} imports crate::{imported}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn third_party_crates_keep_to_their_rooms() {
    let mut wrong = Vec::new();
    for (file, text) in source_files() {
        let text = without_comments(&text);
        for (name, places) in KEPT_TO {
            let named = text.contains(&format!("{name}::")) || text.contains(&format!("use {name};"));
            if named && !places.iter().any(|place| file.starts_with(place)) {
                wrong.push(format!("src/{file} names {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_search_for_imports_finds_them() {
    let text = "use crate::{\n    load::{self, Lane},\n    model::event::Event,\n};\nfn f() { crate::stats::x() } // crate::nothing";
    let found: Vec<String> = imported_rooms(text).into_iter().collect();
    assert_eq!(found, ["load", "model", "stats"]);
}
