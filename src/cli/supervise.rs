//! `qbench supervise`, hidden: the processes of the built-in supervisor.
//!
//! They are started by the program itself. Their arguments are read before anything else is set up, since what a keeper
//! holds in memory it holds for as long as the services run.

use std::{env, ffi::OsString};

use super::{CliError, ExitCode, fail};
use crate::supervisor;

/// Becomes a process of the supervisor, if the arguments ask for that.
pub(super) fn become_supervisor() -> Option<ExitCode> {
    let mut arguments = env::args_os().skip(1);
    if arguments.next()? != supervisor::SUBCOMMAND {
        return None;
    }
    let rest: Vec<OsString> = arguments.collect();
    Some(match supervisor::main(&rest) {
        Ok(()) => ExitCode::Pass,
        Err(error) => fail(&CliError::from(error)),
    })
}
