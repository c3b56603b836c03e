//! What PM2 tells of its instances, and the little that is kept of it.
//!
//! Deliberately absent: the environment. PM2 mixes it into its answers, secrets included; only the port is taken.

use serde_json::Value;

use super::rpc::answered;
use crate::{
    model::process::{InstanceState, ProcessId},
    runtime::RuntimeError,
};

/// One process of PM2's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instance {
    /// PM2's own number; it survives reloads and restarts.
    pub pm_id: u64,
    /// The app.
    pub name: String,
    /// Its place among the instances of its app, by `pm_id`. PM2's own instance numbers have holes once an app
    /// has been scaled down.
    pub rank: u32,
    pub state: InstanceState,
    /// Only when it really lives: a crashed app that waits for its restart is listed with the pid of the dead.
    pub process: Option<ProcessId>,
    pub restarts: Option<u32>,
    /// In milliseconds since 1970.
    pub up_since_ms: Option<u64>,
    /// The value of the port variable.
    pub port: Option<u16>,
}

/// Reads the answer to `getMonitorData`; sorted by app, since PM2 numbers them as they happen to start.
pub(super) fn read(list: &Value, port_variable: &str) -> Result<Vec<Instance>, RuntimeError> {
    let list = list.as_array().ok_or_else(|| answered("no list of processes".to_owned()))?;
    let mut instances =
        list.iter().map(|entry| instance(entry, port_variable)).collect::<Result<Vec<_>, _>>()?;
    instances.sort_by(|a, b| (&a.name, a.pm_id).cmp(&(&b.name, b.pm_id)));
    for at in 0..instances.len() {
        let before = instances[..at].iter().filter(|other| other.name == instances[at].name).count();
        instances[at].rank = before as u32;
    }
    Ok(instances)
}

fn instance(entry: &Value, port_variable: &str) -> Result<Instance, RuntimeError> {
    let missing = |what: &str| answered(format!("a process without {what}"));
    let settings = entry.get("pm2_env").ok_or_else(|| missing("settings"))?;
    let status = settings.get("status").and_then(Value::as_str).ok_or_else(|| missing("a status"))?;
    let state = state(status).ok_or_else(|| answered(format!("the unknown status {status:?}")))?;
    let pid = entry.get("pid").and_then(Value::as_u64).and_then(|pid| u32::try_from(pid).ok());
    Ok(Instance {
        pm_id: entry.get("pm_id").and_then(Value::as_u64).ok_or_else(|| missing("a number"))?,
        name: entry.get("name").and_then(Value::as_str).ok_or_else(|| missing("a name"))?.to_owned(),
        rank: 0,
        state,
        process: pid
            .filter(|pid| *pid != 0 && may_live(state))
            .and_then(ProcessId::find)
            .filter(|process| process.is_alive()),
        restarts: settings.get("restart_time").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()),
        up_since_ms: settings.get("pm_uptime").and_then(Value::as_u64),
        port: settings.get(port_variable).and_then(port),
    })
}

fn state(status: &str) -> Option<InstanceState> {
    Some(match status {
        "online" => InstanceState::Online,
        "launching" | "one-launch-status" => InstanceState::Launching,
        "stopping" => InstanceState::Stopping,
        "stopped" => InstanceState::Stopped,
        "waiting restart" => InstanceState::Waiting,
        "errored" => InstanceState::Errored,
        _ => return None,
    })
}

/// In the other states a pid is a leftover, and may by now be another program's.
fn may_live(state: InstanceState) -> bool {
    matches!(state, InstanceState::Online | InstanceState::Launching | InstanceState::Stopping)
}

/// A string when it came from the environment, a number when PM2 counted it up.
fn port(value: &Value) -> Option<u16> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.as_u64().and_then(|n| u16::try_from(n).ok()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(pm_id: u64, name: &str, pid: u32, status: &str) -> Value {
        json!({"pid": pid, "name": name, "pm_id": pm_id, "monit": {"memory": 1, "cpu": 0}, "pm2_env": {
            "status": status, "restart_time": 2, "pm_uptime": 1_700_000_000_000_u64, "PORT": "4000",
            "env": {"PASSWORD": "hunter2"}, "PASSWORD": "hunter2",
        }})
    }

    #[test]
    fn instances_are_ranked_within_their_app() {
        let list = json!([
            entry(7, "web", 0, "stopped"),
            entry(3, "web", 0, "stopped"),
            entry(4, "api", 0, "errored")
        ]);
        let read = read(&list, "PORT").unwrap();
        let seen: Vec<_> = read.iter().map(|i| (i.pm_id, i.name.as_str(), i.rank)).collect();
        assert_eq!(seen, [(4, "api", 0), (3, "web", 0), (7, "web", 1)]);
        assert_eq!(read[1].restarts, Some(2));
        assert_eq!(read[1].port, Some(4000));
        assert!(!format!("{read:?}").contains("hunter2"));
    }

    #[test]
    fn only_a_living_process_is_believed() {
        let own = std::process::id();
        let list = json!([entry(0, "a", own, "online"), entry(1, "b", own, "waiting restart")]);
        let both = read(&list, "PORT").unwrap();
        assert_eq!(both[0].process, ProcessId::find(own));
        assert_eq!((both[1].state, both[1].process), (InstanceState::Waiting, None));
    }

    #[test]
    fn an_answer_that_is_not_understood_is_an_error_without_its_content() {
        for list in
            [json!({}), json!([{"pid": 1, "secret": "hunter2"}]), json!([entry(0, "a", 0, "dancing")])]
        {
            let error = read(&list, "PORT").unwrap_err();
            assert!(matches!(error, RuntimeError::Answer { .. }) && !error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn ports_are_read_as_number_or_text() {
        assert_eq!(port(&json!("4001")), Some(4001));
        assert_eq!(port(&json!(4001)), Some(4001));
        assert_eq!(port(&json!(70_000)), None);
        assert_eq!(port(&json!("http")), None);
    }
}
