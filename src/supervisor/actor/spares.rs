//! Hot spares: a worker that has booted and waits for its sockets, to take the place of one that crashes.
//!
//! A spare is of the specification it was started with, so it is thrown away when that changes. It is told the number
//! after the last instance's, and keeps it. What it writes stays in its pipes until it has a place.

use std::os::fd::OwnedFd;

use super::{
    super::{spec::Mode, state::State},
    Actor,
    app::{Key, Phase, Role, RunId},
};

/// The output of a spare, which belongs to no instance yet: standard output and standard error.
pub(super) type Unattached = (OwnedFd, OwnedFd);

impl Actor {
    /// Starts a spare where one is wanted and there is none.
    pub(super) fn ensure_spare(&mut self, number: u32) {
        let Some(app) = self.apps.get(&number) else { return };
        let wanted =
            app.spec.reload.hot_spare && app.spec.mode == Mode::Cluster && !self.closing && !app.leaving;
        let any_online = app.instances.values().any(|instance| instance.machine.state == State::Online);
        if !wanted || !any_online || app.rolling.is_some() || self.spare_of(number).is_some() {
            return;
        }
        let key = (number, app.spec.instances);
        if let Err(error) = self.spawn(key, Role::Spare) {
            self.warn(Some(number), format!("a spare could not be started: {error}"));
        }
    }

    /// Ends the spare: it is of another specification than what comes.
    pub(super) fn discard_spare(&mut self, number: u32) {
        if let Some(spare) = self.spare_of(number) {
            self.set_role(spare, Role::Retiring);
            self.end(spare);
        }
    }

    /// Puts the spare in the place of a process that crashed. It has been online for nobody so far.
    pub(super) fn take_spare(&mut self, key: Key) -> Option<RunId> {
        let spare = self.spare_of(key.0)?;
        let run = self.runs.get_mut(&spare).filter(|run| run.phase == Phase::Running && run.end.is_none())?;
        run.key = key;
        run.role = Role::Main;
        let unattached = run.unattached.take();
        if let Some(instance) = self.instance_mut(key) {
            instance.run = Some(spare);
        }
        self.remember_instance(key);
        self.remember_run(spare);
        if let Some((out, err)) = unattached {
            self.attach_log(key, spare, false, out);
            self.attach_log(key, spare, true, err);
        }
        let cluster = self.apps.get_mut(&key.0)?.cluster.as_mut()?;
        let outcomes = cluster.release(spare, key.1, &mut self.vault);
        self.heard_all(spare, outcomes);
        Some(spare)
    }

    fn spare_of(&self, number: u32) -> Option<RunId> {
        let spare = |run: &super::app::Run| run.key.0 == number && run.role == Role::Spare;
        self.runs.iter().find(|(_, run)| spare(run)).map(|(id, _)| *id)
    }
}
