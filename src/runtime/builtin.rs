//! The workload on the built-in supervisor, which runs as a process of its own so that its price can be seen.
//!
//! Deliberately absent: supervision, which is the supervisor's. Here its specification is written, its socket asked.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use super::{
    Arm, COMMAND_TIMEOUT, Runtime, RuntimeError, environment, log_tail, sandbox, supervised::app_spec,
};
use crate::{
    model::{
        process::{InstanceState, InstanceStatus, ProcessId, Processes},
        target::{RuntimeIdentity, RuntimeKind},
        workload::{App, Endpoint, Service},
    },
    supervisor::{
        self, AppSpec, Client, HttpCheck, Identity, InstanceReport, Port, Request, Response, Select,
        SupervisorError, in_own_session,
    },
};

const RUNTIME: &str = "builtin";
/// How long the supervisor may take until it listens.
const LISTENING_LIMIT: Duration = Duration::from_secs(10);
/// The pause between two tries to connect while it comes up.
const CONNECT_PAUSE: Duration = Duration::from_millis(2);
/// `sun_path` holds 108 bytes with its zero, and the socket is made under a name one byte longer.
const SOCKET_PATH_MAX_BYTES: usize = 106;
/// Lines of the supervisor's own output that an error carries.
const ERROR_TAIL_LINES: usize = 20;

/// The workload on the built-in supervisor.
#[derive(Debug)]
pub struct Builtin {
    arm: Arm,
    /// The program that has the `supervise` subcommand.
    program: PathBuf,
    supervisor: Option<Child>,
    /// Instances by service, where they were scaled.
    scaled: BTreeMap<String, u32>,
}

impl Builtin {
    /// For an arm; starts nothing. `supervisor_program` is started as
    /// `PROGRAM supervise DIR`.
    pub fn new(arm: Arm, supervisor_program: PathBuf) -> Self {
        Self { arm, program: supervisor_program, supervisor: None, scaled: BTreeMap::new() }
    }

    fn supervisor_dir(&self) -> PathBuf {
        self.arm.sandbox.dir().join("pm")
    }

    fn socket(&self) -> PathBuf {
        supervisor::control_socket(&self.supervisor_dir())
    }

    fn log_dir(&self) -> PathBuf {
        self.arm.sandbox.dir().join("logs")
    }

    fn own_log(&self) -> PathBuf {
        self.arm.sandbox.dir().join("supervisor.log")
    }

    fn service(&self, name: &str) -> Result<&Service, RuntimeError> {
        let unknown = || RuntimeError::NoInstance { service: name.to_owned(), instance: 0 };
        self.arm.workload.service(name).ok_or_else(unknown)
    }

    fn instances(&self, service: &Service) -> u32 {
        self.scaled.get(&service.name).copied().unwrap_or_else(|| service.instances())
    }

    fn specs(&self) -> Result<Vec<AppSpec>, RuntimeError> {
        self.arm.workload.services.iter().map(|service| self.app_spec(service)).collect()
    }

    fn app_spec(&self, service: &Service) -> Result<AppSpec, RuntimeError> {
        let mut spec = app_spec(app_of(service)?, &self.log_dir());
        spec.name.clone_from(&service.name);
        // The supervisor lays each instance's own number and port over these.
        spec.env = environment::for_process(&self.arm, service, 0, 0);
        let variable = &self.arm.workload.port_variable;
        let port = self.arm.ports.get(&service.name);
        spec.port = port.map(|first| Port { variable: variable.clone(), first: *first });
        let health = service.http.as_ref().filter(|_| port.is_some()).map(|http| http.health.clone());
        spec.ready.http = health.map(|path| HttpCheck { path });
        // Each arm has its own folder for these, whatever files the app names.
        let own =
            |name: &str| Some(self.log_dir().join(format!("{}-{name}.log", service.name.replace('/', "-"))));
        (spec.logs.out, spec.logs.err, spec.logs.combined) = (own("out"), own("error"), None);
        spec.logs.merge = false;
        Ok(spec)
    }

