//! Memory and CPU of an arm's process trees, and the machine they run on.
//!
//! One reading walks `/proc` once: every process belongs to the nearest root above it, so that a worker that is
//! the child of a daemon counts as the service, not as the daemon.
//!
//! Deliberately absent: sampling loops. `smaps_rollup` takes the target's own memory lock (0.1 to 5 ms a
//! process), so the session reads at the edges of a window only.

mod cpu_clock;
pub mod host;
mod memory;

use std::{collections::HashMap, time::Duration};

use crate::model::{
    measurement::{ArmUsage, Memory, Usage},
    process::{ProcessId, Processes},
};

/// Reads memory and CPU of all the processes of an arm.
pub fn read(processes: &Processes) -> ArmUsage {
    let table = ProcessTable::read();
    let groups = [
        &processes.service,
        &processes.overhead_fixed,
        &processes.overhead_per_instance,
        &processes.not_of_this_arm,
    ];
    let mut roots = HashMap::new();
    for (group, members) in groups.iter().enumerate() {
        for root in members.iter().filter(|root| table.is(**root)) {
            roots.insert(root.pid, group);
        }
    }
    let mut members: [Vec<u32>; 4] = Default::default();
    for pid in table.pids() {
        if let Some(group) = table.nearest_root(pid, &roots) {
            members[group].push(pid);
        }
    }
    let [service, overhead_fixed, overhead_per_instance, _] = members;
    let [service, overhead_fixed, overhead_per_instance] =
        [service, overhead_fixed, overhead_per_instance].map(|pids| table.usage(&pids));
    ArmUsage { service, overhead_fixed, overhead_per_instance }
}

/// What `/proc/PID/stat` says of every process at one moment.
struct ProcessTable(HashMap<u32, Entry>);

struct Entry {
    parent: u32,
    start_ticks: u64,
    /// CPU time of children that have ended and been waited for.
    reaped: Duration,
}

impl ProcessTable {
    fn read() -> Self {
        let ticks_per_second = procfs::ticks_per_second();
        let entry = |process: procfs::process::Process| {
            let stat = process.stat().ok()?;
            if stat.state == 'Z' {
                return None;
            }
            let ticks = u64::try_from(stat.cutime + stat.cstime).unwrap_or(0);
            let reaped = Duration::from_secs_f64(ticks as f64 / ticks_per_second as f64);
            let parent = u32::try_from(stat.ppid).unwrap_or(0);
            Some((u32::try_from(stat.pid).ok()?, Entry { parent, start_ticks: stat.starttime, reaped }))
        };
        let processes = procfs::process::all_processes();
        Self(processes.into_iter().flatten().flatten().filter_map(entry).collect())
    }

    fn is(&self, process: ProcessId) -> bool {
        self.0.get(&process.pid).is_some_and(|entry| entry.start_ticks == process.start_ticks)
    }

    fn pids(&self) -> impl Iterator<Item = u32> {
        self.0.keys().copied()
    }

    fn nearest_root(&self, pid: u32, roots: &HashMap<u32, usize>) -> Option<usize> {
        let mut at = pid;
        // Bounded: the table is a snapshot read entry by entry, so a reused pid could in theory close a circle.
        for _ in 0..self.0.len() {
            if let Some(group) = roots.get(&at) {
                return Some(*group);
            }
            at = self.0.get(&at)?.parent;
        }
        None
    }

    fn usage(&self, pids: &[u32]) -> Usage {
        let mut memory = Some(Memory::default());
        let mut cpu = Some(Duration::ZERO);
        let mut processes = 0;
        for pid in pids {
            // A process that ended since the snapshot has no memory left to count; one that is there and cannot
            // be read makes the whole sum unknown, never smaller.
            let Some(own) = memory::read(*pid) else { continue };
            processes += 1;
            memory = memory.zip(own.ok()).map(|(sum, one)| sum.plus(one));
            let reaped = self.0.get(pid).map_or(Duration::ZERO, |entry| entry.reaped);
            cpu = cpu.zip(cpu_clock::read(*pid)).map(|(sum, one)| sum + one + reaped);
        }
        Usage { memory, cpu, processes }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn id(child: &Child) -> ProcessId {
        let stat = procfs::process::Process::new(child.id().cast_signed()).unwrap().stat().unwrap();
        ProcessId { pid: child.id(), start_ticks: stat.starttime }
    }

    /// A shell that tells when its own child runs, so that the test waits on an event.
    fn shell_with_child() -> Child {
        use std::io::Read as _;
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 60 & echo up; wait"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut up = [0; 2];
        shell.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
        shell
    }

    fn end(mut shell: Child) {
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", shell.id())).unwrap();
        for pid in children.split_whitespace() {
            let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        shell.kill().unwrap();
        shell.wait().unwrap();
    }

    #[test]
    fn a_tree_is_counted_with_its_descendants() {
        let shell = shell_with_child();
        let usage = read(&Processes { service: vec![id(&shell)], ..Processes::default() });
        assert_eq!(usage.service.processes, 2, "the shell and its sleep");
        let memory = usage.service.memory.unwrap();
        assert!(memory.anonymous.0 > 0 && memory.rss.0 >= memory.pss.0, "{memory:?}");
        assert!(usage.service.cpu.is_some());
        assert_eq!(usage.overhead_fixed.processes, 0);
        end(shell);
    }

    #[test]
    fn a_worker_below_a_daemon_counts_as_the_service() {
        let shell = shell_with_child();
        let own = std::process::id();
        let this = procfs::process::Process::myself().unwrap().stat().unwrap().starttime;
        let processes = Processes {
            service: vec![id(&shell)],
            overhead_fixed: vec![ProcessId { pid: own, start_ticks: this }],
            ..Processes::default()
        };
        let usage = read(&processes);
        assert_eq!(usage.service.processes, 2);
        assert!(usage.overhead_fixed.processes >= 1);
        end(shell);
    }

    #[test]
    fn what_is_of_another_arm_is_not_counted() {
        let shell = shell_with_child();
        let sleep = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", shell.id())).unwrap();
        let pid: i32 = sleep.trim().parse().unwrap();
        let start_ticks = procfs::process::Process::new(pid).unwrap().stat().unwrap().starttime;
        let other = ProcessId { pid: pid.unsigned_abs(), start_ticks };
        let processes = Processes {
            overhead_fixed: vec![id(&shell)],
            not_of_this_arm: vec![other],
            ..Processes::default()
        };
        assert_eq!(read(&processes).overhead_fixed.processes, 1, "the shell without its sleep");
        end(shell);
    }

    #[test]
    fn a_reused_pid_is_not_mistaken() {
        let shell = shell_with_child();
        let mut wrong = id(&shell);
        wrong.start_ticks += 1;
        let usage = read(&Processes { service: vec![wrong], ..Processes::default() });
        assert_eq!(usage.service.processes, 0);
        end(shell);
    }

    #[test]
    fn cpu_time_grows_with_work() {
        let this = procfs::process::Process::myself().unwrap().stat().unwrap();
        let me = ProcessId { pid: std::process::id(), start_ticks: this.starttime };
        let processes = Processes { service: vec![me], ..Processes::default() };
        let before = read(&processes);
        let begun = std::time::Instant::now();
        let mut sum = 0_u64;
        while begun.elapsed() < Duration::from_millis(50) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let used = read(&processes).since(before).service.cpu.unwrap();
        assert!(used > Duration::ZERO, "{used:?}");
    }
}
