//! Apps as PM2 would have them, and what is wrong told without values.

use std::{os::unix::fs::PermissionsExt as _, path::Path, thread, time::Duration};

use super::{
    app::{Surroundings, resolve},
    ecosystem,
    error::ConfigError,
};
use crate::model::workload::{App, ExecMode};

/// Scripts of several kinds.
pub(super) struct Folder(pub(super) tempfile::TempDir);

impl Folder {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in
            [("server.js", "1"), ("job.py", "1"), ("run.sh", "1"), ("www", "1"), ("tool", "#!/bin/bash\n")]
        {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path().join("run.sh"), executable).unwrap();
        Self(folder)
    }

    pub(super) fn resolve(
        &self,
        environment: Option<&str>,
        text: &str,
    ) -> Result<(App, Vec<String>), ConfigError> {
        let path = self.0.path().join("ecosystem.json");
        std::fs::write(&path, format!("{{apps: [{text}]}}")).unwrap();
        let file = ecosystem::read(&path)?;
        let folder = self.0.path().canonicalize().unwrap();
        let surroundings = Surroundings {
            shown_as: Path::new("ecosystem.json"),
            folder: &folder,
            environment,
            deploy: file.deploy.as_ref(),
            own_executable: Path::new("/opt/qbench"),
        };
        resolve(&file.blocks[0], &surroundings)
    }

    pub(super) fn app(&self, text: &str) -> App {
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
    assert_eq!(app.stop.kill_timeout, Duration::from_millis(1600));
    assert_eq!(app.listen_timeout, Duration::from_secs(3));
    assert_eq!(app.restart.min_uptime, Duration::from_secs(1));
    assert_eq!(app.restart.max_unstable, 16);
    assert_eq!(app.instance_variable, "NODE_APP_INSTANCE");
    assert_eq!((app.restart.delay, app.restart.backoff), (Duration::ZERO, None));
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
    let error =
        folder.resolve(None, "{name: 'x', script: 'server.js', interpreter: 'node@0.0.1'}").unwrap_err();
    assert!(error.message().contains("`node@0.0.1` of app `x` is not among those that nvm"), "{error}");
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
        |text: &str| folder.app(&format!("{{script: 'server.js', min_uptime: {text}}}")).restart.min_uptime;
    assert_eq!(uptime("1500"), Duration::from_millis(1500));
    assert_eq!(uptime("'2m'"), Duration::from_secs(120));
    assert_eq!(uptime("'1h'"), Duration::from_secs(3600));
    assert_eq!(uptime("'200'"), Duration::from_millis(200));
    let (app, notes) = folder
        .resolve(None, "{name: 'x', script: 'server.js', max_memory_restart: '1G', kilTimeout: 5}")
        .unwrap();
    assert_eq!(app.not_applied, ["max_memory_restart"]);
    let on_bare = super::app_notes::on_bare(&app).unwrap();
    assert!(on_bare.contains("`max_memory_restart`, which bare"), "{on_bare}");
    assert!(notes.iter().any(|note| note.contains("`kilTimeout`")), "{notes:?}");
}