    /// Whether a service's instances answer on one port.
    fn shares_port(&self, service: &Service) -> bool {
        self.app_spec(service).is_ok_and(|spec| spec.shares_port())
    }

    /// Whether the supervisor runs; reaps it when it has ended.
    fn is_running(&mut self) -> bool {
        let running = self.supervisor.as_mut().is_some_and(|keeper| matches!(keeper.try_wait(), Ok(None)));
        if !running {
            self.supervisor = None;
        }
        running
    }

    /// Starts the supervisor and returns once it listens. What an earlier one left behind is killed first: it may
    /// hold the ports.
    async fn launch(&mut self) -> Result<(), RuntimeError> {
        self.kill_marked().await?;
        self.scaled.clear();
        let apps = self.specs()?;
        remove_dir(&self.supervisor_dir())?;
        let log = self.own_log();
        let failed = |source| RuntimeError::File { action: "write", path: log.clone(), source };
        let output = private().append(true).open(&log).map_err(failed)?;
        let errors = output.try_clone().map_err(failed)?;
        let mut command = Command::new(&self.program);
        command.args(supervisor::arguments(&self.supervisor_dir()));
        command.current_dir(self.arm.sandbox.dir()).env(sandbox::MARK, self.arm.sandbox.mark());
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        in_own_session(command.as_std_mut());
        let system = |source| RuntimeError::System {
            action: format!("start the supervisor {}", self.program.display()),
            source,
        };
        let child = command.spawn().map_err(system)?;
        self.supervisor = Some(child);
        self.until_listening().await?;
        self.call(Request::Apply { apps }, COMMAND_TIMEOUT).await.map(drop)
    }

    async fn until_listening(&mut self) -> Result<(), RuntimeError> {
        let deadline = Instant::now() + LISTENING_LIMIT;
        while Client::connect(&self.socket()).await.is_err() {
            let ended = self.supervisor.as_mut().and_then(|keeper| keeper.try_wait().ok().flatten());
            if let Some(status) = ended {
                self.supervisor = None;
                return Err(RuntimeError::Command {
                    command: format!("{} supervise", self.program.display()),
                    status: status.to_string(),
                    output: log_tail::last_lines(&self.own_log(), ERROR_TAIL_LINES).join("\n"),
                });
            }
            if Instant::now() > deadline {
                let what = "the supervisor, until it listened,".to_owned();
                return Err(RuntimeError::TimedOut { what, limit: LISTENING_LIMIT });
            }
            sleep(CONNECT_PAUSE).await;
        }
        Ok(())
    }

    async fn call(&mut self, request: Request, limit: Duration) -> Result<Response, RuntimeError> {
        if !self.is_running() {
            return Err(answer("the supervisor is not running"));
        }
        // A connection each: after a time-out the old one could not be trusted to be in step.
        let mut client = Client::connect(&self.socket()).await.map_err(told)?;
        client.call(&request, limit).await.map_err(told)
    }

    async fn identity(&mut self) -> Result<Identity, RuntimeError> {
        match self.call(Request::Identify, COMMAND_TIMEOUT).await? {
            Response::Identity(identity) => Ok(identity),
            other => Err(answer(&format!("{other:?} to the question who it is"))),
        }
    }

    async fn reports(&mut self) -> Result<Vec<InstanceReport>, RuntimeError> {
        match self.call(Request::Status, COMMAND_TIMEOUT).await? {
            Response::Status(reports) => Ok(reports),
            other => Err(answer(&format!("{other:?} to a question for the status"))),
        }
    }

