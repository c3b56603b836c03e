//! The real PM2, in a `PM2_HOME` of the arm's own.
//!
//! Started, reloaded and scaled by its command line, because that resolves settings and paces a reload; asked,
//! restarted and ended over its socket, because that costs next to nothing.
//!
//! A stop ends the daemon, too, so that each epoch starts from nothing, as after a boot.

mod amp;
mod home;
mod monitor;
mod overlay;
mod program;
mod rpc;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use self::{home::Home, monitor::Instance};
use super::{
    Arm, COMMAND_TIMEOUT, Runtime, RuntimeError,
    command::{CommandLine, Finished, run},
};
use crate::model::{
    process::{InstanceStatus, ProcessId, Processes},
    target::{RuntimeIdentity, RuntimeKind},
    workload::Endpoint,
};

const RUNTIME: &str = "pm2";
/// For a question that the daemon answers from memory.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// For ending the daemon, once its processes are gone.
const END_LIMIT: Duration = Duration::from_secs(5);
/// What PM2's command line ends at once.
const DELETED_AT_ONCE: usize = 10;

/// The workload on PM2.
#[derive(Debug)]
pub struct Pm2 {
    arm: Arm,
    home: Home,
    program: Option<PathBuf>,
    daemon: Option<ProcessId>,
    /// Instances that were listed once and may live on unlisted: those that a reload is replacing, and all that
    /// survive a crash of the daemon.
    listed: BTreeSet<ProcessId>,
    endpoints: Vec<Endpoint>,
}

impl Pm2 {
    /// For an arm; starts nothing.
    pub fn new(arm: Arm) -> Self {
        let home = Home::of(&arm);
        Self { arm, home, program: None, daemon: None, listed: BTreeSet::new(), endpoints: Vec::new() }
    }

    async fn command(&mut self, args: &[&str]) -> Result<Finished, RuntimeError> {
        let program = match &self.program {
            Some(program) => program,
            None => self.program.insert(program::find(self.arm.target.pm2_program.as_deref())?),
        };
        let command = CommandLine {
            program: program.clone(),
            args: ["--no-color"].iter().chain(args).map(|arg| (*arg).to_owned()).collect(),
            cwd: self.arm.workload.root.clone(),
            env: self.home.variables(),
        };
        run(&command, COMMAND_TIMEOUT).await
    }

    /// Every process that PM2 lists.
    async fn instances(&mut self) -> Result<Vec<Instance>, RuntimeError> {
        let list = self.home.rpc().call("getMonitorData", json!({}), ANSWER_LIMIT).await?;
        let instances = monitor::read(&list, &self.arm.workload.port_variable)?;
        self.listed.retain(|process| process.is_alive());
        self.listed.extend(instances.iter().filter_map(|instance| instance.process));
        Ok(instances)
    }

    async fn instances_of(&mut self, service: &str) -> Result<Vec<Instance>, RuntimeError> {
        let mut instances = self.instances().await?;
        instances.retain(|instance| instance.name == service);
        if instances.is_empty() {
            return Err(RuntimeError::NoInstance { service: service.to_owned(), instance: 0 });
        }
        Ok(instances)
    }

    /// Calls a method once for each argument, a few at a time.
    async fn call_each(
        &self,
        method: &'static str,
        arguments: Vec<Value>,
        at_once: usize,
    ) -> Result<(), RuntimeError> {
        let limit = ANSWER_LIMIT + self.longest_kill_timeout() * 2;
        let mut waiting = arguments.into_iter();
        let mut calls = JoinSet::new();
        loop {
            while calls.len() < at_once {
                let Some(argument) = waiting.next() else { break };
                let rpc = self.home.rpc();
                calls.spawn(async move { rpc.call(method, argument, limit).await });
            }
            match calls.join_next().await {
                Some(ended) => ended.map_err(|e| task_failed(method, e))??,
                None => return Ok(()),
            };
        }
    }

    fn longest_kill_timeout(&self) -> Duration {
        let apps = self.arm.workload.services.iter().filter_map(|service| service.app.as_ref());
        apps.map(|app| app.stop.kill_timeout).max().unwrap_or_default()
    }

