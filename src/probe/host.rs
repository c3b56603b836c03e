//! The machine: what it is, and what it was like during a window.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant, SystemTime},
};

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
#[derive(Clone, Debug)]
pub struct Window {
    begun: Counters,
}

/// Counters at both ends of a window.
#[derive(Clone, Debug)]
pub struct EndedWindow {
    begun: Counters,
    ended: Counters,
}

#[derive(Clone, Debug)]
struct Counters {
    at: Instant,
    clock: SystemTime,
    cpu: Option<CpuTicks>,
    /// CPU time of all tasks.
    used: Option<Duration>,
    /// Microseconds of waiting since the machine started.
    cpu_some: Option<u64>,
    memory_full: Option<u64>,
    io_full: Option<u64>,
    throttled: Option<u64>,
    highest_frequencies: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
struct CpuTicks {
    total: u64,
    idle: u64,
    steal: u64,
}

impl Counters {
    fn read() -> Self {
        let waiting = |what: &str, line: &str| waited_us(&text(&format!("/proc/pressure/{what}"))?, line);
        Self {
            at: Instant::now(),
            clock: SystemTime::now(),
            cpu: cpu_ticks(),
            used: used_by_all(),
            cpu_some: waiting("cpu", "some"),
            memory_full: waiting("memory", "full"),
            io_full: waiting("io", "full"),
            throttled: per_processor("thermal_throttle/core_throttle_count").into_iter().reduce(|a, b| a + b),
            highest_frequencies: per_processor("cpufreq/scaling_max_freq"),
        }
    }
}

impl Window {
    /// Begins a window.
    pub fn begin() -> Self {
        Self { begun: Counters::read() }
    }

    /// Ends it.
    pub fn end(self) -> EndedWindow {
        EndedWindow { begun: self.begun, ended: Counters::read() }
    }
}

impl EndedWindow {
    /// What the machine was like in the window; `own_cpu` is what the arms and the load used of it.
    pub fn conditions(&self, own_cpu: Option<Duration>) -> Conditions {
        let (then, now) = (&self.begun, &self.ended);
        let elapsed = now.at.duration_since(then.at).as_secs_f64();
        let shares = then.cpu.zip(now.cpu).and_then(|(then, now)| {
            let total = now.total.checked_sub(then.total).filter(|total| *total > 0)? as f64;
            let idle = now.idle.saturating_sub(then.idle) as f64;
            let steal = now.steal.saturating_sub(then.steal) as f64;
            Some((steal / total, 1.0 - idle / total))
        });
        let waited = |then: Option<u64>, now: Option<u64>| {
            let us = now?.checked_sub(then?)? as f64;
            Some((us / 1e6 / elapsed).min(1.0)).filter(|share| share.is_finite())
        };
        Conditions {
            client: None,
            load_average: text("/proc/loadavg").and_then(|t| t.split_whitespace().next()?.parse().ok()),
            steal_share: shares.map(|(steal, _)| steal),
            busy_share: shares.map(|(_, busy)| busy),
            cpu_pressure: waited(then.cpu_some, now.cpu_some),
            memory_pressure: waited(then.memory_full, now.memory_full),
            io_pressure: waited(then.io_full, now.io_full),
            foreign_share: then.used.zip(now.used).zip(own_cpu).map(|((then, now), own)| {
                let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
                let foreign = now.saturating_sub(then).saturating_sub(own);
                (foreign.as_secs_f64() / (elapsed * processors as f64)).clamp(0.0, 1.0)
            }),
            clock_step_s: Some(clock_step(then, now)),
            throttled: then.throttled.zip(now.throttled).map(|(then, now)| now.saturating_sub(then)),
            frequency_limit_changed: (!now.highest_frequencies.is_empty())
                .then(|| then.highest_frequencies != now.highest_frequencies),
        }
    }
}

/// By how much the clock of the day moved more than the monotonic one.
fn clock_step(then: &Counters, now: &Counters) -> f64 {
    let monotonic = now.at.duration_since(then.at).as_secs_f64();
    let of_day = match now.clock.duration_since(then.clock) {
        Ok(forward) => forward.as_secs_f64(),
        Err(backward) => -backward.duration().as_secs_f64(),
    };
    of_day - monotonic
}

/// A number that each processor has a file of; processors without it are left out.
fn per_processor(file: &str) -> Vec<u64> {
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let read = |cpu| text(&format!("/sys/devices/system/cpu/cpu{cpu}/{file}"))?.trim().parse().ok();
    (0..count).filter_map(read).collect()
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

/// The CPU time of all tasks, as the root of the control groups counts it, to the nanosecond (v2 `cpu.stat`, v1
/// `cpuacct.usage`; kernel, `Documentation/admin-guide/cgroup-v2.rst`). Not that of `/proc/stat`: where the kernel counts
/// by ticks, a load with the rhythm of the tick is seen always or never.
fn used_by_all() -> Option<Duration> {
    if let Some(stat) = text("/sys/fs/cgroup/cpu.stat") {
        let line = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
        return line.trim().parse().ok().map(Duration::from_micros);
    }
    let v1 = ["/sys/fs/cgroup/cpuacct/cpuacct.usage", "/sys/fs/cgroup/cpu,cpuacct/cpuacct.usage"];
    v1.into_iter().find_map(text)?.trim().parse().ok().map(Duration::from_nanos)
}

fn cpu_ticks() -> Option<CpuTicks> {
    let stat = text("/proc/stat")?;
    let numbers: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).map(|n| n.parse().ok()).collect::<Option<_>>()?;
    // user nice system idle iowait irq softirq steal; guest time is part of user time already.
    let [_, _, _, idle, iowait, _, _, steal] = numbers.get(..8)?.try_into().ok()?;
    Some(CpuTicks { total: numbers[..8].iter().sum(), idle: idle + iowait, steal })
}

/// Microseconds of waiting, from a line of `/proc/pressure/*` (kernel, `Documentation/accounting/psi.rst`).
fn waited_us(text: &str, line: &str) -> Option<u64> {
    text.lines().find(|own| own.starts_with(line))?.split_whitespace().find_map(|word| {
        let value = word.strip_prefix("total=")?;
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
        let text = "some avg10=1.25 avg60=0.00 avg300=0.00 total=17\nfull avg10=9 total=5";
        assert_eq!((waited_us(text, "some"), waited_us(text, "full")), (Some(17), Some(5)));
        assert_eq!(waited_us("", "some"), None);
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
        let ended = window.end();
        let all = ended.conditions(Some(std::time::Duration::ZERO));
        assert!((0.0..=1.0).contains(&all.busy_share.unwrap()), "{all:?}");
        // Unknown where the control groups cannot be read, as in some containers.
        if let Some(foreign) = all.foreign_share {
            assert!(foreign > 0.0 && foreign <= 1.0, "this test itself ran: {all:?}");
        }
        assert_eq!(ended.conditions(None).foreign_share, None, "unknown is not nothing");
        assert!(all.clock_step_s.unwrap().abs() < 1.0, "{all:?}");
    }
}