    /// How long the supervisor may rightly take when every instance of `services` uses up its times one after the
    /// other.
    fn limit<'a>(&self, services: impl Iterator<Item = &'a Service>) -> Duration {
        let of = |service: &Service| {
            let app = service.app.as_ref();
            let each = app.map(|app| {
                app.stop
                    .kill_timeout
                    .saturating_add(app.listen_timeout)
                    .saturating_add(app.restart.min_uptime)
            });
            each.unwrap_or_default().saturating_mul(self.instances(service))
        };
        services.fold(COMMAND_TIMEOUT, |sum, service| sum.saturating_add(of(service)))
    }

    fn limit_of_all(&self) -> Duration {
        self.limit(self.arm.workload.services.iter())
    }

    async fn kill_marked(&self) -> Result<(), RuntimeError> {
        let sandbox = self.arm.sandbox.clone();
        tokio::task::spawn_blocking(move || sandbox.kill_marked())
            .await
            .map_err(|e| RuntimeError::System { action: "kill what is left".to_owned(), source: e.into() })?
    }
}

#[async_trait]
impl Runtime for Builtin {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Builtin
    }

    fn arm(&self) -> &Arm {
        &self.arm
    }

    async fn probe_environment(&mut self) -> Result<RuntimeIdentity, RuntimeError> {
        if !self.program.is_file() {
            return Err(RuntimeError::Missing {
                runtime: RUNTIME,
                reason: format!("there is no program {}", self.program.display()),
                hint: "was qbench moved or rebuilt while it ran? start it again".to_owned(),
            });
        }
        Ok(RuntimeIdentity {
            target: self.arm.target.name.clone(),
            runtime: RuntimeKind::Builtin,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            path: self.program.display().to_string(),
            stands_in_for: None,
            options: BTreeMap::new(),
        })
    }

    async fn prepare(&mut self) -> Result<(), RuntimeError> {
        let path = self.socket();
        if path.as_os_str().len() > SOCKET_PATH_MAX_BYTES {
            let source =
                io::Error::other(format!("a socket's path has at most {SOCKET_PATH_MAX_BYTES} bytes"));
            return Err(RuntimeError::File { action: "listen on", path, source });
        }
        self.specs().map(drop)
    }

    async fn start(&mut self) -> Result<(), RuntimeError> {
        if !self.is_running() {
            self.launch().await?;
        }
        self.call(Request::Start(Select::All), COMMAND_TIMEOUT).await.map(drop)
    }

    async fn stop(&mut self) -> Result<(), RuntimeError> {
        if !self.is_running() {
            // It was crashed, and what it ran may have outlived it.
            return self.kill_marked().await;
        }
        self.call(Request::Stop(Select::All), self.limit_of_all()).await.map(drop)
    }

    async fn restart(&mut self, service: &str) -> Result<(), RuntimeError> {
        let limit = self.limit([self.service(service)?].into_iter());
        self.call(Request::Restart(Select::App(service.to_owned())), limit).await.map(drop)
    }

    async fn reload(&mut self, service: &str) -> Result<(), RuntimeError> {
        let limit = self.limit([self.service(service)?].into_iter());
        self.call(Request::Reload(Select::App(service.to_owned())), limit).await.map(drop)
    }

    async fn scale(&mut self, service: &str, instances: u32) -> Result<(), RuntimeError> {
        let limit = self.limit([self.service(service)?].into_iter());
        self.call(Request::Scale { app: service.to_owned(), instances }, limit).await?;
        self.scaled.insert(service.to_owned(), instances);
        Ok(())
    }

    async fn status(&mut self) -> Result<Vec<InstanceStatus>, RuntimeError> {
        Ok(self.reports().await?.into_iter().map(status_of).collect())
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        let services = self.arm.workload.services.iter().filter(|service| service.http.is_some());
        services
            .filter_map(|service| Some((service, *self.arm.ports.get(&service.name)?)))
            .flat_map(|(service, first)| {
                let addresses = if self.shares_port(service) { 1 } else { self.instances(service) };
                let ports = (first..=u16::MAX).zip(0..addresses);
                ports.map(|(port, instance)| Endpoint {
                    service: service.name.clone(),
                    instance,
                    address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                })
            })
            .collect()
    }

    async fn processes(&mut self) -> Result<Processes, RuntimeError> {
        let service = self.reports().await?.iter().filter_map(process_of).collect();
        let identity = self.identity().await?;
        let overhead_fixed =
            [identity.keeper, identity.brain].into_iter().filter_map(ProcessId::find).collect();
        Ok(Processes { service, overhead_fixed, ..Processes::default() })
    }

    async fn kill_instance(&mut self, service: &str, instance: u32) -> Result<ProcessId, RuntimeError> {
        let reports = self.reports().await?;
        let found = reports.iter().find(|report| report.app == service && report.instance == instance);
        let process = found.and_then(process_of).filter(|process| process.kill());
        process.ok_or_else(|| RuntimeError::NoInstance { service: service.to_owned(), instance })
    }

    async fn logs(&mut self, service: &str, lines: usize) -> Result<Vec<String>, RuntimeError> {
        self.service(service)?;
        let mut reports = self.reports().await?;
        reports.retain(|report| report.app == service);
        // The errors last: when there is room for some lines only, those are the ones that tell.
        let outputs = reports.iter().filter_map(|report| report.out_log.clone());
        let errors = reports.iter().filter_map(|report| report.err_log.clone());
        let mut text: Vec<String> =
            outputs.chain(errors).flat_map(|path| log_tail::last_lines(&path, lines)).collect();
        text.drain(..text.len().saturating_sub(lines));
        Ok(text)
    }

    async fn crash_runtime(&mut self) -> Result<(), RuntimeError> {
        let brain = ProcessId::find(self.identity().await?.brain);
        // The keeper stays, and starts another one.
        let killed = brain.filter(|brain| brain.kill());
        killed.map(drop).ok_or_else(|| answer("the supervisor ended by itself before it could be killed"))
    }

    async fn teardown(&mut self) -> Result<(), RuntimeError> {
        if self.is_running() {
            // Whatever it answers: what it did not stop is killed next.
            let _ = self.call(Request::Shutdown, self.limit_of_all()).await;
        }
        self.kill_marked().await?;
        if let Some(mut keeper) = self.supervisor.take() {
            // It has ended by itself or was just killed; waiting only reaps it.
            let _ = keeper.wait().await;
        }
        self.scaled.clear();
        remove_file(&self.own_log())?;
        remove_dir(&self.supervisor_dir())?;
        remove_dir(&self.log_dir())
    }
}

