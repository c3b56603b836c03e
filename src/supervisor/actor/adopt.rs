//! Taking over from a supervisor that has ended: what runs, runs on.
//!
//! Every piece of work that consists of several steps (a start, a promotion, an end) notes what it is about to do before
//! it does it; here each is found at whichever step it was, and carried on from there.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    super::{
        cluster::{Channel, Cluster, Options},
        keeper::{Exit, Replay},
        launch::Report,
        process::PidFd,
        roll::{Happened, Step},
        spec::ReadyWhen,
        state::{Input, State},
        tree::{self, Process},
    },
    Actor, Token,
    app::{App, Instance, Key, Parent, Phase, Role, Rolling, Run, RunId},
    launching::RUN_VARIABLE,
    now,
    remember::{self, AppNote, Counters, InstanceNote, RollNote, RunNote},
};

/// How often a process that is still on its way to its program is looked for again.
const SEARCHES: u32 = 50;
const SEARCH_PAUSE: Duration = Duration::from_millis(2);

impl Actor {
    /// Takes over what the keeper held.
    pub(in super::super) fn adopt(&mut self, replay: Replay) {
        let Replay { mut fds, notes, exits, summary } = replay;
        self.open_files = summary.origin.nofile_soft;
        if let Some(Counters { next_app, next_id }) =
            notes.get(remember::COUNTERS).and_then(|text| remember::read(text))
        {
            (self.next_app, self.next_id) = (next_app, next_id);
        }
        self.adopt_apps(&notes);
        self.adopt_sockets(&mut fds);
        self.adopt_clusters(&notes, &mut fds);
        let runs: Vec<(RunId, RunNote)> = remember::numbered(&notes, "r/");
        for (id, note) in runs {
            self.last_run = self.last_run.max(id);
            self.adopt_run(id, note, &mut fds, &notes, &exits);
        }
        self.adopt_streams(&notes, &mut fds);
        // Whatever is left belongs to nothing that is known any more.
        let unknown: Vec<String> = fds.into_keys().filter(|name| name.starts_with("r/")).collect();
        self.vault.discard(&unknown);
        self.settle_main_runs();
        for exit in &exits {
            self.keeper_saw_end(exit);
        }
        self.resume_ends();
        self.complete_scales();
        self.resume_instances();
        self.resume_rolls(&notes);
        let apps: Vec<u32> = self.apps.keys().copied().collect();
        for app in apps {
            self.plan_cron(app);
            self.watch_orphans(app);
        }
        self.plan_sampling();
    }

    fn adopt_apps(&mut self, notes: &BTreeMap<String, Vec<u8>>) {
        for (number, note) in remember::numbered::<u32, AppNote>(notes, "a/") {
            let mut app = App::new(note.spec);
            app.settled = note.settled;
            app.last_roll = note.last_roll;
            app.leaving = note.leaving;
            app.generations.current = note.generation;
            self.apps.insert(number, app);
            self.next_app = self.next_app.max(number + 1);
        }
        for (name, text) in notes {
            let Some((app, number)) = name.strip_prefix("i/").and_then(|rest| rest.split_once('/')) else {
                continue;
            };
            let (Ok(app), Ok(number)) = (app.parse::<u32>(), number.parse::<u32>()) else { continue };
            let (Some(app), Some(note)) = (self.apps.get_mut(&app), remember::read::<InstanceNote>(text))
            else {
                continue;
            };
            let mut instance = Instance::new(note.id);
            instance.machine = note.machine;
            instance.run = note.run;
            instance.surplus = note.surplus;
            instance.last_end = note.last_end;
            app.instances.insert(number, instance);
            self.next_id = self.next_id.max(note.id + 1);
        }
    }

    /// Sockets that processes inherit, and those of transparent apps.
    fn adopt_sockets(&mut self, fds: &mut BTreeMap<String, OwnedFd>) {
        let is_socket = |name: &String| name.starts_with("p/") || name.starts_with("t/");
        let names: Vec<String> = fds.keys().filter(|name| is_socket(name)).cloned().collect();
        for name in names {
            let parts: Vec<&str> = name.splitn(3, '/').collect();
            let [kind, number, rest] = parts[..] else { continue };
            let app = number.parse().ok().and_then(|number: u32| self.apps.get_mut(&number));
            let (Some(app), Some(socket)) = (app, fds.remove(&name)) else {
                self.vault.discard(&[name]);
                continue;
            };
            match kind {
                "p" => app.inherited.adopt(rest, socket),
                _ => app.generations.adopt(rest, socket),
            }
        }
    }