    /// Asks the daemon to end its processes and itself. What it does not do is left to [`clear`](Self::clear).
    async fn end_politely(&mut self) {
        let Ok(instances) = self.instances().await else { return };
        let rpc = self.home.rpc();
        // From here on it restarts nothing.
        let _ = rpc.tell("notifyKillPM2", ANSWER_LIMIT).await;
        let ids = instances.iter().map(|instance| json!(instance.pm_id)).collect();
        let _ = self.call_each("deleteProcessId", ids, DELETED_AT_ONCE).await;
        if rpc.call_to_end("killMe", END_LIMIT).await.is_ok()
            && let Some(daemon) = self.daemon
        {
            let _ = wait_until_dead(daemon, END_LIMIT).await;
        }
    }

    /// Kills whatever carries the arm's mark: what PM2 could not end, or left behind when it was killed.
    async fn clear(&mut self) -> Result<(), RuntimeError> {
        let sandbox = self.arm.sandbox.clone();
        tokio::task::spawn_blocking(move || sandbox.kill_marked())
            .await
            .map_err(|e| task_failed("kill what is left", e))??;
        self.daemon = None;
        self.listed.clear();
        Ok(())
    }

    /// Where the instances really listen, as PM2 told them.
    fn note_endpoints(&mut self, instances: &[Instance]) {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for service in self.arm.workload.services.iter().filter(|service| service.http.is_some()) {
            for instance in instances.iter().filter(|instance| instance.name == service.name) {
                let Some(port) = instance.port.or_else(|| self.arm.ports.get(&service.name).copied()) else {
                    continue;
                };
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                // The instances of a cluster share theirs.
                if endpoints.iter().all(|endpoint| endpoint.address != address) {
                    let (service, instance) = (service.name.clone(), instance.rank);
                    endpoints.push(Endpoint { service, instance, address });
                }
            }
        }
        self.endpoints = endpoints;
    }
}

