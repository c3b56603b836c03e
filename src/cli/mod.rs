//! The command line: arguments, exit codes, interrupts. The only room that exits or picks streams.
//!
//! Data goes to stdout, progress, warnings and errors to stderr.

mod append;
mod baseline;
mod calibrate;
mod collect;
mod compare;
mod demo;
mod doctor;
mod error;
mod exit;
mod init;
mod interrupt;
mod load;
mod measure;
mod parity;
mod pm;
mod scenario;
mod supervise;
mod tally;
mod validate;
mod verdict;

use std::{
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
};

use clap::{Parser, Subcommand, ValueEnum};

use error::CliError;
pub use exit::ExitCode;

use crate::report;

/// Shows, with evidence good enough to sign, that a service lost nothing by moving from Docker to a process supervisor.
///
/// Exit codes: 0 pass, 1 fail, 2 usage or configuration, 3 environment (an engine is missing, a port is taken, a
/// service does not start), 4 inconclusive, 5 invalid or incomparable, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "qbench", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Args),
    Doctor(doctor::Args),
    Calibrate(Box<calibrate::Args>),
    Collect(collect::Args),
    Baseline(baseline::Args),
    Compare(compare::Args),
    Validate(validate::Args),
    Verdict(Box<verdict::Args>),
    Parity(parity::Args),
    Scenario(scenario::Args),
    Load(Box<load::LoadArgs>),
    #[command(hide = true)]
    Demo(demo::DemoArgs),
    Pm(pm::Args),
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table for people.
    #[default]
    Table,
    /// JSON for programs.
    Json,
    /// Markdown for a pull request.
    Md,
}

/// Where records and reports lie.
#[derive(Clone, Debug, clap::Args)]
struct Folders {
    /// Folder of stored records, one folder per target in it
    #[arg(long, value_name = "DIR", default_value = "baselines")]
    baselines: PathBuf,
    /// Folder of generated reports, one folder per session in it
    #[arg(long, value_name = "DIR", default_value = "reports")]
    reports: PathBuf,
}

/// Runs the program on its own arguments.
pub fn main() -> ExitCode {
    if let Some(code) = supervise::become_supervisor() {
        return code;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors: clap knows which stream each belongs to.
            let code = if error.use_stderr() { ExitCode::Usage } else { ExitCode::Pass };
            let _ = error.print();
            return code;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&CliError::environment(format!("cannot start: {error}"))),
    };
    match runtime.block_on(run(cli.command)) {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

async fn run(command: Command) -> Result<ExitCode, CliError> {
    match command {
        Command::Init(args) => init::run(&args),
        Command::Doctor(args) => doctor::run(&args).await,
        Command::Calibrate(args) => calibrate::run(&args).await,
        Command::Collect(args) => collect::run(&args).await,
        Command::Baseline(args) => baseline::run(&args).await,
        Command::Compare(args) => compare::run(&args),
        Command::Validate(args) => validate::run(&args).await,
        Command::Verdict(args) => verdict::run(&args),
        Command::Parity(args) => parity::run(&args).await,
        Command::Scenario(args) => scenario::run(&args),
        Command::Load(args) => {
            let stop = interrupt::watch()?;
            Ok(load::run(&args, stop, &mut std::io::stdout().lock()).await?)
        }
        Command::Demo(args) => {
            demo::run(&args).await?;
            Ok(ExitCode::Pass)
        }
        Command::Pm(args) => pm::run(&args).await,
    }
}

fn fail(error: &CliError) -> ExitCode {
    let mut stderr = std::io::stderr().lock();
    // With nobody left to tell, the exit code still tells.
    let _ = writeln!(stderr, "error: {error}");
    if let Some(hint) = error.hint() {
        let _ = writeln!(stderr, "hint: {hint}");
    }
    error.exit_code()
}

/// Whether the results on stdout may carry colour.
fn wants_colour() -> bool {
    let no_color = std::env::var_os("NO_COLOR");
    report::wants_colour(std::io::stdout().is_terminal(), no_color.as_deref())
}

/// A line for the user that is not a result.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
