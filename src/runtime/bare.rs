//! Each instance a process started directly: the control, against which the price of every runtime shows.
//!
//! Deliberately absent: supervision. What dies stays dead, and a reload has a gap wherever one instance is all there
//! is.

use std::{
    fs::{self, OpenOptions},
    io,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{process::Command, sync::watch, time::timeout};

use super::{Arm, Runtime, RuntimeError, Sandbox, environment, log_tail};
use crate::{
    model::{
        process::{InstanceState, InstanceStatus, ProcessId, Processes},
        target::{RuntimeIdentity, RuntimeKind},
        workload::{App, Endpoint, Service},
    },
    supervisor::in_own_session,
};

const RUNTIME: &str = "bare";
/// How long a killed process may take to be gone and reaped.
const KILLED_LIMIT: Duration = Duration::from_secs(5);
/// How often a session is looked at while its processes end.
const SESSION_POLL: Duration = Duration::from_millis(10);

/// The workload as plain processes.
#[derive(Debug)]
pub struct Bare {
    arm: Arm,
    instances: Vec<Instance>,
}

/// One instance, running or not.
#[derive(Debug)]
struct Instance {
    service: String,
    number: u32,
    process: Running,
    /// Ended because it was told to.
    stopped: bool,
    restarts: u32,
}

/// A process that leads a session of its own, reaped by a task as soon as it ends.
#[derive(Clone, Debug)]
struct Running {
    id: ProcessId,
    started: Instant,
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl Bare {
    /// For an arm; starts nothing.
    pub fn new(arm: Arm) -> Self {
        Self { arm, instances: Vec::new() }
    }

    fn log_dir(&self) -> PathBuf {
        self.arm.sandbox.dir().join("logs")
    }

    fn log_file(&self, service: &str, number: u32) -> PathBuf {
        // A name may contain what would lead elsewhere in a path.
        self.log_dir().join(format!("{}-{number}.log", service.replace('/', "-")))
    }

    fn app(&self, service: &str) -> Result<(&Service, &App), RuntimeError> {
        let unknown = || RuntimeError::NoInstance { service: service.to_owned(), instance: 0 };
        let service = self.arm.workload.service(service).ok_or_else(unknown)?;
        let app = service.app.as_ref().ok_or_else(|| RuntimeError::WorkloadLacks {
            runtime: RUNTIME,
            what: format!("app for service {}", service.name),
            hint: "describe it in the workload's ecosystem file, under the same name".to_owned(),
        })?;
        Ok((service, app))
    }

    fn spawn(&self, service: &str, number: u32) -> Result<Running, RuntimeError> {
        let (service, app) = self.app(service)?;
        let path = self.log_file(&service.name, number);
        let failed = |source| RuntimeError::File { action: "write", path: path.clone(), source };
        let log = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(failed)?;
        let errors = log.try_clone().map_err(failed)?;
        let offset = u16::try_from(number).unwrap_or(u16::MAX);
        let mut command = Command::new(&app.program);
        command
            .args(&app.args)
            .current_dir(&app.cwd)
            .envs(environment::for_process(&self.arm, service, number, offset))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        in_own_session(command.as_std_mut());
        Running::start(command).map_err(|source| RuntimeError::System {
            action: format!("start {}", app.program.display()),
            source,
        })
    }

    /// The instances of a service, by their place in the list.
    fn places(&self, service: &str) -> Result<Vec<usize>, RuntimeError> {
        let places: Vec<usize> =
            (0..self.instances.len()).filter(|at| self.instances[*at].service == service).collect();
        if places.is_empty() {
            return Err(RuntimeError::NoInstance { service: service.to_owned(), instance: 0 });
        }
        Ok(places)
    }

    /// Ends and starts a service's instances one after the other. Whether one is ready before the next is ended is
    /// nobody's business here: without a supervisor there is nobody to ask.
    async fn replace(&mut self, service: &str) -> Result<(), RuntimeError> {
        let kill_timeout = self.app(service)?.1.stop.kill_timeout;
        for at in self.places(service)? {
            self.instances[at].stopped = true;
            self.instances[at].process.end(&self.arm.sandbox, kill_timeout).await?;
            let process = self.spawn(service, self.instances[at].number)?;
            let instance = &mut self.instances[at];
            *instance = Instance {
                service: service.to_owned(),
                number: instance.number,
                process,
                stopped: false,
                restarts: instance.restarts + 1,
            };
        }
        Ok(())
    }

    /// Kills whatever carries the arm's mark, and sees what it started reaped.
    async fn clear(&mut self) -> Result<(), RuntimeError> {
        let sandbox = self.arm.sandbox.clone();
        tokio::task::spawn_blocking(move || sandbox.kill_marked()).await.map_err(|e| {
            RuntimeError::System { action: "kill what is left".to_owned(), source: e.into() }
        })??;
        for instance in &mut self.instances {
            instance.stopped = true;
            instance.process.reaped(KILLED_LIMIT).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Runtime for Bare {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Bare
    }

    fn arm(&self) -> &Arm {
        &self.arm
    }

    async fn probe_environment(&mut self) -> Result<RuntimeIdentity, RuntimeError> {
        Ok(RuntimeIdentity {
            target: self.arm.target.name.clone(),
            runtime: RuntimeKind::Bare,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            path: "started by qbench itself".to_owned(),
            stands_in_for: None,
            options: std::collections::BTreeMap::new(),
        })
    }

    async fn prepare(&mut self) -> Result<(), RuntimeError> {
        for service in &self.arm.workload.services {
            self.app(&service.name)?;
        }
        Ok(())
    }

    async fn start(&mut self) -> Result<(), RuntimeError> {
        self.clear().await?;
        self.instances.clear();
        let dir = self.log_dir();
        fs::create_dir_all(&dir).map_err(|source| RuntimeError::File {
            action: "make",
            path: dir,
            source,
        })?;
        let workload = self.arm.workload.clone();
        for service in &workload.services {
            for number in 0..service.instances() {
                let process = self.spawn(&service.name, number)?;
                let service = service.name.clone();
                self.instances.push(Instance { service, number, process, stopped: false, restarts: 0 });
            }
        }
        Ok(())
    }

    async fn stop(&mut self) -> Result<(), RuntimeError> {
        let mut ends = Vec::new();
        for at in 0..self.instances.len() {
            let kill_timeout = self.app(&self.instances[at].service)?.1.stop.kill_timeout;
            let instance = &mut self.instances[at];
            instance.stopped = true;
            let mut process = instance.process.clone();
            let sandbox = self.arm.sandbox.clone();
            ends.push(tokio::spawn(async move { process.end(&sandbox, kill_timeout).await }));
        }
        for end in ends {
            // What could not be ended this way is killed below, and an error there is the one that counts.
            let _ = end.await;
        }
        self.clear().await
    }

    async fn restart(&mut self, service: &str) -> Result<(), RuntimeError> {
        self.replace(service).await
    }

    async fn reload(&mut self, service: &str) -> Result<(), RuntimeError> {
        self.replace(service).await
    }

    async fn scale(&mut self, service: &str, instances: u32) -> Result<(), RuntimeError> {
        self.places(service)?;
        Err(unsupported(format!("scale {service} to {instances}: there is no supervisor")))
    }

    async fn status(&mut self) -> Result<Vec<InstanceStatus>, RuntimeError> {
        Ok(self.instances.iter().map(Instance::status).collect())
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        let ports = &self.arm.ports;
        let services = self.arm.workload.services.iter().filter(|service| service.http.is_some());
        services
            .filter_map(|service| Some((service, *ports.get(&service.name)?)))
            .flat_map(|(service, first)| {
                (0..service.instances()).map(move |instance| Endpoint {
                    service: service.name.clone(),
                    instance,
                    address: SocketAddr::from((Ipv4Addr::LOCALHOST, first.saturating_add(instance as u16))),
                })
            })
            .collect()
    }

    async fn processes(&mut self) -> Result<Processes, RuntimeError> {
        let service = self.instances.iter().filter_map(|instance| instance.process.alive()).collect();
        Ok(Processes { service, ..Processes::default() })
    }

    async fn kill_instance(&mut self, service: &str, instance: u32) -> Result<ProcessId, RuntimeError> {
        let found = self.instances.iter_mut().find(|i| i.service == service && i.number == instance);
        let alive = found.and_then(|found| found.process.alive()).filter(|process| process.kill());
        alive.ok_or_else(|| RuntimeError::NoInstance { service: service.to_owned(), instance })
    }

    async fn logs(&mut self, service: &str, lines: usize) -> Result<Vec<String>, RuntimeError> {
        let (service, _) = self.app(service)?;
        let numbers = 0..service.instances();
        let mut text: Vec<String> =
            numbers.flat_map(|n| log_tail::last_lines(&self.log_file(&service.name, n), lines)).collect();
        text.drain(..text.len().saturating_sub(lines));
        Ok(text)
    }

    async fn crash_runtime(&mut self) -> Result<(), RuntimeError> {
        Err(unsupported("crash: bare has no supervisor".to_owned()))
    }

    async fn teardown(&mut self) -> Result<(), RuntimeError> {
        self.clear().await?;
        self.instances.clear();
        let dir = self.log_dir();
        match fs::remove_dir_all(&dir) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(RuntimeError::File { action: "remove", path: dir, source })
            }
            _ => Ok(()),
        }
    }
}

impl Instance {
    fn status(&self) -> InstanceStatus {
        let process = self.process.alive();
        let ended_well = self.process.ended.borrow().is_some_and(|status| status.success());
        let state = match process {
            Some(_) => InstanceState::Online,
            None if self.stopped || ended_well => InstanceState::Stopped,
            None => InstanceState::Errored,
        };
        InstanceStatus {
            service: self.service.clone(),
            instance: self.number,
            state,
            process,
            uptime: process.map(|_| self.process.started.elapsed()),
            restarts: Some(self.restarts),
        }
    }
}

impl Running {
    fn start(mut command: Command) -> io::Result<Self> {
        let mut child = command.spawn()?;
        let started = Instant::now();
        // Not yet reaped, whatever it did since: the pid is still its own.
        let id = child.id().and_then(ProcessId::find).ok_or(io::ErrorKind::NotFound)?;
        let (sender, ended) = watch::channel(None);
        tokio::spawn(async move {
            // Nobody listens any more once the arm is gone; the child is reaped all the same.
            let _ = sender.send(child.wait().await.ok());
        });
        Ok(Self { id, started, ended })
    }

    fn alive(&self) -> Option<ProcessId> {
        Some(self.id).filter(|process| process.is_alive())
    }

    /// SIGINT to all of the session, SIGKILL to what is left of it after `grace`.
    async fn end(&mut self, sandbox: &Sandbox, grace: Duration) -> Result<(), RuntimeError> {
        let members = self.session(sandbox);
        for member in &members {
            interrupt(*member);
        }
        let deadline = Instant::now() + grace;
        while members.iter().any(|member| member.is_alive()) && Instant::now() < deadline {
            // The descendants are not our children: nothing tells of their end.
            tokio::time::sleep(SESSION_POLL).await;
        }
        for member in members.into_iter().chain(self.session(sandbox)) {
            member.kill();
        }
        self.reaped(KILLED_LIMIT).await
    }

    /// Waits until it is reaped.
    async fn reaped(&mut self, limit: Duration) -> Result<(), RuntimeError> {
        let what = || format!("the end of process {}", self.id.pid);
        // A closed channel says that the task which reaps is over, too.
        timeout(limit, self.ended.wait_for(Option::is_some))
            .await
            .map(drop)
            .map_err(|_| RuntimeError::TimedOut { what: what(), limit })
    }

    /// The living processes of its session, itself included.
    fn session(&self, sandbox: &Sandbox) -> Vec<ProcessId> {
        if self.alive().is_none() {
            // Then the number of the session may by now be another's, unless the process carries our mark.
            let marked = sandbox.marked_processes().into_iter();
            return marked.filter(|process| session_of(process.pid) == Some(self.id.pid)).collect();
        }
        let Ok(processes) = procfs::process::all_processes() else { return vec![self.id] };
        processes
            .filter_map(|process| u32::try_from(process.ok()?.pid).ok())
            .filter(|pid| session_of(*pid) == Some(self.id.pid))
            .filter_map(ProcessId::find)
            .collect()
    }
}

fn session_of(pid: u32) -> Option<u32> {
    let stat = procfs::process::Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()?;
    u32::try_from(stat.session).ok()
}

/// Sends SIGINT, by pidfd, so that no other process can be hit.
fn interrupt(process: ProcessId) {
    let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else { return };
    let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    if process.is_alive() {
        // That it has ended meanwhile is what we want.
        let _ = pidfd_send_signal(&fd, Signal::INT);
    }
}

fn unsupported(what: String) -> RuntimeError {
    RuntimeError::Unsupported { runtime: RUNTIME, what }
}
