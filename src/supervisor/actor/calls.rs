//! What clients ask for.

use tokio::{sync::oneshot, time::Instant};

use super::{
    super::{
        check::check_instances,
        control::{Call, Identity, InstanceReport, Request, Response, Select},
        launch::supported,
        process::PidFd,
        spec::{AppSpec, Mode},
        state::{Input, State},
        tree,
    },
    Actor,
    app::{App, Instance, Key},
};

type Reply = oneshot::Sender<Response>;

impl Actor {
    pub(super) fn call(&mut self, Call { request, reply }: Call) {
        self.rest_soon();
        if self.closing && !matches!(request, Request::Status | Request::Subscribe | Request::Shutdown) {
            let _ = reply.send(Response::Failed("the supervisor is ending".to_owned()));
            return;
        }
        let answered = match request {
            Request::Status => Ok(Response::Status(self.status())),
            Request::Identify => Ok(Response::Identity(identity())),
            // The connection sees to it; here it only has to be answered.
            Request::Subscribe => Ok(Response::Done),
            Request::Apply { apps } => self.apply(apps).map(|()| Response::Done),
            Request::Start(select) => self.start(&select).map(|()| Response::Done),
            Request::Settle(select) => match self.chosen(&select) {
                Ok(keys) => return self.settling.push((keys, reply)),
                Err(why) => Err(why),
            },
            Request::Stop(select) => return self.later(self.chosen(&select), Input::Stop, reply),
            Request::Restart(select) => return self.later(self.chosen(&select), Input::Restart, reply),
            Request::Delete(select) => return self.delete(&select, reply),
            Request::Scale { app, instances } => match self.scale(&app, instances) {
                Ok(keys) => return self.pending.push((keys, reply)),
                Err(why) => Err(why),
            },
            Request::Reload(select) => return self.reload(&select, reply),
            Request::Await(select) => return self.await_roll(&select, reply),
            Request::Reset(select) => self.reset(&select).map(|()| Response::Done),
            Request::Signal { select, signal } => self.signal(&select, signal).map(|()| Response::Done),
            Request::Flush(select) => self.flush(&select).map(|()| Response::Done),
            Request::ReopenLogs => {
                self.logs.reopen();
                Ok(Response::Done)
            }
            Request::Upgrade { program } => self.upgrade(&program).map(|()| Response::Done),
            Request::Shutdown => {
                self.close();
                return self.pending.push((self.all_keys(), reply));
            }
        };
        // A client that did not wait for its answer has no use for it.
        let _ = reply.send(answered.unwrap_or_else(Response::Failed));
    }

    pub(super) fn close(&mut self) {
        self.closing = true;
        self.interrupt_rolls(&self.apps.keys().copied().collect::<Vec<_>>());
        let keys = self.all_keys();
        self.step(keys.into_iter().map(|key| (key, Input::Stop)));
        // Processes that were to become an instance's, or were one's.
        let rest: Vec<u64> = self.runs.keys().copied().collect();
        for run in rest {
            self.end(run);
        }
    }

    fn apply(&mut self, specs: Vec<AppSpec>) -> Result<(), String> {
        let mut names = std::collections::BTreeSet::new();
        for spec in &specs {
            spec.validate().map_err(|why| format!("app {}: {why}", spec.name))?;
            if spec.mode == Mode::Transparent {
                supported().map_err(|why| format!("app {}: transparent mode: {why}", spec.name))?;
            }
            if !names.insert(&spec.name) {
                return Err(format!("app {}: the name is used twice", spec.name));
            }
            if let Some(app) = self.app_named(&spec.name)
                && self.apps[&app].rolling.is_some()
            {
                return Err(format!("a reload of {} is under way", spec.name));
            }
        }
        for spec in specs {
            let app = self.app_named(&spec.name).unwrap_or_else(|| {
                let app = self.next_app;
                self.next_app += 1;
                self.apps.insert(app, App::new(spec.clone()));
                app
            });
            if let Some(known) = self.apps.get_mut(&app) {
                known.adopt(spec);
                known.leaving = false;
            }
            self.remember_app(app);
            self.plan_cron(app);
            self.discard_spare(app);
            self.adjust_instances(app);
        }
        self.plan_sampling();
        Ok(())
    }

    /// Adds instances that are missing, stopped; ends those that are too many.
    fn adjust_instances(&mut self, app: u32) {
        let Some(wanted) = self.apps.get(&app).map(|app| app.spec.instances) else { return };
        for number in 0..wanted {
            self.add_instance((app, number), false);
        }
        self.end_surplus(app, wanted);
    }