fn app_of(service: &Service) -> Result<&App, RuntimeError> {
    service.app.as_ref().ok_or_else(|| RuntimeError::WorkloadLacks {
        runtime: RUNTIME,
        what: format!("app for service {}", service.name),
        hint: "describe it in the workload's ecosystem file, under the same name".to_owned(),
    })
}

fn status_of(report: InstanceReport) -> InstanceStatus {
    InstanceStatus {
        state: match report.state {
            supervisor::InstanceState::Stopped => InstanceState::Stopped,
            supervisor::InstanceState::Launching => InstanceState::Launching,
            supervisor::InstanceState::Online => InstanceState::Online,
            supervisor::InstanceState::Stopping => InstanceState::Stopping,
            supervisor::InstanceState::Waiting => InstanceState::Waiting,
            supervisor::InstanceState::Errored => InstanceState::Errored,
        },
        process: process_of(&report),
        uptime: report.uptime_ms.map(Duration::from_millis),
        restarts: Some(report.restarts),
        instance: report.instance,
        service: report.app,
    }
}

fn process_of(report: &InstanceReport) -> Option<ProcessId> {
    Some(ProcessId { pid: report.pid?, start_ticks: report.start_ticks? })
}

fn told(error: SupervisorError) -> RuntimeError {
    match error {
        SupervisorError::TimedOut { limit } => {
            RuntimeError::TimedOut { what: "the supervisor's answer".to_owned(), limit }
        }
        other => answer(&other.to_string()),
    }
}

fn answer(message: &str) -> RuntimeError {
    RuntimeError::Answer { runtime: RUNTIME, message: message.to_owned() }
}

/// For this user only.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    options
}

fn remove_file(path: &Path) -> Result<(), RuntimeError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(RuntimeError::File { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn remove_dir(path: &Path) -> Result<(), RuntimeError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(RuntimeError::File { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
