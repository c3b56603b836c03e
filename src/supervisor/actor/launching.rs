//! Starting processes, and finding out when they are ready.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use tokio::time::Instant;

use super::{
    super::{
        DRAIN_SHIM_FILE,
        cluster::{self, Admission, Channel, Cluster},
        keeper,
        launch::{self, Launch, Report, Wrap},
        process::PidFd,
        readiness,
        spec::{AppSpec, Mode, ReadyWhen},
        state::Input,
        tree::Process,
    },
    Actor, CheckNews, Notice, Token,
    app::{Check, Key, Parent, Phase, Role, Run, RunId},
    now,
    remember::{self, RunNote},
    wrapping::needs_wrapper,
};

/// Our own descriptors are above those that a child gets under certain numbers.
const OWN_FD_MIN: i32 = 64;
/// Names a process as started by the supervisor, by its run: a brain that died between starting it and noting its pid
/// is followed by one that finds it by this.
pub(super) const RUN_VARIABLE: &str = "QBENCH_RUN";

/// What tells a process of descriptors that it has inherited.
const FOREIGN: [&str; 9] = [
    "NODE_CHANNEL_FD",
    "NODE_CHANNEL_SERIALIZATION_MODE",
    "NODE_UNIQUE_ID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "EINHORN_FD_COUNT",
    "NOTIFY_SOCKET",
    "JOURNAL_STREAM",
];

/// The descriptors of a process that is about to start.
struct Ends {
    out: (OwnedFd, OwnedFd),
    err: (OwnedFd, OwnedFd),
    channel: Option<(Channel, OwnedFd)>,
    report: Option<(Report, OwnedFd)>,
}

impl Actor {
    /// Starts the process of an instance.
    pub(super) fn spawn_main(&mut self, key: Key) -> Input {
        match self.spawn(key, Role::Main) {
            Ok(run) => {
                if let Some(instance) = self.instance_mut(key) {
                    instance.run = Some(run);
                }
                Input::Spawned
            }
            Err(error) => {
                if let Some(instance) = self.instance_mut(key) {
                    instance.last_end = Some(format!("could not be started: {error}"));
                }
                Input::SpawnFailed
            }
        }
    }

    /// Starts a process. Whatever the next supervisor would need is kept before it can run.
    pub(super) fn spawn(&mut self, key: Key, role: Role) -> io::Result<RunId> {
        let id = self.new_run_id();
        self.open_sockets(key.0)?;
        let app = self.apps.get(&key.0).ok_or(io::ErrorKind::NotFound)?;
        let spec = app.spec.clone();
        let ends = Ends::new(&spec)?;
        let note = RunNote::new(key, role, self.generation_for(key.0, role == Role::Candidate));
        self.keep_ends(id, &ends);
        self.remember_run_note(id, &note);
        match self.start_process(&spec, key, id, &ends) {
            Ok(pid) => self.take_in(id, pid, note, ends).map(|()| id),
            Err(error) => {
                self.forget_run(id);
                self.vault.discard(&["out", "err", "report"].map(|which| remember::fd_name(id, which)));
                Err(error)
            }
        }
    }

    /// A process that has just been started is from now on watched.
    fn take_in(&mut self, id: RunId, pid: u32, mut note: RunNote, ends: Ends) -> io::Result<()> {
        let pidfd = PidFd::open(pid)?;
        self.vault.keep(&[(remember::fd_name(id, "pid"), pidfd.as_fd())]);
        note.pid = Some(pid);
        note.start_ticks = Process::read(pid).map(|process| process.start_ticks);
        note.spawned_ns = now().as_nanos() as u64;
        self.remember_run_note(id, &note);
        self.restore_limits(pid);
        let Ends { out, err, channel, report } = ends;
        let unattached = if note.role == Role::Spare {
            Some((out.0, err.0))
        } else {
            self.attach_log(note.key, id, false, out.0);
            self.attach_log(note.key, id, true, err.0);
            None
        };
        let pidfd = self.poller.watch(pidfd.into(), Token::Process(id))?;
        let mut run = Run::new(&note, pid, Parent::Ourselves, pidfd);
        run.unattached = unattached;
        self.runs.insert(id, run);
        if let Some((channel, _)) = channel {
            let watch = self.admit(note.key, id, channel, None);
            if let Some(run) = self.runs.get_mut(&id) {
                run.channel = watch;
            }
        }
        if let Some((report, _)) = report {
            self.watch_report(id, report);
        }
        Ok(())
    }

