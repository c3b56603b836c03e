//! The processes that belong to an instance: its leader, the leader's descendants, and all of the leader's session.
//!
//! A descendant that left the session is found only while the chain of parents up to the leader is unbroken, that
//! is, when a stop begins; one that left it and outlived a crashed leader is not.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
};

use super::process::PidFd;

/// The living members of the leader's tree and session without the leader, deepest first, by pid.
pub(super) fn members_of(leader: u32) -> Vec<(u32, PidFd)> {
    let processes = processes();
    let mut found: Vec<(usize, u32, Process)> = processes
        .iter()
        .filter(|(pid, process)| **pid != leader && !process.is_zombie)
        .filter_map(|(pid, process)| {
            let depth = depth_below(leader, process, &processes);
            depth.or((process.session == leader).then_some(0)).map(|depth| (depth, *pid, *process))
        })
        .collect();
    found.sort_by_key(|(depth, ..)| std::cmp::Reverse(*depth));
    found.into_iter().filter_map(|(_, pid, process)| Some((pid, pin(pid, process).ok()?))).collect()
}

/// The living members of a session whose leader has ended, given the process that orphans become children of, deepest
/// first. One that left the session between them is not followed.
pub(super) fn left_behind(leader: u32, reaper: u32) -> Vec<(u32, PidFd)> {
    let is_member = |pid: &u32| Process::read(*pid).is_some_and(|process| process.session == leader);
    let orphans = children_of(reaper).into_iter().filter(|pid| *pid != leader && is_member(pid));
    let mut found: Vec<u32> = orphans.flat_map(all_below).collect();
    found.reverse();
    let living = found.into_iter().filter_map(|pid| Some((pid, Process::read(pid)?)));
    let living = living.filter(|(_, process)| !process.is_zombie);
    living.filter_map(|(pid, process)| Some((pid, pin(pid, process).ok()?))).collect()
}

fn depth_below(leader: u32, process: &Process, processes: &BTreeMap<u32, Process>) -> Option<usize> {
    let mut parent = process.parent;
    // The listing is not one moment's: a bound keeps a chain that loops in it from running for ever.
    for depth in 1..=processes.len() {
        if parent == leader {
            return Some(depth);
        }
        parent = processes.get(&parent)?.parent;
    }
    None
}

/// More processes than any instance has: a bound against a fork bomb that grows while it is counted.
const TREE_MAX: usize = 4096;

/// Takes hold of a process if it is still the one that was listed.
fn pin(pid: u32, process: Process) -> io::Result<PidFd> {
    let fd = PidFd::open(pid)?;
    // The pid may have passed to another process since it was listed. Now that it is held, it can be asked.
    let same = Process::read(pid).is_some_and(|now| now.start_ticks == process.start_ticks);
    if same { Ok(fd) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// What `/proc/PID/stat` says of a process. Read by hand: every end of an instance looks at every process of the
/// machine, and reading no more than this is several times faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) is_zombie: bool,
    pub(super) parent: u32,
    session: u32,
    pub(super) start_ticks: u64,
    /// User and system time so far.
    pub(super) cpu_ticks: u64,
}

impl Process {
    pub(super) fn read(pid: u32) -> Option<Self> {
        let mut buffer = [0; 1024];
        let read =
            File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut buffer)).ok()?;
        Self::parse(&buffer[..read])
    }

    fn parse(stat: &[u8]) -> Option<Self> {
        // The name, in parentheses, may itself contain spaces and parentheses, and need not be UTF-8.
        let name_end = stat.iter().rposition(|byte| *byte == b')')?;
        let mut fields = std::str::from_utf8(&stat[name_end + 1..]).ok()?.split_ascii_whitespace();
        let is_zombie = fields.next()? == "Z";
        let parent = fields.next()?.parse().ok()?;
        let session = fields.nth(1)?.parse().ok()?;
        let user: u64 = fields.nth(7)?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        let start_ticks = fields.nth(6)?.parse().ok()?;
        Some(Self { is_zombie, parent, session, start_ticks, cpu_ticks: user.saturating_add(system) })
    }
}

/// The resident memory of a process and its descendants, bytes, found through the kernel's lists of children.
/// Processes that end meanwhile count as nothing.
pub(super) fn resident_bytes(leader: u32) -> u64 {
    let page = rustix::param::page_size() as u64;
    let pages = all_below(leader).into_iter().filter_map(|pid| {
        let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        statm.split(' ').nth(1)?.parse::<u64>().ok()
    });
    pages.sum::<u64>() * page
}

/// The CPU time that a process and its descendants have taken so far, in ticks of the kernel.
pub(super) fn cpu_ticks(leader: u32) -> u64 {
    let processes = all_below(leader).into_iter().filter_map(Process::read);
    processes.map(|process| process.cpu_ticks).sum()
}

