//! What qbench reads out of an ecosystem file is what the real PM2 reads out of it, in each form and for each key.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use qbench::{
    config::ecosystem_apps,
    model::{
        supervision::Output,
        workload::{App, ExecMode},
    },
};
use serde_json::{Value, json};

use crate::support::{folder, has_runtime};

/// A PM2 daemon of its own, which ends with it.
struct Daemon<'f> {
    folder: &'f Path,
}

impl Daemon<'_> {
    fn home(&self) -> PathBuf {
        self.folder.join("pm2")
    }

    fn call(&self, args: &[&str]) -> String {
        let mut command = Command::new("pm2");
        command.args(args).current_dir(self.folder).stdin(Stdio::null());
        command.env("PM2_HOME", self.home()).env("PM2_DISABLE_VERSION_CHECK", "1");
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "pm2 {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// `pm2 jlist` after the start of a file; nothing of it is left running.
    fn started(&self, file: &str, environment: Option<&str>) -> Vec<Value> {
        let mut args = vec!["start", file, "--silent"];
        args.extend(environment.iter().flat_map(|name| ["--env", name]));
        self.call(&args);
        let list = self.call(&["jlist", "--silent"]);
        self.call(&["delete", "all", "--silent"]);
        let begin = list.find('[').unwrap();
        serde_json::from_str(&list[begin..]).unwrap()
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let mut command = Command::new("pm2");
        command.arg("kill").env("PM2_HOME", self.home()).stdout(Stdio::null()).stderr(Stdio::null());
        let _ = command.status();
    }
}

/// Apps that are registered and never run, so that only what is read is tried.
fn apps() -> Value {
    let mut apps = json!([
        {"name": "plain", "script": "server.js"},
        {"script": "server.js", "name": "one", "instances": 1},
        {"script": "server.js", "name": "text", "instances": "2", "merge_logs": true},
        {"script": "server.js", "name": "max", "instances": "max"},
        {"script": "server.js", "name": "zero", "instances": 0},
        {"script": "server.js", "name": "less", "instances": -1},
        {"script": "server.js", "name": "few", "instances": -900},
        {"script": "server.js", "name": "forks", "instances": 2, "exec_mode": "fork", "increment_var": "N",
         "env": {"N": "x", "A": 1, "B": true, "C": {"x": [1]}, "D": null, "E": 1.5}},
        {"script": "server.js", "name": "counted", "instances": 2, "exec_mode": "fork", "increment_var": "N",
         "env": {"N": "08"}, "instance_var": "WHO"},
        {"script": "server.js", "name": "cluster", "exec_mode": "cluster_mode"},
        {"script": "server.js", "name": "max in cluster", "execMode": "cluster", "instances": "max"},
        {"script": "run.sh", "name": "bash", "instances": 2, "args": "a 'b c'"},
        {"script": "job.py", "name": "python"},
        {"script": "../server.js", "cwd": "sub", "name": "logs", "out_file": "o.log", "error_file": "./log/e.log",
         "log_file": "c.log", "pid_file": "p.pid"},
        {"script": "../server.js", "cwd": "sub", "name": "own_logs", "instances": 2, "exec_mode": "fork",
         "out": "o.log", "err_log": "e.out", "log": true},
        {"script": "server.js", "name": "silent", "out_file": "NULL", "error_file": "/dev/null", "log_file": "NULL"},
        {"script": "server.js", "name": "at home", "out_file": "~/o.log", "log_type": "json"},
        {"script": "server.js", "name": "aliased", "mergeLogs": false, "killTimeout": "3000", "cron": "*/5 * * * *"},
        {"script": "server.js", "name": "nulls", "merge_logs": null, "kill_timeout": null, "instances": null},
        {"script": "server.js", "name": "zeros", "kill_timeout": 0, "listen_timeout": 0, "max_restarts": 0,
         "stop_exit_codes": 0, "cron_restart": 0, "restart_delay": 0, "exp_backoff_restart_delay": 0},
        {"script": "server.js", "name": "all", "namespace": "shop", "autorestart": false, "treekill": false,
         "kill_timeout": 2500, "kill_retry_time": 50, "listen_timeout": "4000", "min_uptime": "2m",
         "max_restarts": "0", "restart_delay": 100, "exp_backoff_restart_delay": 150, "stop_exit_codes": ["1", 2],
         "max_memory_restart": "200M", "cron_restart": "0 0 3 * * *", "time": true, "log_date_format": "YYYY",
         "wait_ready": true, "shutdown_with_message": true, "port": 4000, "append_env_to_name": true,
         "env": {"PORT": 1, "A": "app"}, "env_production": {"A": "chosen"}, "node_args": "--expose-gc"},
        {"script": "server.js", "name": "codes", "stop_exit_codes": "3", "max_memory_restart": "1000000", "port": 5,
         "env_production": {"PORT": 6}, "merge_logs": false, "min_uptime": 1500},
        {"script": "server.js", "name": "ours", "exec_mode": "fork",
         "qbench": {"listen": ["8080"], "health": "/health", "rotate": {"max_size": "1M"}}},
    ]);
    for app in apps.as_array_mut().unwrap() {
        app["autostart"] = json!(false);
    }
    if rustix::process::geteuid().is_root() {
        apps.as_array_mut().unwrap().extend([
            json!({"script": "server.js", "name": "user", "user": "nobody", "env": {"HOME": "/x"}, "autostart": false}),
            json!({"script": "server.js", "name": "group", "uid": "nobody", "gid": "root", "autostart": false}),
        ]);
    }
    apps
}

