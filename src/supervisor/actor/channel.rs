//! What processes say over their IPC channels, and sockets whose worker is gone.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    super::{
        cluster::{Cluster, Outcome},
        spec::ReadyWhen,
        state::Input,
    },
    Actor, Token,
    app::{Key, Phase, RunId},
};

/// From one look at sockets that are out of use to the next.
const TIDY_EVERY: Duration = Duration::from_secs(1);

impl Actor {
    pub(super) fn channel_ready(&mut self, id: RunId) {
        let Some(run) = self.runs.get(&id) else { return };
        let app_number = run.key.0;
        let Some(cluster) = self.apps.get_mut(&app_number).and_then(|app| app.cluster.as_mut()) else {
            return;
        };
        cluster.writable(id);
        // What is left for another turn is still readable, and comes again.
        let outcomes = cluster.readable(id, &mut self.vault).outcomes;
        self.heard_all(id, outcomes);
        self.watch_for_room(app_number, id);
        self.orphan_ready(app_number);
    }

    pub(super) fn heard_all(&mut self, id: RunId, outcomes: Vec<Outcome>) {
        for outcome in outcomes {
            self.heard(id, outcome);
        }
    }

    fn heard(&mut self, id: RunId, outcome: Outcome) {
        match outcome {
            Outcome::Listening { .. } => self.run_has_done(id, ReadyWhen::Listening),
            Outcome::Ready => self.run_has_done(id, ReadyWhen::Message),
            Outcome::Closed => self.channel_closed(id),
            Outcome::Broken(why) => {
                let app = self.runs.get(&id).map(|run| run.key.0);
                self.warn(app, format!("its IPC channel was given up: {why}"));
                self.channel_closed(id);
            }
            Outcome::Refused { key, errno } => {
                let app = self.runs.get(&id).map(|run| run.key.0);
                let error = std::io::Error::from_raw_os_error(errno);
                self.warn(app, format!("it could not have the socket {key}: {error}"));
            }
            Outcome::Online
            | Outcome::Message(_)
            | Outcome::Dropped
            | Outcome::Leaving
            // The store keeps a mirror of what the keeper could not take.
            | Outcome::Unkept(_) => {}
        }
    }

    /// It has finished what it had begun, or has no use for a channel.
    fn channel_closed(&mut self, id: RunId) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        run.channel = None;
        if run.phase == Phase::Draining {
            self.interrupt(id);
        }
    }

    fn watch_for_room(&mut self, app: u32, id: RunId) {
        let Some(cluster) = self.apps.get(&app).and_then(|app| app.cluster.as_ref()) else { return };
        let wanted = cluster.wants_write(id);
        if let Some(channel) = self.runs.get(&id).and_then(|run| run.channel.as_ref()) {
            // It was registered before, so this can only fail for want of memory; the next message tries again.
            let _ = channel.also_writable(wanted);
        }
    }

    /// Connections that wait on the socket of a worker that is gone.
    pub(super) fn orphan_ready(&mut self, app: u32) {
        let Some(known) = self.apps.get_mut(&app) else { return };
        let busy = known.cluster.as_mut().is_some_and(Cluster::accept_orphans);
        if busy {
            // Every worker is being handed one; the answer of the first is what to wait for.
            known.orphans.clear();
        } else {
            self.watch_orphans(app);
        }
    }

    /// Watches just those listening sockets that nobody accepts from.
    pub(super) fn watch_orphans(&mut self, app: u32) {
        let Some(known) = self.apps.get_mut(&app) else { return };
        let Some(cluster) = &known.cluster else { return };
        known.orphans.clear();
        for listener in cluster.orphaned_listeners() {
            let watch =
                listener.socket.try_clone_to_owned().and_then(|fd| self.poller.watch(fd, Token::Orphan(app)));
            known.orphans.extend(watch);
        }
    }

    /// Connections that wait where nobody will accept any more are given to the workers that stay.
    pub(super) fn retire_slots(&mut self, app: u32, surplus: &[Key]) {
        let Some(cluster) = self.apps.get_mut(&app).and_then(|app| app.cluster.as_mut()) else { return };
        for (_, slot) in surplus {
            // What it has to say is of sockets, not of one worker.
            drop(cluster.retire_slot(*slot, std::time::Instant::now(), &mut self.vault));
        }
        self.plan_tidying();
    }

    /// Closes sockets that have been out of use for long enough.
    pub(super) fn tidy(&mut self) {
        for cluster in self.apps.values_mut().filter_map(|app| app.cluster.as_mut()) {
            drop(cluster.tidy(std::time::Instant::now(), &mut self.vault));
        }
        self.plan_tidying();
    }

    /// Only while some app has sockets of ours.
    pub(super) fn plan_tidying(&mut self) {
        let wanted = self.apps.values().any(|app| app.cluster.is_some());
        self.tidy_at = wanted.then(|| Instant::now() + TIDY_EVERY);
    }

    /// A process did not answer its liveness check: it is killed, and replaced as after a crash.
    pub(super) fn found_dead(&mut self, id: RunId, why: &str) {
        let Some(run) = self.runs.get(&id) else { return };
        let key = run.key;
        self.warn(Some(key.0), format!("{} was killed: {why}", self.name_of(key)));
        if let Some(instance) = self.instance_mut(key) {
            instance.last_end = Some(why.to_owned());
        }
        self.step([(key, Input::Restart)].into_iter());
        self.kill(id);
    }
}
