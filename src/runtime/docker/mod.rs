//! A workload's compose file on a Docker Engine of this machine.
//!
//! Compose runs it, as its users would; the Engine is asked what became of it. Everything made carries the project's
//! name and the sandbox's mark, and `engine.json` in the sandbox says by which Engine, so that [`clean`] finds it.
//!
//! Deliberately absent: any setting up of an Engine, and any touching of what does not carry our labels.

mod cli;
mod compose;
mod engine;
mod processes;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum, RestartPolicyNameEnum};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use engine::Cleaned;

use super::{
    Arm, COMMAND_TIMEOUT, Runtime, RuntimeError, Sandbox,
    command::{self, CommandLine},
    sandbox,
};
use crate::model::{
    process::{InstanceState, InstanceStatus, ProcessId, Processes},
    target::{NetworkPath, ReloadStrategy, RuntimeIdentity, RuntimeKind},
    workload::Endpoint,
};
use cli::{BUILD_TIMEOUT, ComposeCli, Project};
use compose::ComposeFile;
use engine::{Container, Engine, Owner};

const KIND: RuntimeKind = RuntimeKind::Docker;
/// On everything of an arm; its value is the sandbox's mark.
const LABEL_SANDBOX: &str = "qbench.sandbox";
/// On a container of the workload: the service's name.
const LABEL_SERVICE: &str = "qbench.service";
/// On a container of the workload: which instance, from 0.
const LABEL_INSTANCE: &str = "qbench.instance";
/// Compose's own.
const LABEL_PROJECT: &str = "com.docker.compose.project";

/// A workload in containers.
#[derive(Debug)]
pub struct Docker {
    arm: Arm,
    reached: Option<Reached>,
    prepared: Option<Prepared>,
}

#[derive(Clone, Debug)]
struct Reached {
    engine: Engine,
    cli: ComposeCli,
}

#[derive(Clone, Debug)]
struct Prepared {
    project: Project,
    file: ComposeFile,
}

/// `engine.json`: where the things of a sandbox are, for whoever finds it later.
#[derive(Debug, Serialize, Deserialize)]
struct EngineFile {
    docker_host: String,
    project: String,
}

impl Docker {
    /// Reaches and starts nothing yet.
    pub fn new(arm: Arm) -> Self {
        Self { arm, reached: None, prepared: None }
    }

    async fn reach(&mut self) -> Result<Reached, RuntimeError> {
        if let Some(reached) = &self.reached {
            return Ok(reached.clone());
        }
        let engine =
            Engine::connect(&engine::socket_of(std::env::var("DOCKER_HOST").ok().as_deref())?).await?;
        engine.refuse_foreign_pids()?;
        let reached = Reached { engine, cli: ComposeCli::find().await? };
        Ok(self.reached.insert(reached).clone())
    }

    fn prepared(&self) -> Result<&Prepared, RuntimeError> {
        self.prepared.as_ref().ok_or_else(|| RuntimeError::Answer {
            runtime: KIND.name(),
            message: "there is no compose file of this arm yet".to_owned(),
        })
    }

    /// The workload's containers as the labels tell, each with what the Engine knows of it.
    async fn containers(&mut self) -> Result<Vec<(Container, ContainerInspectResponse)>, RuntimeError> {
        let engine = self.reach().await?.engine;
        let mut known = Vec::new();
        for container in engine.containers(&self.arm.sandbox.mark()).await? {
            if let Some(state) = engine.inspect(&container.id).await? {
                known.push((container, state));
            }
        }
        Ok(known)
    }

    async fn containers_of(&mut self, service: &str) -> Result<Vec<Container>, RuntimeError> {
        let engine = self.reach().await?.engine;
        let mut containers = engine.containers(&self.arm.sandbox.mark()).await?;
        containers.retain(|container| container.service == service);
        if containers.is_empty() {
            return Err(RuntimeError::NoInstance { service: service.to_owned(), instance: 0 });
        }
        Ok(containers)
    }

    /// What compose and the workload's own commands find in their environment.
    fn environment(&self, engine: &Engine) -> Result<BTreeMap<String, String>, RuntimeError> {
        let executable = std::env::current_exe().map_err(|source| RuntimeError::System {
            action: "find qbench's own program".to_owned(),
            source,
        })?;
        Ok(BTreeMap::from([
            ("DOCKER_HOST".to_owned(), engine.docker_host()),
            ("QBENCH_SERVICE_HOST".to_owned(), self.service_host().to_owned()),
            ("QBENCH_BUILD_DIR".to_owned(), self.build_dir().display().to_string()),
            ("QBENCH_EXECUTABLE".to_owned(), executable.display().to_string()),
            (sandbox::MARK.to_owned(), self.arm.sandbox.mark()),
        ]))
    }