    fn adopt_clusters(&mut self, notes: &BTreeMap<String, Vec<u8>>, fds: &mut BTreeMap<String, OwnedFd>) {
        for app in self.apps.values_mut().filter(|app| app.spec.has_channel()) {
            let prefix = format!("l/{}/", app.spec.name);
            let names: Vec<String> = fds.keys().filter(|name| name.starts_with(&prefix)).cloned().collect();
            let listeners = names.into_iter().filter_map(|name| fds.remove_entry(&name)).collect();
            let note = notes.get(&format!("c/{}", app.spec.name)).map(Vec::as_slice).unwrap_or_default();
            let (cluster, _) =
                Cluster::restore(&app.spec.name, Options::default(), note, listeners, &mut self.vault);
            app.cluster = Some(cluster);
        }
    }

    fn adopt_run(
        &mut self,
        id: RunId,
        mut note: RunNote,
        fds: &mut BTreeMap<String, OwnedFd>,
        notes: &BTreeMap<String, Vec<u8>>,
        exits: &[Exit],
    ) {
        let kept = fds.remove(&remember::fd_name(id, "pid")).map(PidFd::from);
        let pidfd = match (kept, note.pid) {
            (Some(pidfd), Some(_)) => Some(pidfd),
            // It was being started: it may or may not have been.
            _ => find_run(id).and_then(|pid| {
                note.pid = Some(pid);
                note.start_ticks = Process::read(pid).map(|process| process.start_ticks);
                note.spawned_ns = now().as_nanos() as u64;
                PidFd::open(pid).ok()
            }),
        };
        let (Some(pidfd), Some(pid)) = (pidfd, note.pid) else { return self.forget_run(id) };
        let ours = Some(
            rustix::process::getppid().map_or(0, |keeper| keeper.as_raw_nonzero().get().cast_unsigned()),
        );
        let parent = match Process::read(pid).filter(|process| Some(process.start_ticks) == note.start_ticks)
        {
            Some(process) if Some(process.parent) != ours => Parent::Nobody,
            Some(_) => Parent::Keeper,
            // It is gone, so whoever reaped it has done so: this keeper, which then has told, the supervisor of before
            // just before it died, or whoever became its parent when a keeper died.
            None if exits.iter().any(|exit| exit.pid == pid) => Parent::Keeper,
            None => Parent::Nobody,
        };
        self.vault.keep(&[(remember::fd_name(id, "pid"), pidfd.as_fd())]);
        let Ok(pidfd) = self.poller.watch(pidfd.into(), Token::Process(id)) else { return };
        let channel = fds.remove(&remember::fd_name(id, "ipc"));
        let mut run = Run::new(&note, pid, parent, pidfd);
        if note.role == Role::Spare {
            let mut take = |which| fds.remove(&remember::fd_name(id, which));
            run.unattached = take("out").zip(take("err"));
        }
        self.runs.insert(id, run);
        self.remember_run(id);
        if let Some(channel) = channel.and_then(|fd| Channel::adopt(fd).ok()) {
            let name = self.apps.get(&note.key.0).map(|app| app.spec.name.clone()).unwrap_or_default();
            let worker = notes.get(&format!("c/{name}/{id}")).map(Vec::as_slice);
            let watch = self.admit(note.key, id, channel, worker);
            if let Some(run) = self.runs.get_mut(&id) {
                run.channel = watch;
            }
            self.learn_standing(note.key, id);
        }
        let mut take = |which| fds.remove(&remember::fd_name(id, which));
        let (notify, page) = (take("notify"), take("page"));
        if let Some(report) = take("report") {
            self.watch_report(id, Report::adopt(report));
        }
        if let (Some(listener), Some(page)) = (notify, page) {
            self.adopt_notifier(id, listener, page);
        }
    }

    /// What the worker has done, should the supervisor of before have heard it and not come to act on it.
    fn learn_standing(&mut self, key: Key, id: RunId) {
        let cluster = self.apps.get(&key.0).and_then(|app| app.cluster.as_ref());
        let Some(standing) = cluster.and_then(|cluster| cluster.standing(id)) else { return };
        if standing.listening {
            self.run_has_done(id, ReadyWhen::Listening);
        }
        if standing.ready {
            self.run_has_done(id, ReadyWhen::Message);
        }
    }

