//! The keys of an app in an ecosystem file: their names and aliases.
//!
//! Deliberately absent: what they mean, and which runtime acts on which, which is `app_notes`' business.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// The keys PM2 7 knows, but for `env_NAME`, and our own.
pub(super) const KNOWN: [&str; 65] = [
    "script",
    "name",
    "name_prefix",
    "namespace",
    "filter_env",
    "cwd",
    "args",
    "interpreter",
    "node_args",
    "out_file",
    "error_file",
    "log_file",
    "disable_logs",
    "log_type",
    "log_date_format",
    "time",
    "env",
    "max_memory_restart",
    "pid_file",
    "restart_delay",
    "exp_backoff_restart_delay",
    "source_map_support",
    "disable_source_map_support",
    "wait_ready",
    "instances",
    "kill_timeout",
    "shutdown_with_message",
    "listen_timeout",
    "cron_restart",
    "merge_logs",
    "vizion",
    "autostart",
    "autorestart",
    "stop_exit_codes",
    "watch_delay",
    "watch",
    "ignore_watch",
    "watch_options",
    "min_uptime",
    "max_restarts",
    "execute_command",
    "exec_mode",
    "force",
    "append_env_to_name",
    "post_update",
    "trace",
    "disable_trace",
    "v8",
    "event_loop_inspector",
    "deep_monitoring",
    "increment_var",
    "instance_var",
    "pmx",
    "automation",
    "treekill",
    "port",
    "uid",
    "gid",
    "kill_retry_time",
    "io",
    "install_url",
    "username",
    "windowsHide",
    "write",
    "qbench",
];

/// The name used here for a key: PM2 takes several spellings of most of its keys.
pub(super) fn canonical(key: &str) -> Cow<'_, str> {
    let name = match key {
        "exec" | "cmd" | "command" => "script",
        "exec_interpreter" | "execInterpreter" => "interpreter",
        "interpreter_args" | "interpreterArgs" => "node_args",
        "out" | "output" | "out_log" => "out_file",
        "error" | "err" | "err_file" | "err_log" => "error_file",
        "log" => "log_file",
        "pid" => "pid_file",
        "cron" => "cron_restart",
        "combine_logs" => "merge_logs",
        "user" => "uid",
        _ => "",
    };
    if !name.is_empty() {
        return Cow::Borrowed(name);
    }
    if key.starts_with("env_") || !key.contains(|c: char| c.is_ascii_uppercase()) {
        return Cow::Borrowed(key);
    }
    let mut snake = String::with_capacity(key.len() + 4);
    for c in key.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    if KNOWN.contains(&snake.as_str()) { Cow::Owned(snake) } else { Cow::Borrowed(key) }
}

/// Keys that PM2 itself knows nothing of, most likely misspelt.
pub(super) fn unknown(keys: &Map<String, Value>) -> impl Iterator<Item = &str> {
    keys.keys().map(String::as_str).filter(|key| !KNOWN.contains(key) && !key.starts_with("env_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_have_one_name() {
        assert_eq!(canonical("killTimeout"), "kill_timeout");
        assert_eq!(canonical("cmd"), "script");
        assert_eq!(canonical("env_PROD"), "env_PROD");
        assert_eq!(canonical("madeUp"), "madeUp");
    }

    #[test]
    fn a_misspelt_key_is_unknown() {
        let keys = serde_json::from_str(r#"{"watch": 1, "wathc": 1, "env_x": 1, "qbench": 1}"#).unwrap();
        assert_eq!(unknown(&keys).collect::<Vec<_>>(), ["wathc"]);
    }
}
