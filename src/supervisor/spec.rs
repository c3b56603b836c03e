//! What to supervise. A specification is complete: nothing in it is looked up or defaulted later.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{check::check, state::Policy};

/// A program and how to keep it running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppSpec {
    /// Unique; its log files are named after it.
    pub name: String,
    /// The group it belongs to, for selecting several apps at once.
    pub namespace: String,
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
    /// How its processes come by their sockets.
    pub mode: Mode,
    /// The port that instances are told, if any.
    pub port: Option<Port>,
    /// The variable that tells an instance its number, from 0.
    pub instance_variable: String,
    /// A variable of `env` that is a number, and of which each instance gets its own by adding its number.
    pub increment_variable: Option<String>,
    /// When a new process counts as ready.
    pub ready: Ready,
    /// Asked again and again while an instance is online.
    pub liveness: Option<Liveness>,
    /// How an instance is told to end.
    pub stop: Stop,
    /// What follows when an instance ends by itself.
    pub restart: Restart,
    /// How a reload and a change of scale go about it.
    pub reload: Reload,
    /// Whether starting everything starts this app.
    pub autostart: bool,
    /// As whom it runs; as the supervisor itself when absent.
    pub user: Option<User>,
    /// The most processes it may have, all its descendants counted.
    pub max_processes: Option<u32>,
    /// Where its output goes.
    pub logs: Logs,
}

/// How the processes of an app come by their sockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// They open their own. A reload has to stop each before the next starts.
    Fork,
    /// They are workers of Node's cluster module, and the supervisor is the primary: it holds the sockets.
    Cluster,
    /// They inherit listening sockets for these addresses (`8080`, `127.0.0.1:8080`, `[::1]:8080`, `unix:/path`) from
    /// the supervisor: `LISTEN_FDS`, `EINHORN_FDS`.
    Sockets(Vec<String>),
    /// They open their own, or so they believe: the kernel asks the supervisor at each bind and listen, which puts a
    /// socket of its own in its place.
    Transparent,
}

impl Mode {
    /// Whether a new process can serve beside the old one: the supervisor holds the sockets.
    pub fn overlaps(&self) -> bool {
        *self != Self::Fork
    }
}

/// How instances get their ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The variable that carries it.
    pub variable: String,
    /// The port of instance 0. In fork mode, and where the variable is counted up, instance `i` gets `first + i`;
    /// elsewhere all share this one.
    pub first: u16,
}

/// When a process counts as ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// What it must have done.
    pub when: ReadyWhen,
    /// Asked after that: it must answer 200.
    pub http: Option<HttpCheck>,
    /// How long it may take, ms. A start goes on beyond it, a reload fails.
    pub timeout_ms: u64,
}

/// What a process must have done to be ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadyWhen {
    /// Nothing but having been started.
    Spawned,
    /// Listen on a socket that the supervisor sees: cluster and transparent mode.
    Listening,
    /// Send `"ready"` over its IPC channel: Node's `process.send`.
    Message,
}

/// `GET path` on the instance's port, on loopback, answers 200.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpCheck {
    /// The path, with its slash.
    pub path: String,
}

/// A question to an instance that is online; one that does not answer is killed and replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Liveness {
    /// What to ask.
    pub http: HttpCheck,
    /// From one question to the next, ms.
    pub interval_ms: u64,
    /// How long an answer may take, ms.
    pub timeout_ms: u64,
    /// So many in a row must fail.
    pub failures: u32,
}

/// How an instance is told to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// From SIGINT to SIGKILL, ms.
    pub kill_timeout_ms: u64,
    /// Signals go to all of its tree; else to its first process only, and the rest is left alone.
    pub tree: bool,
    /// It is sent `"shutdown"` over its IPC channel instead of SIGINT.
    pub by_message: bool,
}

/// What follows when an instance ends by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restart {
    /// Whether it is started again at all.
    pub automatic: bool,
    /// The pause before, ms.
    pub delay_ms: u64,
    /// The first pause of a growing one, ms, which then takes the place of `delay_ms`.
    pub backoff_ms: Option<u64>,
    /// An instance that ended sooner was unstable, ms.
    pub min_uptime_ms: u64,
    /// The number of unstable ends in a row after which an instance is given up.
    pub max_unstable: u32,
    /// Exit codes after which it is left stopped.
    pub stop_exit_codes: Vec<i32>,
    /// It is restarted when its tree holds more than this, RSS.
    pub max_memory_bytes: Option<u64>,
    /// It is restarted at these times: five fields, or six with seconds first, of local time.
    pub cron: Option<String>,
}

/// How a reload and a change of scale go about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reload {
    /// So many instances are replaced at a time, at least 1.
    pub parallel: u32,
    /// Keep one booted process more in reserve, which takes the place of one that crashes. Cluster mode only.
    pub hot_spare: bool,
}

/// A user and group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// Where the output of an app goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logs {
    /// Of standard output; `None` discards it.
    pub out: Option<PathBuf>,
    /// Of standard error.
    pub err: Option<PathBuf>,
    /// Both together, besides.
    pub combined: Option<PathBuf>,
    /// All instances write to the same files; else each to its own, whose name has the instance's id before its ending.
    pub merge: bool,
    /// Each line begins with the time in this format (moment.js).
    pub date_format: Option<String>,
    /// Each line becomes a JSON object.
    pub json: bool,
    /// A file is put aside once it is longer, bytes.
    pub rotate_bytes: u64,
    /// So many are kept; older ones are removed.
    pub rotate_keep: u32,
    /// Those put aside are compressed.
    pub rotate_gzip: bool,
    /// A file is also put aside when an hour or a day ends, local time.
    pub rotate_every: Option<Interval>,
}

