//! `qbench supervise`, hidden: the built-in supervisor as a process of its own.

use std::path::PathBuf;

use super::{CliError, ExitCode};
use crate::supervisor;

/// Supervise the apps of a specification (started by qbench itself)
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The specification, JSON
    #[arg(long, value_name = "FILE")]
    spec: PathBuf,
    /// The control socket to listen on
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
}

pub(super) async fn run(args: &Args) -> Result<ExitCode, CliError> {
    let text = std::fs::read(&args.spec)?;
    let spec = serde_json::from_slice(&text).map_err(|e| {
        CliError::usage(
            format!("{}: {e}", args.spec.display()),
            "the specification is written by qbench itself",
        )
    })?;
    supervisor::run(spec, args.socket.clone()).await?;
    Ok(ExitCode::Pass)
}