    /// The keeper has raised the limit of open files for itself and us; apps get the one of before.
    fn restore_limits(&self, pid: u32) {
        use rustix::process::{Pid, Resource, getrlimit, prlimit};
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        if let (Some(soft), Some(pid)) = (self.open_files, pid) {
            let limit = rustix::process::Rlimit { current: Some(soft), ..getrlimit(Resource::Nofile) };
            // One that has ended already needs no limit.
            let _ = prlimit(Some(pid), Resource::Nofile, limit);
        }
    }

    fn new_run_id(&mut self) -> RunId {
        self.last_run = (now().as_nanos() as u64).max(self.last_run + 1);
        self.last_run
    }

    fn keep_ends(&mut self, id: RunId, ends: &Ends) {
        let mut kept: Vec<(String, BorrowedFd<'_>)> = vec![
            (remember::fd_name(id, "out"), ends.out.0.as_fd()),
            (remember::fd_name(id, "err"), ends.err.0.as_fd()),
        ];
        kept.extend(ends.channel.iter().map(|(ours, _)| (remember::fd_name(id, "ipc"), ours.as_fd())));
        kept.extend(ends.report.iter().map(|(ours, _)| (remember::fd_name(id, "report"), ours.as_fd())));
        self.vault.keep(&kept);
    }

    fn start_process(&mut self, spec: &AppSpec, key: Key, id: RunId, ends: &Ends) -> io::Result<u32> {
        let mut args = spec.args.clone();
        if spec.mode == Mode::Cluster {
            let shim = self.dir.join(DRAIN_SHIM_FILE);
            args.splice(0..0, ["--require".to_owned(), shim.display().to_string()]);
        }
        let orders = Self::orders(spec, id)?;
        let app = self.apps.get(&key.0).ok_or(io::ErrorKind::NotFound)?;
        let instance_id = app.instances.get(&key.1).map(|instance| instance.id).unwrap_or_default();
        let inherited: Vec<BorrowedFd<'_>> = app.inherited.descriptors().collect();
        let channel_fd = launch::FIRST_PASSED + i32::try_from(inherited.len()).unwrap_or(i32::MAX - 64);
        let mut env = environment(spec, key, instance_id, id, channel_fd);
        env.extend(app.inherited.environment());
        let env: Vec<(String, String)> = env.into_iter().collect();
        let mut pass: Vec<(BorrowedFd<'_>, i32)> =
            inherited.into_iter().zip(launch::FIRST_PASSED..).collect();
        pass.extend(ends.channel.iter().map(|(_, theirs)| (theirs.as_fd(), channel_fd)));
        let (wrapper, wrapper_args) = Self::wrapper();
        let report = ends.report.as_ref().map(|(_, theirs)| theirs.as_fd());
        let wrap = report.map(|report| Wrap { program: &wrapper, args: &wrapper_args, report, orders });
        let launch = Launch {
            program: &spec.program,
            args: &args,
            env: &env,
            cwd: &spec.cwd,
            stdout: ends.out.1.as_fd(),
            stderr: ends.err.1.as_fd(),
            pass: &pass,
            wrap,
        };
        launch::spawn(&launch).map_err(io::Error::other)
    }

    /// Takes the channel of a process into its app's cluster.
    pub(super) fn admit(
        &mut self,
        key: Key,
        id: RunId,
        channel: Channel,
        note: Option<&[u8]>,
    ) -> Option<super::super::poller::Watch<Token>> {
        let app = self.apps.get_mut(&key.0)?;
        let watched = channel.as_fd().try_clone_to_owned().ok()?;
        let name = app.spec.name.clone();
        let cluster = app.cluster.get_or_insert_with(|| Cluster::new(&name, cluster::Options::default()));
        let held = self.runs.get(&id).is_some_and(|run| run.role == Role::Spare);
        let admission = Admission { worker: id, slot: key.1, held, note };
        let outcomes = cluster.admit(&admission, channel, &mut self.vault);
        if self.tidy_at.is_none() {
            self.plan_tidying();
        }
        let watch = self.poller.watch(watched, Token::Channel(id)).ok();
        self.heard_all(id, outcomes);
        watch
    }

    /// Begins to find out whether a process is ready, where that is not told by itself.
    pub(super) fn begin_check(&mut self, id: RunId) {
        let Some(run) = self.runs.get(&id) else { return };
        let Some(app) = self.apps.get(&run.key.0) else { return };
        if app.spec.ready.when == ReadyWhen::Spawned && app.policy.checked {
            self.ask_over_http(id);
        }
    }

    /// It listens, or has said that it is ready; an HTTP check, if there is one, comes next.
    pub(super) fn run_has_done(&mut self, id: RunId, what: ReadyWhen) {
        let Some(run) = self.runs.get(&id).filter(|run| !run.ready && run.phase == Phase::Running) else {
            return;
        };
        if self.apps.get(&run.key.0).is_some_and(|app| app.spec.ready.when == what) {
            self.ask_over_http(id);
        }
    }

    fn ask_over_http(&mut self, id: RunId) {
        let Some(run) = self.runs.get(&id) else { return };
        let Some(app) = self.apps.get(&run.key.0) else { return };
        let (Some(check), Some(port)) = (&app.spec.ready.http, app.spec.port_of(run.key.1)) else {
            return self.run_is_ready(id);
        };
        let (path, limit) = (check.path.clone(), app.policy.listen_timeout);
        let to_self = self.to_self.clone();
        let check = Check(tokio::spawn(async move {
            readiness::ready(port, &path, limit).await;
            // It fails only when the actor is gone, and then nobody asks any more.
            let _ = to_self.send(Notice { run: id, news: CheckNews::Ready }).await;
        }));
        if let Some(run) = self.runs.get_mut(&id) {
            run.check = Some(check);
        }
    }

    pub(super) fn run_is_ready(&mut self, id: RunId) {
        let Some(run) = self.runs.get_mut(&id).filter(|run| !run.ready && run.phase == Phase::Running) else {
            return;
        };
        run.ready = true;
        run.ready_by = None;
        run.check = None;
        let (key, role) = (run.key, run.role);
        self.remember_run(id);
        match role {
            Role::Main => self.step([(key, Input::Ready)].into_iter()),
            Role::Candidate => self.candidate_ready(key),
            Role::Retiring | Role::Spare => {}
        }
        self.begin_liveness(id);
        self.ensure_spare(key.0);
    }

    /// When a candidate has to be ready; or, where that is not asked for, when it has lived long enough to be believed.
    pub(super) fn set_deadline(&mut self, id: RunId) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        let Some(policy) = self.apps.get(&run.key.0).map(|app| &app.policy) else { return };
        let limit = if policy.checked { policy.listen_timeout } else { policy.min_uptime };
        run.ready_by = Some(Instant::now() + limit);
    }
}

