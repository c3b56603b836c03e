//! A folder and a mark of its own for everything an arm starts, so that all of it can be found again.
//!
//! `BASE/SESSION/owner.json` names the qbench process that owns the session; `BASE/SESSION/ARM/` is an arm's
//! sandbox. Every process an arm starts carries [`MARK`] in its environment, every container a label, with the
//! arm's folder as the value. A session whose owner is gone is an orphan: [`orphans`] lists them.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use procfs::process::Process;
use serde::{Deserialize, Serialize};

use super::RuntimeError;
use crate::model::process::ProcessId;

/// The environment variable that every process of an arm carries.
pub const MARK: &str = "QBENCH_SANDBOX";

/// Begins the name of a session's folder that has no owner yet.
const BEGINNING: &str = ".beginning-";

/// The sandboxes of one session.
#[derive(Debug)]
pub struct SessionSandbox {
    dir: PathBuf,
}

/// An arm's own folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    dir: PathBuf,
}

/// Who owns a session.
#[derive(Debug, Serialize, Deserialize)]
struct Owner {
    process: ProcessId,
}

/// The folder under which all sessions of this user lie.
///
/// Short on purpose: Unix sockets in it must stay under 108 bytes.
pub fn base() -> PathBuf {
    std::env::temp_dir().join(format!("qbench-{}", rustix::process::getuid().as_raw()))
}

impl SessionSandbox {
    /// Makes the session's folder, readable by this user only, and names this process as its owner.
    ///
    /// # Errors
    /// When the folder cannot be made, or belongs to somebody else.
    pub fn create(session: &str) -> Result<Self, RuntimeError> {
        let base = base();
        make_private(&base)?;
        let dir = base.join(session);
        // Under another name until it has its owner: a session without one is an orphan to whoever looks.
        let beginning = base.join(format!("{BEGINNING}{session}"));
        make_private(&beginning)?;
        let owner = Owner { process: ProcessId::of_this_process()? };
        let text = serde_json::to_string(&owner).expect("an owner is plain data");
        write(&beginning.join("owner.json"), text.as_bytes())?;
        fs::rename(&beginning, &dir).map_err(|source| RuntimeError::File {
            action: "make",
            path: dir.clone(),
            source,
        })?;
        Ok(Self { dir })
    }

    /// Makes an arm's folder in it.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn arm(&self, name: &str) -> Result<Sandbox, RuntimeError> {
        let dir = self.dir.join(name);
        make_private(&dir)?;
        make_private(&dir.join("release"))?;
        Ok(Sandbox { dir })
    }

    /// Removes the session's folder. The arms must have been torn down before.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub fn remove(self) -> Result<(), RuntimeError> {
        remove_tree(&self.dir)
    }
}

impl Sandbox {
    /// The sandbox that lies there already.
    pub fn existing(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Its folder, absolute.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The value of [`MARK`] and of the container label.
    pub fn mark(&self) -> String {
        self.dir.display().to_string()
    }

    /// The folder that holds nothing but the file [`release_file`](Self::release_file), so that it can be mounted.
    pub fn release_dir(&self) -> PathBuf {
        self.dir.join("release")
    }

    /// The file whose content is the deployed release.
    pub fn release_file(&self) -> PathBuf {
        self.release_dir().join("RELEASE")
    }

    /// Deploys a release: the next process that starts will read it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn deploy(&self, release: &str) -> Result<(), RuntimeError> {
        let next = self.release_dir().join("RELEASE.next");
        write(&next, release.as_bytes())?;
        // A container's user is another one; nothing in it is a secret.
        let readable = fs::set_permissions(&next, fs::Permissions::from_mode(0o644));
        readable.map_err(|source| RuntimeError::File {
            action: "open to all readers",
            path: next.clone(),
            source,
        })?;
        fs::rename(&next, self.release_file()).map_err(|source| RuntimeError::File {
            action: "replace",
            path: self.release_file(),
            source,
        })
    }

    /// Every living process that carries this sandbox's mark.
    pub fn marked_processes(&self) -> Vec<ProcessId> {
        let mark = self.mark();
        marked(|value| value == mark)
    }

