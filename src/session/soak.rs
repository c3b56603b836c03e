//! The soak after the epochs: all arms under the same load for long, and the least memory of each window.
//!
//! The minimum of a window stands below what a garbage collector has not fetched yet, so that its course is the
//! course of what is kept.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{Arms, Context, Plan, Save, SessionError, epoch, plan::PlannedSoak};
use crate::{
    load::{self, LoadError},
    model::{
        event::Event,
        process::ProcessId,
        record::{ArmRole, Record, Soak, SoakWindow},
        sample::RequestCounts,
        settings::SoakSettings,
        units::Bytes,
    },
};

/// Between two readings of memory; a reading holds the lock of what it reads for up to some milliseconds.
const BETWEEN_READINGS: Duration = Duration::from_secs(1);
/// Readings that a short window has all the same.
const LEAST_READINGS: u32 = 4;

/// Runs the soak of a plan and puts it into the records, which are saved after every window.
///
/// Before its first window each record has a soak without windows: a soak that fails leaves its growth unknown, not
/// unasked.
///
/// # Errors
/// When an arm or the load fails, or a record cannot be saved. The arms may still run; the caller tears them down.
pub(super) async fn run(
    context: &Context,
    plan: &Plan,
    soak: &PlannedSoak,
    arms: &mut Arms,
    records: &mut [Record],
    save: &mut Save<'_>,
) -> Result<(), SessionError> {
    let SoakSettings { length, window } = soak.settings;
    for record in records.iter_mut() {
        record.soak = Some(Soak {
            planned_s: length.as_secs_f64(),
            window_s: window.as_secs_f64(),
            windows: Vec::new(),
            requests: RequestCounts::default(),
        });
    }
    save_all(records, save)?;
    for index in &soak.start_order {
        arms.start(*index, plan.epochs.len() as u32).await?;
    }
    let lanes = epoch::lanes(context, arms, plan.arms.len());
    context.tell(Event::SoakStarted { windows: soak.settings.windows(), window });
    // Its own, since the load is longer than the windows: whatever holds up a reading, they all are under load.
    let (stop, stopped) = watch::channel(false);
    let load = load::spawn(epoch::load_plan(context, &soak.slots), lanes, stopped, None)?;
    let started = load.started();
    let mut load = pin!(load.finish());
    let mut watched = Watched { settings: soak.settings, started, targets: targets(plan, records.len()) };
    tokio::select! {
        all = watched.all_windows(context, arms, records, save) => all?,
        ended = &mut load => return Err(ended.err().unwrap_or(LoadError::Died).into()),
    }
    stop.send_replace(true);
    let measured = load.await?;
    for (record, arm) in records.iter_mut().zip(&watched.targets) {
        if let (Some(soak), Some(lane)) = (&mut record.soak, measured.lanes.get(*arm)) {
            soak.requests = lane.counts.clone();
        }
    }
    save_all(records, save)
}

fn save_all(records: &[Record], save: &mut Save<'_>) -> Result<(), SessionError> {
    records.iter().enumerate().try_for_each(|(index, record)| save(index, record)).map_err(SessionError::Save)
}

/// The arm whose memory a record keeps, for each record.
fn targets(plan: &Plan, records: usize) -> Vec<usize> {
    let target = |record| {
        let is_it = |arm: &super::PlannedArm| arm.record == record && arm.role == ArmRole::Target;
        plan.arms.iter().position(is_it).expect("every record has a target arm")
    };
    (0..records).map(target).collect()
}

/// The arms whose memory is read.
struct Watched {
    settings: SoakSettings,
    started: Instant,
    /// Indices into the arms, one a record.
    targets: Vec<usize>,
}

