//! `qbench baseline`: what is stored, which of it is in force, and what may go.

mod accept;
mod diff;
mod list;
mod prune;
mod show;

use std::path::{Path, PathBuf};

use super::{CliError, ExitCode, Format, measure, tell};
use crate::{
    config::Config,
    model::{difference::changed_files, record::Fingerprint},
    probe, report,
    report::baseline::Listed,
    store::{Accepted, Baselines, Group},
};

/// List, show, compare the conditions of, choose or remove stored baselines
///
/// A baseline is one session of `collect`, or several that were added to it with `collect --append`. It is named by
/// its first session. `compare` takes as baseline the one that was accepted, else the newest; as candidate the
/// newest.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(list::Args),
    Show(show::Args),
    Diff(diff::Args),
    Accept(accept::Args),
    Prune(prune::Args),
}

/// Where baselines lie, and of which workload.
#[derive(Clone, Debug, clap::Args)]
struct Place {
    /// The description of the workload: its name selects the baselines; without one, those of all workloads
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of stored records, one folder per target in it
    #[arg(long, value_name = "DIR", default_value = "baselines")]
    baselines: PathBuf,
}

pub(super) async fn run(args: &Args) -> Result<ExitCode, CliError> {
    match &args.command {
        Command::List(args) => list::run(args).await,
        Command::Show(args) => show::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Accept(args) => accept::run(args),
        Command::Prune(args) => prune::run(args),
    }
}

impl Place {
    /// The baselines of a target: of the configuration's workload, unless a session says which one is meant.
    fn read(
        &self,
        target: &str,
        config: Option<&Config>,
        session: Option<&str>,
    ) -> Result<Baselines, CliError> {
        let workload = config.filter(|_| session.is_none()).map(|config| config.workload.name.as_str());
        let found = read(&self.baselines, target, workload)?;
        tell_unreadable(&found);
        Ok(found)
    }
}

/// The baselines of a target. A folder that is not there is more likely a slip than an empty store.
pub(super) fn read(folder: &Path, target: &str, workload: Option<&str>) -> Result<Baselines, CliError> {
    if !folder.exists() {
        return Err(CliError::usage(
            format!("there is no folder {}, so no record of target {target}", folder.display()),
            format!("name it with --baselines, or make a record with `qbench collect {target}`"),
        ));
    }
    Ok(Baselines::read(folder, target, workload)?)
}

/// Says which files were passed over, and why.
pub(super) fn tell_unreadable(found: &Baselines) {
    for unreadable in &found.unreadable {
        tell(&format!("warning: left out: {}", unreadable.error));
    }
}

/// Says which sessions of a baseline do not count.
pub(super) fn tell_left_out(group: &Group) {
    for stored in group.left_out() {
        let (path, epochs) = (stored.path.display(), stored.record.epochs.len());
        tell(&format!("note: left out: {path} was interrupted after {epochs} epochs"));
    }
    if !group.has_complete() {
        for stored in group.counted() {
            let (path, epochs) = (stored.path.display(), stored.record.epochs.len());
            tell(&format!("warning: {path} was interrupted after {epochs} epochs; it cannot pass"));
        }
    }
}

/// What a list says of a baseline.
fn listed(group: &Group, accepted: bool, config: Option<&Config>, here: &Fingerprint) -> Listed {
    let first = group.first();
    let complete = group.sessions.iter().filter(|stored| stored.record.session.is_complete()).count();
    let config = config.filter(|config| config.workload.name == group.workload);
    Listed {
        target: first.target.target.clone(),
        workload: group.workload.clone(),
        group: group.id.clone(),
        started_at: first.session.started_at.clone(),
        age_s: measure::age_s(&first.session.started_at),
        accepted,
        complete_sessions: complete,
        incomplete_sessions: group.sessions.len() - complete,
        epochs: group.counted().iter().map(|stored| stored.record.epochs.len()).sum(),
        runtime: first.target.clone(),
        host: first.host.clone(),
        is_this_host: first.host == *here,
        changed_files: config.map(|config| changed_files(&first.workload.files, &config.workload.digests)),
        runtime_today: None,
    }
}

/// As [`listed`], for a baseline that stands alone.
fn listed_alone(group: &Group, place: &Place, config: Option<&Config>) -> Result<Listed, CliError> {
    let accepted = is_accepted(group, &place.baselines)?;
    Ok(listed(group, accepted, config, &probe::host::fingerprint()))
}

/// Whether somebody chose it.
pub(super) fn is_accepted(group: &Group, folder: &Path) -> Result<bool, CliError> {
    let path = Accepted::path(folder, &group.first().target.target, &group.workload);
    Ok(Accepted::load(&path)?.is_some_and(|accepted| accepted.group == group.id))
}

fn print(page: &report::Page, format: Format) -> Result<(), CliError> {
    let mut stdout = std::io::stdout().lock();
    match format {
        Format::Table => page.table(&mut stdout)?,
        Format::Json => page.json(&mut stdout)?,
        Format::Md => page.markdown(&mut stdout)?,
    }
    Ok(())
}
