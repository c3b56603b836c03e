//! The ecosystem file that PM2 is started with: the workload's own, with names, paths, ports and logs pinned down.
//!
//! Built from each app's block as it was read, so that settings of PM2 that qbench knows nothing of still apply.

use serde_json::{Map, Value, json};

use super::RUNTIME;
use crate::{
    model::workload::{App, ExecMode, Service},
    runtime::{Arm, RuntimeError, environment},
};

/// Where the script may stand.
const SCRIPT_KEYS: [&str; 4] = ["script", "exec", "cmd", "command"];
/// Log and pid files, which go to the sandbox unless they are switched off.
const FILE_KEYS: [&str; 11] = [
    "out_file",
    "out",
    "output",
    "out_log",
    "error_file",
    "error",
    "err",
    "err_file",
    "err_log",
    "pid_file",
    "pid",
];
/// Dropped: the name and the port are qbench's, and a restart because a file changed would spoil a measurement.
const DROPPED_KEYS: [&str; 4] = ["name_prefix", "append_env_to_name", "port", "watch"];

/// The ecosystem for an arm.
///
/// # Errors
/// [`RuntimeError::WorkloadLacks`] for a service without an app, [`RuntimeError::Unsupported`] for an app whose
/// instances cannot each get a port.
pub(super) fn ecosystem(arm: &Arm) -> Result<Value, RuntimeError> {
    let apps = arm.workload.services.iter().map(|service| app_block(arm, service));
    Ok(json!({ "apps": apps.collect::<Result<Vec<_>, _>>()? }))
}

fn app_block(arm: &Arm, service: &Service) -> Result<Value, RuntimeError> {
    let app = service.app.as_ref().ok_or_else(|| RuntimeError::WorkloadLacks {
        runtime: RUNTIME,
        what: format!("app for service {}", service.name),
        hint: "describe it in the workload's ecosystem file, under the same name".to_owned(),
    })?;
    let mut block: Map<String, Value> = app
        .raw
        .iter()
        .filter(|(key, value)| is_kept(key, value))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    block.insert("name".to_owned(), json!(service.name));
    block.insert("script".to_owned(), json!(script(app)));
    block.insert("cwd".to_owned(), json!(app.cwd));
    block.insert("env".to_owned(), json!(environment(arm, service, app)));
    // Always said: PM2 would otherwise take any number of instances, even 1, as a wish for the cluster mode.
    let mode = match app.exec_mode {
        ExecMode::Fork => "fork",
        ExecMode::Cluster => "cluster",
    };
    block.insert("exec_mode".to_owned(), json!(mode));
    // Only where the file says so too, since PM2 treats an app with the key otherwise than one without.
    if app.raw.contains_key("instances") {
        block.insert("instances".to_owned(), json!(app.instances.max(1)));
    }
    if app.is_binary && !is_command(app) {
        block.remove("exec_interpreter");
        block.insert("interpreter".to_owned(), json!("none"));
    }
    if block.get("log_file").or(block.get("log")).is_some_and(|log| log.is_string() && !is_off(log)) {
        // The combined log is written, at its cost, but to the sandbox.
        block.remove("log");
        block.insert("log_file".to_owned(), json!(true));
    }
    if app.exec_mode == ExecMode::Fork && arm.ports.contains_key(&service.name) {
        count_up_ports(arm, service, &mut block)?;
    }
    Ok(Value::Object(block))
}

fn is_kept(key: &str, value: &Value) -> bool {
    let replaced = SCRIPT_KEYS.contains(&key)
        || DROPPED_KEYS.contains(&key)
        || matches!(key, "name" | "cwd" | "env" | "exec_mode" | "instances")
        // Merged into `env` already, as chosen in `qbench.toml`.
        || key.starts_with("env_");
    !replaced && (!FILE_KEYS.contains(&key) || is_off(value))
}

/// PM2's two words for "write nothing".
fn is_off(file: &Value) -> bool {
    matches!(file.as_str(), Some("NULL" | "/dev/null"))
}

/// PM2 takes a script with a space in it for a command line of bash, so an absolute path with one must not be
/// passed, and a command line must be passed as it is.
fn script(app: &App) -> String {
    let absolute = app.script.display().to_string();
    match raw_script(app) {
        Some(raw) if raw.contains(' ') || absolute.contains(' ') => raw.to_owned(),
        _ => absolute,
    }
}

fn is_command(app: &App) -> bool {
    raw_script(app).is_some_and(|raw| raw.contains(' '))
}

fn raw_script(app: &App) -> Option<&str> {
    SCRIPT_KEYS.iter().find_map(|key| app.raw.get(*key)).and_then(Value::as_str)
}

fn environment(arm: &Arm, service: &Service, app: &App) -> std::collections::BTreeMap<String, String> {
    let mut env = environment::for_process(arm, service, 0, 0);
    // PM2 numbers its instances itself.
    if !app.env.contains_key(&app.instance_variable) {
        env.remove(&app.instance_variable);
    }
    env
}

