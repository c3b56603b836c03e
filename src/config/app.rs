//! An app of an ecosystem file as PM2 would run it: its defaults filled in, its programs found.
//!
//! No error here repeats a value of the file but names of programs and paths: the rest may be secret.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    thread,
};

use serde_json::Value;

use super::{
    app_additions,
    app_cron::has_form_of_cron,
    app_logs,
    app_notes::in_vain,
    app_program, app_user,
    app_values::{Values, number_in},
    ecosystem::Block,
    error::{ConfigError, listed},
    names::is_variable,
    spelling::nearest,
};
use crate::model::{
    supervision::{FilterEnv, Restart, Stop},
    workload::{App, ExecMode},
};

/// More processes than this are a slip of the keyboard.
const MOST_INSTANCES: i64 = 256;

/// What an app is resolved against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings<'a> {
    /// The ecosystem file, for messages.
    pub shown_as: &'a Path,
    /// Its folder, absolute.
    pub folder: &'a Path,
    /// The `env_NAME` to merge over `env`.
    pub environment: Option<&'a str>,
    /// `deploy` of the file, which has variables, too.
    pub deploy: Option<&'a Value>,
    /// What the script `qbench` means.
    pub own_executable: &'a Path,
}

/// Resolves an app; the texts are warnings.
pub(super) fn resolve(
    block: &Block,
    surroundings: &Surroundings<'_>,
) -> Result<(App, Vec<String>), ConfigError> {
    let values = Values { block, shown_as: surroundings.shown_as };
    let in_vain = in_vain(block);
    let mut notes = in_vain.notes;
    let cwd = cwd(&values, surroundings.folder)?;
    let command = app_program::resolve(&values, &cwd, surroundings.own_executable, &mut notes)?;
    let interpreter = command.interpreter.as_deref();
    let declared = values.instances()?;
    let instances = instances(&values, declared.unwrap_or(1))?;
    let exec_mode = exec_mode(&values, declared, interpreter)?;
    if exec_mode == ExecMode::Cluster && !is_node(interpreter) {
        notes.push(format!("app `{}` asks for cluster mode, which PM2 has only for Node", block.name));
    }
    let account = app_user::read(&values, &mut notes)?;
    let home = account.as_ref().and_then(|account| account.home.as_deref());
    let mut env = environment(&values, surroundings, home, interpreter)?;
    let increment_variable = increment_variable(&values, &mut env, &mut notes)?;
    note_zeros(block, &mut notes);
    let app = App {
        name: name(&values, surroundings.environment)?,
        namespace: values.text("namespace")?.unwrap_or("default").to_owned(),
        logs: app_logs::read(&values, &cwd, &mut notes)?,
        program: command.program,
        args: command.args,
        script: command.script,
        is_binary: command.interpreter.is_none(),
        cwd,
        filter_env: filter_env(&values)?,
        port: env.get("PORT").and_then(|port| port.parse().ok()).filter(|port| *port > 0),
        env,
        instances,
        exec_mode,
        instance_variable: variable(&values, "instance_var")?.unwrap_or("NODE_APP_INSTANCE").to_owned(),
        increment_variable,
        user: account.map(|account| account.user),
        autostart: values.flag("autostart", true)?,
        wait_ready: values.flag("wait_ready", false)?,
        listen_timeout: values.milliseconds("listen_timeout", Some(3000))?.unwrap_or_default(),
        stop: stop(&values)?,
        restart: restart(&values)?,
        additions: app_additions::read(&values, exec_mode, instances)?,
        raw: block.raw.clone(),
        not_applied: in_vain.bare,
        not_applied_by_builtin: in_vain.builtin,
    };
    Ok((app, notes))
}

/// The names of the environments an app has blocks for.
pub(super) fn environments(block: &Block) -> impl Iterator<Item = &str> {
    block.keys.keys().filter_map(|key| key.strip_prefix("env_"))
}