    /// The process that an instance names is its own; another one that thought so was just being replaced by it.
    fn settle_main_runs(&mut self) {
        for key in self.all_keys() {
            let named = self.instance(key).and_then(|instance| instance.run);
            let mains = self.runs.iter().filter(|(_, run)| run.key == key && run.role == Role::Main);
            let mains: Vec<RunId> = mains.map(|(id, _)| *id).collect();
            let main = named.filter(|id| self.runs.contains_key(id)).or_else(|| mains.last().copied());
            if let Some(instance) = self.instance_mut(key) {
                instance.run = main;
            }
            for id in mains.into_iter().filter(|id| Some(*id) != main) {
                self.set_role(id, Role::Retiring);
            }
            if let Some(main) = main {
                self.set_role(main, Role::Main);
            }
        }
        let is_stranger = |run: &Run| run.role != Role::Spare && self.instance(run.key).is_none();
        let strangers = self.runs.iter().filter(|(_, run)| is_stranger(run));
        for id in strangers.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.set_role(id, Role::Retiring);
        }
    }

    /// Carries on with ends that had begun, or were about to.
    fn resume_ends(&mut self) {
        let ids: Vec<RunId> = self.runs.keys().copied().collect();
        for id in ids {
            let Some(run) = self.runs.get_mut(&id) else { continue };
            let limit = self.apps.get(&run.key.0).map(|app| app.policy.kill_timeout).unwrap_or_default();
            match run.phase {
                Phase::Running if run.role == Role::Retiring => self.end(id),
                Phase::Running => {}
                Phase::Draining => {
                    run.kill_at = Some(Instant::now() + limit);
                    let has_channel = run.channel.is_some();
                    if self.must_drain(id) {
                        self.begin_drain(id);
                    } else if !has_channel {
                        self.interrupt(id);
                    } else {
                        self.tell_to_drain(id);
                    }
                }
                Phase::Interrupted => {
                    run.kill_at = Some(Instant::now() + limit);
                    self.interrupt(id);
                }
                Phase::Killed => self.kill(id),
            }
        }
    }

    /// A change of scale that was noted with the app's specification and not carried out to its end.
    fn complete_scales(&mut self) {
        let apps: Vec<u32> = self.apps.keys().copied().collect();
        for number in apps {
            let Some(app) = self.apps.get(&number).filter(|app| !app.leaving) else { continue };
            let wanted = app.spec.instances;
            let rests = |state: &State| matches!(state, State::Stopped | State::Errored);
            let any_runs = app.instances.values().any(|instance| !rests(&instance.machine.state));
            let missing: Vec<Key> = (0..wanted)
                .filter(|instance| !app.instances.contains_key(instance))
                .map(|instance| (number, instance))
                .collect();
            for key in missing {
                if self.add_instance(key, any_runs) && any_runs {
                    self.step([(key, Input::Start)].into_iter());
                }
            }
            self.end_surplus(number, wanted);
        }
    }

    fn resume_instances(&mut self) {
        for key in self.all_keys() {
            let Some(instance) = self.instance(key) else { continue };
            let (state, run) = (instance.machine.state, instance.run);
            match (state, run) {
                (State::Launching { .. }, None) => {
                    // It was about to be started.
                    if let Some(instance) = self.instance_mut(key) {
                        instance.machine.state = State::Stopped;
                    }
                    self.step([(key, Input::Start)].into_iter());
                }
                (State::Launching { .. }, Some(run)) => {
                    self.set_launch_timer(key);
                    self.begin_check(run);
                    if self.runs.get(&run).is_some_and(|run| run.ready) || self.is_unchecked(key) {
                        self.step([(key, Input::Ready)].into_iter());
                    }
                }
                (State::Online, Some(run)) => self.begin_liveness(run),
                (State::Stopping { .. }, Some(run)) => self.end(run),
                (State::Online | State::Stopping { .. }, None) => {
                    let gone = Input::Exited { uptime: Duration::ZERO, code: None };
                    self.step([(key, gone)].into_iter());
                }
                (State::Waiting, _) => self.step([(key, Input::TimeUp)].into_iter()),
                (State::Stopped | State::Errored, _) => {}
            }
            self.remove_surplus(key);
        }
    }

    fn is_unchecked(&self, key: Key) -> bool {
        self.apps.get(&key.0).is_some_and(|app| !app.policy.checked)
    }

    fn set_launch_timer(&mut self, key: Key) {
        let limit = self.apps.get(&key.0).map(|app| app.policy.listen_timeout);
        if let Some(instance) = self.instance_mut(key) {
            instance.timer = limit.map(|limit| Instant::now() + limit);
        }
    }

    fn resume_rolls(&mut self, notes: &BTreeMap<String, Vec<u8>>) {
        for (number, note) in remember::numbered::<u32, RollNote>(notes, "roll/") {
            let Some(app) = self.apps.get_mut(&number) else { continue };
            let under_way = note.roll.under_way();
            let in_place = note.roll.is_in_place();
            app.rolling = Some(Rolling { roll: note.roll, in_place: note.in_place, replies: Vec::new() });
            for (instance, step) in under_way {
                let key = (number, instance);
                if in_place {
                    self.resume_in_place(key);
                } else {
                    self.resume_overlap(key, step);
                }
            }
            self.finish_empty_roll(number);
        }
        let with_roll: Vec<Key> = self
            .runs
            .values()
            .filter(|run| run.role == Role::Candidate)
            .map(|run| run.key)
            .filter(|key| self.apps.get(&key.0).is_none_or(|app| app.rolling.is_none()))
            .collect();
        for key in with_roll {
            self.discard_candidate(key);
        }
    }

    /// A roll that was noted with nothing under way was about to finish.
    fn finish_empty_roll(&mut self, number: u32) {
        let Some(rolling) = self.apps.get_mut(&number).and_then(|app| app.rolling.as_mut()) else { return };
        if rolling.roll.under_way().is_empty() {
            let commands = rolling.roll.resume();
            self.obey(number, commands);
        }
    }

    fn resume_overlap(&mut self, key: Key, step: Step) {
        let candidate = self.run_of(key, Role::Candidate);
        match (step, candidate) {
            (Step::Starting | Step::Ready, None) => self.start_candidate(key),
            (Step::Ready, Some(_)) => {}
            (Step::Starting, Some(run)) if self.runs.get(&run).is_some_and(|run| run.ready) => {
                self.tell_roll(key, Happened::Ready);
            }
            (Step::Starting, Some(run)) => {
                self.set_deadline(run);
                self.begin_check(run);
            }
            (Step::Retiring, Some(_)) => self.promote(key),
            (Step::Retiring, None) => self.retired(key),
        }
    }

    fn resume_in_place(&mut self, key: Key) {
        let Some(instance) = self.instance(key) else { return };
        let (state, run) = (instance.machine.state, instance.run);
        let unchecked = self.is_unchecked(key);
        let min_uptime = self.apps.get(&key.0).map(|app| app.policy.min_uptime).unwrap_or_default();
        let rolling = self.apps.get_mut(&key.0).and_then(|app| app.rolling.as_mut());
        let Some(step) = rolling.and_then(|rolling| rolling.in_place.get_mut(&key.1)) else {
            // The roll was noted, and this step of it not begun.
            return self.restart_in_place(key);
        };
        let is_former = step.former == run;
        match state {
            State::Online | State::Launching { .. } if is_former => self.restart_in_place(key),
            State::Online if unchecked => step.settled_at = Some(Instant::now() + min_uptime),
            State::Online => self.tell_roll(key, Happened::Ready),
            State::Launching { overdue: true } | State::Waiting | State::Errored | State::Stopped => {
                self.tell_roll(key, Happened::Failed("the new process did not become ready".to_owned()));
            }
            State::Launching { overdue: false } | State::Stopping { .. } => {}
        }
    }
}

/// The process of a run that was being started when the supervisor ended: its parent is the keeper by now.
fn find_run(id: RunId) -> Option<u32> {
    let keeper = rustix::process::getppid()?.as_raw_nonzero().get().cast_unsigned();
    let mark = format!("{RUN_VARIABLE}={id}");
    for _ in 0..SEARCHES {
        let children = tree::children_of(keeper);
        let own = std::process::id();
        let mut undecided = false;
        for pid in children.into_iter().filter(|pid| *pid != own) {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            if environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
                return Some(pid);
            }
            // Between fork and exec it still shows the environment of the supervisor that has ended.
            let is_us =
                fs::read_link(format!("/proc/{pid}/exe")).ok() == fs::read_link("/proc/self/exe").ok();
            undecided |= is_us;
        }
        if !undecided {
            return None;
        }
        std::thread::sleep(SEARCH_PAUSE);
    }
    None
}
