//! A cgroup per app where we may make one: a limit of its processes, and an end that nothing escapes.
//!
//! The place: with cgroup v2 our own group or its parent, whichever distributes `pids` and lets us make a group in it (inside
//! our own works only while it has no processes, which is the kernel's rule; a delegated slice is the usual case). With v1 our
//! own group of the `pids` hierarchy. Elsewhere the limit of the user (`RLIMIT_NPROC`) serves, if the app has a user of its own
//! that is not root.
//!
//! Deliberately absent: memory and CPU limits, and making the supervisor itself move.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, Signal};

/// How the number of an app's processes is limited.
#[derive(Debug)]
pub(crate) enum ProcessCap {
    /// By a group of its own: put [`Cgroup::procs`] into the orders.
    Cgroup(Cgroup),
    /// By the limit of its user, everywhere: put a [`Limit`](super::Limit) into the orders.
    PerUser { maximum: u32 },
}

/// Why the number of processes cannot be limited here.
#[derive(Debug, thiserror::Error)]
#[error(
    "a limit of processes is not supported here: no cgroup can be made ({cgroup}), and a limit per user needs an app that runs as another user than root"
)]
pub(crate) struct CapError {
    pub(crate) cgroup: io::Error,
}

/// Finds a way to limit an app to `maximum` processes and threads. `own_user` says that the app runs as a user of its own,
/// which is not root.
pub(crate) fn cap_processes(name: &str, maximum: u32, own_user: bool) -> Result<ProcessCap, CapError> {
    match Cgroup::create(name, maximum) {
        Ok(cgroup) => Ok(ProcessCap::Cgroup(cgroup)),
        Err(_) if own_user => Ok(ProcessCap::PerUser { maximum }),
        Err(cgroup) => Err(CapError { cgroup }),
    }
}

/// A control group of one app. It outlives this value; end it with [`Cgroup::kill`] and [`Cgroup::remove`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cgroup {
    directory: PathBuf,
}

impl Cgroup {
    /// Makes a group, or takes over an earlier one of that name.
    pub(crate) fn create(name: &str, maximum: u32) -> io::Result<Self> {
        let mut trouble = io::Error::new(io::ErrorKind::Unsupported, "there is no pids controller");
        for parent in Places::of_ourselves()?.parents() {
            match Self::create_in(&parent, name, maximum) {
                Ok(cgroup) => return Ok(cgroup),
                Err(error) => trouble = error,
            }
        }
        Err(trouble)
    }

    /// Takes over a group that was stored by its directory.
    #[cfg(test)]
    pub(crate) fn adopt(directory: PathBuf) -> Self {
        Self { directory }
    }

    #[cfg(test)]
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The file through which a process enters.
    pub(crate) fn procs(&self) -> PathBuf {
        self.directory.join("cgroup.procs")
    }

    /// How many processes and threads it has now.
    #[cfg(test)]
    pub(crate) fn size(&self) -> io::Result<u32> {
        let text = fs::read_to_string(self.directory.join("pids.current"))?;
        text.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// Kills everything in it, however fast it forks. The dead may take a moment to leave.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match fs::OpenOptions::new().write(true).open(self.directory.join("cgroup.kill")) {
            Ok(mut file) => io::Write::write_all(&mut file, b"1"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.kill_one_by_one(),
            Err(error) => Err(error),
        }
    }

    /// Removes the empty group; fails with "busy" as long as one process is left.
    pub(crate) fn remove(&self) -> io::Result<()> {
        fs::remove_dir(&self.directory)
    }

    fn create_in(parent: &Path, name: &str, maximum: u32) -> io::Result<Self> {
        let safe = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '_' };
        let directory = parent.join(format!("qbench-{}", name.chars().map(safe).collect::<String>()));
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let cgroup = Self { directory };
        if let Err(error) = fs::write(cgroup.directory.join("pids.max"), maximum.to_string()) {
            // Nothing may stay behind of an attempt, least of all one without a limit.
            let _ = cgroup.remove();
            return Err(error);
        }
        Ok(cgroup)
    }

    /// For v1, and kernels without `cgroup.kill`: forbid new processes first, then nothing can outrun us.
    fn kill_one_by_one(&self) -> io::Result<()> {
        fs::write(self.directory.join("pids.max"), "0")?;
        let mut killed = Vec::new();
        // A second round finds the child of a fork that was under way.
        for _ in 0..MAX_ROUNDS {
            let mut members = self.members()?;
            members.retain(|pid| !killed.contains(pid));
            if members.is_empty() {
                break;
            }
            self.kill_members(&members)?;
            killed.extend(members);
        }
        Ok(())
    }

    fn kill_members(&self, members: &[Pid]) -> io::Result<()> {
        let open = |pid: &Pid| Some((*pid, rustix::process::pidfd_open(*pid, PidfdFlags::empty()).ok()?));
        let held: Vec<_> = members.iter().filter_map(open).collect();
        // A number that is still a member now was one when its descriptor was opened: it names no stranger.
        let still = self.members()?;
        for (pid, descriptor) in held {
            if still.contains(&pid) {
                let _ = rustix::process::pidfd_send_signal(&descriptor, Signal::KILL);
            }
        }
        Ok(())
    }

    fn members(&self) -> io::Result<Vec<Pid>> {
        let text = fs::read_to_string(self.procs())?;
        Ok(text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect())
    }
}

