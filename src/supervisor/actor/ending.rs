//! Ending processes, and what follows when they have ended.

use std::{os::fd::AsFd as _, time::Duration};

use rustix::process::Signal;
use tokio::time::Instant;

use super::{
    super::{
        keeper::Exit,
        process::{End, PidFd, Reaped, has_ended, wait},
        spec::Mode,
        state::Input,
        tree,
    },
    Actor, Token,
    app::{Parent, Phase, Role, RunId},
};

impl Actor {
    /// Tells a process to end: first, where it has a channel for that, to finish what it has begun; then by SIGINT; by
    /// SIGKILL when its time is up.
    pub(super) fn end(&mut self, id: RunId) {
        let Some(run) = self.runs.get_mut(&id).filter(|run| run.phase == Phase::Running) else { return };
        let Some(app) = self.apps.get_mut(&run.key.0) else { return };
        run.check = None;
        run.ready_by = None;
        run.kill_at = Some(Instant::now() + app.policy.kill_timeout);
        let drains = run.end.is_none() && run.channel.is_some();
        let by_message = app.spec.stop.by_message;
        let is_cluster = app.spec.mode == Mode::Cluster;
        let answers_first = self.must_drain(id);
        let Some(run) = self.runs.get_mut(&id) else { return };
        if !answers_first && !(drains && (by_message || is_cluster)) {
            return self.interrupt(id);
        }
        run.phase = Phase::Draining;
        // Noted before it is said: a worker that is told twice drops what it was finishing.
        self.remember_run(id);
        if answers_first {
            return self.begin_drain(id);
        }
        if by_message {
            let app = self.runs.get(&id).and_then(|run| self.apps.get_mut(&run.key.0));
            if let Some(cluster) = app.and_then(|app| app.cluster.as_mut()) {
                cluster.send(id, &"shutdown".into());
            }
        } else {
            self.tell_to_drain(id);
        }
    }

    /// Does nothing where that is noted to have been said: the cluster then says it again by itself.
    pub(super) fn tell_to_drain(&mut self, id: RunId) {
        let Some(app) = self.runs.get(&id).and_then(|run| self.apps.get_mut(&run.key.0)) else { return };
        if app.spec.mode != Mode::Cluster || app.spec.stop.by_message {
            return;
        }
        if let Some(cluster) = app.cluster.as_mut() {
            let outcomes = cluster.disconnect(id, &mut self.vault);
            self.heard_all(id, outcomes);
        }
    }