impl Ends {
    fn new(spec: &AppSpec) -> io::Result<Self> {
        let channel = if spec.has_channel() { Some(Channel::pair()?) } else { None };
        let report = if needs_wrapper(spec) { Some(Report::pair()?) } else { None };
        Ok(Self { out: pipe()?, err: pipe()?, channel, report })
    }
}

/// A pipe whose ends nothing that we start inherits by accident.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let above = |fd: OwnedFd| rustix::io::fcntl_dupfd_cloexec(&fd, OWN_FD_MIN);
    Ok((above(read)?, above(write)?))
}

/// The whole environment of a process: ours, the app's over it, and what tells the process who it is.
fn environment(spec: &AppSpec, key: Key, id: u32, run: RunId, channel_fd: i32) -> BTreeMap<String, String> {
    let own = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let mut env: BTreeMap<String, String> = own.collect();
    env.extend(spec.env.clone());
    // They are of whoever started us, and would lead a process to descriptors that it does not have.
    env.retain(|name, _| !FOREIGN.contains(&name.as_str()) && !keeper::VARIABLES.contains(&name.as_str()));
    let number = key.1;
    if let Some(port) = spec.port.as_ref().zip(spec.port_of(number)) {
        env.insert(port.0.variable.clone(), port.1.to_string());
    }
    if let Some(variable) = &spec.increment_variable
        // The instance's port has been counted up already.
        && spec.port.as_ref().is_none_or(|port| port.variable != *variable)
        && let Some(first) = env.get(variable).and_then(|value| value.parse::<i64>().ok())
    {
        env.insert(variable.clone(), first.saturating_add(i64::from(number)).to_string());
    }
    env.insert(spec.instance_variable.clone(), number.to_string());
    env.insert("pm_id".to_owned(), id.to_string());
    env.insert(RUN_VARIABLE.to_owned(), run.to_string());
    if spec.has_channel() {
        for (name, value) in cluster::environment(u64::from(number) + 1, channel_fd) {
            let is_for_workers = name != "NODE_CHANNEL_FD";
            if !is_for_workers || spec.mode == Mode::Cluster {
                env.insert(name.to_owned(), value);
            }
        }
    }
    if spec.mode == Mode::Cluster {
        let grace = spec.stop.kill_timeout_ms.saturating_sub(300);
        env.insert(cluster::DRAIN_GRACE.to_owned(), grace.to_string());
    }
    env
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            spec::Port,
            tests::fixture::{sleeper, with_env},
        },
        *,
    };

    fn variables<const N: usize>(spec: &AppSpec, number: u32, names: [&str; N]) -> [Option<String>; N] {
        let env = environment(spec, (4, number), 17, 99, 3);
        names.map(|name| env.get(name).cloned())
    }

    fn texts<const N: usize>(texts: [&str; N]) -> [Option<String>; N] {
        texts.map(|text| Some(text.to_owned()).filter(|text| !text.is_empty()))
    }

    #[test]
    fn it_is_ours_with_the_apps_over_it() {
        let app = with_env(sleeper("/srv".as_ref()), &[("HOME", "/srv"), ("OWN", "value")]);
        let [path, home, own] = variables(&app, 0, ["PATH", "HOME", "OWN"]);
        assert_eq!(path, std::env::var("PATH").ok());
        assert_eq!([home, own], texts(["/srv", "value"]));
    }

    #[test]
    fn it_says_who_the_process_is() {
        let mut app = sleeper("/srv".as_ref());
        app.port = Some(Port { variable: "LISTEN".to_owned(), first: 4000 });
        let names = ["INSTANCE", "pm_id", "LISTEN", RUN_VARIABLE, "NODE_CHANNEL_FD", "NODE_UNIQUE_ID"];
        assert_eq!(variables(&app, 2, names), texts(["2", "17", "4002", "99", "", ""]));
        // What the app says of itself counts less.
        let app = with_env(app, &[("INSTANCE", "x"), ("LISTEN", "x"), (RUN_VARIABLE, "x")]);
        assert_eq!(variables(&app, 2, names), texts(["2", "17", "4002", "99", "", ""]));
    }

    #[test]
    fn a_number_is_counted_up_by_instance() {
        let mut app = with_env(sleeper("/srv".as_ref()), &[("BASE", "9229"), ("WORD", "x"), ("MINUS", "-1")]);
        let mut counted = |variable: &str| {
            app.increment_variable = Some(variable.to_owned());
            variables(&app, 2, [variable])[0].clone()
        };
        assert_eq!(counted("BASE").as_deref(), Some("9231"));
        assert_eq!(counted("MINUS").as_deref(), Some("1"));
        assert_eq!(counted("WORD").as_deref(), Some("x"), "no number stays as it is");
        assert_eq!(counted("ABSENT"), None);
    }

    #[test]
    fn a_port_is_counted_up_once() {
        let mut app = with_env(sleeper("/srv".as_ref()), &[("PORT", "8000")]);
        app.increment_variable = Some("PORT".to_owned());
        assert_eq!(variables(&app, 2, ["PORT"]), texts(["8002"]));
        app.port = Some(Port { variable: "PORT".to_owned(), first: 4000 });
        assert_eq!(variables(&app, 2, ["PORT"]), texts(["4002"]));
        app.mode = Mode::Cluster;
        assert_eq!(variables(&app, 2, ["PORT"]), texts(["4002"]));
        app.increment_variable = None;
        assert_eq!(variables(&app, 2, ["PORT"]), texts(["4000"]));
    }

    #[test]
    fn a_channel_alone_makes_no_worker() {
        let names = ["NODE_CHANNEL_FD", "NODE_UNIQUE_ID", cluster::DRAIN_GRACE];
        let mut app = sleeper("/srv".as_ref());
        app.stop.by_message = true;
        assert_eq!(variables(&app, 1, names), texts(["3", "", ""]));
        (app.mode, app.stop.kill_timeout_ms) = (Mode::Cluster, 1600);
        assert_eq!(variables(&app, 1, names), texts(["3", "2", "1300"]));
        app.stop.kill_timeout_ms = 100;
        assert_eq!(variables(&app, 1, names), texts(["3", "2", "0"]));
    }

    #[test]
    fn what_would_lead_to_descriptors_of_others_is_left_out() {
        let mut app = sleeper("/srv".as_ref());
        for name in FOREIGN.iter().chain(&keeper::VARIABLES) {
            app = with_env(app, &[(name, "7")]);
        }
        let env = environment(&app, (0, 0), 0, 1, 3);
        assert!(FOREIGN.iter().chain(&keeper::VARIABLES).all(|name| !env.contains_key(*name)));
    }
}
