//! The exit codes, all of them.

use crate::model::verdict::Verdict;

/// How the program ended. CI gates on these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// 0: done, and everything asked for holds.
    Pass,
    /// 1: shown not to hold.
    Fail,
    /// 2: the command line or a configuration file is wrong.
    Usage,
    /// 3: something of this machine is missing or in the way, or a service does not start.
    Environment,
    /// 4: neither shown to hold nor not to.
    Inconclusive,
    /// 5: the measurements cannot be trusted, or not be compared.
    Invalid,
    /// 130: interrupted by the user (128 + SIGINT).
    Interrupted,
}

impl ExitCode {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Fail => 1,
            Self::Usage => 2,
            Self::Environment => 3,
            Self::Inconclusive => 4,
            Self::Invalid => 5,
            Self::Interrupted => 130,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.code())
    }
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Pass => Self::Pass,
            Verdict::Fail => Self::Fail,
            Verdict::Inconclusive => Self::Inconclusive,
            Verdict::Invalid | Verdict::Incomparable => Self::Invalid,
        }
    }
}
