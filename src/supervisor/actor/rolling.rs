//! Doing what a roll says, and telling it what happened.

use tokio::{sync::oneshot, time::Instant};

use super::{
    super::{
        control::{Event, Response, Select},
        roll::{Command, Happened, Roll, Step, Way},
        spec::Mode,
        state::{Input, State},
    },
    Actor,
    app::{InPlace, Key, Role, Rolling, RunId},
};

impl Actor {
    pub(super) fn reload(&mut self, select: &Select, reply: oneshot::Sender<Response>) {
        let apps = self.chosen(select).map(|keys| {
            let mut apps: Vec<u32> = keys.iter().map(|key| key.0).collect();
            apps.dedup();
            apps
        });
        let apps = match apps {
            Ok(apps) => apps,
            Err(why) => return drop(reply.send(Response::Failed(why))),
        };
        if let Some(app) = apps.iter().filter_map(|app| self.apps.get(app)).find(|app| app.rolling.is_some())
        {
            let why = format!("a reload of {} is under way", app.spec.name);
            return drop(reply.send(Response::Failed(why)));
        }
        let keys = self.chosen(select).unwrap_or_default();
        for app in &apps {
            let of_app = keys.iter().filter(|key| key.0 == *app).map(|key| key.1);
            self.begin_roll(*app, &of_app.collect::<Vec<_>>());
        }
        self.answer_for(&apps, reply);
    }

    /// Answers once none of the apps is being reloaded.
    pub(super) fn await_roll(&mut self, select: &Select, reply: oneshot::Sender<Response>) {
        let keys = match self.chosen(select) {
            Ok(keys) => keys,
            Err(why) => return drop(reply.send(Response::Failed(why))),
        };
        let mut apps: Vec<u32> = keys.iter().map(|key| key.0).collect();
        apps.dedup();
        self.answer_for(&apps, reply);
    }

    fn begin_roll(&mut self, number: u32, chosen: &[u32]) {
        let Some(app) = self.apps.get_mut(&number) else { return };
        let way = match app.spec.mode {
            Mode::Fork => Way::InPlace,
            Mode::Transparent => Way::Together,
            Mode::Cluster | Mode::Sockets(_) => Way::Overlap,
        };
        let stays = |n: &u32| app.instances.get(n).is_some_and(|instance| !instance.surplus);
        let instances = chosen.iter().copied().filter(stays);
        let (roll, commands) = Roll::over(way, instances, app.spec.reload.parallel);
        app.rolling =
            Some(Rolling { roll, in_place: std::collections::BTreeMap::new(), replies: Vec::new() });
        self.remember_roll(number);
        self.obey(number, commands);
    }

    pub(super) fn tell_roll(&mut self, key: Key, what: Happened) {
        let Some(rolling) = self.apps.get_mut(&key.0).and_then(|app| app.rolling.as_mut()) else { return };
        let commands = rolling.roll.happened(key.1, what);
        self.remember_roll(key.0);
        self.obey(key.0, commands);
    }

