//! What to supervise. A specification is complete: nothing in it is looked up or defaulted later.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{SupervisorError, state::Policy};

/// The most instances one app may have.
const INSTANCES_MAX: u32 = 1024;

/// Everything one supervisor runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The apps, started in this order.
    pub apps: Vec<AppSpec>,
}

/// A program and how to keep it running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppSpec {
    /// Unique; its log files are named after it.
    pub name: String,
    /// The program, absolute.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// The working folder, absolute.
    pub cwd: PathBuf,
    /// Variables laid over the supervisor's own environment.
    pub env: BTreeMap<String, String>,
    /// Processes to run.
    pub instances: u32,
    /// The port each instance is told, if any.
    pub port: Option<Port>,
    /// The variable that tells an instance its number, from 0.
    pub instance_variable: String,
    /// When an instance counts as ready; without it, as soon as it is spawned. Needs `port`.
    pub ready: Option<HttpCheck>,
    /// From SIGINT to SIGKILL.
    pub kill_timeout_ms: u64,
    /// How long an instance may take to become ready. A start goes on beyond it, a reload fails.
    pub listen_timeout_ms: u64,
    /// The pause before the restart of an instance that ended by itself.
    pub restart_delay_ms: u64,
    /// The first pause of a growing one, which then takes the place of `restart_delay_ms`.
    pub exp_backoff_restart_delay_ms: Option<u64>,
    /// An instance that ended sooner was unstable.
    pub min_uptime_ms: u64,
    /// The number of unstable ends in a row after which an instance is given up.
    pub max_restarts: u32,
    /// The folder of the log files, one for each stream of each instance; see [`output_log`] and [`error_log`].
    pub log_dir: PathBuf,
}

/// How instances get their ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The variable that carries it.
    pub variable: String,
    /// The port of instance 0; instance `i` gets `first + i`.
    pub first: u16,
}

/// Ready when `GET path` on the instance's port, on loopback, answers 200.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpCheck {
    /// The path, with its slash.
    pub path: String,
}

/// The file that receives an instance's standard output.
pub fn output_log(log_dir: &Path, app: &str, instance: u32) -> PathBuf {
    log_file(log_dir, app, instance, "out")
}

/// The file that receives an instance's standard error.
pub fn error_log(log_dir: &Path, app: &str, instance: u32) -> PathBuf {
    log_file(log_dir, app, instance, "err")
}

fn log_file(log_dir: &Path, app: &str, instance: u32, stream: &str) -> PathBuf {
    // A slash, as in `@scope/app`, would lead to another folder.
    log_dir.join(format!("{}-{instance}.{stream}.log", app.replace('/', "-")))
}

impl Spec {
    /// Refuses what could only fail later, and less clearly.
    pub(super) fn validate(&self) -> Result<(), SupervisorError> {
        let mut names = BTreeSet::new();
        for app in &self.apps {
            let checked = app.check().and_then(|()| {
                if names.insert(&app.name) { Ok(()) } else { Err("the name is used twice".to_owned()) }
            });
            checked.map_err(|reason| SupervisorError::Spec { app: app.name.clone(), reason })?;
        }
        Ok(())
    }
}

impl AppSpec {
    /// The port of an instance: `None` when the app has none or they have run out.
    pub(super) fn port_of(&self, instance: u32) -> Option<u16> {
        self.port.as_ref()?.first.checked_add(u16::try_from(instance).ok()?)
    }

    /// Whether so many instances can be run.
    pub(super) fn check_instances(&self, instances: u32) -> Result<(), String> {
        if instances > INSTANCES_MAX {
            return Err(format!("{instances} instances are more than {INSTANCES_MAX}"));
        }
        match instances.checked_sub(1) {
            Some(last) if self.port.is_some() && self.port_of(last).is_none() => {
                Err(format!("there are not {instances} ports left for its instances"))
            }
            _ => Ok(()),
        }
    }

