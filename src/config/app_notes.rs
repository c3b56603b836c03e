//! What a runtime does not act on in an app's block, told with the reason and what to do instead.
//!
//! Deliberately absent: the values, which a note never repeats.

use serde_json::{Map, Value};

use super::{
    app_keys::{KNOWN, unknown},
    ecosystem::Block,
    error::listed,
    spelling::nearest,
};
use crate::model::workload::App;

/// Keys that the built-in supervisor acts on and bare, which supervises nothing, does not.
const NOT_BY_BARE: [&str; 13] = [
    "autorestart",
    "autostart",
    "cron_restart",
    "filter_env",
    "gid",
    "increment_var",
    "max_memory_restart",
    "qbench",
    "shutdown_with_message",
    "stop_exit_codes",
    "treekill",
    "uid",
    "wait_ready",
];

/// A key that the built-in supervisor does not act on.
struct Refused {
    key: &'static str,
    /// Completes "…, because".
    because: &'static str,
    instead: &'static str,
}

const fn refused(key: &'static str, because: &'static str, instead: &'static str) -> Refused {
    Refused { key, because, instead }
}

const NO_AGENT: &str = "it loads no agent of PM2's into the app";
const OWN_AGENT: &str =
    "load the monitoring you use with `node_args`, for example \"--require ./tracing.js\"";
const NO_WATCH: &str = "it does not watch files";
const WITH_WATCH: &str = "leave it out together with `watch`";
const FROM_COMMAND_LINE: &str = "PM2 itself takes it from its command line only";

const NOT_BY_BUILTIN: [Refused; 22] = [
    refused(
        "watch",
        "a restart at every change of a file would catch deployments half-way",
        "reload the app once its files are in place; while developing, set `node_args` to \"--watch\"",
    ),
    refused("ignore_watch", NO_WATCH, WITH_WATCH),
    refused("watch_delay", NO_WATCH, WITH_WATCH),
    refused("watch_options", NO_WATCH, WITH_WATCH),
    refused("vizion", "it does not read the app's git repository", "put the version into `env`"),
    refused("pmx", NO_AGENT, OWN_AGENT),
    refused("io", NO_AGENT, OWN_AGENT),
    refused("trace", NO_AGENT, OWN_AGENT),
    refused("deep_monitoring", NO_AGENT, OWN_AGENT),
    refused("event_loop_inspector", NO_AGENT, OWN_AGENT),
    refused("v8", NO_AGENT, OWN_AGENT),
    refused("automation", NO_AGENT, OWN_AGENT),
    refused(
        "source_map_support",
        "it puts nothing between Node and the app",
        "set `node_args` to \"--enable-source-maps\"",
    ),
    refused(
        "post_update",
        "it pulls no new versions, after which these commands would run",
        "run them in your deployment, before the reload",
    ),
    refused(
        "force",
        "two apps may have the same script anyway, as long as their names differ",
        "leave it out",
    ),
    refused("install_url", "it downloads nothing", "put the files in place before the start"),
    refused("name_prefix", FROM_COMMAND_LINE, "write the prefix into `name`"),
    refused("write", FROM_COMMAND_LINE, "leave it out"),
    refused("username", "PM2 itself overwrites it", "set `user` to run the app as another user"),
    refused("windowsHide", "there are no windows to hide", "leave it out"),
    refused(
        "kill_retry_time",
        "the kernel tells it when a process has ended, so that it need not look again and again",
        "leave it out",
    ),
    refused(
        "pid_file",
        "the number in a file may have become another process's",
        "ask the supervisor for the pid, or set it to \"/dev/null\"",
    ),
];

/// What is wrong with `filter_env: true`, which PM2 documents and then ignores.
const FILTER_ALL: Refused = refused(
    "filter_env",
    "PM2 itself lets the whole environment through when it is `true`",
    "list parts of the names of the variables to keep away",
);

/// What the keys of an app ask of a runtime in vain.
#[derive(Debug, Default)]
pub(super) struct InVain {
    /// Keys that bare does not act on.
    pub bare: Vec<String>,
    /// Keys that the built-in supervisor does not act on.
    pub builtin: Vec<String>,
    /// Both for people.
    pub notes: Vec<String>,
}

/// Looks through the keys of an app.
pub(super) fn in_vain(block: &Block) -> InVain {
    let app = &block.name;
    let mut found = InVain::default();
    for key in unknown(&block.keys) {
        let meant = nearest(key, KNOWN).map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
        found.notes.push(format!("app `{app}` has the key `{key}`, which PM2 does not know{meant}"));
    }
    for (key, value) in &block.keys {
        if let Some(Refused { because, instead, .. }) = refusal(key, value, &block.keys) {
            found.notes.push(format!(
                "app `{app}` has `{key}`, which is not supported by the built-in supervisor, nor by bare, because \
                 {because}; {instead}"
            ));
            found.builtin.push(key.clone());
            found.bare.push(key.clone());
        }
    }
    let only_bare: Vec<&str> = block
        .keys
        .iter()
        .filter(|(key, value)| {
            NOT_BY_BARE.contains(&key.as_str()) && asks(key, value) && !found.bare.contains(key)
        })
        .map(|(key, _)| key.as_str())
        .collect();
    found.bare.extend(only_bare.into_iter().map(str::to_owned));
    found
}