/// In fork mode every instance binds a port of its own, which PM2 can count up from the first. Also for a single
/// instance: a second one may be added by scaling.
fn count_up_ports(arm: &Arm, service: &Service, block: &mut Map<String, Value>) -> Result<(), RuntimeError> {
    let port_variable = &arm.workload.port_variable;
    match block.get("increment_var").and_then(Value::as_str) {
        Some(other) if other != port_variable => Err(RuntimeError::Unsupported {
            runtime: RUNTIME,
            what: format!("count up both {other} and {port_variable} for the instances of {}", service.name),
        }),
        _ => {
            block.insert("increment_var".to_owned(), json!(port_variable));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

    use super::*;
    use crate::{
        model::{
            target::{RuntimeKind, Target},
            workload::Workload,
        },
        runtime::Sandbox,
    };

    fn arm(raw: &Value, exec_mode: ExecMode) -> Arm {
        let mut app = App::of("web", "/usr/bin/node".into(), "/srv/web".into());
        app.args = vec!["/srv/web/server.js".to_owned()];
        app.script = "/srv/web/server.js".into();
        app.is_binary = false;
        app.env = BTreeMap::from([("MODE".to_owned(), "staging".to_owned())]);
        app.instances = 2;
        app.exec_mode = exec_mode;
        app.raw = raw.as_object().unwrap().clone();
        let service = Service {
            name: "web".to_owned(),
            http: None,
            env: BTreeMap::new(),
            app: Some(app),
            compose: None,
        };
        let workload = Workload {
            name: "demo".to_owned(),
            root: "/srv".into(),
            port_variable: "PORT".to_owned(),
            first_port: None,
            release_variable: None,
            services: vec![service],
            ecosystem: None,
            compose: None,
            digests: BTreeMap::new(),
        };
        Arm {
            name: "pm2".to_owned(),
            target: Target::of(RuntimeKind::Pm2),
            workload: Arc::new(workload),
            ports: BTreeMap::from([("web".to_owned(), 4000)]),
            sandbox: Sandbox::existing(PathBuf::from("/tmp/sandbox")),
        }
    }

    fn block_of(arm: &Arm) -> Value {
        ecosystem(arm).unwrap()["apps"][0].clone()
    }

    fn app_of(arm: &mut Arm) -> &mut App {
        Arc::make_mut(&mut arm.workload).services[0].app.as_mut().unwrap()
    }

    #[test]
    fn what_qbench_does_not_know_is_kept_and_what_it_decides_is_replaced() {
        let raw = json!({
            "name": "web", "exec": "server.js", "cwd": "web", "instances": "max", "exec_mode": "cluster",
            "env": {"MODE": "x"}, "env_staging": {"MODE": "staging"}, "port": 80, "watch": true,
            "out_file": "/var/log/web.log", "err": "/dev/null", "log": "all.log", "max_memory_restart": "200M",
            "future_setting": [1, 2],
        });
        let block = block_of(&arm(&raw, ExecMode::Cluster));
        let expected = json!({
            "err": "/dev/null", "max_memory_restart": "200M", "future_setting": [1, 2],
            "name": "web", "script": "/srv/web/server.js", "cwd": "/srv/web", "exec_mode": "cluster", "instances": 2,
            "env": {"MODE": "staging", "PORT": "4000", "QBENCH_SANDBOX": "/tmp/sandbox"},
            "log_file": true,
        });
        assert_eq!(block, expected);
    }

    #[test]
    fn forked_instances_count_their_ports_up() {
        let block = block_of(&arm(&json!({"script": "server.js"}), ExecMode::Fork));
        assert_eq!(block["increment_var"], "PORT");
        assert_eq!(block["exec_mode"], "fork");
        assert!(block.get("instances").is_none());
        let other = ecosystem(&arm(&json!({"increment_var": "SHARD"}), ExecMode::Fork));
        assert!(matches!(other, Err(RuntimeError::Unsupported { .. })));
    }

    #[test]
    fn a_space_in_a_path_is_no_command_line() {
        let mut spaced = arm(&json!({"script": "./server.js"}), ExecMode::Fork);
        app_of(&mut spaced).script = "/srv/my web/server.js".into();
        assert_eq!(block_of(&spaced)["script"], "./server.js");
        let mut command = arm(&json!({"script": "npm start"}), ExecMode::Fork);
        app_of(&mut command).is_binary = true;
        let block = block_of(&command);
        assert_eq!((&block["script"], block.get("interpreter")), (&json!("npm start"), None));
    }

    #[test]
    fn a_binary_is_run_without_interpreter() {
        let mut binary = arm(&json!({"script": "server", "exec_interpreter": "node"}), ExecMode::Fork);
        app_of(&mut binary).is_binary = true;
        let block = block_of(&binary);
        assert_eq!((&block["interpreter"], block.get("exec_interpreter")), (&json!("none"), None));
    }

    #[test]
    fn a_service_without_an_app_is_named() {
        let mut arm = arm(&json!({}), ExecMode::Fork);
        Arc::make_mut(&mut arm.workload).services[0].app = None;
        let error = ecosystem(&arm).unwrap_err();
        assert_eq!(error.to_string(), "workload has no app for service web, which pm2 needs");
    }
}