#[async_trait]
impl Runtime for Pm2 {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Pm2
    }

    fn arm(&self) -> &Arm {
        &self.arm
    }

    async fn probe_environment(&mut self) -> Result<RuntimeIdentity, RuntimeError> {
        let program = program::find(self.arm.target.pm2_program.as_deref())?;
        self.program = Some(program.clone());
        let version = match program::packaged_version(&program) {
            Some(version) => version,
            None => {
                let answer = self.command(&["--version"]).await;
                // The command line starts a daemon even for that.
                self.teardown().await?;
                let answer = answer?;
                answer.stdout.lines().last().unwrap_or_default().trim().to_owned()
            }
        };
        Ok(RuntimeIdentity {
            target: self.arm.target.name.clone(),
            runtime: RuntimeKind::Pm2,
            version,
            path: program.display().to_string(),
            stands_in_for: None,
            options: std::collections::BTreeMap::new(),
        })
    }

    async fn prepare(&mut self) -> Result<(), RuntimeError> {
        self.home.prepare(&overlay::ecosystem(&self.arm)?)
    }

    async fn start(&mut self) -> Result<(), RuntimeError> {
        self.clear().await?;
        self.home.remove_leftovers()?;
        let file = self.home.ecosystem();
        if !file.exists() {
            self.prepare().await?;
        }
        let started = self.command(&["start", &file.display().to_string()]).await;
        // Also when that failed: the daemon is started before the first app.
        self.daemon = self.home.daemon();
        started?;
        let instances = self.instances().await?;
        let missing = self.arm.workload.services.iter().find(|s| instances.iter().all(|i| i.name != s.name));
        if let Some(service) = missing {
            return Err(rpc::answered(format!("started, but without {}", service.name)));
        }
        self.note_endpoints(&instances);
        Ok(())
    }

    async fn stop(&mut self) -> Result<(), RuntimeError> {
        self.end_politely().await;
        self.clear().await?;
        self.home.remove_leftovers()
    }

    async fn restart(&mut self, service: &str) -> Result<(), RuntimeError> {
        let instances = self.instances_of(service).await?;
        let wishes = instances.iter().map(|instance| json!({"id": instance.pm_id, "env": {}})).collect();
        // As PM2's command line paces it.
        self.call_each("restartProcessId", wishes, if instances.len() <= 2 { 1 } else { 2 }).await
    }

    async fn reload(&mut self, service: &str) -> Result<(), RuntimeError> {
        // Notes the processes that PM2 stops listing as soon as it begins to replace them.
        self.instances_of(service).await?;
        // Not over the socket: how many instances are replaced at once, what is locked meanwhile and which settings
        // are sent along is decided by the command line, and that is what users run.
        // Its success says that PM2 is done, not that the new processes serve.
        self.command(&["reload", service]).await.map(drop)
    }

    async fn scale(&mut self, service: &str, instances: u32) -> Result<(), RuntimeError> {
        let current = self.instances_of(service).await?.len();
        // PM2 refuses to scale to the number there is.
        if usize::try_from(instances) != Ok(current) {
            self.command(&["scale", service, &instances.to_string()]).await?;
        }
        let instances = self.instances().await?;
        self.note_endpoints(&instances);
        Ok(())
    }

    async fn status(&mut self) -> Result<Vec<InstanceStatus>, RuntimeError> {
        if self.daemon.is_none() {
            return Ok(Vec::new());
        }
        let instances = self.instances().await?;
        Ok(instances
            .into_iter()
            .map(|instance| InstanceStatus {
                uptime: uptime(&instance),
                service: instance.name,
                instance: instance.rank,
                state: instance.state,
                process: instance.process,
                restarts: instance.restarts,
            })
            .collect())
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        self.endpoints.clone()
    }

    async fn processes(&mut self) -> Result<Processes, RuntimeError> {
        let daemon = self.daemon.filter(|daemon| daemon.is_alive());
        if daemon.is_some() {
            self.instances().await?;
        }
        let service = self.listed.iter().copied().filter(|process| process.is_alive()).collect();
        Ok(Processes { service, overhead_fixed: daemon.into_iter().collect(), ..Processes::default() })
    }

    async fn kill_instance(&mut self, service: &str, instance: u32) -> Result<ProcessId, RuntimeError> {
        let none = || RuntimeError::NoInstance { service: service.to_owned(), instance };
        let found = self.instances().await?.into_iter().find(|i| i.name == service && i.rank == instance);
        let process = found.and_then(|instance| instance.process).ok_or_else(none)?;
        // PM2's list may be a moment old, and a pid belong to another program since.
        if !self.arm.sandbox.marked_processes().contains(&process) || !process.kill() {
            return Err(none());
        }
        Ok(process)
    }

    async fn logs(&mut self, service: &str, lines: usize) -> Result<Vec<String>, RuntimeError> {
        Ok(self.home.logs(service, lines))
    }

    async fn crash_runtime(&mut self) -> Result<(), RuntimeError> {
        let daemon = self.daemon.filter(|daemon| daemon.kill());
        let daemon =
            daemon.ok_or_else(|| rpc::answered("nothing, since its daemon does not run".to_owned()))?;
        wait_until_dead(daemon, END_LIMIT).await
    }

    async fn teardown(&mut self) -> Result<(), RuntimeError> {
        // Told before it is killed, lest it restart what is killed before it.
        let _ = self.home.rpc().call_to_end("killMe", END_LIMIT).await;
        self.clear().await?;
        self.endpoints.clear();
        self.home.remove()
    }
}

/// PM2 tells it by the wall clock; of an instance that does not run it tells when the last one started.
fn uptime(instance: &Instance) -> Option<Duration> {
    instance.process?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    now.checked_sub(Duration::from_millis(instance.up_since_ms?))
}

async fn wait_until_dead(process: ProcessId, limit: Duration) -> Result<(), RuntimeError> {
    let deadline = Instant::now() + limit;
    while process.is_alive() {
        if Instant::now() > deadline {
            return Err(RuntimeError::TimedOut { what: "the end of the PM2 daemon".to_owned(), limit });
        }
        // It is no child of ours, so nothing tells us of its end.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn task_failed(what: &str, error: tokio::task::JoinError) -> RuntimeError {
    RuntimeError::System { action: what.to_owned(), source: error.into() }
}
