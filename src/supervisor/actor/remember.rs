//! What is put into the vault, and under which names.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    super::{
        roll::Roll,
        spec::AppSpec,
        state::{Machine, State},
    },
    Actor,
    app::{InPlace, Key, Phase, Role, Run, RunId},
};

/// The note of what numbers come next.
pub(super) const COUNTERS: &str = "counters";

/// What numbers come next.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Counters {
    pub(super) next_app: u32,
    pub(super) next_id: u32,
}

/// An app.
#[derive(Serialize, Deserialize)]
pub(super) struct AppNote {
    pub(super) spec: AppSpec,
    pub(super) settled: AppSpec,
    pub(super) last_roll: Result<(), String>,
    pub(super) leaving: bool,
    /// In transparent mode, what new processes belong to.
    pub(super) generation: u64,
}

/// An instance.
#[derive(Serialize, Deserialize)]
pub(super) struct InstanceNote {
    pub(super) id: u32,
    pub(super) machine: Machine,
    pub(super) run: Option<RunId>,
    pub(super) surplus: bool,
    pub(super) last_end: Option<String>,
}

/// A process, from before it is started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RunNote {
    pub(super) key: Key,
    pub(super) role: Role,
    pub(super) pid: Option<u32>,
    pub(super) start_ticks: Option<u64>,
    pub(super) spawned_ns: u64,
    pub(super) ready: bool,
    pub(super) phase: Phase,
    pub(super) generation: u64,
}

/// A reload under way.
#[derive(Serialize, Deserialize)]
pub(super) struct RollNote {
    pub(super) roll: Roll,
    pub(super) in_place: BTreeMap<u32, InPlace>,
}

pub(super) fn app_note(app: u32) -> String {
    format!("a/{app}")
}

pub(super) fn instance_note((app, number): Key) -> String {
    format!("i/{app}/{number}")
}

pub(super) fn run_note(run: RunId) -> String {
    format!("r/{run}")
}

pub(super) fn roll_note(app: u32) -> String {
    format!("roll/{app}")
}

/// The name of a descriptor of a process.
pub(super) fn fd_name(run: RunId, which: &str) -> String {
    format!("r/{run}/{which}")
}

/// The notes whose names are `prefix` and one number.
pub(super) fn numbered<N: std::str::FromStr, T: DeserializeOwned>(
    notes: &BTreeMap<String, Vec<u8>>,
    prefix: &str,
) -> Vec<(N, T)> {
    notes
        .iter()
        .filter_map(|(name, text)| Some((name.strip_prefix(prefix)?.parse().ok()?, read(text)?)))
        .collect()
}

/// A note that cannot be read, of another version perhaps, counts as none.
pub(super) fn read<T: DeserializeOwned>(text: &[u8]) -> Option<T> {
    serde_json::from_slice(text).ok()
}

impl RunNote {
    pub(super) fn new(key: Key, role: Role, generation: u64) -> Self {
        Self {
            key,
            role,
            pid: None,
            start_ticks: None,
            spawned_ns: 0,
            ready: false,
            phase: Phase::Running,
            generation,
        }
    }

    fn of(run: &Run) -> Self {
        Self {
            key: run.key,
            role: run.role,
            pid: Some(run.pid),
            start_ticks: run.start_ticks,
            spawned_ns: run.spawned.as_nanos() as u64,
            ready: run.ready,
            phase: run.phase,
            generation: run.generation,
        }
    }
}

impl Actor {
    pub(super) fn remember_counters(&mut self) {
        let counters = Counters { next_app: self.next_app, next_id: self.next_id };
        self.vault.note(COUNTERS, &counters);
    }

    pub(super) fn remember_app(&mut self, number: u32) {
        if let Some(app) = self.apps.get(&number) {
            let note = AppNote {
                spec: app.spec.clone(),
                settled: app.settled.clone(),
                last_roll: app.last_roll.clone(),
                leaving: app.leaving,
                generation: app.generations.current,
            };
            self.vault.note(&app_note(number), &note);
        }
    }

