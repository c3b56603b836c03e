//! What a new session of `collect` has to do with the baselines that are there.

use std::path::Path;

use super::{CliError, baseline, tell};
use crate::{
    model::{
        difference::{Difference, between, changed_files},
        record::{LoadIdentity, Record},
        target::RuntimeIdentity,
    },
    probe,
    session::Context,
    store::{Baselines, Group, StoreError},
};

/// The group that a session about to begin is added to. Refused where there is none, and where the session could
/// never count beside those of the group: it would make all of them incomparable.
pub(super) fn group(folder: &Path, target: &str, context: &Context) -> Result<String, CliError> {
    let found = Baselines::read(folder, target, Some(&context.workload.name))?;
    baseline::tell_unreadable(&found);
    let group = match found.in_force() {
        Err(error @ StoreError::None { .. }) => {
            return Err(CliError::usage(
                format!("there is nothing to append to: {error}"),
                format!("begin a baseline with `qbench collect {target}`, without --append"),
            ));
        }
        found => found?,
    };
    let differences = differences(&group, context);
    if !differences.is_empty() {
        let told: Vec<String> = differences.iter().map(in_words).collect();
        return Err(CliError::usage(
            format!("baseline {} was measured under other conditions: {}", group.id, told.join("; ")),
            "restore them, or begin a new baseline without --append".to_owned(),
        ));
    }
    tell(&format!("appending to baseline {}, sessions so far: {}", group.id, group.sessions.len()));
    Ok(group.id)
}

/// What `judge` holds against two sessions of one side. The warm-up is not among it.
fn differences(group: &Group, context: &Context) -> Vec<Difference> {
    let first = group.first();
    let load = LoadIdentity { warmup_s: first.load.warmup_s, ..context.load_identity() };
    let mut found = between("workload", &first.workload, &context.workload_identity());
    found.extend(between("load", &first.load, &load));
    found.extend(between("host", &first.host, &probe::host::fingerprint()));
    found
}

/// Digests say nothing to people but that they differ.
fn in_words(difference: &Difference) -> String {
    let Difference { what, from, to } = difference;
    let is_digest = |value: &Option<String>| value.as_ref().is_some_and(|value| value.len() == 64);
    if is_digest(from) || is_digest(to) {
        return format!("{what} changed");
    }
    let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
    format!("{what} was {}, is {}", word(from), word(to))
}

/// Says so when the baseline that was chosen ran on something else than this session of the same target.
pub(super) fn tell_if_outdated(folder: &Path, record: &Record) {
    let (target, workload) = (&record.target.target, &record.workload.name);
    let chosen = Baselines::read(folder, target, Some(workload)).and_then(|found| found.chosen(workload));
    let chosen = match chosen {
        Ok(chosen) => chosen,
        // The session is saved; what is wrong here stops whoever compares.
        Err(error) => {
            return tell(&format!("warning: the accepted baseline of {target} cannot be read: {error}"));
        }
    };
    let Some(chosen) = chosen else { return };
    let first = chosen.first();
    let runs = |identity: &RuntimeIdentity| format!("{} {}", identity.runtime, identity.version);
    let mut outdated = Vec::new();
    if runs(&first.target) != runs(&record.target) {
        outdated.push(format!("ran on {}, this session on {}", runs(&first.target), runs(&record.target)));
    }
    let changed = changed_files(&first.workload.files, &record.workload.files);
    if !changed.is_empty() {
        outdated.push(format!("was of other files: {}", changed.join(", ")));
    }
    if !outdated.is_empty() {
        tell(&format!(
            "note: the accepted baseline {} of {target} {}; consider `qbench baseline accept {target}`",
            chosen.id,
            outdated.join(", and ")
        ));
    }
}
