//! The machine: what it is, and what it was like during a window.

use std::{fs, process::Command};

use crate::model::record::{Conditions, Fingerprint};

/// Reads what of this machine changes figures.
pub fn fingerprint() -> Fingerprint {
    let cpuinfo = text("/proc/cpuinfo").unwrap_or_default();
    let flags = field(&cpuinfo, "flags").unwrap_or_default();
    Fingerprint {
        cpu_model: field(&cpuinfo, "model name")
            .or_else(|| field(&cpuinfo, "CPU part"))
            .unwrap_or_else(|| "unknown".to_owned()),
        cpu_count: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        memory_gib: memory_gib(),
        kernel: text("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        governor: text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").map(|t| t.trim().to_owned()),
        virtual_machine: flags.split_whitespace().any(|flag| flag == "hypervisor"),
        cgroup_cpu_milli: cgroup_cpu_milli(),
        node_version: node_version(),
    }
}

/// Counters at the start of a window, for [`Window::end`].
#[derive(Clone, Copy, Debug)]
pub struct Window {
    cpu: Option<CpuTicks>,
}

#[derive(Clone, Copy, Debug)]
struct CpuTicks {
    total: u64,
    idle: u64,
    steal: u64,
}

impl Window {
    /// Begins a window.
    pub fn begin() -> Self {
        Self { cpu: cpu_ticks() }
    }

    /// Ends it: what the machine was like since.
    pub fn end(self) -> Conditions {
        let shares = self.cpu.zip(cpu_ticks()).and_then(|(then, now)| {
            let total = now.total.checked_sub(then.total).filter(|total| *total > 0)? as f64;
            let idle = now.idle.saturating_sub(then.idle) as f64;
            let steal = now.steal.saturating_sub(then.steal) as f64;
            Some((steal / total, 1.0 - idle / total))
        });
        Conditions {
            client: None,
            load_average: text("/proc/loadavg").and_then(|t| t.split_whitespace().next()?.parse().ok()),
            steal_share: shares.map(|(steal, _)| steal),
            busy_share: shares.map(|(_, busy)| busy),
            cpu_pressure: text("/proc/pressure/cpu").and_then(|t| pressure(&t)),
        }
    }
}

fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn field(text: &str, key: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    })
}

fn memory_gib() -> u64 {
    let kib = text("/proc/meminfo")
        .and_then(|t| field(&t, "MemTotal"))
        .and_then(|value| value.split_whitespace().next()?.parse::<f64>().ok());
    kib.map_or(0, |kib| (kib / (1024.0 * 1024.0)).round() as u64)
}

/// The quota of the root of our own cgroup, as a container sees it: v2's `cpu.max`, else v1's CFS quota.
fn cgroup_cpu_milli() -> Option<u64> {
    if let Some(max) = text("/sys/fs/cgroup/cpu.max") {
        let (quota, period) = max.trim().split_once(' ')?;
        return milli(quota.parse().ok()?, period.parse().ok()?);
    }
    let quota = text("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")?.trim().parse().ok()?;
    let period = text("/sys/fs/cgroup/cpu/cpu.cfs_period_us")?.trim().parse().ok()?;
    milli(quota, period)
}

fn milli(quota: i64, period: i64) -> Option<u64> {
    (quota > 0 && period > 0).then(|| (quota * 1000 / period) as u64)
}

fn node_version() -> Option<String> {
    let output = Command::new("node").arg("--version").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn cpu_ticks() -> Option<CpuTicks> {
    let stat = text("/proc/stat")?;
    let numbers: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).map(|n| n.parse().ok()).collect::<Option<_>>()?;
    // user nice system idle iowait irq softirq steal; guest time is part of user time already.
    let [_, _, _, idle, iowait, _, _, steal] = numbers.get(..8)?.try_into().ok()?;
    Some(CpuTicks { total: numbers[..8].iter().sum(), idle: idle + iowait, steal })
}

fn pressure(text: &str) -> Option<f64> {
    text.lines().find(|line| line.starts_with("some"))?.split_whitespace().find_map(|word| {
        let value = word.strip_prefix("avg10=")?;
        value.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_fingerprint() {
        let here = fingerprint();
        assert!(here.cpu_count >= 1 && here.memory_gib >= 1 && !here.kernel.is_empty(), "{here:?}");
        assert_eq!(here, fingerprint(), "it is the same at every look");
    }

    #[test]
    fn pressure_and_quota_parse() {
        assert_eq!(pressure("some avg10=1.25 avg60=0.00 avg300=0.00 total=1\nfull avg10=9"), Some(1.25));
        assert_eq!(milli(150_000, 100_000), Some(1500));
        assert_eq!(milli(-1, 100_000), None);
    }

    #[test]
    fn a_window_has_shares_between_nothing_and_all() {
        let window = Window::begin();
        let begun = std::time::Instant::now();
        while begun.elapsed() < std::time::Duration::from_millis(60) {
            std::hint::spin_loop();
        }
        let busy = window.end().busy_share.unwrap();
        assert!((0.0..=1.0).contains(&busy), "{busy}");
    }
}