/// What the user should know of an app that is to run on bare as well.
pub(super) fn on_bare(app: &App) -> Option<String> {
    let only_bare = app.not_applied.iter().filter(|key| !app.not_applied_by_builtin.contains(key));
    let keys: Vec<&str> = only_bare.map(String::as_str).collect();
    let told = || {
        format!(
            "app `{}` has {}, which bare, having no supervisor, does not act on",
            app.name,
            listed(keys.iter().copied())
        )
    };
    (!keys.is_empty()).then(told)
}

/// What the parts of the file beside its apps ask in vain.
pub(super) fn of_root(root: &Map<String, Value>, file: &str) -> Vec<String> {
    let parts = [
        (
            "deploy",
            "it runs on the machine it deploys to",
            "deploy as before and then reload; the variables of `env` in it are merged as PM2 merges them",
        ),
        ("static", "it serves no files", "run a file server as an app of its own, or let a web server do it"),
    ];
    parts
        .into_iter()
        .filter(|(key, ..)| root.get(*key).is_some_and(|value| asks(key, value)))
        .map(|(key, because, instead)| {
            format!(
                "{file} has `{key}`, which is not supported by the built-in supervisor, because {because}; {instead}"
            )
        })
        .collect()
}

fn refusal(key: &str, value: &Value, keys: &Map<String, Value>) -> Option<&'static Refused> {
    if !asks(key, value) {
        return None;
    }
    match key {
        "filter_env" if *value == Value::Bool(true) => return Some(&FILTER_ALL),
        // They ask for nothing where nothing is to be watched.
        "ignore_watch" | "watch_delay" | "watch_options" if !asks("watch", keys.get("watch")?) => {
            return None;
        }
        _ => {}
    }
    NOT_BY_BUILTIN.iter().find(|refused| refused.key == key)
}

/// Whether a value asks for anything that would not be so without the key.
fn asks(key: &str, value: &Value) -> bool {
    match (key, value) {
        // These are on unless they are turned off.
        ("autorestart" | "autostart" | "treekill", value) => *value == Value::Bool(false),
        // On is PM2's default, and off is how it is here.
        ("vizion" | "pmx" | "automation" | "windowsHide", Value::Bool(_))
        | (_, Value::Null | Value::Bool(false)) => false,
        ("pid_file", Value::String(file)) if matches!(file.as_str(), "NULL" | "/dev/null") => false,
        ("cron_restart", Value::String(text)) if text == "0" => false,
        ("namespace", Value::String(text)) if text == "default" => false,
        (_, Value::Number(number)) => number.as_f64() != Some(0.0),
        (_, Value::Array(list)) => !list.is_empty(),
        (_, Value::Object(object)) => !object.is_empty(),
        (_, Value::String(text)) => !text.is_empty(),
        (_, Value::Bool(true)) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> InVain {
        let keys: Map<String, Value> = json5::from_str(text).unwrap();
        in_vain(&Block { name: "web".to_owned(), raw: keys.clone(), keys })
    }

    #[test]
    fn a_key_that_asks_for_nothing_is_not_told() {
        let quiet = "{watch: false, ignore_watch: ['a'], autorestart: true, wait_ready: null, kill_timeout: 5, uid: '',
            vizion: true, pmx: false, automation: true, trace: false, post_update: [], pid_file: 'NULL', io: {},
            cron_restart: 0, namespace: 'default', windowsHide: true, source_map_support: false, max_restarts: 3,
            disable_source_map_support: true, disable_trace: true, execute_command: true, filter_env: false}";
        let found = of(quiet);
        assert_eq!((found.notes.len(), found.bare.len(), found.builtin.len()), (0, 0, 0), "{found:?}");
    }

    #[test]
    fn every_key_in_vain_has_a_reason_and_a_remedy() {
        for refused in &NOT_BY_BUILTIN {
            let value = if matches!(refused.key, "vizion" | "pmx" | "automation" | "windowsHide") {
                "'on'"
            } else {
                "true"
            };
            let found = of(&format!("{{{}: {value}, watch: true}}", refused.key));
            assert!(found.builtin.iter().any(|key| key == refused.key), "{}", refused.key);
            assert!(KNOWN.contains(&refused.key) && !NOT_BY_BARE.contains(&refused.key), "{}", refused.key);
        }
        assert!(NOT_BY_BARE.iter().all(|key| KNOWN.contains(key)));
        let found = of(
            "{watch: ['src'], autorestart: false, max_memory_restart: '1G', wathc: true, filter_env: true}",
        );
        assert_eq!(found.builtin, ["watch", "filter_env"]);
        assert_eq!(found.bare, ["watch", "filter_env", "autorestart", "max_memory_restart"]);
        assert_eq!(
            found.notes[2..],
            [
                "app `web` has `filter_env`, which is not supported by the built-in supervisor, nor by bare, because \
                 PM2 itself lets the whole environment through when it is `true`; list parts of the names of the \
                 variables to keep away",
            ]
        );
    }

    #[test]
    fn deploy_and_static_are_told() {
        let root: Map<String, Value> = json5::from_str("{apps: [], deploy: {p: {}}, static: []}").unwrap();
        let notes = of_root(&root, "e.json");
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(
            notes[0].starts_with(
                "e.json has `deploy`, which is not supported by the built-in supervisor, because"
            )
        );
    }
}