const MAX_ROUNDS: u32 = 8;

/// Where this process is in the hierarchies.
#[derive(Debug, Default, PartialEq, Eq)]
struct Places {
    /// The mount of v2, and our group in it.
    unified: Option<(PathBuf, PathBuf)>,
    /// The same for the `pids` hierarchy of v1.
    pids: Option<(PathBuf, PathBuf)>,
}

impl Places {
    fn of_ourselves() -> io::Result<Self> {
        Ok(Self::read(
            &fs::read_to_string("/proc/self/mountinfo")?,
            &fs::read_to_string("/proc/self/cgroup")?,
        ))
    }

    fn read(mounts: &str, groups: &str) -> Self {
        let mount = |wanted: fn(&str, &str) -> bool| {
            mounts.lines().find_map(|line| {
                let (place, kind) = line.split_once(" - ")?;
                let mut kind = kind.split(' ');
                let (kind, options) = (kind.next()?, kind.nth(1)?);
                let mut place = place.split(' ').skip(3);
                let (root, point) = (place.next()?, place.next()?);
                wanted(kind, options).then(|| (PathBuf::from(root), PathBuf::from(point)))
            })
        };
        let group = |wanted: fn(&str, &str) -> bool| {
            groups.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':');
                let (number, controllers) = (fields.next()?, fields.next()?);
                wanted(number, controllers).then_some(fields.next()?)
            })
        };
        let join = |mount: Option<(PathBuf, PathBuf)>, group: Option<&str>| {
            let ((root, point), group) = (mount?, group?);
            // A mount may show only a part of the hierarchy; a group outside of it is out of reach.
            let inside = Path::new(group).strip_prefix(root).ok()?.to_path_buf();
            Some((point, inside))
        };
        Self {
            unified: join(mount(|kind, _| kind == "cgroup2"), group(|number, _| number == "0")),
            pids: join(
                mount(|kind, options| kind == "cgroup" && options.split(',').any(|one| one == "pids")),
                group(|_, controllers| controllers.split(',').any(|one| one == "pids")),
            ),
        }
    }

    /// The groups in which one of ours may be made, the best first.
    fn parents(&self) -> Vec<PathBuf> {
        let mut parents = Vec::new();
        if let Some((mount, inside)) = &self.unified {
            let own = mount.join(inside);
            let outer = inside.parent().map(|outer| mount.join(outer));
            // Only our own group is ours to ask for more.
            parents.extend((distributes_pids(&own) || ask_for_pids(&own)).then_some(own));
            parents.extend(outer.filter(|outer| distributes_pids(outer)));
        }
        if let Some((mount, inside)) = &self.pids {
            parents.push(mount.join(inside));
        }
        parents
    }
}

/// Whether groups inside this one have the `pids` controller.
fn distributes_pids(group: &Path) -> bool {
    fs::read_to_string(group.join(DISTRIBUTED))
        .is_ok_and(|text| text.split_whitespace().any(|controller| controller == "pids"))
}

/// Refused while the group has processes, unless it is the root.
fn ask_for_pids(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.controllers"))
        .is_ok_and(|text| text.split_whitespace().any(|controller| controller == "pids"))
        && fs::write(group.join(DISTRIBUTED), "+pids").is_ok()
}

const DISTRIBUTED: &str = "cgroup.subtree_control";

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{Places, ask_for_pids, distributes_pids};

    #[test]
    fn a_delegated_slice_of_v2() {
        let mounts = "29 22 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let places = Places::read(mounts, "0::/user.slice/app.slice/me.service\n");
        let expected = (PathBuf::from("/sys/fs/cgroup"), PathBuf::from("user.slice/app.slice/me.service"));
        assert_eq!(places, Places { unified: Some(expected), pids: None });
    }

    #[test]
    fn a_hybrid_host_and_a_mount_of_a_part() {
        let mounts = "30 22 0:27 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n\
            31 22 0:28 /pod /sys/fs/cgroup/pids rw - cgroup none rw,pids\n\
            32 22 0:29 / /sys/fs/cgroup/cpu rw - cgroup none rw,cpu,cpuacct\n";
        let places = Places::read(mounts, "8:pids:/pod/a\n3:cpu,cpuacct:/\n0::/\n");
        assert_eq!(places.pids, Some((PathBuf::from("/sys/fs/cgroup/pids"), PathBuf::from("a"))));
        assert_eq!(places.parents().last(), Some(&PathBuf::from("/sys/fs/cgroup/pids/a")));
        assert_eq!(Places::read(mounts, "8:pids:/elsewhere\n").pids, None);
        assert_eq!(Places::read("", ""), Places::default());
    }

    #[test]
    fn the_controller_is_asked_for() {
        let group = tempfile::tempdir().unwrap();
        assert!(!ask_for_pids(group.path()));
        std::fs::write(group.path().join("cgroup.controllers"), "cpu pids\n").unwrap();
        assert!(ask_for_pids(group.path()));
        std::fs::write(group.path().join("cgroup.subtree_control"), "cpu pids\n").unwrap();
        assert!(distributes_pids(group.path()));
    }
}
