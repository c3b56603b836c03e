//! As whom an app runs: `uid`, `gid` and `user`.

use rustix::process::{getegid, geteuid};
use serde_json::Value;

use super::{accounts, app_values::Values, error::ConfigError};
use crate::model::supervision::User;

/// A user to run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RunAs {
    /// By number.
    pub user: User,
    /// The home folder, which PM2 hands on as `HOME`; none for a number without an entry.
    pub home: Option<String>,
}

/// Reads the keys; `notes` gets a warning where we may not become that user.
pub(super) fn read(values: &Values<'_>, notes: &mut Vec<String>) -> Result<Option<RunAs>, ConfigError> {
    let app = &values.block.name;
    let gid = name_or_number(values, "gid")?;
    let Some(uid) = name_or_number(values, "uid")? else {
        return match gid {
            None => Ok(None),
            Some(_) => Err(values
                .error(format!("app `{app}` has `gid` without `uid`, which PM2 refuses"))
                .help("set `uid`, too")),
        };
    };
    let account = accounts::user(&uid);
    let number = account.as_ref().map(|account| account.uid).or_else(|| uid.parse().ok());
    let number = number.ok_or_else(|| {
        values
            .error(format!("`uid` of app `{app}` names no user of this machine"))
            .help("it is looked for in /etc/passwd; create the user, or give its number together with `gid`")
    })?;
    let group = match &gid {
        Some(gid) => accounts::group(gid).or_else(|| gid.parse().ok()).ok_or_else(|| {
            values
                .error(format!("`gid` of app `{app}` names no group of this machine"))
                .help("it is looked for in /etc/group; create the group, or give its number")
        })?,
        None => account.as_ref().map(|account| account.gid).ok_or_else(|| {
            values
                .error(format!(
                    "`uid` of app `{app}` is no user of /etc/passwd, so that its group is not known"
                ))
                .help("set `gid`, too")
        })?,
    };
    let user = User { uid: number, gid: group };
    let own = User { uid: geteuid().as_raw(), gid: getegid().as_raw() };
    if own.uid != 0 && own != user {
        notes.push(format!("app `{app}` is to run as another user, which only root can do"));
    }
    Ok(Some(RunAs { user, home: account.map(|account| account.home) }))
}

fn name_or_number(values: &Values<'_>, key: &str) -> Result<Option<String>, ConfigError> {
    match values.value(key) {
        Some(Value::Number(number)) => match number.as_u64().and_then(|number| u32::try_from(number).ok()) {
            Some(number) => Ok(Some(number.to_string())),
            None => Err(values.wrong(key, "a name, or a number from 0 on")),
        },
        Some(Value::String(_)) | None => values.text(key).map(|text| text.map(str::to_owned)),
        Some(_) => Err(values.wrong(key, "a name, or a number from 0 on")),
    }
}