/// The same file in every form that PM2 reads.
fn forms() -> Vec<(&'static str, String)> {
    let root =
        json!({ "apps": apps(), "deploy": {"production": {"env": {"DEPLOYED": "yes", "A": "deployed"}}} });
    let text = serde_json::to_string_pretty(&root).unwrap();
    let (apps, deploy) = (&root["apps"], &root["deploy"]);
    vec![
        (
            "ecosystem.json",
            format!("// the shop\n{}, /* no more */ }}", text.trim_end().trim_end_matches('}')),
        ),
        ("ecosystem.yaml", serde_yaml_ng::to_string(&root).unwrap()),
        ("ecosystem.config.js", format!("module.exports = {text};")),
        ("ecosystem.config.cjs", format!("module.exports = {text};")),
        ("ecosystem.config.mjs", format!("export const apps = {apps};\nexport const deploy = {deploy};")),
    ]
}

#[test]
fn every_form_and_key_is_read_as_pm2_reads_it() {
    if !has_runtime("pm2") {
        return;
    }
    let folder = folder();
    fs::create_dir(folder.path().join("sub")).unwrap();
    for script in ["server.js", "run.sh", "job.py"] {
        fs::write(folder.path().join(script), "").unwrap();
    }
    let daemon = Daemon { folder: folder.path() };
    for (file, text) in forms() {
        fs::write(folder.path().join(file), text).unwrap();
        for environment in [None, Some("production")] {
            let read =
                ecosystem_apps(&folder.path().join(file), environment, Path::new("/opt/qbench")).unwrap();
            let list = daemon.started(file, environment);
            compare(&read.apps, &list, &daemon.home(), &format!("{file} {environment:?}"));
        }
    }
}

fn compare(apps: &[App], list: &[Value], home: &Path, what: &str) {
    let processes: u32 = apps.iter().map(|app| app.instances).sum();
    assert_eq!(list.len(), processes as usize, "{what}");
    for process in list {
        let name = process["name"].as_str().unwrap();
        let app = apps.iter().find(|app| app.name == name);
        let app = app.unwrap_or_else(|| panic!("{what}: PM2 has an app {name}"));
        assert_eq!(ours(app, process, home), theirs(app, &process["pm2_env"]), "{name} of {what}");
    }
}

fn theirs(app: &App, env: &Value) -> BTreeMap<String, Value> {
    // PM2 fills in these when it needs them.
    let late = [
        ("kill_timeout", json!(1600)),
        ("listen_timeout", json!(3000)),
        ("min_uptime", json!(1000)),
        ("max_restarts", json!(16)),
        ("restart_delay", json!(0)),
        ("merge_logs", json!(false)),
        ("wait_ready", json!(false)),
        ("shutdown_with_message", json!(false)),
    ];
    let keys = [
        "name",
        "namespace",
        "exec_mode",
        "instances",
        "autostart",
        "autorestart",
        "kill_retry_time",
        "treekill",
        "exp_backoff_restart_delay",
        "max_memory_restart",
        "cron_restart",
        "log_date_format",
        "log_type",
        "uid",
        "gid",
        "pm_out_log_path",
        "pm_err_log_path",
        "pm_log_path",
        "pm_pid_path",
        "increment_var",
        "instance_var",
    ];
    let mut view: BTreeMap<String, Value> = late
        .into_iter()
        .map(|(key, default)| (key.to_owned(), env.get(key).cloned().unwrap_or(default)))
        .collect();
    view.extend(keys.map(|key| (key.to_owned(), env.get(key).cloned().unwrap_or(Value::Null))));
    let codes = match &env["stop_exit_codes"] {
        Value::Array(codes) => codes.iter().map(number).collect(),
        Value::Null => Vec::new(),
        code => vec![number(code)],
    };
    view.insert("stop_exit_codes".to_owned(), json!(codes));
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    view.insert(
        "env".to_owned(),
        app.env.keys().map(|name| (name.clone(), json!(text(&env["env"][name])))).collect(),
    );
    view
}