fn cwd(values: &Values<'_>, folder: &Path) -> Result<PathBuf, ConfigError> {
    let cwd = within(folder, values.text("cwd")?.unwrap_or("."));
    if !cwd.is_dir() {
        let message = format!("`cwd` of app `{}` is no folder: {}", values.block.name, cwd.display());
        return Err(values.error(message).help("it is looked for relative to the ecosystem file"));
    }
    Ok(cwd)
}

fn name(values: &Values<'_>, environment: Option<&str>) -> Result<String, ConfigError> {
    let name = &values.block.name;
    Ok(match environment {
        Some(environment) if values.flag("append_env_to_name", false)? => format!("{name}-{environment}"),
        _ => name.clone(),
    })
}

fn stop(values: &Values<'_>) -> Result<Stop, ConfigError> {
    Ok(Stop {
        kill_timeout: values.milliseconds("kill_timeout", Some(1600))?.unwrap_or_default(),
        kill_retry_time: values.milliseconds("kill_retry_time", Some(100))?.unwrap_or_default(),
        tree: values.flag("treekill", true)?,
        by_message: values.flag("shutdown_with_message", false)?,
    })
}

fn restart(values: &Values<'_>) -> Result<Restart, ConfigError> {
    Ok(Restart {
        automatic: values.flag("autorestart", true)?,
        delay: values.milliseconds("restart_delay", None)?.unwrap_or_default(),
        backoff: values.milliseconds("exp_backoff_restart_delay", None)?,
        min_uptime: values.uptime("min_uptime", 1000)?,
        max_unstable: values.count("max_restarts", 16)?,
        stop_exit_codes: values.exit_codes("stop_exit_codes")?,
        max_memory: values.bytes("max_memory_restart")?,
        cron: cron(values)?,
    })
}

fn cron(values: &Values<'_>) -> Result<Option<String>, ConfigError> {
    let text = match values.value("cron_restart") {
        Some(Value::Number(_)) => None,
        _ => match values.text("cron_restart")? {
            // PM2's way of saying "none".
            None | Some("0") => return Ok(None),
            text => text,
        },
    };
    text.filter(|text| has_form_of_cron(text)).map(|text| Some(text.to_owned())).ok_or_else(|| {
        values
            .wrong(
                "cron_restart",
                "five fields: minute, hour, day, month and weekday, or six with seconds first",
            )
            .help("for example \"0 3 * * *\" for each day at 3, or \"*/30 * * * * *\" for each half minute")
    })
}

fn exec_mode(
    values: &Values<'_>,
    instances: Option<i64>,
    interpreter: Option<&str>,
) -> Result<ExecMode, ConfigError> {
    // PM2 takes any number of instances of a Node app, even 1, for a wish to have a cluster.
    Ok(values.declared_mode()?.unwrap_or(match instances {
        Some(count) if count >= -1 && is_node(interpreter) => ExecMode::Cluster,
        _ => ExecMode::Fork,
    }))
}

fn is_node(interpreter: Option<&str>) -> bool {
    interpreter.is_some_and(|name| name.ends_with("node") || name.ends_with("bun"))
}

fn instances(values: &Values<'_>, declared: i64) -> Result<u32, ConfigError> {
    let cpus = thread::available_parallelism().map_or(1, |count| i64::try_from(count.get()).unwrap_or(1));
    let count = if declared <= 0 { declared.saturating_add(cpus).max(1) } else { declared };
    if count > MOST_INSTANCES {
        return Err(values.wrong("instances", &format!("at most {MOST_INSTANCES}")));
    }
    Ok(count as u32)
}

