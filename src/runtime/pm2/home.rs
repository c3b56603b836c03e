//! The `PM2_HOME` of an arm: its files, and the daemon they tell of.
//!
//! Deliberately absent: the user's own PM2. Nothing here ever looks outside the arm's sandbox.

use std::{
    collections::BTreeMap,
    env, fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::rpc::Rpc;
use crate::{
    model::process::ProcessId,
    runtime::{Arm, RuntimeError, Sandbox, log_tail, sandbox},
};

/// `sun_path` has 108 bytes, with the zero at its end.
const SOCKET_PATH_MAX_BYTES: usize = 107;
/// The longest of the three names of sockets that PM2 makes.
const LONGEST_SOCKET: &str = "interactor.sock";

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Home {
    dir: PathBuf,
    sandbox: Sandbox,
}

impl Home {
    pub(super) fn of(arm: &Arm) -> Self {
        Self { dir: arm.sandbox.dir().join("pm2"), sandbox: arm.sandbox.clone() }
    }

    /// The ecosystem file that PM2 is started with.
    pub(super) fn ecosystem(&self) -> PathBuf {
        self.dir.join("ecosystem.json")
    }

    /// The daemon, when one lives here. Its pid file outlives it, so only a process with our mark is believed.
    pub(super) fn daemon(&self) -> Option<ProcessId> {
        let pid: u32 = fs::read_to_string(self.dir.join("pm2.pid")).ok()?.trim().parse().ok()?;
        self.sandbox.marked_processes().into_iter().find(|process| process.pid == pid)
    }

    /// The daemon's calls.
    pub(super) fn rpc(&self) -> Rpc {
        Rpc::at(&self.dir.join("rpc.sock"))
    }

    /// Makes the folder and writes the ecosystem file, which only this user may read: it holds environments.
    pub(super) fn prepare(&self, ecosystem: &Value) -> Result<(), RuntimeError> {
        let length = self.dir.join(LONGEST_SOCKET).as_os_str().len();
        if length > SOCKET_PATH_MAX_BYTES {
            let source = io::Error::new(
                io::ErrorKind::InvalidFilename,
                format!("its path has {length} bytes, of which {SOCKET_PATH_MAX_BYTES} are allowed"),
            );
            return Err(RuntimeError::System {
                action: format!("make a socket in {}", self.dir.display()),
                source,
            });
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(|e| file_error("make", &self.dir, e))?;
        let path = self.ecosystem();
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(ecosystem.to_string().as_bytes()))
            .map_err(|e| file_error("write", &path, e))
    }

    /// Removes what a daemon that was killed leaves lying: a lock would refuse the next reload, and a pid file
    /// would name a stranger.
    pub(super) fn remove_leftovers(&self) -> Result<(), RuntimeError> {
        for name in ["pm2.pid", "rpc.sock", "pub.sock", "reload.lock"] {
            let path = self.dir.join(name);
            gone(fs::remove_file(&path)).map_err(|e| file_error("remove", &path, e))?;
        }
        Ok(())
    }

    /// Removes the folder.
    pub(super) fn remove(&self) -> Result<(), RuntimeError> {
        gone(fs::remove_dir_all(&self.dir)).map_err(|e| file_error("remove", &self.dir, e))
    }

    /// What a command of PM2 gets over the environment of qbench itself.
    pub(super) fn variables(&self) -> BTreeMap<String, String> {
        // Others of PM2's variables could lead to the user's own daemon or account. To PM2, empty is absent.
        let inherited = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let mut variables: BTreeMap<String, String> =
            inherited.filter(|name| name.starts_with("PM2_")).map(|name| (name, String::new())).collect();
        variables.insert("PM2_HOME".to_owned(), self.dir.display().to_string());
        variables.insert("PM2_DISABLE_VERSION_CHECK".to_owned(), "1".to_owned());
        variables.insert(sandbox::MARK.to_owned(), self.sandbox.mark());
        variables
    }

    /// The last lines that the instances of an app wrote; of each its output, then its errors.
    pub(super) fn logs(&self, app: &str, lines: usize) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.dir.join("logs")) else { return Vec::new() };
        let mut files: Vec<(LogFile, PathBuf)> = entries
            .flatten()
            .filter_map(|entry| Some((log_file(app, entry.file_name().to_str()?)?, entry.path())))
            .collect();
        files.sort();
        let mut text: Vec<String> =
            files.iter().flat_map(|(_, path)| log_tail::last_lines(path, lines)).collect();
        text.drain(..text.len().saturating_sub(lines));
        text
    }
}

/// Errors last: what is cut off is cut off at the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum LogFile {
    Output(Option<u64>),
    Errors(Option<u64>),
}

/// Which log of the app a file of that name is: `APP-out.log`, or `APP-out-3.log` for instance 3.
fn log_file(app: &str, name: &str) -> Option<LogFile> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '\\');
    let prefix: String = app.chars().map(|c| if plain(c) { c } else { '-' }).collect();
    let rest = name.strip_prefix(&prefix)?.strip_suffix(".log")?;
    let id = |text: &str| match text.strip_prefix('-') {
        Some(digits) => digits.parse().ok().map(Some),
        None => text.is_empty().then_some(None),
    };
    if let Some(text) = rest.strip_prefix("-out") {
        return id(text).map(LogFile::Output);
    }
    id(rest.strip_prefix("-error")?).map(LogFile::Errors)
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn file_error(action: &'static str, path: &Path, source: io::Error) -> RuntimeError {
    RuntimeError::File { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::json;

    use super::*;

    fn home(dir: &Path) -> Home {
        Home { dir: dir.join("pm2"), sandbox: Sandbox::existing(dir.to_owned()) }
    }

    #[test]
    fn log_files_are_told_from_those_of_other_apps() {
        assert_eq!(log_file("web", "web-out.log"), Some(LogFile::Output(None)));
        assert_eq!(log_file("web", "web-error-12.log"), Some(LogFile::Errors(Some(12))));
        assert_eq!(log_file("my app", "my-app-out-0.log"), Some(LogFile::Output(Some(0))));
        for other in ["web-api-out.log", "webs-out.log", "web-out-x.log", "web-0.pid", "web.log"] {
            assert_eq!(log_file("web", other), None, "{other}");
        }
    }

    #[test]
    fn the_end_of_the_errors_comes_last() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path());
        fs::create_dir_all(home.dir.join("logs")).unwrap();
        fs::write(home.dir.join("logs/web-error-0.log"), "e1\ne2\n").unwrap();
        fs::write(home.dir.join("logs/web-out-0.log"), "o1\no2\n").unwrap();
        assert_eq!(home.logs("web", 3), ["o2", "e1", "e2"]);
    }

    #[test]
    fn the_ecosystem_file_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path());
        home.prepare(&json!({"apps": []})).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&home.dir), mode(&home.ecosystem())), (0o700, 0o600));
        home.remove().unwrap();
        home.remove().unwrap();
        assert!(!home.dir.exists());
    }

    #[test]
    fn a_path_too_long_for_sockets_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(100));
        assert!(matches!(home(&long).prepare(&json!({})), Err(RuntimeError::System { .. })));
        assert!(!long.exists());
    }

    #[test]
    fn a_pid_file_alone_makes_no_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path());
        home.prepare(&json!({})).unwrap();
        fs::write(home.dir.join("pm2.pid"), std::process::id().to_string()).unwrap();
        assert_eq!(home.daemon(), None);
        home.remove_leftovers().unwrap();
        assert!(!home.dir.join("pm2.pid").exists());
    }
}
