//! A rolling reload: which instance is being replaced, and whether the roll may go on. Pure.
//!
//! Ports are fixed per instance, so each is stopped before its successor starts: the app as a whole serves on if it
//! has several instances, a single one has a gap.

use std::collections::VecDeque;

use super::state::{Input, State, Then};

/// The progress of a reload.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Roll {
    current: u32,
    phase: Phase,
    left: VecDeque<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The old process is ending.
    Ending,
    /// The new one is not ready yet.
    Starting,
    /// The new one is online without having been asked; it must survive its minimum uptime first, or a broken
    /// release would replace every instance before anybody noticed.
    Settling,
}

/// What the roll makes of a step of its current instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing yet.
    Same,
    /// The new process is to be trusted once it has lived for the minimum uptime.
    Settle,
    /// The current instance is replaced.
    Replaced,
    /// The roll is over.
    Broken(Reason),
}

/// Why a roll broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The new process ended, or could not be started.
    Ended,
    /// The listen timeout passed.
    NotReady,
    /// Somebody asked for something else.
    Interrupted,
}

impl Roll {
    /// A roll over these instances; `None` when there are none.
    pub(super) fn over(instances: impl Iterator<Item = u32>) -> Option<Self> {
        let mut left: VecDeque<u32> = instances.collect();
        Some(Self { current: left.pop_front()?, phase: Phase::Ending, left })
    }

    /// The instance being replaced.
    pub(super) fn current(&self) -> u32 {
        self.current
    }

    /// Instances not yet touched.
    pub(super) fn untouched(&self) -> usize {
        self.left.len()
    }

    /// Goes on to the next instance, which is then to be restarted; `None` when the roll is done.
    pub(super) fn advance(&mut self) -> Option<u32> {
        self.current = self.left.pop_front()?;
        self.phase = Phase::Ending;
        Some(self.current)
    }

    /// The current instance took `input` and is now in `state`. `checked` tells whether readiness is asked for.
    pub(super) fn observe(&mut self, input: Input, state: State, checked: bool) -> Progress {
        let ended = matches!(input, Input::Exited { .. } | Input::SpawnFailed);
        match (self.phase, state) {
            (Phase::Starting | Phase::Settling, _) if ended => Progress::Broken(Reason::Ended),
            (Phase::Ending, State::Stopping { then: Then::Start }) | (Phase::Settling, State::Online) => {
                Progress::Same
            }
            (Phase::Ending | Phase::Starting, State::Launching { overdue: false }) => {
                self.phase = Phase::Starting;
                Progress::Same
            }
            (Phase::Starting, State::Launching { overdue: true }) => Progress::Broken(Reason::NotReady),
            (Phase::Starting, State::Online) if checked => Progress::Replaced,
            (Phase::Starting, State::Online) => {
                self.phase = Phase::Settling;
                Progress::Settle
            }
            _ => Progress::Broken(Reason::Interrupted),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NEW: State = State::Launching { overdue: false };
    const EXITED: Input = Input::Exited { uptime: Duration::ZERO };
    const ENDING: State = State::Stopping { then: Then::Start };

    fn starting() -> Roll {
        let mut roll = Roll::over(0..2).unwrap();
        assert_eq!(roll.observe(Input::Restart, ENDING, true), Progress::Same);
        assert_eq!(roll.observe(EXITED, NEW, true), Progress::Same);
        assert_eq!(roll.observe(Input::Spawned, NEW, true), Progress::Same);
        roll
    }

    #[test]
    fn an_instance_is_replaced_once_ready_and_the_next_follows() {
        let mut roll = starting();
        assert_eq!(roll.observe(Input::Ready, State::Online, true), Progress::Replaced);
        assert_eq!((roll.advance(), roll.untouched()), (Some(1), 0));
        // The end of the second instance's old process is no failure.
        assert_eq!(roll.observe(Input::Restart, ENDING, true), Progress::Same);
        assert_eq!(roll.observe(EXITED, NEW, true), Progress::Same);
        assert_eq!(roll.observe(Input::Ready, State::Online, true), Progress::Replaced);
        assert_eq!(roll.advance(), None);
    }

    #[test]
    fn a_new_process_that_fails_breaks_the_roll() {
        assert_eq!(starting().observe(EXITED, State::Waiting, true), Progress::Broken(Reason::Ended));
        // With no delay it is launched again at once.
        assert_eq!(starting().observe(EXITED, NEW, true), Progress::Broken(Reason::Ended));
        let late = State::Launching { overdue: true };
        assert_eq!(starting().observe(Input::TimeUp, late, true), Progress::Broken(Reason::NotReady));
        let stopped = State::Stopping { then: Then::Rest };
        assert_eq!(starting().observe(Input::Stop, stopped, true), Progress::Broken(Reason::Interrupted));
    }

    #[test]
    fn without_a_check_a_new_process_must_settle() {
        let mut roll = starting();
        assert_eq!(roll.observe(Input::Spawned, State::Online, false), Progress::Settle);
        assert_eq!(roll.observe(EXITED, State::Waiting, false), Progress::Broken(Reason::Ended));
    }

    #[test]
    fn there_is_no_roll_over_nothing() {
        assert_eq!(Roll::over(0..0), None);
    }
}
