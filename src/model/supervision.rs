//! How an app is kept running: the keys of an ecosystem file that a supervisor acts on, with PM2's defaults.

use std::{path::PathBuf, time::Duration};

use super::units::Bytes;

/// How an instance is told to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// From SIGINT to SIGKILL; PM2's default is 1600 ms.
    pub kill_timeout: Duration,
    /// How often PM2 looks whether it has ended; PM2's default is 100 ms.
    pub kill_retry_time: Duration,
    /// Signals go to all of its tree, which is PM2's default; else to its first process only.
    pub tree: bool,
    /// It is sent `"shutdown"` over its IPC channel instead of SIGINT.
    pub by_message: bool,
}

impl Default for Stop {
    fn default() -> Self {
        Self {
            kill_timeout: Duration::from_millis(1600),
            kill_retry_time: Duration::from_millis(100),
            tree: true,
            by_message: false,
        }
    }
}

/// What follows when an instance ends by itself, and what makes it restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Whether it is started again at all; PM2's default is yes.
    pub automatic: bool,
    /// The pause before a restart.
    pub delay: Duration,
    /// First pause of a growing backoff, when set; it takes the place of `delay`.
    pub backoff: Option<Duration>,
    /// A process that lived shorter than this was unstable; PM2's default is 1000 ms.
    pub min_uptime: Duration,
    /// Unstable ends before giving up; PM2's default is 16.
    pub max_unstable: u32,
    /// Exit codes after which it is left stopped.
    pub stop_exit_codes: Vec<i32>,
    /// It is restarted when it holds more memory than this.
    pub max_memory: Option<Bytes>,
    /// It is restarted at these times: five fields, or six with seconds first, of local time.
    pub cron: Option<String>,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            automatic: true,
            delay: Duration::ZERO,
            backoff: None,
            min_uptime: Duration::from_secs(1),
            max_unstable: 16,
            stop_exit_codes: Vec::new(),
            max_memory: None,
            cron: None,
        }
    }
}

/// Where one stream of output goes, or a pid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// To the supervisor's own folder, into a file named after the app.
    #[default]
    Default,
    /// Nowhere.
    Off,
    /// To this file, absolute; its folder need not exist.
    File(PathBuf),
}

/// Where the output of an app goes, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logs {
    /// Standard output: by default `<stem>-out.log`.
    pub out: Output,
    /// Standard error: by default `<stem>-error.log`.
    pub err: Output,
    /// Both together, besides: off unless asked for, by default then `<stem>.log`.
    pub combined: Output,
    /// The pid of each instance: by default `<stem>-<id>.pid`.
    pub pid: Output,
    /// All instances write to the same files. Else each to its own: PM2 puts `-<id>` before the ending `.log`, and
    /// leaves a name that ends otherwise as it is.
    pub merge: bool,
    /// Each line begins with the time in this format, as moment.js has it.
    pub date_format: Option<String>,
    /// Each line becomes a JSON object.
    pub json: bool,
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            out: Output::Default,
            err: Output::Default,
            combined: Output::Off,
            pid: Output::Default,
            merge: true,
            date_format: None,
            json: false,
        }
    }
}

/// A user and group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// Which variables of the supervisor's own environment an app does not get. Those of the app itself stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FilterEnv {
    /// It gets all of them.
    #[default]
    Nothing,
    /// The one of this name.
    Named(String),
    /// Those with one of these texts anywhere in their names.
    Containing(Vec<String>),
}

impl FilterEnv {
    /// Whether the app does not get this variable.
    pub fn removes(&self, variable: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Named(name) => name == variable,
            Self::Containing(parts) => parts.iter().any(|part| variable.contains(part.as_str())),
        }
    }
}

/// What an app asks for under the key `qbench`: what PM2 has no key for, and ignores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Additions {
    /// Addresses of the sockets that instances inherit: `8080`, `127.0.0.1:8080`, `[::1]:8080`, `unix:/path`.
    pub listen: Vec<String>,
    /// Sockets are put in the place of those that an instance binds itself.
    pub transparent: bool,
    /// The path that must answer 200 before an instance counts as ready.
    pub health: Option<String>,
    /// Asked again and again while an instance is online.
    pub liveness: Option<Liveness>,
    /// So many instances are replaced at a time, at least 1; by default as PM2 does it: one by one where there are
    /// no more than two, else two.
    pub reload_parallel: u32,
    /// One booted process more is kept in reserve.
    pub hot_spare: bool,
    /// The most processes it may have, all its descendants counted.
    pub max_processes: Option<u32>,
    /// When its log files are put aside.
    pub rotate: Rotate,
}

impl Default for Additions {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            transparent: false,
            health: None,
            liveness: None,
            reload_parallel: 1,
            hot_spare: false,
            max_processes: None,
            rotate: Rotate::default(),
        }
    }
}

/// A question to an instance that is online; one that does not answer is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// The path that must answer 200.
    pub path: String,
    /// From one question to the next; by default 10 s.
    pub interval: Duration,
    /// How long an answer may take; by default 1 s.
    pub timeout: Duration,
    /// So many in a row must fail; by default 3.
    pub failures: u32,
}

/// When log files are put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotate {
    /// A file is put aside once it is longer; by default 50 MiB.
    pub max_size: Bytes,
    /// So many are kept; by default 7.
    pub keep: u32,
    /// Those put aside are compressed; by default they are.
    pub gzip: bool,
    /// A file is also put aside when one of these ends.
    pub every: Option<Every>,
}

/// A time after which log files are put aside, by the clock on the wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    /// An hour.
    Hour,
    /// A day.
    Day,
}

impl Default for Rotate {
    fn default() -> Self {
        Self { max_size: Bytes(50 << 20), keep: 7, gzip: true, every: None }
    }
}