/// A process and all its descendants.
pub(super) fn all_below(leader: u32) -> Vec<u32> {
    let mut found = vec![leader];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied().filter(|_| next < TREE_MAX) {
        found.extend(children_of(pid));
        next += 1;
    }
    found
}

/// The children of a process, whichever of its threads started them.
pub(super) fn children_of(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists =
        threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

fn processes() -> BTreeMap<u32, Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, Process::read(pid)?))).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        process::{Child, Command, Stdio},
        time::Duration,
    };

    use rustix::process::Signal;

    use super::{super::in_own_session, super::process::has_ended, *};

    /// The leader of a session, and the pids that it wrote. All of it is killed in the end.
    struct Session {
        leader: Child,
        told: Vec<u32>,
        held: Vec<PidFd>,
    }

    impl Session {
        fn of(script: &str) -> Self {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]).stdout(Stdio::piped()).stdin(Stdio::null());
            let mut leader = in_own_session(&mut command).spawn().unwrap();
            let mut line = String::new();
            BufReader::new(leader.stdout.take().unwrap()).read_line(&mut line).unwrap();
            let told: Vec<u32> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
            let held = told.iter().map(|pid| PidFd::open(*pid).unwrap()).collect();
            Self { leader, told, held }
        }

        fn members(&self) -> Vec<u32> {
            members_of(self.leader.id()).into_iter().map(|(pid, _)| pid).collect()
        }
    }

    impl Drop for Session {
        fn drop(&mut self) {
            self.held.iter().for_each(|member| PidFd::signal_by(member, Signal::KILL));
            let _ = self.leader.kill();
            let _ = self.leader.wait();
        }
    }

    #[test]
    fn the_deepest_members_come_first_and_the_leader_is_none() {
        // A child, its child, and that one's, which has left the session. No shell replaces itself: each has more to do.
        let script = "sh -c 'sh -c \"setsid sleep 100000 & echo \\$PPID \\$\\$ \\$!; wait\"; :'; :";
        let session = Session::of(script);
        let mut expected = session.told.clone();
        expected.reverse();
        assert_eq!(session.members(), expected);
    }

    #[test]
    fn those_of_the_session_are_found_without_their_parents_and_zombies_are_not() {
        // The one in between ends at once, so that nothing but the session tells whose the last one is.
        let session = Session::of("sh -c 'sleep 100000 > /dev/null & echo $!'; exec sleep 100000");
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while session.members() != session.told {
            assert!(std::time::Instant::now() < deadline, "{:?}", session.members());
            std::thread::sleep(Duration::from_millis(1));
        }
        PidFd::signal_by(&session.held[0], Signal::KILL);
        assert!(has_ended(std::os::fd::AsFd::as_fd(&session.held[0]), Duration::from_secs(20)));
        assert_eq!(session.members(), [0; 0]);
    }

    #[test]
    fn memory_and_time_are_those_of_the_whole_tree() {
        let script = "python3 -c 'import os
held = b\"x\" * (50 << 20)
while os.times().user + os.times().system < 0.3: pass
print(os.getpid(), flush=True)
import time; time.sleep(100000)'; :";
        let session = Session::of(script);
        let (leader, child) = (session.leader.id(), session.told[0]);
        assert!(children_of(leader) == [child] || children_of(children_of(leader)[0]) == [child]);
        assert!(resident_bytes(leader) > resident_bytes(child) && resident_bytes(child) > 50 << 20);
        let ticks = rustix::param::clock_ticks_per_second();
        assert!(cpu_ticks(leader) >= ticks / 4, "{} of {ticks} a second", cpu_ticks(leader));
        // One that there is not holds nothing.
        assert_eq!(
            (resident_bytes(u32::MAX), cpu_ticks(u32::MAX), children_of(u32::MAX)),
            (0, 0, Vec::new())
        );
    }

    #[test]
    fn a_name_may_contain_anything() {
        let stat = b"7 (a) Z (\xff 1 2) S 3 4 5 0 -1 0 1 2 3 4 7 8 7 8 20 0 1 0 987 1 2";
        let read = Process { is_zombie: false, parent: 3, session: 5, start_ticks: 987, cpu_ticks: 15 };
        assert_eq!(Process::parse(stat), Some(read));
        assert_eq!(Process::parse(b"7 (a) S 3"), None);
        assert_eq!(Process::parse(b""), None);
    }

    #[test]
    fn it_reads_what_others_read() {
        let read = Process::read(std::process::id()).unwrap();
        let stat = procfs::process::Process::myself().unwrap().stat().unwrap();
        assert_eq!((read.parent, read.start_ticks), (stat.ppid.cast_unsigned(), stat.starttime));
        assert_eq!(read.session, stat.session.cast_unsigned());
    }
}