    pub(super) fn remember_instance(&mut self, key: Key) {
        if let Some(instance) = self.instance(key) {
            let note = InstanceNote {
                id: instance.id,
                machine: instance.machine.clone(),
                run: instance.run,
                surplus: instance.surplus,
                last_end: instance.last_end.clone(),
            };
            self.vault.note(&instance_note(key), &note);
        }
    }

    /// Notes of instances at rest that they are about to be started: of several, the next supervisor starts those that
    /// this one did not come to.
    pub(super) fn remember_to_start(&mut self, keys: &[Key]) {
        for key in keys {
            let Some(instance) = self.instance(*key).filter(|instance| instance.run.is_none()) else {
                continue;
            };
            let mut machine = instance.machine.clone();
            if !matches!(machine.state, State::Stopped | State::Errored | State::Waiting) {
                continue;
            }
            machine.state = State::Launching { overdue: false };
            let note = InstanceNote {
                id: instance.id,
                machine,
                run: None,
                surplus: instance.surplus,
                last_end: instance.last_end.clone(),
            };
            self.vault.note(&instance_note(*key), &note);
        }
    }

    pub(super) fn remember_run(&mut self, id: RunId) {
        if let Some(run) = self.runs.get(&id) {
            let note = RunNote::of(run);
            self.remember_run_note(id, &note);
        }
    }

    pub(super) fn remember_run_note(&mut self, id: RunId, note: &RunNote) {
        self.vault.note(&run_note(id), note);
    }

    /// It has ended; its output may not have been read to the end yet.
    pub(super) fn forget_run(&mut self, id: RunId) {
        self.vault.forget(&[run_note(id)]);
        self.vault.discard(&["pid", "ipc", "report", "notify", "page"].map(|which| fd_name(id, which)));
    }

    pub(super) fn remember_roll(&mut self, number: u32) {
        let Some(app) = self.apps.get(&number) else { return };
        match &app.rolling {
            Some(rolling) => {
                let note = RollNote { roll: rolling.roll.clone(), in_place: rolling.in_place.clone() };
                self.vault.note(&roll_note(number), &note);
            }
            None => self.vault.forget(&[roll_note(number)]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(entries: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        entries.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
    }

    #[test]
    fn only_names_that_are_one_number_are_found() {
        let notes = notes(&[
            ("a/1", "\"one\""),
            ("a/22", "\"two\""),
            ("a/22/x", "\"deeper\""),
            ("a/", "\"none\""),
            ("a/x", "\"word\""),
            ("a/-3", "\"negative\""),
            ("a/99999999999", "\"too large\""),
            ("b/4", "\"another\""),
        ]);
        let found: Vec<(u32, String)> = numbered(&notes, "a/");
        assert_eq!(found, [(1, "one".to_owned()), (22, "two".to_owned())]);
    }

    #[test]
    fn a_note_that_cannot_be_read_counts_as_none() {
        let notes = notes(&[("r/1", "{"), ("r/2", "\"text\""), ("r/3", ""), ("r/4", "7")]);
        assert_eq!(numbered::<RunId, u32>(&notes, "r/"), [(4, 7)]);
        assert_eq!(read::<Counters>(b"{\"next_app\":1}").map(|counters| counters.next_id), None);
        assert_eq!(read::<u32>(b"\xff"), None);
    }

    #[test]
    fn a_process_is_remembered_as_it_was() {
        let note = RunNote {
            pid: Some(4711),
            start_ticks: Some(12),
            spawned_ns: u64::MAX,
            ready: true,
            phase: Phase::Interrupted,
            ..RunNote::new((3, 5), Role::Candidate, 8)
        };
        let again: RunNote = read(&serde_json::to_vec(&note).unwrap()).unwrap();
        assert_eq!(format!("{again:?}"), format!("{note:?}"));
    }

    #[test]
    fn names_of_descriptors_are_no_names_of_notes() {
        let run = 123;
        let name = run_note(run);
        for which in ["out", "err", "ipc", "pid"] {
            assert!(fd_name(run, which).starts_with(&format!("{name}/")));
        }
        assert_eq!(
            (app_note(1), roll_note(1), instance_note((1, 2))),
            ("a/1".into(), "roll/1".into(), "i/1/2".into())
        );
    }
}
