//! `qbench baseline list`.

use std::collections::BTreeMap;

use super::{CliError, ExitCode, Format, Place, listed, measure, print, tell_unreadable};
use crate::{
    cli::doctor,
    config::Config,
    model::target::{RuntimeIdentity, Target},
    probe,
    report::{
        self,
        baseline::{Listed, RuntimeToday},
    },
    store::{self, Baselines},
};

/// List the stored baselines of every target and workload, and whether their conditions still hold
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    /// Ask every target's runtime for its version, and say which baselines ran on another; this may start it
    #[arg(long)]
    check_runtimes: bool,
    /// How the list is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) async fn run(args: &Args) -> Result<ExitCode, CliError> {
    let folder = &args.place.baselines;
    let config = measure::configuration(args.place.config.as_deref())?;
    // Only a configuration that was asked for selects; the one that lies here says what changed.
    let workload =
        args.place.config.as_ref().and(config.as_ref()).map(|config| config.workload.name.as_str());
    let here = probe::host::fingerprint();
    let mut list: Vec<Listed> = Vec::new();
    for target in store::targets(folder)? {
        let found = Baselines::read(folder, &target, workload)?;
        tell_unreadable(&found);
        for group in &found.groups {
            let accepted = found.accepted(&group.workload)?;
            let accepted = accepted.is_some_and(|accepted| accepted.group == group.id);
            list.push(listed(group, accepted, config.as_ref(), &here));
        }
    }
    if args.check_runtimes {
        check_runtimes(&mut list, config.as_ref()).await?;
    }
    print(&report::baseline::list(&list), args.format)?;
    Ok(ExitCode::Pass)
}

async fn check_runtimes(list: &mut [Listed], config: Option<&Config>) -> Result<(), CliError> {
    let own_executable = measure::own_executable()?;
    let mut found: BTreeMap<String, Result<RuntimeIdentity, String>> = BTreeMap::new();
    for one in list.iter() {
        if found.contains_key(&one.target) {
            continue;
        }
        let target = match config {
            Some(config) => config.target(&one.target),
            None => one.target.parse().ok().map(Target::of),
        };
        let identity = match target {
            Some(target) => doctor::identify(target, &own_executable).await.map_err(|e| e.to_string()),
            None => Err("no target of that name is known here".to_owned()),
        };
        found.insert(one.target.clone(), identity);
    }
    for one in list {
        one.runtime_today = Some(match &found[&one.target] {
            Ok(now) if runs(now) == runs(&one.runtime) => RuntimeToday::Same,
            Ok(now) => RuntimeToday::Other { runs: runs(now) },
            Err(reason) => RuntimeToday::Unavailable { reason: reason.clone() },
        });
    }
    Ok(())
}

fn runs(identity: &RuntimeIdentity) -> String {
    format!("{} {}", identity.runtime, identity.version)
}
