//! When the next brain starts and from which program: pure decisions.

use std::{
    mem,
    path::{Path, PathBuf},
    time::Duration,
};

/// After how many failures in a row a new program is given up for the one before.
const TRIALS_MAX: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// How long to wait before a brain is started again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// A brain that lived shorter died quickly.
    pub(crate) quick: Duration,
    /// The longest pause after a row of quick deaths.
    pub(crate) longest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { quick: Duration::from_secs(1), longest: Duration::from_secs(1) }
    }
}

impl Pace {
    /// The pause after so many quick deaths in a row: none at first, then 10 ms, doubling up to the longest.
    pub(super) fn pause(&self, quick_deaths: u32) -> Duration {
        match quick_deaths.checked_sub(2) {
            None => Duration::ZERO,
            Some(doublings) => {
                FIRST_PAUSE.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(self.longest)
            }
        }
    }
}

/// What brains are started from. `None` is the program that the keeper itself runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Succession {
    Settled(Option<PathBuf>),
    /// The next brain shall be from another program.
    Offered {
        old: Option<PathBuf>,
        new: PathBuf,
    },
    /// Brains are started from the new program, and none has got its replay yet.
    Trial {
        old: Option<PathBuf>,
        new: PathBuf,
        failures: u32,
    },
}

impl Succession {
    /// The brain named the program for the next one.
    pub(super) fn offer(&mut self, new: PathBuf) {
        self.change(|now| match now {
            Self::Settled(old) | Self::Offered { old, .. } | Self::Trial { old, .. } => {
                Self::Offered { old, new }
            }
        });
    }

    /// The brain ended.
    pub(super) fn ended(&mut self) {
        self.change(|now| match now {
            Self::Settled(program) => Self::Settled(program),
            Self::Offered { old, new } => Self::Trial { old, new, failures: 0 },
            Self::Trial { old, failures, .. } if failures + 1 >= TRIALS_MAX => Self::Settled(old),
            Self::Trial { old, new, failures } => Self::Trial { old, new, failures: failures + 1 },
        });
    }

    /// No brain could be started. A path that cannot be executed any more must not keep the running program from being
    /// used.
    pub(super) fn failed(&mut self) {
        match self {
            Self::Settled(program) => *program = None,
            Self::Offered { .. } | Self::Trial { .. } => self.ended(),
        }
    }

    /// A brain got its replay. Returns the program that the keeper itself shall now change to, if it is another one.
    pub(super) fn proven(&mut self) -> Option<PathBuf> {
        let Self::Trial { new, .. } = self else { return None };
        let new = mem::take(new);
        *self = Self::Settled(Some(new.clone()));
        Some(new)
    }

    /// What the next brain is started from.
    pub(super) fn program(&self) -> Option<&Path> {
        match self {
            Self::Settled(program) => program.as_deref(),
            Self::Offered { new, .. } | Self::Trial { new, .. } => Some(new),
        }
    }

    fn change(&mut self, next: impl FnOnce(Self) -> Self) {
        *self = next(mem::replace(self, Self::Settled(None)));
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, time::Duration};

    use super::{Pace, Succession};

    #[test]
    fn the_pause_grows_to_the_longest_and_stays_there() {
        let pauses: Vec<u128> = (0..11).map(|deaths| Pace::default().pause(deaths).as_millis()).collect();
        assert_eq!(pauses, [0, 0, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(Pace::default().pause(u32::MAX), Duration::from_secs(1));
    }

    #[test]
    fn a_new_program_is_settled_once_its_brain_got_the_replay() {
        let mut succession = Succession::Settled(None);
        succession.offer(PathBuf::from("/new"));
        assert_eq!(succession.proven(), None, "the old brain asked again");
        succession.ended();
        succession.ended();
        assert_eq!(succession.program(), Some(PathBuf::from("/new").as_path()));
        assert_eq!(succession.proven(), Some("/new".into()));
        assert_eq!(succession, Succession::Settled(Some("/new".into())));
        assert_eq!(succession.proven(), None);
        succession.failed();
        assert_eq!(succession.program(), None);
    }

    #[test]
    fn a_new_program_that_fails_three_times_is_given_up() {
        let mut succession = Succession::Settled(None);
        succession.offer(PathBuf::from("/new"));
        succession.ended();
        for fail in [Succession::ended, Succession::failed] {
            fail(&mut succession);
            assert_eq!(succession.program(), Some(PathBuf::from("/new").as_path()));
        }
        succession.ended();
        assert_eq!(succession, Succession::Settled(None));
    }
}