    /// Where a service listens: on every interface inside a container's own network, on loopback on the host's.
    fn service_host(&self) -> &'static str {
        match self.arm.target.docker.network {
            NetworkPath::Published => "0.0.0.0",
            NetworkPath::Host => "127.0.0.1",
        }
    }

    fn build_dir(&self) -> PathBuf {
        self.arm.sandbox.dir().join("build")
    }

    fn owner_file(&self) -> PathBuf {
        self.arm.sandbox.dir().join("engine.json")
    }

    /// The folders and `engine.json`, before anything is made that would need them to be found.
    fn make_files(&self, engine: &Engine) -> Result<(), RuntimeError> {
        let file = EngineFile { docker_host: engine.docker_host(), project: project_of(&self.arm.sandbox) };
        let text = serde_json::to_string(&file).expect("it is plain data");
        write_private(&self.owner_file(), &text)?;
        let build = self.build_dir();
        fs::create_dir_all(&build).map_err(|source| RuntimeError::File {
            action: "make",
            path: build.clone(),
            source,
        })?;
        // A container's user is often another one. Nobody else gets here: the folder above stays private.
        let release = self.arm.sandbox.release_dir();
        fs::set_permissions(&release, fs::Permissions::from_mode(0o755)).map_err(|source| {
            RuntimeError::File { action: "open to containers", path: release.clone(), source }
        })
    }

    async fn before_build(&self, env: &BTreeMap<String, String>) -> Result<(), RuntimeError> {
        let Some((program, args)) = self.arm.target.before_build.as_deref().and_then(<[_]>::split_first)
        else {
            return Ok(());
        };
        let command = CommandLine {
            program: program.into(),
            args: args.to_vec(),
            cwd: self.arm.workload.root.clone(),
            env: env.clone(),
        };
        command::run(&command, BUILD_TIMEOUT).await.map(drop)
    }

    async fn restart_each(&mut self, service: &str) -> Result<(), RuntimeError> {
        let engine = self.reach().await?.engine;
        for container in self.containers_of(service).await? {
            engine.restart(&container.id).await?;
        }
        Ok(())
    }

    async fn recreate(&mut self, service: &str) -> Result<(), RuntimeError> {
        let prepared = self.prepared()?;
        let names = prepared.file.names_of(service);
        if names.is_empty() {
            return Err(RuntimeError::NoInstance { service: service.to_owned(), instance: 0 });
        }
        let mut args = vec!["up", "-d", "--no-deps", "--force-recreate", "--no-build"];
        args.extend(names);
        prepared.project.run(&args, COMMAND_TIMEOUT).await.map(drop)
    }
}

#[async_trait]
impl Runtime for Docker {
    fn kind(&self) -> RuntimeKind {
        KIND
    }

    fn arm(&self) -> &Arm {
        &self.arm
    }

    async fn probe_environment(&mut self) -> Result<RuntimeIdentity, RuntimeError> {
        let Reached { engine, cli } = self.reach().await?;
        let options = self.arm.target.docker;
        let reload = match options.reload {
            ReloadStrategy::Restart => "restart",
            ReloadStrategy::Recreate => "recreate",
        };
        let network = match options.network {
            NetworkPath::Published => "published",
            NetworkPath::Host => "host",
        };
        let named = [("reload", reload), ("network", network), ("compose", &cli.version)];
        Ok(RuntimeIdentity {
            target: self.arm.target.name.clone(),
            runtime: KIND,
            version: engine.version().await?,
            path: engine.socket().display().to_string(),
            stands_in_for: None,
            options: named.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        })
    }

    async fn prepare(&mut self) -> Result<(), RuntimeError> {
        let compose = self.arm.workload.compose.clone().ok_or_else(|| RuntimeError::WorkloadLacks {
            runtime: KIND.name(),
            what: "compose file".to_owned(),
            hint: "name it with `compose = \"docker-compose.yml\"` in qbench.toml".to_owned(),
        })?;
        let Reached { engine, cli } = self.reach().await?;
        self.make_files(&engine)?;
        let env = self.environment(&engine)?;
        self.before_build(&env).await?;
        let name = project_of(&self.arm.sandbox);
        let cwd = self.arm.workload.root.clone();
        let original = Project { cli, name, file: compose, cwd, env };
        let config = original.run(&["config"], COMMAND_TIMEOUT).await?.stdout;
        let file = compose::transform(&config, &self.arm, &original.name)?;
        // Compose files hold environment values, which are nobody else's to read.
        let project = Project { file: self.arm.sandbox.dir().join("compose.json"), ..original };
        write_private(&project.file, &file.text)?;
        if file.builds {
            project.build().await?;
        }
        let mut absent = vec!["pull"];
        for (service, image) in &file.pulls {
            if !engine.has_image(image).await? {
                absent.push(service);
            }
        }
        if absent.len() > 1 {
            project.run(&absent, BUILD_TIMEOUT).await?;
        }
        self.prepared = Some(Prepared { project, file });
        Ok(())
    }