    /// One that is about to be started is noted as such from the first.
    pub(super) fn add_instance(&mut self, key: Key, to_start: bool) -> bool {
        let id = self.next_id;
        let Some(app) = self.apps.get_mut(&key.0) else { return false };
        if app.instances.contains_key(&key.1) {
            return false;
        }
        app.instances.insert(key.1, Instance::new(id));
        self.next_id += 1;
        self.remember_counters();
        if to_start {
            self.remember_to_start(&[key]);
        } else {
            self.remember_instance(key);
        }
        true
    }

    pub(super) fn end_surplus(&mut self, app: u32, wanted: u32) -> Vec<Key> {
        let Some(known) = self.apps.get_mut(&app) else { return Vec::new() };
        let mut surplus = Vec::new();
        for (number, instance) in known.instances.range_mut(wanted..) {
            instance.surplus = true;
            surplus.push((app, *number));
        }
        self.retire_slots(app, &surplus);
        self.step(surplus.iter().map(|key| (*key, Input::Stop)));
        surplus
    }

    fn start(&mut self, select: &Select) -> Result<(), String> {
        let mut keys = self.chosen(select)?;
        if *select == Select::All {
            keys.retain(|key| self.apps.get(&key.0).is_some_and(|app| app.spec.autostart));
        }
        let idle = |key: &Key| self.instance(*key).is_some_and(|instance| instance.run.is_none());
        self.settle_for(&keys.iter().copied().filter(idle).collect::<Vec<_>>());
        self.remember_to_start(&keys);
        self.step(keys.iter().map(|key| (*key, Input::Start)));
        let failed: Vec<String> = keys
            .iter()
            .filter_map(|key| {
                let instance = self.instance(*key)?;
                let at_a_loss = matches!(instance.machine.state, State::Waiting | State::Errored);
                let why = instance.last_end.as_ref().filter(|_| at_a_loss)?;
                Some(format!("{}: {why}", self.name_of(*key)))
            })
            .collect();
        if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
    }

    /// All instances of an app begin anew: what they begin with is from now on what a failed reload goes back to.
    fn settle_for(&mut self, keys: &[Key]) {
        for (number, app) in &mut self.apps {
            let begins_anew =
                |n: &u32, instance: &Instance| instance.run.is_none() || keys.contains(&(*number, *n));
            if keys.iter().any(|key| key.0 == *number) && app.instances.iter().all(|(n, i)| begins_anew(n, i))
            {
                app.settled = app.spec.clone();
            }
        }
    }

    /// Gives an input to instances and answers once none of them is stopping any more.
    fn later(&mut self, keys: Result<Vec<Key>, String>, input: Input, reply: Reply) {
        match keys {
            Err(why) => drop(reply.send(Response::Failed(why))),
            Ok(keys) => {
                self.interrupt_rolls_of(&keys);
                if input == Input::Restart {
                    self.settle_for(&keys);
                }
                self.step(keys.iter().map(|key| (*key, input)));
                self.pending.push((keys, reply));
            }
        }
    }

    fn delete(&mut self, select: &Select, reply: Reply) {
        let keys = match self.chosen(select) {
            Ok(keys) => keys,
            Err(why) => return drop(reply.send(Response::Failed(why))),
        };
        self.interrupt_rolls_of(&keys);
        for key in &keys {
            if let Some(instance) = self.instance_mut(*key) {
                instance.surplus = true;
            }
        }
        let apps: std::collections::BTreeSet<u32> = keys.iter().map(|key| key.0).collect();
        for (_, app) in self.apps.iter_mut().filter(|(number, _)| apps.contains(number)) {
            app.leaving = app.instances.values().all(|instance| instance.surplus);
        }
        self.step(keys.iter().map(|key| (*key, Input::Stop)));
        self.pending.push((keys, reply));
    }

    fn scale(&mut self, name: &str, instances: u32) -> Result<Vec<Key>, String> {
        let app = self.app_named(name).ok_or_else(|| format!("there is no app {name:?}"))?;
        let known = self.apps.get_mut(&app).ok_or("it is gone")?;
        if known.rolling.is_some() {
            return Err(format!("a reload of {name} is under way"));
        }
        check_instances(&known.spec, instances)?;
        known.spec.instances = instances;
        known.settled.instances = instances;
        self.remember_app(app);
        let mut inputs = Vec::new();
        for number in 0..instances {
            let key = (app, number);
            let is_new = self.add_instance(key, true);
            let was_leaving =
                self.instance_mut(key).is_some_and(|instance| std::mem::take(&mut instance.surplus));
            if is_new || was_leaving {
                inputs.push((key, Input::Start));
            }
        }
        let mut keys: Vec<Key> = inputs.iter().map(|(key, _)| *key).collect();
        self.remember_to_start(&keys);
        self.step(inputs.into_iter());
        keys.extend(self.end_surplus(app, instances));
        Ok(keys)
    }

