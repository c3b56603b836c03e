//! `qbench pm logs`.

use std::{io::Write as _, path::Path};

use super::{CliError, ExitCode, daemon, reports, selection};
use crate::supervisor::{Follow, InstanceReport, Select, tail};

/// Print the last lines that apps wrote
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names, ids or namespaces of apps; without any, all of them
    #[arg(value_name = "APP")]
    apps: Vec<String>,
    /// So many lines of each file
    #[arg(short = 'n', long, value_name = "N", default_value_t = 15)]
    lines: usize,
    /// Print new lines as they are written, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Only standard error
    #[arg(long, conflicts_with = "out")]
    err: bool,
    /// Only standard output
    #[arg(long)]
    out: bool,
}

/// A file, and what its lines are marked with.
struct File {
    path: std::path::PathBuf,
    mark: String,
}

pub(super) async fn run(args: &Args, home: &Path) -> Result<ExitCode, CliError> {
    match print_all(args, home).await {
        // Whoever read them has seen enough.
        Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::Pass),
        printed => printed.map(|()| ExitCode::Pass),
    }
}

async fn print_all(args: &Args, home: &Path) -> Result<(), CliError> {
    let mut client = daemon::connect(home).await?;
    let known = reports(&mut client).await?;
    drop(client);
    let files = args.files(&known)?;
    for file in &files {
        // A file that is not there yet has no lines.
        for line in tail(&file.path, args.lines).unwrap_or_default() {
            print(&file.mark, &line)?;
        }
    }
    if !args.follow {
        return Ok(());
    }
    let mut follow = Follow::new(files.iter().map(|file| file.path.clone()));
    loop {
        tokio::select! {
            line = follow.next() => print(&files[line.file].mark, &line.line)?,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

fn print(mark: &str, line: &str) -> Result<(), CliError> {
    Ok(writeln!(std::io::stdout().lock(), "{mark} | {line}")?)
}

impl Args {
    fn files(&self, known: &[InstanceReport]) -> Result<Vec<File>, CliError> {
        let selected = match &self.apps[..] {
            [] => vec![Select::All],
            words => selection::resolve(words, known)?,
        };
        let mut files: Vec<File> = Vec::new();
        for report in known.iter().filter(|report| selected.iter().any(|select| select.includes(report))) {
            let out = report.out_log.iter().filter(|_| !self.err).map(|path| (path, "out"));
            let err = report.err_log.iter().filter(|_| !self.out).map(|path| (path, "err"));
            for (path, stream) in out.chain(err) {
                if !files.iter().any(|file| file.path == *path) {
                    files.push(File { path: path.clone(), mark: format!("{} {stream}", report.app) });
                }
            }
        }
        Ok(files)
    }
}
