//! Finding the supervisor of this user, and starting it.

use std::{
    env,
    fs::{DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use super::super::CliError;
use crate::supervisor::{self, Client, SupervisorError, in_own_session};

/// How long a supervisor may take until it listens.
const LISTENING_LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(1);
/// What the supervisor itself has of the environment of whoever starts it. Each app gets the whole of it, but for what
/// it filters out, from whoever starts that app; by way of the supervisor it would get what it does not want.
const VARIABLES: [&str; 7] = ["PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR"];

/// The folder of the supervisor: as given, else below the user's home. Absolute: the supervisor has another one.
pub(super) fn home(given: Option<PathBuf>) -> Result<PathBuf, CliError> {
    let own = || {
        env::var_os("HOME").filter(|home| !home.is_empty()).map(|home| Path::new(&home).join(".qbench/pm"))
    };
    let home = given.or_else(own).ok_or_else(|| {
        CliError::usage("there is no home folder: HOME is not set", "say --home DIR, or set QBENCH_PM_HOME")
    })?;
    Ok(std::path::absolute(home)?)
}

/// Where log files lie unless apps name others.
pub(super) fn log_dir(home: &Path) -> PathBuf {
    home.join("logs")
}

/// The supervisor, if it runs.
pub(super) async fn running(home: &Path) -> Option<Client> {
    Client::connect(&supervisor::control_socket(home)).await.ok()
}

/// The supervisor, which must run.
pub(super) async fn connect(home: &Path) -> Result<Client, CliError> {
    running(home).await.ok_or_else(|| {
        CliError::usage(
            format!("no supervisor runs in {}", home.display()),
            "`qbench pm start FILE` starts one; --home or QBENCH_PM_HOME says where it lies",
        )
    })
}

/// The supervisor, started if need be.
pub(super) async fn start(home: &Path) -> Result<Client, CliError> {
    if let Some(client) = running(home).await {
        return Ok(client);
    }
    DirBuilder::new().recursive(true).mode(0o700).create(home)?;
    let log = home.join("supervisor.log");
    let output = OpenOptions::new().create(true).append(true).mode(0o600).open(&log)?;
    let mut command = Command::new(env::current_exe()?);
    command.args(supervisor::arguments(home)).current_dir("/");
    command.env_clear().envs(VARIABLES.iter().filter_map(|name| Some((name, env::var_os(name)?))));
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    in_own_session(command.as_std_mut());
    let mut keeper = command.spawn()?;
    until_listening(home, &log, &mut keeper).await
}

async fn until_listening(home: &Path, log: &Path, keeper: &mut Child) -> Result<Client, CliError> {
    let deadline = Instant::now() + LISTENING_LIMIT;
    loop {
        if let Some(client) = running(home).await {
            return Ok(client);
        }
        let ended = keeper.try_wait()?;
        if ended.is_some() || Instant::now() > deadline {
            let source = io::Error::other(format!("it does not listen; see {}", log.display()));
            return Err(SupervisorError::System { action: "start the supervisor", source }.into());
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_absolute() {
        let here = env::current_dir().unwrap();
        assert_eq!(home(Some("here".into())).unwrap(), here.join("here"));
        assert_eq!(home(Some("/there".into())).unwrap(), Path::new("/there"));
        assert_eq!(log_dir(Path::new("/there")), Path::new("/there/logs"));
    }
}
