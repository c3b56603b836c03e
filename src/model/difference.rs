//! In what two identities differ, field by field.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::record::Record;

/// One field that is not the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The field, for people: `load: window s`.
    pub what: String,
    /// The one side's value; `None` where it has none.
    pub from: Option<String>,
    /// The other side's.
    pub to: Option<String>,
}

/// In what two records' identities differ: who wrote them, what ran, the workload, the machine, the load, the
/// thresholds. What was measured is not part of it.
pub fn of_records(from: &Record, to: &Record) -> Vec<Difference> {
    let mut found = between("qbench", &from.qbench_version, &to.qbench_version);
    found.extend(between("target", &from.target, &to.target));
    found.extend(between("arm", &from.arms, &to.arms));
    found.extend(between("workload", &from.workload, &to.workload));
    found.extend(between("host", &from.host, &to.host));
    found.extend(between("load", &from.load, &to.load));
    found.extend(between("thresholds", &from.thresholds, &to.thresholds));
    found
}

/// In what two values of plain data differ.
///
/// ```
/// # use qbench::model::difference::between;
/// let found = between("load", &serde_json::json!({ "rate": 100 }), &serde_json::json!({ "rate": 200 }));
/// assert_eq!(found[0].what, "load: rate");
/// assert_eq!(found[0].to.as_deref(), Some("200"));
/// ```
pub fn between<T: Serialize>(name: &str, from: &T, to: &T) -> Vec<Difference> {
    let value = |value: &T| serde_json::to_value(value).expect("an identity is plain data");
    let mut found = Vec::new();
    walk(name, Some(&value(from)), Some(&value(to)), &mut found);
    found
}

/// The names of files that changed, came or went.
pub fn changed_files(from: &BTreeMap<String, String>, to: &BTreeMap<String, String>) -> Vec<String> {
    let names: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    names.into_iter().filter(|name| from.get(*name) != to.get(*name)).cloned().collect()
}

fn walk(name: &str, from: Option<&Value>, to: Option<&Value>, found: &mut Vec<Difference>) {
    if from == to {
        return;
    }
    let (Some(Value::Object(_)) | None, Some(Value::Object(_)) | None) = (from, to) else {
        found.push(Difference { what: name.to_owned(), from: from.and_then(text), to: to.and_then(text) });
        return;
    };
    let keys = |value: Option<&Value>| -> Vec<String> {
        value.and_then(Value::as_object).into_iter().flat_map(|fields| fields.keys().cloned()).collect()
    };
    let names: BTreeSet<String> = keys(from).into_iter().chain(keys(to)).collect();
    for key in names {
        let field = |value: Option<&Value>| value.and_then(|value| value.get(&key)).cloned();
        walk(&format!("{name}: {}", key.replace('_', " ")), field(from).as_ref(), field(to).as_ref(), found);
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => Some(items.iter().filter_map(text).collect::<Vec<_>>().join(", ")),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_leaf_that_differs_is_named_once() {
        let from = json!({ "version": "1", "options": { "reload": "restart" }, "same": [1], "list": ["a"] });
        let to = json!({ "version": "2", "options": {}, "same": [1], "list": ["a", "b"], "new": true });
        let found = between("target", &from, &to);
        let told: Vec<(&str, Option<&str>, Option<&str>)> =
            found.iter().map(|d| (d.what.as_str(), d.from.as_deref(), d.to.as_deref())).collect();
        assert_eq!(
            told,
            [
                ("target: list", Some("a"), Some("a, b")),
                ("target: new", None, Some("true")),
                ("target: options: reload", Some("restart"), None),
                ("target: version", Some("1"), Some("2")),
            ]
        );
        assert!(between("target", &from, &from).is_empty());
    }

    #[test]
    fn files_that_changed_came_or_went() {
        let files = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
            list.iter().map(|(name, digest)| ((*name).to_owned(), (*digest).to_owned())).collect()
        };
        let from = files(&[("a", "1"), ("b", "1"), ("gone", "1")]);
        let to = files(&[("a", "1"), ("b", "2"), ("new", "1")]);
        assert_eq!(changed_files(&from, &to), ["b", "gone", "new"]);
    }
}