    pub(super) fn obey(&mut self, app: u32, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Start(number) => self.start_candidate((app, number)),
                Command::Restart(number) => self.restart_in_place((app, number)),
                Command::Promote(number) => self.promote((app, number)),
                Command::Discard(number) => self.discard_candidate((app, number)),
                Command::UseFormer => {
                    if let Some(app) = self.apps.get_mut(&app) {
                        let former = app.settled.clone();
                        app.adopt(former);
                    }
                    self.remember_app(app);
                    self.plan_cron(app);
                }
                Command::Finish(result) => self.finish_roll(app, result),
            }
        }
    }

    pub(super) fn start_candidate(&mut self, key: Key) {
        match self.spawn(key, Role::Candidate) {
            Ok(run) => {
                self.set_deadline(run);
                self.begin_check(run);
            }
            Err(error) => {
                self.tell_roll(
                    key,
                    Happened::Failed(format!("the new process could not be started: {error}")),
                );
            }
        }
    }

    pub(super) fn candidate_ready(&mut self, key: Key) {
        self.tell_roll(key, Happened::Ready);
    }

    pub(super) fn candidate_failed(&mut self, key: Key, why: String) {
        self.tell_roll(key, Happened::Failed(why));
    }

    pub(super) fn retired(&mut self, key: Key) {
        let others = self.runs.values().any(|run| run.key == key && run.role == Role::Retiring);
        if !others {
            self.tell_roll(key, Happened::Retired);
        }
    }

    /// The candidate becomes the instance's process; the one of before is told to end.
    pub(super) fn promote(&mut self, key: Key) {
        let Some(candidate) = self.run_of(key, Role::Candidate) else { return };
        let generation = self.runs.get(&candidate).map(|run| run.generation).unwrap_or_default();
        self.steer_to(key.0, generation);
        let former = self.instance_mut(key).and_then(|instance| instance.run.replace(candidate));
        // Noted first: whichever process this names is the instance's, should this supervisor end here.
        self.remember_instance(key);
        self.set_role(candidate, Role::Main);
        self.step([(key, Input::Replaced)].into_iter());
        match former {
            Some(former) => {
                self.set_role(former, Role::Retiring);
                self.end(former);
            }
            None => self.tell_roll(key, Happened::Retired),
        }
    }

    pub(super) fn discard_candidate(&mut self, key: Key) {
        if let Some(candidate) = self.run_of(key, Role::Candidate) {
            self.set_role(candidate, Role::Retiring);
            self.end(candidate);
        }
    }

    pub(super) fn set_role(&mut self, id: RunId, role: Role) {
        if let Some(run) = self.runs.get_mut(&id) {
            run.role = role;
        }
        self.remember_run(id);
    }

    pub(super) fn run_of(&self, key: Key, role: Role) -> Option<RunId> {
        self.runs.iter().find(|(_, run)| run.key == key && run.role == role).map(|(id, _)| *id)
    }

    pub(super) fn restart_in_place(&mut self, key: Key) {
        let former = self.instance(key).and_then(|instance| instance.run);
        if let Some(rolling) = self.apps.get_mut(&key.0).and_then(|app| app.rolling.as_mut()) {
            rolling.in_place.insert(key.1, InPlace { former, settled_at: None });
        }
        self.remember_roll(key.0);
        self.step([(key, Input::Restart)].into_iter());
    }

    /// A process has ended. When it was the successor of one that is replaced in place, the roll is told; whether the roll
    /// has dealt with it, by starting the instance anew.
    pub(super) fn put_back_at_end(&mut self, key: Key, ended: RunId) -> bool {
        let rolling = self.apps.get_mut(&key.0).and_then(|app| app.rolling.as_mut());
        let step = rolling.and_then(|rolling| rolling.in_place.get_mut(&key.1));
        if step.is_none_or(|step| step.former == Some(ended)) {
            return false;
        }
        let Some(instance) = self.instance_mut(key) else { return false };
        let why = format!("the new process {}", instance.last_end.as_deref().unwrap_or("ended"));
        // It has no process any more: what the roll asks for must not wait for the end of one.
        let before = std::mem::replace(&mut instance.machine.state, State::Waiting);
        instance.timer = None;
        self.tell_roll(key, Happened::Failed(why));
        match self.instance_mut(key) {
            Some(instance) if instance.machine.state == State::Waiting && instance.timer.is_none() => {
                instance.machine.state = before;
                false
            }
            _ => true,
        }
    }

    /// An instance that is replaced in place took a step.
    pub(super) fn observe_in_place(&mut self, key: Key, input: Input, state: State) {
        let Some(app) = self.apps.get_mut(&key.0) else { return };
        let Some(rolling) = &mut app.rolling else { return };
        if rolling.roll.step_of(key.1) != Some(Step::Starting) || !rolling.roll.is_in_place() {
            return;
        }
        let Some(step) = rolling.in_place.get_mut(&key.1) else { return };
        let what = match (input, state) {
            (Input::Spawned, State::Online) if !app.policy.checked => {
                step.settled_at = Some(Instant::now() + app.policy.min_uptime);
                return;
            }
            (Input::Ready, State::Online) => Happened::Ready,
            (Input::SpawnFailed, _) => {
                let how = app.instances.get(&key.1).and_then(|instance| instance.last_end.clone());
                Happened::Failed(format!(
                    "the new process {}",
                    how.as_deref().unwrap_or("could not be started")
                ))
            }
            (Input::TimeUp, State::Launching { overdue: true }) => Happened::Failed(format!(
                "the new process was not ready after {:?}",
                app.policy.listen_timeout
            )),
            (Input::Stop, _) => Happened::Interrupted,
            _ => return,
        };
        self.tell_roll(key, what);
    }

    /// Candidates that are not ready in time, and instances that have lived long enough to be believed.
    pub(super) fn rolls_overdue(&mut self, now: Instant) {
        let late: Vec<(Key, RunId)> = self
            .runs
            .iter()
            .filter(|(_, run)| run.ready_by.is_some_and(|by| by <= now))
            .map(|(id, run)| (run.key, *id))
            .collect();
        for (key, id) in late {
            if let Some(run) = self.runs.get_mut(&id) {
                run.ready_by = None;
            }
            let Some(policy) = self.apps.get(&key.0).map(|app| app.policy.clone()) else { continue };
            if !policy.checked {
                // It has lived long enough to be believed.
                self.run_is_ready(id);
                continue;
            }
            let limit = policy.listen_timeout;
            self.candidate_failed(key, format!("the new process was not ready after {limit:?}"));
        }
        let mut settled = Vec::new();
        for (number, app) in &mut self.apps {
            for (instance, step) in app.rolling.iter_mut().flat_map(|rolling| &mut rolling.in_place) {
                if step.settled_at.is_some_and(|at| at <= now) {
                    step.settled_at = None;
                    settled.push((*number, *instance));
                }
            }
        }
        for key in settled {
            self.tell_roll(key, Happened::Ready);
        }
    }

    pub(super) fn interrupt_rolls_of(&mut self, keys: &[Key]) {
        let mut apps: Vec<u32> = keys.iter().map(|key| key.0).collect();
        apps.dedup();
        self.interrupt_rolls(&apps);
    }

    pub(super) fn interrupt_rolls(&mut self, apps: &[u32]) {
        for number in apps {
            let rolling = self.apps.get_mut(number).and_then(|app| app.rolling.as_mut());
            if let Some(rolling) = rolling {
                let commands = rolling.roll.interrupt("it was asked for something else");
                self.obey(*number, commands);
            }
        }
    }

    fn finish_roll(&mut self, number: u32, result: Result<(), String>) {
        let Some(app) = self.apps.get_mut(&number) else { return };
        let Some(rolling) = app.rolling.take() else { return };
        if result.is_ok() {
            app.settled = app.spec.clone();
        }
        app.last_roll.clone_from(&result);
        let name = app.spec.name.clone();
        self.discard_spare(number);
        self.ensure_spare(number);
        let _ = self.events.send(Event::Reloaded { app: name, failed: result.err() });
        self.remember_app(number);
        self.remember_roll(number);
        for (apps, reply) in rolling.replies {
            self.answer_for(&apps, reply);
        }
    }

    /// Answers for several apps, or waits for the next of them.
    fn answer_for(&mut self, apps: &[u32], reply: oneshot::Sender<Response>) {
        let mut failed = Vec::new();
        for number in apps {
            let Some(app) = self.apps.get_mut(number) else { continue };
            if let Some(rolling) = &mut app.rolling {
                rolling.replies.push((apps.to_vec(), reply));
                return;
            }
            if let Err(why) = &app.last_roll {
                failed.push(format!("{}: {why}", app.spec.name));
            }
        }
        let answer = if failed.is_empty() { Response::Done } else { Response::Failed(failed.join("; ")) };
        let _ = reply.send(answer);
    }
}
