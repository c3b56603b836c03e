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
    app_keys::{KNOWN, not_applied, unknown},
    app_program,
    app_values::Values,
    ecosystem::Block,
    error::{ConfigError, listed},
    spelling::nearest,
};
use crate::model::workload::{App, ExecMode};

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
    /// What the script `qbench` means.
    pub own_executable: &'a Path,
}

/// Resolves an app; the texts are warnings.
pub(super) fn resolve(
    block: &Block,
    surroundings: &Surroundings<'_>,
) -> Result<(App, Vec<String>), ConfigError> {
    let values = Values { block, shown_as: surroundings.shown_as };
    let mut notes = notes_on_keys(block);
    let cwd = within(surroundings.folder, values.text("cwd")?.unwrap_or("."));
    if !cwd.is_dir() {
        let message = format!("`cwd` of app `{}` is no folder: {}", block.name, cwd.display());
        return Err(ConfigError::new(message)
            .in_file(surroundings.shown_as)
            .help("it is looked for relative to the ecosystem file"));
    }
    let command = app_program::resolve(&values, &cwd, surroundings.own_executable, &mut notes)?;
    let declared = values.instances()?;
    let exec_mode = exec_mode(&values, declared, command.interpreter.as_deref())?;
    if exec_mode == ExecMode::Cluster && !is_node(command.interpreter.as_deref()) {
        notes.push(format!("app `{}` asks for cluster mode, which PM2 has only for Node", block.name));
    }
    let mut env = environment(&values, surroundings.environment)?;
    if command.interpreter.as_deref().is_some_and(|name| name.contains("python")) {
        // PM2 sets it, so that the other runtimes have to, too.
        env.insert("PYTHONUNBUFFERED".to_owned(), "1".to_owned());
    }
    let app = App {
        program: command.program,
        args: command.args,
        script: command.script,
        is_binary: command.interpreter.is_none(),
        cwd,
        env,
        instances: instances(&values, declared.unwrap_or(1))?,
        exec_mode,
        instance_variable: values.text("instance_var")?.unwrap_or("NODE_APP_INSTANCE").to_owned(),
        kill_timeout: values.milliseconds("kill_timeout", Some(1600))?.unwrap_or_default(),
        listen_timeout: values.milliseconds("listen_timeout", Some(3000))?.unwrap_or_default(),
        restart_delay: values.milliseconds("restart_delay", None)?.unwrap_or_default(),
        exp_backoff_restart_delay: values
            .milliseconds("exp_backoff_restart_delay", None)?
            .filter(|delay| !delay.is_zero()),
        min_uptime: values.uptime("min_uptime", 1000)?,
        max_restarts: values.count("max_restarts", 16)?,
        raw: block.raw.clone(),
        not_applied: not_applied(&block.keys),
    };
    values.bytes("max_memory_restart")?;
    Ok((app, notes))
}

/// The names of the environments an app has blocks for.
pub(super) fn environments(block: &Block) -> impl Iterator<Item = &str> {
    block.keys.keys().filter_map(|key| key.strip_prefix("env_"))
}

fn notes_on_keys(block: &Block) -> Vec<String> {
    let name = &block.name;
    let mut notes = Vec::new();
    for key in unknown(&block.keys) {
        let meant = nearest(key, KNOWN).map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
        notes.push(format!("app `{name}` has the key `{key}`, which PM2 does not know{meant}"));
    }
    let only_pm2 = not_applied(&block.keys);
    for key in &only_pm2 {
        notes.push(format!("app `{name}` has `{key}`, which only PM2 acts on; bare and builtin do not"));
    }
    notes
}