    /// SIGINT to its tree, deepest first.
    pub(super) fn interrupt(&mut self, id: RunId) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        run.phase = Phase::Interrupted;
        self.hold_members(id, None);
        self.signal_members(id, Signal::INT);
        if let Some(run) = self.runs.get(&id).filter(|run| run.end.is_none()) {
            PidFd::signal_by(&run.pidfd, Signal::INT);
        }
        self.remember_run(id);
    }

    /// Its time is up: SIGKILL to all that is left of it. One that was still answering is asked by signal first.
    pub(super) fn time_is_up(&mut self, id: RunId) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        if run.phase == Phase::Draining && run.drain.is_some() {
            let limit = self.apps.get(&run.key.0).map(|app| app.policy.kill_timeout).unwrap_or_default();
            run.kill_at = Some(Instant::now() + limit);
            return self.interrupt(id);
        }
        self.kill(id);
    }

    /// SIGKILL to all that is left of it.
    pub(super) fn kill(&mut self, id: RunId) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        run.phase = Phase::Killed;
        run.kill_at = None;
        if run.end.is_none() {
            PidFd::signal_by(&run.pidfd, Signal::KILL);
        }
        self.kill_group(id);
        self.hold_members(id, None);
        self.signal_members(id, Signal::KILL);
        self.remember_run(id);
    }

    /// Takes hold of the rest of its tree and session: once its first process has ended, nothing shows any more that
    /// what left the session was a part of it. Those that were not held before are sent `signal`.
    fn hold_members(&mut self, id: RunId, signal: Option<Signal>) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        if self.apps.get(&run.key.0).is_some_and(|app| !app.spec.stop.tree) {
            return;
        }
        let keeper = self.vault.keeper().filter(|_| run.end.is_some() && run.parent != Parent::Nobody);
        let members = match keeper {
            // What it leaves behind is the keeper's by now, which is a short list to go through.
            Some(keeper) => tree::left_behind(run.pid, keeper),
            None => tree::members_of(run.pid),
        };
        for (pid, member) in members {
            if run.members.iter().all(|(held, _)| *held != pid)
                && let Ok(watch) = self.poller.watch(member.into(), Token::Member(id))
            {
                signal.inspect(|signal| PidFd::signal_by(&watch, *signal));
                run.members.push((pid, watch));
            }
        }
    }

    fn signal_members(&self, id: RunId, signal: Signal) {
        for (_, member) in self.runs.get(&id).iter().flat_map(|run| &run.members) {
            PidFd::signal_by(member, signal);
        }
    }

    /// The pidfd of a process says that it has ended.
    pub(super) fn process_ended(&mut self, id: RunId) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        let end = match wait(run.pidfd.as_fd(), true) {
            Reaped::Running => return,
            Reaped::Ended(end) => end,
            Reaped::NotOurs if run.parent == Parent::Keeper => {
                // The keeper will tell how.
                return run.pidfd.mute();
            }
            Reaped::NotOurs => End::Unknown,
        };
        self.leader_ended(id, end);
    }

    /// The keeper has reaped a process.
    pub(super) fn keeper_saw_end(&mut self, exit: &Exit) {
        let found = self.runs.iter().find(|(_, run)| run.pid == exit.pid && run.parent == Parent::Keeper);
        if let Some(id) = found.map(|(id, _)| *id) {
            self.leader_ended(id, End::of_raw(exit.status));
        }
        self.vault.acknowledge(exit);
    }

    /// The first process of an instance has ended. What a crashed one leaves behind is killed at once, because it may
    /// hold the port; when the end was asked for, it gets the time that the first process gets.
    fn leader_ended(&mut self, id: RunId, end: End) {
        let Some(run) = self.runs.get_mut(&id).filter(|run| run.end.is_none()) else { return };
        run.end = Some(end);
        run.pidfd.mute();
        run.check = None;
        let before = run.phase;
        if before == Phase::Draining {
            run.phase = Phase::Interrupted;
        }
        // What was started since the others were told to end has heard nothing of it.
        let killed = matches!(before, Phase::Running | Phase::Killed);
        self.hold_members(id, (!killed).then_some(Signal::INT));
        if killed {
            self.signal_members(id, Signal::KILL);
        }
        self.await_members(id);
    }

    /// One of its members has ended; there may be others, or new ones.
    pub(super) fn member_ended(&mut self, id: RunId) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        run.members.retain(|(_, member)| !has_ended(member.as_fd(), Duration::ZERO));
        if run.end.is_none() {
            return;
        }
        let killed = matches!(run.phase, Phase::Running | Phase::Killed);
        self.hold_members(id, (!killed).then_some(Signal::INT));
        if killed {
            self.signal_members(id, Signal::KILL);
        }
        self.await_members(id);
    }

    fn await_members(&mut self, id: RunId) {
        if self.runs.get(&id).is_some_and(|run| run.members.is_empty()) {
            self.gone(id);
        }
    }

    /// A process and all of its session are gone.
    fn gone(&mut self, id: RunId) {
        self.remove_group(id);
        let Some(run) = self.runs.remove(&id) else { return };
        if run.parent == Parent::Ourselves {
            let _ = wait(run.pidfd.as_fd(), false);
        }
        let (key, role, uptime) = (run.key, run.role, run.uptime());
        let end = run.end.unwrap_or(End::Unknown);
        let how = run.failure.clone().unwrap_or_else(|| end.to_string());
        drop(run);
        self.finish_streams(id);
        self.forget_run(id);
        if let Some(cluster) = self.apps.get_mut(&key.0).and_then(|app| app.cluster.as_mut()) {
            cluster.remove(id, &mut self.vault);
        }
        self.orphan_ready(key.0);
        self.retire_generations(key.0);
        match role {
            Role::Main => {
                if let Some(instance) = self.instance_mut(key) {
                    instance.run = None;
                    instance.last_end = Some(how);
                }
                if !self.put_back_at_end(key, id) {
                    self.step([(key, Input::Exited { uptime, code: end.code() })].into_iter());
                }
            }
            Role::Candidate => self.candidate_failed(key, format!("the new process {how}")),
            Role::Retiring => self.retired(key),
            // Not at once: one that cannot boot would be started again and again.
            Role::Spare => {}
        }
        if self.closing {
            self.remove_surplus(key);
        }
    }
}
