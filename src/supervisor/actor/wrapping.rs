//! Processes for which more is to be done than to execute them: a user, a limit, sockets, the transparent mode.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use super::{
    super::{
        SUBCOMMAND, WRAPPER,
        keeper::own_program,
        launch::{
            self, Cgroup, Identity, ListenAddress, Orders, Outcome, ProcessCap, Report, cap_processes,
            open_listener,
        },
        spec::{AppSpec, Mode},
    },
    Actor, Token,
    app::RunId,
    remember,
};

/// The sockets that an app's processes inherit.
#[derive(Default)]
pub(super) struct Inherited {
    /// By the address as it was written.
    sockets: Vec<(String, OwnedFd)>,
}

impl Inherited {
    /// In the order of the addresses.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(|(_, socket)| socket.as_fd())
    }

    /// The variables that tell a process of them.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        let names: Vec<&str> = self.sockets.iter().map(|(address, _)| address.as_str()).collect();
        if names.is_empty() { Vec::new() } else { launch::pass_environment(&names) }
    }

    /// Takes one that the supervisor of before had opened.
    pub(super) fn adopt(&mut self, address: &str, socket: OwnedFd) {
        self.sockets.push((address.to_owned(), socket));
    }
}

/// The name under which the keeper holds a socket that processes inherit.
pub(super) fn inherited_name(app: u32, address: &str) -> String {
    format!("p/{app}/{address}")
}

/// The name of the control group of a process: no two processes have the same.
fn group_name(id: RunId) -> String {
    format!("pm-{id}")
}

/// Whether the app's processes need the wrapper.
pub(super) fn needs_wrapper(spec: &AppSpec) -> bool {
    let sockets = matches!(spec.mode, Mode::Sockets(_) | Mode::Transparent);
    sockets || spec.user.is_some() || spec.max_processes.is_some()
}

impl Actor {
    /// Opens the sockets that processes of this app inherit, as far as that has not been done.
    pub(super) fn open_sockets(&mut self, number: u32) -> io::Result<()> {
        let Some(app) = self.apps.get_mut(&number) else { return Ok(()) };
        let Mode::Sockets(addresses) = &app.spec.mode else { return Ok(()) };
        let gone: Vec<String> = app
            .inherited
            .sockets
            .extract_if(.., |(address, _)| !addresses.contains(address))
            .map(|(address, _)| inherited_name(number, &address))
            .collect();
        self.vault.discard(&gone);
        for address in addresses {
            if app.inherited.sockets.iter().any(|(known, _)| known == address) {
                continue;
            }
            let parsed: ListenAddress = address.parse().map_err(io::Error::other)?;
            let socket = open_listener(&parsed).map_err(io::Error::other)?;
            self.vault.keep(&[(inherited_name(number, address), socket.as_fd())]);
            app.inherited.sockets.push((address.clone(), socket));
        }
        // In the order in which they are declared: that is how the processes count them.
        app.inherited.sockets.sort_by_key(|(address, _)| addresses.iter().position(|it| it == address));
        Ok(())
    }

    /// What the wrapper of a process has to do.
    pub(super) fn orders(spec: &AppSpec, id: RunId) -> io::Result<Orders> {
        let mut orders = Orders {
            identity: spec
                .user
                .map(|user| Identity { user: Some(user.uid.to_string()), group: Some(user.gid.to_string()) }),
            listen_pid: matches!(spec.mode, Mode::Sockets(_)),
            transparent: spec.mode == Mode::Transparent,
            tracer: rustix::process::getppid().map(|keeper| keeper.as_raw_nonzero().get().cast_unsigned()),
            ..Orders::default()
        };
        if let Some(maximum) = spec.max_processes {
            let own_user = spec.user.is_some_and(|user| user.uid != 0);
            match cap_processes(&group_name(id), maximum, own_user).map_err(io::Error::other)? {
                ProcessCap::Cgroup(group) => orders.cgroup = Some(group.procs()),
                ProcessCap::PerUser { maximum } => orders
                    .limits
                    .push(launch::Limit { kind: launch::LimitKind::Processes, maximum: u64::from(maximum) }),
            }
        }
        Ok(orders)
    }

    /// Kills whatever is in the control group of a process, however fast it forks.
    pub(super) fn kill_group(&self, id: RunId) {
        if let Some(group) = self.group_of(id) {
            // What cannot be killed so is killed one by one.
            let _ = group.kill();
        }
    }

    /// The control group of a process, if it has one.
    fn group_of(&self, id: RunId) -> Option<Cgroup> {
        let spec = &self.apps.get(&self.runs.get(&id)?.key.0)?.spec;
        Cgroup::create(&group_name(id), spec.max_processes?).ok()
    }

    /// Removes the control group of a process that is gone.
    pub(super) fn remove_group(&self, id: RunId) {
        if let Some(group) = self.group_of(id) {
            let _ = group.kill();
            // A group that is still busy dying is empty, and left to the system.
            let _ = group.remove();
        }
    }

    /// Listens to what the wrapper of a process has to report.
    pub(super) fn watch_report(&mut self, id: RunId, report: Report) {
        let watch =
            report.as_fd().try_clone_to_owned().and_then(|fd| self.poller.watch(fd, Token::Report(id)));
        if let (Some(run), Ok(watch)) = (self.runs.get_mut(&id), watch) {
            run.report = Some((report, watch));
        }
    }

    /// The wrapper has something to report.
    pub(super) fn report_ready(&mut self, id: RunId) {
        loop {
            let Some((report, _)) = self.runs.get(&id).and_then(|run| run.report.as_ref()) else { return };
            let outcome = match report.peek() {
                Ok(None) => return,
                Ok(Some(outcome)) => outcome,
                // Its exit will tell.
                Err(_) => return self.end_report(id),
            };
            match outcome {
                Outcome::Listener(listener) => self.begin_notifier(id, listener),
                Outcome::Started => return self.end_report(id),
                Outcome::Failed(failure) => {
                    if let Some(run) = self.runs.get_mut(&id) {
                        let hint = failure.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
                        run.failure = Some(format!("could not be started: {failure}{hint}"));
                    }
                    return self.end_report(id);
                }
            }
            let Some((report, _)) = self.runs.get(&id).and_then(|run| run.report.as_ref()) else { return };
            if report.consume().is_err() {
                return self.end_report(id);
            }
        }
    }

    fn end_report(&mut self, id: RunId) {
        if let Some(run) = self.runs.get_mut(&id) {
            run.report = None;
        }
        self.vault.discard(&[remember::fd_name(id, "report")]);
    }

    /// The program that wraps: this one.
    pub(super) fn wrapper() -> (std::path::PathBuf, Vec<String>) {
        (own_program(), vec![SUBCOMMAND.to_owned(), WRAPPER.to_owned()])
    }
}