/// The variables in PM2's order: each source goes over those before it.
fn environment(
    values: &Values<'_>,
    surroundings: &Surroundings<'_>,
    home: Option<&str>,
    interpreter: Option<&str>,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut env = values.variables("env")?;
    env.extend(home.map(|home| ("HOME".to_owned(), home.to_owned())));
    if let Some(port) = values.value("port").filter(|port| port.as_str() != Some("")) {
        let port = number_in(port).filter(|port| port.fract() == 0.0 && (1.0..=65_535.0).contains(port));
        let port = port.ok_or_else(|| values.wrong("port", "a number from 1 to 65535"))?;
        env.insert("PORT".to_owned(), (port as u16).to_string());
    }
    if interpreter.is_some_and(|name| name.contains("python")) {
        // PM2 sets it, so that the other runtimes have to, too.
        env.insert("PYTHONUNBUFFERED".to_owned(), "1".to_owned());
    }
    if let Some(chosen) = surroundings.environment {
        // PM2 means to lay these beneath `env`, and lays them over it.
        let deployed = surroundings.deploy.and_then(|deploy| deploy.get(chosen)?.get("env"));
        env.extend(values.variables_in(deployed.filter(|env| !env.is_null()), "deploy.….env")?);
        env.extend(values.variables(&format!("env_{chosen}"))?);
    }
    Ok(env)
}

fn filter_env(values: &Values<'_>) -> Result<FilterEnv, ConfigError> {
    match values.value("filter_env") {
        // PM2 documents it, and lets everything through; the user is told.
        Some(Value::Bool(true)) => Ok(FilterEnv::Nothing),
        Some(Value::String(name)) if !name.is_empty() => Ok(FilterEnv::Named(name.clone())),
        _ => {
            let parts: Vec<String> =
                values.texts("filter_env")?.into_iter().filter(|part| !part.is_empty()).collect();
            Ok(if parts.is_empty() { FilterEnv::Nothing } else { FilterEnv::Containing(parts) })
        }
    }
}

fn variable<'a>(values: &Values<'a>, key: &str) -> Result<Option<&'a str>, ConfigError> {
    let name = values.text(key)?;
    if name.is_some_and(|name| !is_variable(name)) {
        return Err(values.wrong(key, "the name of an environment variable"));
    }
    Ok(name)
}

/// Makes the variable a number, which PM2 counts on from.
fn increment_variable(
    values: &Values<'_>,
    env: &mut BTreeMap<String, String>,
    notes: &mut Vec<String>,
) -> Result<Option<String>, ConfigError> {
    let Some(name) = variable(values, "increment_var")? else { return Ok(None) };
    let first = env.get(name).map(|text| text.trim().parse::<i64>());
    if matches!(first, Some(Err(_))) {
        let app = &values.block.name;
        notes.push(format!(
            "the `increment_var` of app `{app}` is no whole number in its `env`; it is counted from 0"
        ));
    }
    let first = first.and_then(Result::ok).unwrap_or_default();
    env.insert(name.to_owned(), first.to_string());
    Ok(Some(name.to_owned()))
}

/// PM2 takes a zero for a key that is not there, which is not what who wrote it meant.
fn note_zeros(block: &Block, notes: &mut Vec<String>) {
    let instead = [
        ("kill_timeout", "the shortest is 1"),
        ("listen_timeout", "the shortest is 1"),
        ("min_uptime", "the shortest is 1"),
        (
            "max_restarts",
            "a zero in quotes gives up at the first unstable end, and `autorestart` turns restarts off",
        ),
        ("stop_exit_codes", "put it into a list"),
    ];
    for (key, instead) in instead {
        if block.keys.get(key).and_then(Value::as_f64) == Some(0.0) {
            let app = &block.name;
            notes.push(format!("`{key}` of app `{app}` is zero, which PM2 takes for its default; {instead}"));
        }
    }
}

/// Finds the block of a service, or says what there is.
pub(super) fn find<'b>(blocks: &'b [Block], name: &str) -> Result<&'b Block, (String, String)> {
    blocks.iter().find(|block| block.name == name).ok_or_else(|| {
        let names = || blocks.iter().map(|block| block.name.as_str());
        let meant =
            nearest(name, names()).map(|meant| format!("did you mean `{meant}`? ")).unwrap_or_default();
        (format!("no app is named `{name}`"), format!("{meant}its apps are {}", listed(names())))
    })
}

/// A value of `env` as PM2 hands it to a process.
pub(super) fn variable_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A path relative to a folder, without `.` in it. Links stay: a deployment may move one to the next release.
pub(super) fn within(folder: &Path, path: &str) -> PathBuf {
    let joined = folder.join(path);
    std::path::absolute(&joined).unwrap_or(joined)
}