    /// Kills every process that carries this sandbox's mark, and waits until none is left.
    ///
    /// # Errors
    /// When some are still there after five seconds.
    pub fn kill_marked(&self) -> Result<(), RuntimeError> {
        let limit = Duration::from_secs(5);
        let deadline = Instant::now() + limit;
        let mut killed: BTreeSet<ProcessId> = BTreeSet::new();
        let mut empty_before = false;
        loop {
            let mut left: BTreeSet<ProcessId> = self.marked_processes().into_iter().collect();
            // A process that is ending shows no environment any more, some time before it is a zombie or gone.
            left.extend(killed.iter().filter(|process| process.is_alive()));
            if left.is_empty() {
                // Nor does one that is just turning into another program: only two looks in a row are an answer.
                if empty_before {
                    return Ok(());
                }
                empty_before = true;
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            empty_before = false;
            if Instant::now() > deadline {
                return Err(RuntimeError::TimedOut {
                    what: format!("ending {} processes", left.len()),
                    limit,
                });
            }
            for process in &left {
                process.kill();
            }
            killed.extend(left);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Removes the folder.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub fn remove(&self) -> Result<(), RuntimeError> {
        remove_tree(&self.dir)
    }
}

impl ProcessId {
    /// The process of that pid, if there is one.
    pub fn find(pid: u32) -> Option<Self> {
        let stat = Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()?;
        Some(Self { pid, start_ticks: stat.starttime })
    }

    /// Whether it is still the same process, and not a zombie.
    pub fn is_alive(self) -> bool {
        i32::try_from(self.pid)
            .ok()
            .and_then(|pid| Process::new(pid).ok()?.stat().ok())
            .is_some_and(|stat| stat.starttime == self.start_ticks && stat.state != 'Z')
    }

    /// Sends SIGKILL, by pidfd, so that no other process can be hit; true when it was sent.
    pub fn kill(self) -> bool {
        use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return false };
        let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
        // The pidfd pins whatever has the pid now; only then is it safe to ask whether that is the one we mean.
        self.is_alive() && pidfd_send_signal(&fd, Signal::KILL).is_ok()
    }

    fn of_this_process() -> Result<Self, RuntimeError> {
        Self::find(std::process::id()).ok_or_else(|| RuntimeError::System {
            action: "read /proc/self/stat".to_owned(),
            source: io::ErrorKind::NotFound.into(),
        })
    }
}

/// Sessions whose owner is gone: each arm's sandbox, and the session folder to remove afterwards.
pub fn orphans() -> Vec<(PathBuf, Vec<Sandbox>)> {
    sessions()
        .into_iter()
        .filter(|dir| !owner_is_alive(dir))
        .map(|dir| (dir.clone(), arms_of(&dir)))
        .collect()
}

/// Sessions whose owner lives.
pub fn living() -> Vec<PathBuf> {
    sessions().into_iter().filter(|dir| owner_is_alive(dir)).collect()
}

/// Removes a session folder whose arms have been cleared.
///
/// # Errors
/// When something in it cannot be removed.
pub fn remove_session(dir: &Path) -> Result<(), RuntimeError> {
    remove_tree(dir)
}

fn sessions() -> Vec<PathBuf> {
    let base = base();
    let Ok(metadata) = fs::symlink_metadata(&base) else { return Vec::new() };
    if !metadata.is_dir() || metadata.uid() != rustix::process::getuid().as_raw() {
        return Vec::new();
    }
    let is_begun =
        |dir: &PathBuf| !dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with(BEGINNING));
    folders_in(&base).into_iter().filter(is_begun).collect()
}

fn arms_of(session: &Path) -> Vec<Sandbox> {
    folders_in(session).into_iter().map(Sandbox::existing).collect()
}

fn folders_in(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut folders: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect();
    folders.sort();
    folders
}

fn owner_is_alive(session: &Path) -> bool {
    fs::read(session.join("owner.json"))
        .ok()
        .and_then(|text| serde_json::from_slice::<Owner>(&text).ok())
        .is_some_and(|owner| owner.process.is_alive())
}

fn marked(mut is_ours: impl FnMut(&str) -> bool) -> Vec<ProcessId> {
    let Ok(processes) = procfs::process::all_processes() else { return Vec::new() };
    let prefix = format!("{MARK}=");
    processes
        .flatten()
        .filter_map(|process| {
            // Read raw: only our own variable is looked at, nothing else of an environment is kept.
            let environ = fs::read(format!("/proc/{}/environ", process.pid)).ok()?;
            let value =
                environ.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(prefix.as_bytes()))?;
            is_ours(std::str::from_utf8(value).ok()?).then_some(())?;
            ProcessId::find(u32::try_from(process.pid).ok()?)
        })
        .collect()
}

fn make_private(dir: &Path) -> Result<(), RuntimeError> {
    let made = fs::DirBuilder::new().mode(0o700).create(dir);
    let failed = |source| RuntimeError::File { action: "make", path: dir.to_owned(), source };
    match made {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = fs::symlink_metadata(dir).map_err(failed)?;
            let ours = metadata.is_dir() && metadata.uid() == rustix::process::getuid().as_raw();
            if ours { Ok(()) } else { Err(failed(io::Error::other("it belongs to another user"))) }
        }
        Err(e) => Err(failed(e)),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), RuntimeError> {
    fs::write(path, bytes).map_err(|source| RuntimeError::File {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

fn remove_tree(dir: &Path) -> Result<(), RuntimeError> {
    match fs::remove_dir_all(dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(RuntimeError::File { action: "remove", path: dir.to_owned(), source })
        }
        _ => Ok(()),
    }
}