    async fn start(&mut self) -> Result<(), RuntimeError> {
        self.prepared()?.project.run(&["up", "-d", "--no-build"], COMMAND_TIMEOUT).await.map(drop)
    }

    /// Ends the containers the way their own settings say, then removes them and their networks, so that the next
    /// start makes them anew. Named volumes and images stay.
    async fn stop(&mut self) -> Result<(), RuntimeError> {
        self.prepared()?.project.run(&["stop"], COMMAND_TIMEOUT).await?;
        let engine = self.reach().await?.engine;
        let (project, mark) = (project_of(&self.arm.sandbox), self.arm.sandbox.mark());
        engine.remove_containers(Owner { project: &project, mark: &mark }).await.map(drop)
    }

    async fn restart(&mut self, service: &str) -> Result<(), RuntimeError> {
        self.restart_each(service).await
    }

    async fn reload(&mut self, service: &str) -> Result<(), RuntimeError> {
        match self.arm.target.docker.reload {
            ReloadStrategy::Restart => self.restart_each(service).await,
            ReloadStrategy::Recreate => self.recreate(service).await,
        }
    }

    async fn scale(&mut self, _service: &str, _instances: u32) -> Result<(), RuntimeError> {
        Err(RuntimeError::Unsupported {
            runtime: KIND.name(),
            what: "change the number of replicas while each has a port of its own".to_owned(),
        })
    }

    /// As many as the compose file has replicas, which need not be what the ecosystem file declares.
    fn declared_instances(&self) -> usize {
        self.prepared.as_ref().map_or(0, |prepared| prepared.file.instances.len())
    }

    async fn status(&mut self) -> Result<Vec<InstanceStatus>, RuntimeError> {
        Ok(self.containers().await?.iter().map(|(container, known)| status_of(container, known)).collect())
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        let instances = self.prepared.iter().flat_map(|prepared| &prepared.file.instances);
        instances
            .filter_map(|instance| {
                Some(Endpoint {
                    service: instance.service.clone(),
                    instance: instance.index,
                    address: SocketAddr::from((Ipv4Addr::LOCALHOST, instance.port?)),
                })
            })
            .collect()
    }

    async fn processes(&mut self) -> Result<Processes, RuntimeError> {
        let mains: Vec<ProcessId> = self.containers().await?.iter().filter_map(|(_, c)| main_of(c)).collect();
        let listener = self.reach().await?.engine.listener();
        let ports: Vec<u16> = self.endpoints().iter().map(|endpoint| endpoint.address.port()).collect();
        Ok(processes::of_containers(&mains, listener, &ports))
    }

    /// Kills the process, not the container: after `docker kill` the Engine would not start it again.
    async fn kill_instance(&mut self, service: &str, instance: u32) -> Result<ProcessId, RuntimeError> {
        let containers = self.containers().await?;
        let main = containers
            .iter()
            .find(|(container, _)| container.service == service && container.instance == instance)
            .and_then(|(_, known)| main_of(known))
            .ok_or_else(|| RuntimeError::NoInstance { service: service.to_owned(), instance })?;
        if main.kill() {
            return Ok(main);
        }
        if !main.is_alive() {
            return Err(RuntimeError::NoInstance { service: service.to_owned(), instance });
        }
        Err(RuntimeError::System {
            action: format!("kill process {} of {service}, which runs as another user", main.pid),
            source: std::io::ErrorKind::PermissionDenied.into(),
        })
    }

    async fn logs(&mut self, service: &str, lines: usize) -> Result<Vec<String>, RuntimeError> {
        let prepared = self.prepared()?;
        let tail = format!("--tail={lines}");
        let mut args = vec!["logs", "--no-color", "--no-log-prefix", "--timestamps", &tail];
        args.extend(prepared.file.names_of(service));
        let written = prepared.project.run(&args, COMMAND_TIMEOUT).await?;
        Ok(in_order(&(written.stdout + "\n" + &written.stderr), lines))
    }

    async fn crash_runtime(&mut self) -> Result<(), RuntimeError> {
        Err(RuntimeError::Unsupported {
            runtime: KIND.name(),
            what: "have its Engine killed: it may be serving others".to_owned(),
        })
    }

    async fn teardown(&mut self) -> Result<(), RuntimeError> {
        clean(&self.arm.sandbox).await.map(drop)
    }
}