    fn reset(&mut self, select: &Select) -> Result<(), String> {
        for key in self.chosen(select)? {
            if let Some(instance) = self.instance_mut(key) {
                instance.machine.restarts = 0;
                instance.machine.unstable = 0;
            }
            self.remember_instance(key);
        }
        Ok(())
    }

    fn signal(&mut self, select: &Select, signal: i32) -> Result<(), String> {
        let signal = rustix::process::Signal::from_named_raw(signal)
            .ok_or_else(|| format!("{signal} is not the number of a signal"))?;
        for key in self.chosen(select)? {
            let run = self.instance(key).and_then(|instance| self.runs.get(&instance.run?));
            if let Some(run) = run {
                PidFd::signal_by(&run.pidfd, signal);
            }
        }
        Ok(())
    }

    fn flush(&mut self, select: &Select) -> Result<(), String> {
        let apps: std::collections::BTreeSet<u32> =
            self.chosen(select)?.into_iter().map(|key| key.0).collect();
        for app in apps.iter().filter_map(|app| self.apps.get(app)) {
            // Whoever wants to know when looks at the files.
            drop(self.logs.truncate(Some(&app.spec.name)));
        }
        Ok(())
    }

    fn upgrade(&mut self, program: &std::path::Path) -> Result<(), String> {
        if !program.is_absolute() || !program.is_file() {
            return Err(format!("{} is not the absolute path of a program", program.display()));
        }
        self.vault.program(program).map_err(|error| format!("the keeper did not take it: {error}"))?;
        self.replaced = true;
        Ok(())
    }

    /// The instances that are meant; an error when there are none of that name.
    pub(super) fn chosen(&self, select: &Select) -> Result<Vec<Key>, String> {
        let of_apps = |apps: Vec<u32>| apps.iter().flat_map(|app| self.keys_of(*app)).collect::<Vec<_>>();
        match select {
            Select::All => Ok(self.all_keys()),
            Select::App(name) => match self.app_named(name) {
                Some(app) => Ok(self.keys_of(app)),
                None => Err(format!("there is no app {name:?}")),
            },
            Select::Namespace(namespace) => {
                let apps = self.apps.iter().filter(|(_, app)| app.spec.namespace == *namespace);
                let keys = of_apps(apps.map(|(app, _)| *app).collect());
                if keys.is_empty() { Err(format!("there is no namespace {namespace:?}")) } else { Ok(keys) }
            }
            Select::Id(id) => {
                let found =
                    self.all_keys().into_iter().find(|key| self.instance(*key).is_some_and(|i| i.id == *id));
                found.map(|key| vec![key]).ok_or_else(|| format!("there is no instance with the id {id}"))
            }
        }
    }

    pub(super) fn app_named(&self, name: &str) -> Option<u32> {
        self.apps.iter().find(|(_, app)| app.spec.name == name).map(|(app, _)| *app)
    }

    /// Every instance, with what its tree takes.
    fn status(&mut self) -> Vec<InstanceReport> {
        let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
        let mut reports = Vec::new();
        for key in self.all_keys() {
            let run = self.instance(key).and_then(|instance| self.runs.get(&instance.run?));
            let Some(mut report) = self.apps[&key.0].report(key.1, run) else { continue };
            if let Some(pid) = report.pid {
                report.memory_bytes = Some(tree::resident_bytes(pid));
                let (ticks, at) = (tree::cpu_ticks(pid), Instant::now());
                let before = self.instance_mut(key).and_then(|instance| instance.cpu.replace((ticks, at)));
                report.cpu_percent = before.and_then(|(before, then)| {
                    let seconds = at.duration_since(then).as_secs_f64();
                    let spent = ticks.checked_sub(before)? as f64 / ticks_per_second;
                    Some((100.0 * spent / seconds.max(1e-3)).round() as u32)
                });
            }
            reports.push(report);
        }
        reports
    }
}

fn identity() -> Identity {
    let keeper = rustix::process::getppid().map_or(0, |keeper| keeper.as_raw_nonzero().get().cast_unsigned());
    Identity { version: env!("CARGO_PKG_VERSION").to_owned(), brain: std::process::id(), keeper }
}
