//! `[load]` and `[target.NAME]`.

use std::time::Duration;

use super::{
    document::{Field, Section},
    error::{ConfigError, listed},
    names::check_file_name,
    workload,
};
use crate::model::{
    load::Precision,
    settings::{ConnectionUse, LoadSettings},
    target::{DockerOptions, NetworkPath, ReloadStrategy, RuntimeKind, Target},
};

/// Keys of `[load]`.
pub(super) const LOAD_KEYS: [&str; 12] = [
    "rate",
    "window",
    "warmup",
    "slot",
    "epochs",
    "connections",
    "connection",
    "timeout",
    "ready_timeout",
    "precision",
    "times",
    "throughput_p99",
];
/// Keys of `[target.NAME]`.
pub(super) const TARGET_KEYS: [&str; 6] = ["runtime", "reload", "network", "before_build", "program", "env"];

/// The least duration that is not zero.
const ABOVE_ZERO: Duration = Duration::from_nanos(1);
const MOST_PER_SECOND: f64 = 1e6;

/// Reads `[load]` over the defaults.
pub(super) fn load(section: Option<&Section<'_, '_>>) -> Result<LoadSettings, ConfigError> {
    let mut load = LoadSettings::default();
    let Some(section) = section else { return Ok(load) };
    let above_zero = |field: &Field<'_, '_>| field.duration(ABOVE_ZERO);
    if let Some(rate) = section.optional("rate", rate)? {
        load.rate_per_second = rate;
    }
    if let Some(window) = section.optional("window", above_zero)? {
        load.window = window;
    }
    if let Some(warmup) = section.optional("warmup", |field| field.duration(Duration::ZERO))? {
        load.warmup = warmup;
    }
    // A slot shorter than this would measure little but the change of arms.
    if let Some(slot) = section.optional("slot", |field| field.duration(Duration::from_millis(10)))? {
        load.slot = slot;
    }
    if let Some(epochs) = section.optional("epochs", |field| field.integer(1, 200))? {
        load.epochs = Some(epochs as u32);
    }
    if let Some(connections) = section.optional("connections", |field| field.integer(1, 10_000))? {
        load.connections = connections as u32;
    }
    if let Some(connection_use) = section.optional("connection", connection_use)? {
        load.connection_use = connection_use;
    }
    if let Some(timeout) = section.optional("timeout", above_zero)? {
        load.timeout = timeout;
    }
    if let Some(ready_timeout) = section.optional("ready_timeout", above_zero)? {
        load.ready_timeout = ready_timeout;
    }
    if let Some(precision) = section.optional("precision", precision)? {
        load.precision = precision;
    }
    if let Some(times) = section.optional("times", Field::boolean)? {
        load.times = times;
    }
    load.throughput_p99 = section.optional("throughput_p99", above_zero)?;
    if load.slot > load.window {
        let message = format!("a slot of {:?} does not fit into a window of {:?}", load.slot, load.window);
        let field = section.field("slot").or_else(|| section.field("window"));
        let error =
            field.map_or_else(|| section.error(message.clone()), |field| field.error(message.clone()));
        return Err(error.help("make `slot` shorter or `window` longer"));
    }
    Ok(load)
}

/// Requests per second.
pub(super) fn rate(field: &Field<'_, '_>) -> Result<f64, ConfigError> {
    let rate = field.number()?;
    if rate <= 0.0 {
        return Err(field.error("`rate` must be more than zero").help("it counts requests per second"));
    }
    if rate > MOST_PER_SECOND {
        return Err(field.error("`rate` must be at most 1000000").help("it counts requests per second"));
    }
    Ok(rate)
}

/// Whether connections are used again.
pub(super) fn connection_use(field: &Field<'_, '_>) -> Result<ConnectionUse, ConfigError> {
    field.choice(&[("keep-alive", ConnectionUse::KeepAlive), ("per-request", ConnectionUse::PerRequest)])
}

fn precision(field: &Field<'_, '_>) -> Result<Precision, ConfigError> {
    field.choice(&[("eco", Precision::Eco), ("balanced", Precision::Balanced), ("exact", Precision::Exact)])
}

/// Reads every `[target.NAME]`, in the order of the file.
pub(super) fn targets(field: Option<&Field<'_, '_>>) -> Result<Vec<Target>, ConfigError> {
    field.map_or(Ok(Vec::new()), |field| field.entries()?.iter().map(target).collect())
}

fn target(field: &Field<'_, '_>) -> Result<Target, ConfigError> {
    let name = field.key();
    check_file_name(name).map_err(|problem| field.key_error(format!("the target's name {problem}")))?;
    let section = field.section(&TARGET_KEYS)?;
    let names = RuntimeKind::ALL.map(|kind| (kind.name(), kind));
    let runtime = match section.field("runtime") {
        Some(runtime) => runtime.choice(&names)?,
        None => name.parse().map_err(|()| {
            field
                .key_error(format!("target `{name}` does not say its runtime"))
                .help(format!("add `runtime = \"…\"`, one of {}", listed(names.map(|(name, _)| name))))
        })?,
    };
    let mut target = Target { name: name.to_owned(), ..Target::of(runtime) };
    for (key, only) in [
        ("reload", RuntimeKind::Docker),
        ("network", RuntimeKind::Docker),
        ("before_build", RuntimeKind::Docker),
        ("program", RuntimeKind::Pm2),
    ] {
        if let Some(field) = section.field(key).filter(|_| runtime != only) {
            return Err(field
                .key_error(format!("`{key}` has no meaning on {runtime}"))
                .help(format!("it is an option of {only} targets")));
        }
    }
    target.docker = DockerOptions {
        reload: section
            .optional("reload", |field| {
                field.choice(&[("restart", ReloadStrategy::Restart), ("recreate", ReloadStrategy::Recreate)])
            })?
            .unwrap_or_default(),
        network: section
            .optional("network", |field| {
                field.choice(&[("published", NetworkPath::Published), ("host", NetworkPath::Host)])
            })?
            .unwrap_or_default(),
    };
    target.env = section.optional("env", workload::variables)?.unwrap_or_default();
    target.before_build = section.optional("before_build", Field::texts)?;
    target.pm2_program = section.optional("program", |field| {
        let program = field.document().folder().join(field.text()?);
        let program = std::path::absolute(&program).unwrap_or(program);
        if !program.is_file() {
            return Err(field
                .error(format!("{} does not exist", program.display()))
                .help("give the path of a `pm2` program, or leave `program` out to use the one on PATH"));
        }
        Ok(program)
    })?;
    Ok(target)
}
