//! Where an app's output goes, by its keys.

use std::path::Path;

use serde_json::Value;

use super::{app::within, app_values::Values, error::ConfigError};
use crate::model::{
    supervision::{Logs, Output},
    workload::ExecMode,
};

/// The format that `time: true` means.
const TIME: &str = "YYYY-MM-DDTHH:mm:ss";

/// Reads the keys of logs; `notes` gets warnings.
pub(super) fn read(values: &Values<'_>, cwd: &Path, notes: &mut Vec<String>) -> Result<Logs, ConfigError> {
    let on = |key: &str| Ok::<_, ConfigError>(output(values, key, cwd)?.unwrap_or(Output::Default));
    let combined = match values.value("log_file") {
        Some(Value::Bool(true)) => Output::Default,
        _ => output(values, "log_file", cwd)?.unwrap_or(Output::Off),
    };
    let mut logs = Logs {
        out: on("out_file")?,
        err: on("error_file")?,
        combined,
        pid: on("pid_file")?,
        merge: is_merged(values)?,
        date_format: values.text("log_date_format")?.map(str::to_owned),
        json: is_json(values, notes)?,
    };
    if values.flag("time", false)? {
        logs.date_format = Some(TIME.to_owned());
    }
    if values.flag("disable_logs", false)? {
        (logs.out, logs.err, logs.combined) = (Output::Off, Output::Off, Output::Off);
    }
    Ok(logs)
}

/// As PM2 reads a path: relative to the working folder, `~` for the home folder.
fn output(values: &Values<'_>, key: &str, cwd: &Path) -> Result<Option<Output>, ConfigError> {
    let Some(path) = values.text(key)? else { return Ok(None) };
    if matches!(path, "NULL" | "/dev/null") {
        return Ok(Some(Output::Off));
    }
    let path = match path.strip_prefix('~') {
        Some(rest) => {
            let home = std::env::home_dir().filter(|home| home.is_absolute());
            let home = home.ok_or_else(|| {
                values
                    .error(format!(
                        "`{key}` of app `{}` is in a home folder that is not known",
                        values.block.name
                    ))
                    .help("set the variable HOME, or write the path out")
            })?;
            within(&home, rest.trim_start_matches('/'))
        }
        None => within(cwd, path),
    };
    Ok(Some(Output::File(path)))
}

/// By default PM2 merges the logs of what has neither a number of instances nor asks for the cluster mode. It looks
/// at the keys as they are written: "max" and 0 are no number, and other spellings of `exec_mode` and `merge_logs` are
/// read too late to keep it from merging.
fn is_merged(values: &Values<'_>) -> Result<bool, ConfigError> {
    let asks_for_cluster =
        values.block.raw.contains_key("exec_mode") && values.declared_mode()? == Some(ExecMode::Cluster);
    let is_counted = values.instances()?.is_some_and(|count| count != 0);
    let is_said = values.block.raw.contains_key("merge_logs");
    if !asks_for_cluster && !is_counted && !is_said {
        return Ok(true);
    }
    values.flag("merge_logs", false)
}

fn is_json(values: &Values<'_>, notes: &mut Vec<String>) -> Result<bool, ConfigError> {
    let declared = values.text("log_type")?;
    if declared.is_some_and(|kind| kind != "json") {
        let app = &values.block.name;
        notes.push(format!(
            "app `{app}` has a `log_type` that is not \"json\", the only one PM2 knows; logs are text"
        ));
    }
    Ok(declared == Some("json"))
}