    /// What its state machine needs to know.
    pub(super) fn policy(&self) -> Policy {
        Policy {
            checked: self.ready.is_some(),
            kill_timeout: Duration::from_millis(self.kill_timeout_ms),
            listen_timeout: Duration::from_millis(self.listen_timeout_ms),
            restart_delay: Duration::from_millis(self.restart_delay_ms),
            backoff: self.exp_backoff_restart_delay_ms.map(Duration::from_millis),
            min_uptime: Duration::from_millis(self.min_uptime_ms),
            max_restarts: self.max_restarts,
        }
    }

    fn check(&self) -> Result<(), String> {
        if self.name.is_empty() || self.name.len() > 128 || self.name.contains('\0') {
            return Err("the name must be 1 to 128 bytes: log files are named after it".to_owned());
        }
        for (what, path) in
            [("program", &self.program), ("working folder", &self.cwd), ("log folder", &self.log_dir)]
        {
            if !path.is_absolute() {
                return Err(format!("the {what} {} is not an absolute path", path.display()));
            }
        }
        let port = self.port.as_ref().map(|port| &port.variable);
        for variable in self.env.keys().chain(port).chain([&self.instance_variable]) {
            if variable.is_empty() || variable.contains(['=', '\0']) {
                return Err(format!("{variable:?} cannot be the name of an environment variable"));
            }
        }
        if let Some(check) = &self.ready {
            if self.port.is_none() {
                return Err("a readiness check needs a port".to_owned());
            }
            if !check.path.starts_with('/') || check.path.parse::<hyper::Uri>().is_err() {
                return Err(format!("{:?} is no path to ask for", check.path));
            }
        }
        self.check_instances(self.instances)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app() -> AppSpec {
        AppSpec {
            name: "web".to_owned(),
            program: "/bin/true".into(),
            args: Vec::new(),
            cwd: "/".into(),
            env: BTreeMap::new(),
            instances: 2,
            port: Some(Port { variable: "PORT".to_owned(), first: 4000 }),
            instance_variable: "INSTANCE".to_owned(),
            ready: Some(HttpCheck { path: "/health".to_owned() }),
            kill_timeout_ms: 1600,
            listen_timeout_ms: 3000,
            restart_delay_ms: 0,
            exp_backoff_restart_delay_ms: None,
            min_uptime_ms: 1000,
            max_restarts: 16,
            log_dir: "/tmp".into(),
        }
    }

    fn refused(change: impl FnOnce(&mut AppSpec)) -> String {
        let mut app = app();
        change(&mut app);
        Spec { apps: vec![app] }.validate().unwrap_err().to_string()
    }

    #[test]
    fn what_could_only_fail_later_is_refused() {
        assert!(Spec { apps: vec![app()] }.validate().is_ok());
        assert!(refused(|a| a.name = "x".repeat(129)).contains("1 to 128 bytes"));
        assert!(refused(|a| a.program = "node".into()).contains("not an absolute path"));
        assert!(refused(|a| a.port = None).contains("needs a port"));
        assert!(refused(|a| a.instances = 70_000).contains("more than 1024"));
        assert!(refused(|a| a.port.as_mut().unwrap().first = 65_535).contains("not 2 ports"));
        assert!(refused(|a| drop(a.env.insert("A=B".to_owned(), String::new()))).contains("environment"));
        assert!(refused(|a| a.ready = Some(HttpCheck { path: "health".to_owned() })).contains("no path"));
        let twice = Spec { apps: vec![app(), app()] };
        assert!(twice.validate().unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn logs_stay_in_their_folder() {
        assert_eq!(output_log(Path::new("/l"), "../a", 1), Path::new("/l/..-a-1.out.log"));
    }

    #[test]
    fn ports_count_up_and_run_out() {
        let mut app = app();
        assert_eq!(app.port_of(3), Some(4003));
        app.port.as_mut().unwrap().first = 65_535;
        assert_eq!(app.port_of(0), Some(65_535));
        assert_eq!(app.port_of(1), None);
    }

    #[test]
    fn an_unknown_field_is_an_error() {
        let mut value = serde_json::to_value(Spec { apps: vec![app()] }).unwrap();
        assert!(serde_json::from_value::<Spec>(value.clone()).is_ok());
        value["apps"][0]["kill_timout_ms"] = 5.into();
        assert!(serde_json::from_value::<Spec>(value).unwrap_err().to_string().contains("kill_timout_ms"));
    }
}
