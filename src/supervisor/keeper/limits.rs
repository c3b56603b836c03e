//! What the keeper changes about itself that its children would inherit, and how it was before.

use std::{fs, io};

use rustix::process::{Resource, Rlimit, getrlimit, set_child_subreaper, setrlimit};

const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// How things were before the keeper changed them for itself: what the brain and the apps shall have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    /// `None` when the keeper was not allowed to change it, so that there is nothing to restore.
    pub(crate) oom_score_adj: Option<i32>,
    /// The soft limit of open files; `None` means unlimited. The launcher gives it back to each app: a program that
    /// uses select(2) must not meet descriptors of more than 1023 unasked.
    pub(crate) nofile_soft: Option<u64>,
}

impl Origin {
    /// Puts this process back in the OOM killer's reach; the brain calls it first of all.
    pub(crate) fn restore_oom_score(&self) -> io::Result<()> {
        match self.oom_score_adj {
            Some(score) => fs::write(OOM_SCORE, score.to_string()),
            None => Ok(()),
        }
    }
}

/// Makes this process one that adopts orphans, that the OOM killer spares, and that may open as many files as it is
/// allowed to. Each but the first is tried only: without it the keeper works, if less safely.
pub(super) fn raise() -> io::Result<Origin> {
    set_child_subreaper(Some(rustix::process::getpid()))?;
    let before = fs::read_to_string(OOM_SCORE).ok().and_then(|text| text.trim().parse().ok());
    let spared = fs::write(OOM_SCORE, "-1000").is_ok();
    let files = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files });
    Ok(Origin { oom_score_adj: before.filter(|_| spared), nofile_soft: files.current })
}