fn number(value: &Value) -> i64 {
    value.as_i64().or_else(|| value.as_str()?.parse().ok()).unwrap()
}

fn ours(app: &App, process: &Value, home: &Path) -> BTreeMap<String, Value> {
    let id = process["pm_id"].as_u64().unwrap();
    let file = |output: &Output, default: String, ending: &str, is_shared: bool| {
        let path = match output {
            Output::Off => return json!("/dev/null"),
            Output::Default => home.join(default).display().to_string(),
            Output::File(path) => path.display().to_string(),
        };
        match path.strip_suffix(ending) {
            Some(stem) if !is_shared => json!(format!("{stem}-{id}{ending}")),
            _ => json!(path),
        }
    };
    let log = |output: &Output, kind: &str| {
        file(output, format!("logs/{}{kind}.log", app.file_stem()), ".log", app.logs.merge)
    };
    let is_combined = app.logs.combined != Output::Off || app.raw.contains_key("log_file");
    let mut env: BTreeMap<&String, String> =
        app.env.iter().map(|(name, value)| (name, value.clone())).collect();
    if let Some(name) = &app.increment_variable {
        let own = process["pm2_env"][&app.instance_variable].as_i64().unwrap();
        env.insert(name, (app.env[name].parse::<i64>().unwrap() + own).to_string());
    }
    let milliseconds = |time: std::time::Duration| json!(time.as_millis() as u64);
    [
        ("name", json!(app.name)),
        ("namespace", json!(app.namespace)),
        ("exec_mode", json!(if app.exec_mode == ExecMode::Cluster { "cluster_mode" } else { "fork_mode" })),
        ("instances", json!(app.instances)),
        ("autostart", json!(app.autostart)),
        ("autorestart", json!(app.restart.automatic)),
        ("kill_timeout", milliseconds(app.stop.kill_timeout)),
        ("kill_retry_time", milliseconds(app.stop.kill_retry_time)),
        ("listen_timeout", milliseconds(app.listen_timeout)),
        ("treekill", json!(app.stop.tree)),
        ("wait_ready", json!(app.wait_ready)),
        ("shutdown_with_message", json!(app.stop.by_message)),
        ("min_uptime", milliseconds(app.restart.min_uptime)),
        ("max_restarts", json!(app.restart.max_unstable)),
        ("restart_delay", milliseconds(app.restart.delay)),
        ("exp_backoff_restart_delay", json!(app.restart.backoff.map(|time| time.as_millis() as u64))),
        ("max_memory_restart", json!(app.restart.max_memory.map(|bytes| bytes.0))),
        ("stop_exit_codes", json!(app.restart.stop_exit_codes)),
        ("cron_restart", json!(app.restart.cron)),
        ("merge_logs", json!(app.logs.merge)),
        ("log_date_format", json!(app.logs.date_format)),
        ("log_type", json!(app.logs.json.then_some("json"))),
        ("uid", json!(app.user.map(|user| user.uid))),
        ("gid", json!(app.user.map(|user| user.gid))),
        ("increment_var", json!(app.increment_variable)),
        ("instance_var", json!(app.instance_variable)),
        ("pm_out_log_path", log(&app.logs.out, "-out")),
        ("pm_err_log_path", log(&app.logs.err, "-error")),
        ("pm_log_path", if is_combined { log(&app.logs.combined, "") } else { Value::Null }),
        ("pm_pid_path", file(&app.logs.pid, format!("pids/{}.pid", app.file_stem()), ".pid", false)),
        ("env", json!(env)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}
