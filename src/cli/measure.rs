//! What `collect`, `validate` and `parity` share: the configuration, the overrides, the context of a session.

use std::{
    hash::{BuildHasher as _, Hasher as _},
    io::IsTerminal as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{CliError, interrupt, tell};
use crate::{
    config::{self, Config},
    model::{settings::LoadSettings, target::Target, units::parse_duration},
    report::progress,
    runtime::cleanup,
    session::Context,
};

/// The workload to measure.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct WorkloadArgs {
    /// The description of the workload
    #[arg(short, long, value_name = "FILE", default_value = "qbench.toml")]
    pub(super) config: PathBuf,
}

/// How hard and how long; each stands over the configuration's own value.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct LoadArgs {
    /// Restarted, interleaved rounds: how many `collect` measures (10), and after how many `validate` gives up (40);
    /// an interval of 95% needs at least 6
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(super) epochs: Option<u32>,
    /// The measured window of an epoch, shared by its arms: 20s, 1m
    #[arg(long, value_name = "TIME", value_parser = duration)]
    window: Option<Duration>,
    /// Requests per second, open loop
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// At most ten epochs of five seconds: a first look in two minutes
    #[arg(long)]
    quick: bool,
    /// After each window, time a reload and a restart of every arm, until every endpoint answers
    #[arg(long)]
    times: bool,
    /// After each window, search the highest rate of every arm with p99 below this and no failed request: 50ms
    #[arg(long, value_name = "P99", value_parser = duration)]
    throughput: Option<Duration>,
    /// The seed of the random orders
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

impl LoadArgs {
    /// The settings in force.
    fn over(&self, load: LoadSettings) -> Result<LoadSettings, CliError> {
        let quick = self.quick.then_some((10, Duration::from_secs(5), Duration::from_secs(1)));
        let settings = LoadSettings {
            epochs: self.epochs.or(quick.map(|(epochs, _, _)| epochs)).or(load.epochs),
            window: self.window.or(quick.map(|(_, window, _)| window)).unwrap_or(load.window),
            warmup: quick.map_or(load.warmup, |(_, _, warmup)| warmup),
            rate_per_second: self.rate.unwrap_or(load.rate_per_second),
            times: self.times || load.times,
            throughput_p99: self.throughput.or(load.throughput_p99),
            ..load
        };
        if settings.window < settings.slot * 4 {
            return Err(CliError::usage(
                "the window has no room for a slot of each of four arms",
                format!("make it at least {:?}, or the slot shorter in the configuration", settings.slot * 4),
            ));
        }
        Ok(settings)
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(random)
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let longest = Duration::from_secs(3600);
    parse_duration(text)
        .filter(|duration| !duration.is_zero() && *duration <= longest)
        .ok_or_else(|| "not a time up to 1h with its unit, such as 500ms, 20s or 1m".to_owned())
}

/// As [`duration`], up to a day.
pub(super) fn long_duration(text: &str) -> Result<Duration, String> {
    let longest = Duration::from_secs(24 * 3600);
    parse_duration(text)
        .filter(|duration| !duration.is_zero() && *duration <= longest)
        .ok_or_else(|| "not a time up to 24h with its unit, such as 90s, 10m or 1h".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| *rate > 0.0 && *rate <= 1e6);
    rate.ok_or_else(|| "not a number of requests per second above 0 and up to 1000000".to_owned())
}

/// A configuration read and a session ready to begin.
pub(super) struct Prepared {
    pub(super) config: Config,
    pub(super) context: Context,
}

/// Reads the configuration, clears what a killed run left, and makes the session's context.
pub(super) async fn prepare(workload: &WorkloadArgs, load: Option<&LoadArgs>) -> Result<Prepared, CliError> {
    let own_executable = own_executable()?;
    let config = config::load(&workload.config, &own_executable)?;
    for note in &config.notes {
        tell(&format!("note: {note}"));
    }
    let settings = load.map_or(Ok(config.load), |load| load.over(config.load))?;
    match cleanup::clear_orphans().await {
        Ok(cleared) => {
            for session in cleared {
                tell(&format!("note: cleared what a killed run had left: {session}"));
            }
        }
        // It is in nobody's way: what is left has ports and names of its own.
        Err(error) => tell(&format!("warning: what a killed run has left cannot be cleared: {error}")),
    }
    let context = Context {
        workload: Arc::new(config.workload.clone()),
        requests_digest: config.requests_digest.clone(),
        load: settings,
        thresholds: config.thresholds.clone(),
        own_executable,
        stop: interrupt::watch()?,
        events: progress::sink(std::io::stderr().is_terminal()),
    };
    Ok(Prepared { config, context })
}

/// The configuration named, or the one that lies here, or none.
pub(super) fn configuration(path: Option<&Path>) -> Result<Option<Config>, CliError> {
    const HERE: &str = "qbench.toml";
    match path {
        Some(path) => Ok(Some(config::load(path, &own_executable()?)?)),
        None if Path::new(HERE).exists() => Ok(Some(config::load(Path::new(HERE), &own_executable()?)?)),
        None => Ok(None),
    }
}

/// The target of that name.
pub(super) fn target(config: &Config, name: &str) -> Result<Target, CliError> {
    config.target(name).ok_or_else(|| {
        let mut names: Vec<&str> = config.targets.iter().map(|target| target.name.as_str()).collect();
        names.extend(["bare", "builtin", "pm2", "docker"]);
        names.sort_unstable();
        names.dedup();
        CliError::usage(format!("unknown target `{name}`"), format!("known: {}", names.join(", ")))
    })
}

/// This program's own file, for the demo workload and the supervisor.
pub(super) fn own_executable() -> Result<PathBuf, CliError> {
    std::env::current_exe()
        .map_err(|e| CliError::environment(format!("cannot find the program's own file: {e}")))
}

/// A new session's identifier and start: `20261123T231433Z-1a2b` and RFC 3339.
pub(super) fn new_session() -> (String, String) {
    let now = jiff::Timestamp::now();
    let started_at = rfc3339(now);
    (format!("{}-{:04x}", now.strftime("%Y%m%dT%H%M%SZ"), random() & 0xffff), started_at)
}

/// RFC 3339, UTC.
pub(super) fn now() -> String {
    rfc3339(jiff::Timestamp::now())
}

fn rfc3339(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// How long ago a session started, in seconds, by the clock of this machine.
pub(super) fn age_s(started_at: &str) -> Option<f64> {
    let started: jiff::Timestamp = started_at.parse().ok()?;
    Some(jiff::Timestamp::now().duration_since(started).as_secs_f64())
}

/// Random enough to tell sessions apart: the standard library keys its hash maps from the system's randomness.
fn random() -> u64 {
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// The name of a file in a session's report folder.
pub(super) fn report_path(reports: &Path, session: &str, file: &str) -> PathBuf {
    reports.join(session).join(file)
}
