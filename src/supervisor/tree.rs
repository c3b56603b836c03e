//! The processes that belong to an instance: its leader, the leader's descendants, and all of the leader's session.
//!
//! A descendant that left the session is found only while the chain of parents up to the leader is unbroken, that
//! is, when a stop begins; one that left it and outlived a crashed leader is not.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    time::Duration,
};

use rustix::process::Signal;
use tokio::{sync::mpsc, time::timeout};

use super::spawn::{Leader, PidFd};

/// How long what was killed may take to be gone. Beyond it, it hangs in the kernel and no signal helps.
const KILLED_LIMIT: Duration = Duration::from_secs(5);

/// What the actor tells a guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// SIGINT to the leader and its descendants, deepest first.
    Interrupt,
    /// SIGKILL to all.
    Kill,
}

/// Watches over a process until it and all of its session are gone, and says how the leader ended. What a crashed
/// leader leaves behind is killed at once, because it may hold the port; when the end was asked for, it gets the
/// time that the leader gets.
pub(super) async fn guard(leader: Leader, mut orders: mpsc::Receiver<Order>) -> String {
    let mut members = Vec::new();
    let mut leader_is_gone = false;
    loop {
        tokio::select! {
            biased;
            Some(order) = orders.recv() => match order {
                Order::Interrupt => {
                    members = members_of(leader.pid);
                    signal_all(&members, Signal::INT);
                    leader.signal(Signal::INT);
                }
                Order::Kill => {
                    members.extend(members_of(leader.pid));
                    leader.signal(Signal::KILL);
                    signal_all(&members, Signal::KILL);
                }
            },
            () = leader.ended(), if !leader_is_gone => leader_is_gone = true,
            () = all_ended(&members), if leader_is_gone => break,
        }
    }
    let _ = timeout(KILLED_LIMIT, clear(leader.pid)).await;
    leader.reap()
}

/// Kills until nothing of the leader's session is left. The leader must not have been reaped.
async fn clear(leader: u32) {
    loop {
        let members = members_of(leader);
        if members.is_empty() {
            return;
        }
        signal_all(&members, Signal::KILL);
        all_ended(&members).await;
    }
}

fn signal_all(members: &[PidFd], signal: Signal) {
    for member in members {
        member.signal(signal);
    }
}

async fn all_ended(members: &[PidFd]) {
    for member in members {
        member.ended().await;
    }
}

/// The living members of the leader's tree and session without the leader, deepest first.
fn members_of(leader: u32) -> Vec<PidFd> {
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
    found.into_iter().filter_map(|(_, pid, process)| pin(pid, process).ok()).collect()
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
    is_zombie: bool,
    parent: u32,
    session: u32,
    pub(super) start_ticks: u64,
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
        Some(Self {
            is_zombie: fields.next()? == "Z",
            parent: fields.next()?.parse().ok()?,
            session: fields.nth(1)?.parse().ok()?,
            start_ticks: fields.nth(15)?.parse().ok()?,
        })
    }
}

fn processes() -> BTreeMap<u32, Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, Process::read(pid)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_contain_anything() {
        let stat = b"7 (a) Z (\xff 1 2) S 3 4 5 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 987 1 2";
        let read = Process { is_zombie: false, parent: 3, session: 5, start_ticks: 987 };
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
