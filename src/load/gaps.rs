//! The longest time without a success, at each address and within the lane's own slots.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::Slot;

/// Per address, since the answers of one instance would hide that another is away. All threads of a load share one,
/// so that an answer that another thread got is no gap.
#[derive(Debug)]
pub(super) struct Gaps {
    addresses: Vec<Address>,
}

/// In nanoseconds of the lane's own time. Both numbers only grow, and no other memory depends on them.
#[derive(Debug, Default)]
struct Address {
    last_success: AtomicU64,
    longest: AtomicU64,
}

impl Gaps {
    pub(super) fn new(addresses: usize) -> Arc<Self> {
        Arc::new(Self { addresses: (0..addresses).map(|_| Address::default()).collect() })
    }

    pub(super) fn success(&self, address: usize, own: Duration) {
        self.addresses[address].passed(own);
    }

    /// The longest gap up to the end of the load.
    pub(super) fn longest(&self, end: Duration) -> Duration {
        let longest = self.addresses.iter().map(|address| {
            address.passed(end);
            address.longest.load(Ordering::Relaxed)
        });
        Duration::from_nanos(longest.max().unwrap_or(0))
    }
}

impl Address {
    fn passed(&self, own: Duration) {
        let now = own.as_nanos() as u64;
        let gap = now.saturating_sub(self.last_success.fetch_max(now, Ordering::Relaxed));
        // Seldom true, and looking is cheaper than writing.
        if gap > self.longest.load(Ordering::Relaxed) {
            self.longest.fetch_max(gap, Ordering::Relaxed);
        }
    }
}

/// The clock of a lane: it runs only in the lane's own slots, so that the load of another is no gap.
#[derive(Clone, Debug)]
pub(super) struct OwnTime {
    lane: usize,
    slots: Arc<[Slot]>,
    /// The slot that does not end: requests of the last one may end after it.
    last: usize,
    slot: usize,
    slot_start: Duration,
    own_before_slot: Duration,
    latest: Duration,
}

impl OwnTime {
    pub(super) fn new(lane: usize, slots: Arc<[Slot]>) -> Self {
        let last = slots.len().saturating_sub(1);
        Self {
            lane,
            slots,
            last,
            slot: 0,
            slot_start: Duration::ZERO,
            own_before_slot: Duration::ZERO,
            latest: Duration::ZERO,
        }
    }

    /// How much of the time up to `moment` was the lane's own. Does not run backwards.
    pub(super) fn at(&mut self, moment: Duration) -> Duration {
        while self.slot < self.last {
            let length = self.slots[self.slot].length;
            let Some(end) = self.slot_start.checked_add(length).filter(|end| *end <= moment) else {
                break;
            };
            if self.is_own() {
                self.own_before_slot += length;
            }
            self.slot_start = end;
            self.slot += 1;
        }
        let inside = if self.is_own() { moment.saturating_sub(self.slot_start) } else { Duration::ZERO };
        self.latest = self.latest.max(self.own_before_slot + inside);
        self.latest
    }

    pub(super) fn close(&mut self, end: Duration) {
        self.at(end);
        // At the exact end of a slot the next has not been loaded.
        if self.slot < self.last {
            self.last = self.slot;
        }
    }

    fn is_own(&self) -> bool {
        self.slots.get(self.slot).is_some_and(|slot| slot.lane == self.lane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// The longest gap of lane 0 with successes at these moments and an end of the schedule, in milliseconds.
    fn gap(slots: &[(usize, u32)], successes: &[u32], end: u32) -> u128 {
        let slots: Arc<[Slot]> =
            slots.iter().map(|(lane, millis)| Slot { lane: *lane, length: MS * *millis }).collect();
        let gaps = Gaps::new(1);
        let mut own_time = OwnTime::new(0, slots);
        for done in successes {
            gaps.success(0, own_time.at(MS * *done));
        }
        own_time.close(MS * end);
        gaps.longest(own_time.at(MS * end)).as_millis()
    }

    #[test]
    fn the_longest_gap_includes_both_ends() {
        let one = &[(0, 1000)];
        assert_eq!(gap(one, &[100, 200, 900], 1000), 700);
        assert_eq!(gap(one, &[400, 700, 900], 1000), 400, "from the start");
        assert_eq!(gap(one, &[100, 200], 1000), 800, "to the end");
        assert_eq!(gap(one, &[], 1000), 1000, "no success at all");
        assert_eq!(gap(one, &[100], 300), 200, "to where it was stopped");
        assert_eq!(gap(one, &[100, 900, 1900], 1000), 1000, "an outage past the end");
    }

    #[test]
    fn an_instance_that_is_away_is_not_hidden_by_another() {
        let gaps = Gaps::new(2);
        for done in (50..=1000).step_by(50) {
            gaps.success(0, MS * done);
            if done == 100 {
                gaps.success(1, MS * done);
            }
        }
        assert_eq!(gaps.longest(MS * 1000), MS * 900);
    }

    #[test]
    fn an_answer_that_another_thread_got_is_no_gap() {
        let gaps = Gaps::new(1);
        for moment in 0..100 {
            let gaps = &gaps;
            // Each thread alone has gaps of 20 ms.
            std::thread::scope(|scope| scope.spawn(move || gaps.success(0, MS * 10 * moment)).join())
                .unwrap();
        }
        assert_eq!(gaps.longest(MS * 995), MS * 10);
    }

    #[test]
    fn time_in_which_another_lane_is_loaded_is_no_gap() {
        let slots = &[(0, 100), (1, 500), (0, 100), (1, 500)];
        // Own times: 90, then (after the other's 500) 110, then 180, and the end at 200.
        assert_eq!(gap(slots, &[90, 610, 680], 1200), 90);
        assert_eq!(gap(slots, &[10, 50, 650], 1200), 100);
        // A late answer inside the other's slot counts at the end of our own.
        assert_eq!(gap(slots, &[10, 90, 300, 610, 690], 1200), 80);
    }

    #[test]
    fn a_stop_inside_anothers_slot_starts_no_slot_of_ours() {
        let slots = &[(0, 100), (1, 500), (0, 100)];
        assert_eq!(gap(slots, &[50, 95], 300), 50);
    }
}