/// Removes what was made for a sandbox, by whichever qbench: containers, networks, volumes that compose made for
/// it, and the images built for it. A sandbox that never met an Engine has nothing to remove.
///
/// # Errors
/// When the Engine it was made on cannot be reached, or refuses.
pub async fn clean(sandbox: &Sandbox) -> Result<Cleaned, RuntimeError> {
    let path = sandbox.dir().join("engine.json");
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Cleaned::default()),
        Err(source) => return Err(RuntimeError::File { action: "read", path, source }),
    };
    let file: EngineFile = serde_json::from_slice(&text).map_err(|error| RuntimeError::File {
        action: "read",
        path,
        source: error.into(),
    })?;
    let engine = Engine::connect(&engine::socket_of(Some(&file.docker_host))?).await?;
    engine.remove_everything(Owner { project: &file.project, mark: &sandbox.mark() }).await
}

/// The compose project of a sandbox, which also begins the names of its images.
fn project_of(sandbox: &Sandbox) -> String {
    use std::fmt::Write as _;
    let digest = Sha256::digest(sandbox.mark());
    digest[..6].iter().fold("qbench-".to_owned(), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    })
}

fn status_of(container: &Container, known: &ContainerInspectResponse) -> InstanceStatus {
    let state = known.state.as_ref();
    let process = main_of(known);
    let started = process
        .and_then(|_| state?.started_at.as_deref())
        .and_then(|text| text.parse::<jiff::Timestamp>().ok());
    InstanceStatus {
        service: container.service.clone(),
        instance: container.instance,
        state: state_of(known),
        process,
        uptime: started.and_then(|at| Duration::try_from(jiff::Timestamp::now().duration_since(at)).ok()),
        restarts: known.restart_count.and_then(|count| u32::try_from(count).ok()),
    }
}

fn state_of(known: &ContainerInspectResponse) -> InstanceState {
    use ContainerStateStatusEnum as Docker;
    let Some(status) = known.state.as_ref().and_then(|state| state.status) else {
        return InstanceState::Errored;
    };
    match status {
        Docker::CREATED => InstanceState::Launching,
        Docker::RUNNING => InstanceState::Online,
        Docker::RESTARTING => InstanceState::Waiting,
        Docker::REMOVING | Docker::STOPPING => InstanceState::Stopping,
        Docker::EXITED if gave_up(known) => InstanceState::Errored,
        Docker::EXITED | Docker::PAUSED => InstanceState::Stopped,
        Docker::DEAD | Docker::EMPTY => InstanceState::Errored,
    }
}

/// Whether the Engine tried `on-failure` as often as it was told to.
fn gave_up(known: &ContainerInspectResponse) -> bool {
    let policy = known.host_config.as_ref().and_then(|host| host.restart_policy.as_ref());
    let failed = known.state.as_ref().and_then(|state| state.exit_code).is_some_and(|code| code != 0);
    failed && policy.and_then(|policy| policy.name) == Some(RestartPolicyNameEnum::ON_FAILURE)
}

fn main_of(known: &ContainerInspectResponse) -> Option<ProcessId> {
    // The Engine says 0 where there is no process.
    let pid = known.state.as_ref()?.pid.filter(|pid| *pid > 0)?;
    processes::of_a_shim(pid)
}

/// The last lines by their timestamps, which are taken off.
fn in_order(written: &str, limit: usize) -> Vec<String> {
    let mut lines: Vec<(&str, &str)> = written
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| line.split_once(' ').unwrap_or((line, "")))
        .collect();
    lines.sort_by_key(|(at, _)| *at);
    lines[lines.len().saturating_sub(limit)..].iter().map(|(_, text)| (*text).to_owned()).collect()
}

fn write_private(path: &Path, text: &str) -> Result<(), RuntimeError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| RuntimeError::File { action: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_its_sandbox_and_compose_takes_its_name() {
        let one = project_of(&Sandbox::existing("/tmp/qbench-0/A/docker".into()));
        assert_ne!(one, project_of(&Sandbox::existing("/tmp/qbench-0/B/docker".into())));
        assert_eq!(one.len(), "qbench-".len() + 12);
        assert!(one.chars().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase() || c == '-'), "{one}");
    }

    #[test]
    fn log_lines_of_several_instances_are_in_order_of_time() {
        let written =
            "2026-01-01T00:00:00.3Z three\n2026-01-01T00:00:00.1Z one one\n\n2026-01-01T00:00:00.2Z \n";
        assert_eq!(in_order(written, 10), ["one one", "", "three"]);
        assert_eq!(in_order(written, 1), ["three"]);
    }
}
