//! The processes behind the containers: the services' own, and the Engine's.

use procfs::process::{Process, Stat};

use crate::model::process::{ProcessId, Processes};

/// The kernel keeps 15 bytes of a process's name, so this is all of `containerd-shim-runc-v2`.
const SHIM: &str = "containerd-shim";

/// Sorts the processes by who pays for them.
///
/// `mains` are the containers' main processes, `listener` is whoever listens on the Engine's socket, `ports` are those
/// published. What cannot be found is left out.
pub(super) fn of_containers(mains: &[ProcessId], listener: Option<i32>, ports: &[u16]) -> Processes {
    let all: Vec<Process> = procfs::process::all_processes().into_iter().flatten().flatten().collect();
    let stats: Vec<Stat> = all.iter().filter_map(|process| process.stat().ok()).collect();
    let dockerd = engine_process(&stats, listener);
    let mut overhead_fixed: Vec<ProcessId> = dockerd.map(id_of).into_iter().collect();
    overhead_fixed.extend(dockerd.and_then(|dockerd| separate_containerd(&stats, dockerd)).map(id_of));
    let mut overhead_per_instance: Vec<ProcessId> = mains
        .iter()
        .filter_map(|main| stats.iter().find(|stat| id_of(stat) == *main))
        .filter_map(|main| stats.iter().find(|stat| stat.pid == main.ppid && stat.comm == SHIM))
        .map(id_of)
        .collect();
    let proxies = stats.iter().filter(|stat| {
        stat.comm == "docker-proxy" && dockerd.is_some_and(|dockerd| stat.ppid == dockerd.pid)
    });
    let (own_proxies, other_proxies): (Vec<&Stat>, Vec<&Stat>) =
        proxies.partition(|stat| serves(stat, ports));
    overhead_per_instance.extend(own_proxies.into_iter().map(id_of));
    let not_of_this_arm = other_proxies.into_iter().map(id_of).collect();
    Processes { service: mains.to_vec(), overhead_fixed, overhead_per_instance, not_of_this_arm }
}

/// The process of that pid, if a container's shim is its parent. An Engine in a virtual machine tells pids of its own,
/// which may be anybody's here.
pub(super) fn of_a_shim(pid: i64) -> Option<ProcessId> {
    let stat = Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()?;
    let parent = Process::new(stat.ppid).ok()?.stat().ok()?;
    (parent.comm == SHIM).then(|| id_of(&stat))
}

/// Systemd may have opened the socket for the Engine; then the Engine is the one process of its name.
fn engine_process(stats: &[Stat], listener: Option<i32>) -> Option<&Stat> {
    let mut engines = stats.iter().filter(|stat| stat.comm == "dockerd");
    let listening = engines.clone().find(|stat| Some(stat.pid) == listener);
    listening.or_else(|| engines.next().filter(|_| engines.next().is_none()))
}

/// The containerd that runs beside the Engine. One that the Engine started is its descendant, and needs no root.
fn separate_containerd<'a>(stats: &'a [Stat], dockerd: &Stat) -> Option<&'a Stat> {
    let mut found = stats.iter().filter(|stat| stat.comm == "containerd");
    if found.clone().any(|stat| stat.ppid == dockerd.pid) {
        return None;
    }
    // With several there is no telling which one serves this Engine.
    found.next().filter(|_| found.next().is_none())
}

fn serves(proxy: &Stat, ports: &[u16]) -> bool {
    let Ok(args) = Process::new(proxy.pid).and_then(|process| process.cmdline()) else { return false };
    let port = args.iter().skip_while(|arg| *arg != "-host-port").nth(1);
    port.and_then(|port| port.parse().ok()).is_some_and(|port| ports.contains(&port))
}

fn id_of(stat: &Stat) -> ProcessId {
    ProcessId { pid: stat.pid.unsigned_abs(), start_ticks: stat.starttime }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_nobodys_container_is_not_taken_for_one() {
        assert_eq!(of_a_shim(i64::from(std::process::id())), None);
        assert_eq!(of_a_shim(i64::MAX), None);
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        let gone = ProcessId { pid: 1, start_ticks: u64::MAX };
        let found = of_containers(&[gone], Some(-1), &[]);
        assert_eq!(found.service, [gone]);
        assert_eq!(found.overhead_per_instance, []);
    }
}