/// How often a log file is put aside by the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interval {
    /// At every full hour.
    Hourly,
    /// At midnight.
    Daily,
}

impl AppSpec {
    /// Refuses what could only fail later, and less clearly; the reason.
    ///
    /// # Errors
    /// When the specification makes no sense.
    pub fn validate(&self) -> Result<(), String> {
        check(self)
    }

    /// Whether all instances listen on one port. Not in fork mode, and not where each is to have a number of its own in
    /// the variable that carries the port.
    pub fn shares_port(&self) -> bool {
        let counted =
            self.port.as_ref().is_some_and(|port| self.increment_variable.as_ref() == Some(&port.variable));
        self.mode.overlaps() && !counted
    }

    /// The port of an instance: `None` when the app has none or they have run out.
    pub fn port_of(&self, instance: u32) -> Option<u16> {
        let port = self.port.as_ref()?;
        if self.shares_port() {
            return Some(port.first);
        }
        port.first.checked_add(u16::try_from(instance).ok()?)
    }

    /// Whether its processes get an IPC channel.
    pub(super) fn has_channel(&self) -> bool {
        self.mode == Mode::Cluster || self.ready.when == ReadyWhen::Message || self.stop.by_message
    }

    /// What its state machines need to know.
    pub(super) fn policy(&self) -> Policy {
        Policy {
            checked: self.ready.when != ReadyWhen::Spawned || self.ready.http.is_some(),
            kill_timeout: Duration::from_millis(self.stop.kill_timeout_ms),
            listen_timeout: Duration::from_millis(self.ready.timeout_ms),
            automatic: self.restart.automatic,
            stop_exit_codes: self.restart.stop_exit_codes.clone(),
            restart_delay: Duration::from_millis(self.restart.delay_ms),
            backoff: self.restart.backoff_ms.map(Duration::from_millis),
            min_uptime: Duration::from_millis(self.restart.min_uptime_ms),
            max_unstable: self.restart.max_unstable,
        }
    }
}

impl Logs {
    /// The file that an instance's lines go to: one for all of them, or with its id before the ending.
    pub fn file_of(&self, file: &Path, id: u32) -> PathBuf {
        if self.merge {
            return file.to_owned();
        }
        // As in PM2: a name that ends otherwise stays as it is, and is shared.
        if file.extension().is_none_or(|ending| ending != "log") {
            return file.to_owned();
        }
        let mut name = file.file_stem().unwrap_or_default().to_owned();
        name.push(format!("-{id}.log"));
        file.with_file_name(name)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::fixture::{server, sleeper},
        *,
    };

    fn with_port(first: u16) -> AppSpec {
        let mut app = server("/srv".as_ref(), 2);
        app.port = Some(Port { variable: "PORT".to_owned(), first });
        app
    }

    #[test]
    fn ports_count_up_and_run_out() {
        let app = with_port(65_534);
        assert_eq!((0..3).map(|i| app.port_of(i)).collect::<Vec<_>>(), [Some(65_534), Some(65_535), None]);
        assert_eq!(app.port_of(70_000), None);
        assert_eq!(sleeper("/srv".as_ref()).port_of(0), None);
    }

    #[test]
    fn where_the_supervisor_holds_the_sockets_one_port_is_for_all() {
        for mode in [Mode::Cluster, Mode::Transparent, Mode::Sockets(vec!["8080".to_owned()])] {
            let mut app = AppSpec { mode, ..with_port(4000) };
            assert!(app.mode.overlaps() && app.shares_port());
            assert_eq!(app.port_of(3), Some(4000));
            app.increment_variable = Some("OTHER".to_owned());
            assert_eq!(app.port_of(3), Some(4000));
            app.increment_variable = Some("PORT".to_owned());
            assert_eq!(app.port_of(3), Some(4003));
        }
        assert!(!with_port(4000).shares_port());
    }

    #[test]
    fn a_channel_is_for_those_who_speak_over_it() {
        let mut app = sleeper("/srv".as_ref());
        assert!(!app.has_channel() && !app.policy().checked);
        app.stop.by_message = true;
        assert!(app.has_channel() && !app.policy().checked);
        app.stop.by_message = false;
        app.ready.when = ReadyWhen::Message;
        assert!(app.has_channel() && app.policy().checked);
        let cluster = AppSpec { mode: Mode::Cluster, ..sleeper("/srv".as_ref()) };
        assert!(cluster.has_channel() && !cluster.policy().checked);
        assert!(with_port(4000).policy().checked, "it is asked over HTTP");
    }

    #[test]
    fn files_of_instances_are_named_as_pm2_names_them() {
        let mut logs = sleeper("/srv".as_ref()).logs;
        let mut file = |merge, path: &str| {
            logs.merge = merge;
            logs.file_of(path.as_ref(), 7).display().to_string()
        };
        assert_eq!(file(false, "/l/web-out.log"), "/l/web-out-7.log");
        assert_eq!(file(true, "/l/web-out.log"), "/l/web-out.log");
        assert_eq!(file(false, "/l/a.b.log"), "/l/a.b-7.log");
        // What ends otherwise is one file for all.
        for path in ["/l/web.txt", "/l/web", "/dev/stdout", "/l/web.log.old"] {
            assert_eq!(file(false, path), path);
        }
    }

    #[test]
    fn an_unknown_field_is_an_error() {
        let mut value = serde_json::to_value(with_port(4000)).unwrap();
        assert_eq!(serde_json::from_value::<AppSpec>(value.clone()).unwrap(), with_port(4000));
        value["stop"]["kill_timout_ms"] = 5.into();
        assert!(serde_json::from_value::<AppSpec>(value).unwrap_err().to_string().contains("kill_timout_ms"));
    }
}