impl Watched {
    async fn all_windows(
        &mut self,
        context: &Context,
        arms: &mut Arms,
        records: &mut [Record],
        save: &mut Save<'_>,
    ) -> Result<(), SessionError> {
        let SoakSettings { window, .. } = self.settings;
        let planned = self.settings.windows() as usize;
        let mut open: Vec<Window> = self.targets.iter().map(|_| Window::first(window)).collect();
        let mut ticks = interval(BETWEEN_READINGS.min(window / LEAST_READINGS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut finished = 0;
        while finished < planned {
            ticks.tick().await;
            // The same moment for all, so that their windows end together.
            let at = self.started.elapsed();
            for ((record, open), arm) in records.iter_mut().zip(&mut open).zip(&self.targets) {
                let reading = epoch::read(arms, *arm).await?;
                let closed = open.observe(at, &reading.into());
                let Some(soak) = &mut record.soak else { continue };
                soak.windows.extend(closed);
                soak.windows.truncate(planned);
            }
            let now = records.first().and_then(|record| record.soak.as_ref());
            let now = now.map_or(planned, |soak| soak.windows.len());
            if now > finished {
                finished = now;
                save_all(records, save)?;
                let summary = summary(records);
                context.tell(Event::SoakWindowFinished { finished: finished as u32, summary });
            }
        }
        Ok(())
    }
}

/// One line for people: the least memory of each record's last window.
fn summary(records: &[Record]) -> String {
    let of = |record: &Record| {
        let window = record.soak.as_ref().and_then(|soak| soak.windows.last());
        let bytes = window.and_then(|window| window.least_anonymous);
        let memory = bytes.map_or("unknown".to_owned(), |bytes| Bytes(bytes).to_string());
        format!("{} {memory}", record.target.target)
    };
    records.iter().map(of).collect::<Vec<_>>().join(", ")
}

/// One reading of an arm's service.
#[derive(Clone, Debug, PartialEq)]
struct MemoryReading {
    /// Sorted.
    processes: Vec<ProcessId>,
    anonymous: Option<u64>,
}

impl From<epoch::Reading> for MemoryReading {
    fn from(reading: epoch::Reading) -> Self {
        let service = reading.usage.service;
        // No process at all is no small memory.
        let memory = service.memory.filter(|_| service.processes > 0);
        Self { processes: reading.processes, anonymous: memory.map(|memory| memory.anonymous.0) }
    }
}

/// The window that is under way.
#[derive(Clone, Debug)]
struct Window {
    length: Duration,
    /// From 0.
    index: u32,
    least: Option<u64>,
    /// Every reading of it was of the same processes, and was known.
    is_known: bool,
    /// As of the last reading, also of the window before: a change between two windows is one of the second.
    processes: Option<Vec<ProcessId>>,
}

impl Window {
    fn first(length: Duration) -> Self {
        Self { length, index: 0, least: None, is_known: true, processes: None }
    }

    /// Takes a reading; gives back the windows that ended before it. One without a reading is unknown.
    fn observe(&mut self, at: Duration, reading: &MemoryReading) -> Vec<SoakWindow> {
        let mut closed = Vec::new();
        while at >= self.length * (self.index + 1) {
            closed.push(self.close());
        }
        let same = self.processes.as_ref().is_none_or(|before| *before == reading.processes);
        match reading.anonymous.filter(|_| same) {
            Some(bytes) => self.least = Some(self.least.map_or(bytes, |least| least.min(bytes))),
            None => self.is_known = false,
        }
        self.processes = Some(reading.processes.clone());
        closed
    }

    fn close(&mut self) -> SoakWindow {
        let least_anonymous = self.least.take().filter(|_| self.is_known);
        let at_s = self.length.as_secs_f64() * (f64::from(self.index) + 0.5);
        self.index += 1;
        self.is_known = true;
        SoakWindow { at_s, least_anonymous }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(pid: u32, anonymous: u64) -> MemoryReading {
        MemoryReading {
            processes: vec![ProcessId { pid, start_ticks: 1 }],
            anonymous: (anonymous > 0).then_some(anonymous),
        }
    }

    /// The windows of 2 s that readings at these tenths of a second close.
    fn closed(readings: &[(u64, MemoryReading)]) -> Vec<(f64, Option<u64>)> {
        let mut window = Window::first(Duration::from_secs(2));
        let at = |tenths: u64| Duration::from_millis(tenths * 100);
        let all = readings.iter().flat_map(|(tenths, reading)| window.observe(at(*tenths), reading));
        all.map(|window| (window.at_s, window.least_anonymous)).collect()
    }

    #[test]
    fn a_window_keeps_its_least_and_ends_with_the_first_reading_after_it() {
        let readings =
            [(0, 50), (10, 40), (19, 60), (20, 10), (30, 70), (41, 5)].map(|(t, b)| (t, reading(1, b)));
        assert_eq!(closed(&readings), [(1.0, Some(40)), (3.0, Some(10))], "the last one is not whole");
    }

    #[test]
    fn a_process_that_changes_makes_its_window_unknown_and_no_other() {
        let within = [(0, 1, 50), (10, 2, 50), (20, 2, 50), (30, 2, 50), (40, 2, 50)];
        let between = [(0, 1, 50), (10, 1, 50), (20, 2, 50), (30, 2, 50), (40, 2, 50)];
        let run = |all: [(u64, u32, u64); 5]| closed(&all.map(|(t, pid, b)| (t, reading(pid, b))));
        assert_eq!(run(within), [(1.0, None), (3.0, Some(50))]);
        assert_eq!(run(between), [(1.0, Some(50)), (3.0, None)]);
    }

    #[test]
    fn what_was_not_read_is_unknown() {
        assert_eq!(closed(&[(0, reading(1, 0)), (10, reading(1, 50)), (20, reading(1, 50))]), [(1.0, None)]);
        let late = closed(&[(0, reading(1, 50)), (65, reading(1, 50))]);
        assert_eq!(late, [(1.0, Some(50)), (3.0, None), (5.0, None)]);
    }
}