fn exec_mode(
    values: &Values<'_>,
    instances: Option<i64>,
    interpreter: Option<&str>,
) -> Result<ExecMode, ConfigError> {
    match values.text("exec_mode")? {
        _ if values.flag("execute_command")? => Ok(ExecMode::Fork),
        Some("fork" | "fork_mode") => Ok(ExecMode::Fork),
        Some("cluster" | "cluster_mode") => Ok(ExecMode::Cluster),
        Some(_) => Err(values.wrong("exec_mode", "\"fork\" or \"cluster\"")),
        // PM2 takes any number of instances of a Node app, even 1, for a wish to have a cluster.
        None => Ok(match instances {
            Some(count) if count >= -1 && is_node(interpreter) => ExecMode::Cluster,
            _ => ExecMode::Fork,
        }),
    }
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

fn environment(values: &Values<'_>, chosen: Option<&str>) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut env = values.variables("env")?;
    if let Some(port) = values.block.keys.get("port").filter(|port| !port.is_null()) {
        let port = port.as_u64().filter(|port| (1..=65_535).contains(port));
        let port = port.ok_or_else(|| values.wrong("port", "a number from 1 to 65535"))?;
        env.insert("PORT".to_owned(), port.to_string());
    }
    if let Some(chosen) = chosen {
        env.extend(values.variables(&format!("env_{chosen}"))?);
    }
    Ok(env)
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

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, time::Duration};

    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            for (name, text) in [
                ("server.js", "1"),
                ("job.py", "1"),
                ("run.sh", "1"),
                ("www", "1"),
                ("tool", "#!/bin/bash\n"),
            ] {
                std::fs::write(folder.path().join(name), text).unwrap();
            }
            let executable = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(folder.path().join("run.sh"), executable).unwrap();
            Self(folder)
        }

        fn resolve(&self, environment: Option<&str>, text: &str) -> Result<(App, Vec<String>), ConfigError> {
            let path = self.0.path().join("ecosystem.json");
            std::fs::write(&path, format!("{{apps: [{text}]}}")).unwrap();
            let blocks = super::super::ecosystem::read(&path)?;
            let folder = self.0.path().canonicalize().unwrap();
            let surroundings = Surroundings {
                shown_as: Path::new("ecosystem.json"),
                folder: &folder,
                environment,
                own_executable: Path::new("/opt/qbench"),
            };
            resolve(&blocks[0], &surroundings)
        }

        fn app(&self, text: &str) -> App {
            self.resolve(None, text).unwrap().0
        }

        fn message(&self, text: &str) -> String {
            self.resolve(None, text).unwrap_err().message().to_owned()
        }
    }

    #[test]
    fn defaults_are_those_of_pm2() {
        let folder = Folder::new();
        let app = folder.app("{name: 'web', script: 'server.js'}");
        assert_eq!(app.program.file_name().unwrap(), "node");
        assert!(app.program.is_absolute() && app.script.is_absolute() && !app.is_binary);
        assert_eq!(app.args, [app.script.display().to_string()]);
        assert_eq!((app.instances, app.exec_mode), (1, ExecMode::Fork));
        assert_eq!(app.kill_timeout, Duration::from_millis(1600));
        assert_eq!(app.listen_timeout, Duration::from_secs(3));
        assert_eq!(app.min_uptime, Duration::from_secs(1));
        assert_eq!(app.max_restarts, 16);
        assert_eq!(app.instance_variable, "NODE_APP_INSTANCE");
        assert_eq!((app.restart_delay, app.exp_backoff_restart_delay), (Duration::ZERO, None));
    }

    #[test]
    fn instances_and_modes() {
        let folder = Folder::new();
        let of = |more: &str| {
            let app = folder.app(&format!("{{script: 'server.js', {more}}}"));
            (app.instances, app.exec_mode)
        };
        let cpus = thread::available_parallelism().unwrap().get() as u32;
        assert_eq!(of("instances: 1"), (1, ExecMode::Cluster));
        assert_eq!(of("instances: '2', exec_mode: 'fork'"), (2, ExecMode::Fork));
        assert_eq!(of("instances: 'max'"), (cpus, ExecMode::Cluster));
        assert_eq!(of("instances: 0"), (cpus, ExecMode::Cluster));
        assert_eq!(of("instances: -1"), ((cpus - 1).max(1), ExecMode::Cluster));
        assert_eq!(of("instances: -500"), (1, ExecMode::Fork));
        assert_eq!(of("exec_mode: 'cluster_mode'"), (1, ExecMode::Cluster));
        assert_eq!(folder.app("{script: 'run.sh', instances: 2}").exec_mode, ExecMode::Fork);
        assert!(folder.message("{script: 'server.js', instances: 5000}").contains("must be at most 256"));
        assert!(folder.message("{script: 'server.js', exec_mode: 'x'}").contains("\"fork\" or \"cluster\""));
    }

    #[test]
    fn programs_and_arguments() {
        let folder = Folder::new();
        let app = folder.app(
            "{script: 'server.js', node_args: '--expose-gc --max-old-space-size=64', args: \"--a 'b c' d\\\\ e\"}",
        );
        let script = app.script.display().to_string();
        assert_eq!(app.args, ["--expose-gc", "--max-old-space-size=64", &script, "--a", "b c", "d e"]);
        let app = folder.app("{script: 'sleep', args: [1, 'x y']}");
        assert!(app.is_binary && app.program == app.script && app.program.ends_with("sleep"));
        assert_eq!(app.args, ["1", "x y"]);
        let app = folder.app("{script: 'qbench', args: 'pm run'}");
        assert_eq!((app.program.as_path(), app.is_binary), (Path::new("/opt/qbench"), true));
        let app = folder.app("{script: 'run.sh', interpreter: 'none'}");
        assert!(app.is_binary && app.program.ends_with("run.sh") && app.args.is_empty());
        let app = folder.app("{script: 'job.py', interpreter: 'sh'}");
        assert!(app.program.ends_with("sh") && app.args[0].ends_with("job.py"));
        assert_eq!(folder.app("{script: 'job.py'}").env["PYTHONUNBUFFERED"], "1");
        let app = folder.app("{name: 'x', script: 'echo hello world'}");
        assert!(app.program.ends_with("bash"));
        assert_eq!(app.args, ["-c", "echo hello world"]);
        assert!(folder.app("{script: 'www'}").program.ends_with("node"));
        let (_, notes) = folder.resolve(None, "{name: 'x', script: 'tool'}").unwrap();
        assert!(notes[0].contains("PM2 runs it with node"), "{notes:?}");
    }

    #[test]
    fn what_is_missing_is_said_with_its_remedy() {
        let folder = Folder::new();
        let error = folder.resolve(None, "{name: 'x', script: 'www', interpreter: 'none'}").unwrap_err();
        assert!(error.message().ends_with("is run by itself but is not executable"), "{error}");
        let error = folder.resolve(None, "{name: 'x', script: 'dist/none.js'}").unwrap_err();
        assert!(error.message().starts_with("script `dist/none.js` of app `x` does not exist"));
        assert!(error.hint().unwrap().contains("dist/none.js"));
        let error = folder.resolve(None, "{script: 'server.js', interpreter: 'no-such-thing'}").unwrap_err();
        assert!(error.message().contains("interpreter `no-such-thing`"), "{error}");
        assert!(folder.message("{script: 'server.js', cwd: 'none'}").contains("is no folder"));
        assert_eq!(folder.message("{name: 'x'}"), "app `x` has no `script`");
    }

    #[test]
    fn environments_merge_and_types_are_checked_without_values() {
        let folder = Folder::new();
        let text = "{script: 'server.js', port: 7, env: {A: 1, B: true, C: {x: 1}, D: 'd'},
                     env_production: {A: 'two', PORT: 9}}";
        let env = folder.resolve(Some("production"), text).unwrap().0.env;
        let pairs: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("A", "two"), ("B", "true"), ("C", "{\"x\":1}"), ("D", "d"), ("PORT", "9")]);
        for wrong in [
            "env: 'hunter2'",
            "env: {A: 'hunter2\\u0000'}",
            "env: {'A=hunter2': 1}",
            "kill_timeout: 'hunter2'",
            "kill_timeout: -1",
            "kill_timeout: 1e300",
            "min_uptime: 'hunter2'",
            "max_restarts: -1",
            "args: {a: 'hunter2'}",
            "node_args: 'it\\'s hunter2'",
            "instances: 'hunter2'",
            "max_memory_restart: 'hunter2'",
            "cwd: ['hunter2']",
            "instance_var: 5",
            "port: 'hunter2'",
        ] {
            let error =
                folder.resolve(None, &format!("{{name: 'x', script: 'server.js', {wrong}}}")).unwrap_err();
            let key = wrong.split(':').next().unwrap();
            assert!(error.message().starts_with(&format!("`{key}` of app `x` must be")), "{error}");
            assert_eq!(error.file(), Some(Path::new("ecosystem.json")));
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn units_are_those_of_pm2() {
        let folder = Folder::new();
        let uptime =
            |text: &str| folder.app(&format!("{{script: 'server.js', min_uptime: {text}}}")).min_uptime;
        assert_eq!(uptime("1500"), Duration::from_millis(1500));
        assert_eq!(uptime("'2m'"), Duration::from_secs(120));
        assert_eq!(uptime("'1h'"), Duration::from_secs(3600));
        assert_eq!(uptime("'200'"), Duration::from_millis(200));
        let (app, notes) = folder
            .resolve(None, "{name: 'x', script: 'server.js', max_memory_restart: '1G', kilTimeout: 5}")
            .unwrap();
        assert_eq!(app.not_applied, ["max_memory_restart"]);
        assert!(notes.iter().any(|note| note.contains("only PM2 acts on")), "{notes:?}");
        assert!(notes.iter().any(|note| note.contains("`kilTimeout`")), "{notes:?}");
    }
}
