//! `qbench parity`.

use std::path::PathBuf;

use super::{CliError, ExitCode, Folders, Format, measure, tell};
use crate::{
    config, judge,
    model::{
        scenario::{Figure, Scenario, ScenarioOutcome},
        target::{RuntimeKind, Target},
    },
    report::{self, Outcome, ParityRow},
    runtime::RuntimeError,
    session::{self, SessionError},
    stats::binomial::upper_bound,
    store,
};

/// Run the parity scenarios on targets, and show which meets which expectation
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The targets; by default all four runtimes that are usable here
    targets: Vec<String>,
    /// Only the scenario of this name; may be given several times
    #[arg(long = "scenario", value_name = "NAME")]
    scenarios: Vec<String>,
    /// Read the scenarios from a folder instead of the shipped ones
    #[arg(long, value_name = "DIR")]
    scenario_dir: Option<PathBuf>,
    /// Repetitions of each scenario, over the scenario's own number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: Option<u32>,
    #[command(flatten)]
    workload: measure::WorkloadArgs,
    #[command(flatten)]
    folders: Folders,
    /// How the table is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) async fn run(args: &Args) -> Result<ExitCode, CliError> {
    let scenarios = chosen(args)?;
    let prepared = measure::prepare(&args.workload, None).await?;
    let targets = if args.targets.is_empty() {
        RuntimeKind::ALL.into_iter().filter_map(|kind| prepared.config.target(kind.name())).collect()
    } else {
        args.targets
            .iter()
            .map(|name| measure::target(&prepared.config, name))
            .collect::<Result<Vec<Target>, _>>()?
    };
    let mut rows = Vec::new();
    let mut stopped_by = None;
    'targets: for target in &targets {
        for scenario in &scenarios {
            let (id, _) = measure::new_session();
            match session::run_scenario(&prepared.context, id, scenario, target).await {
                Ok((identity, outcome)) => rows.push(ParityRow {
                    error_rate_bound: error_rate_bound(&outcome),
                    run_error_rate_bound: run_error_rate_bound(&outcome),
                    scenario: scenario.name.clone(),
                    target: identity,
                    outcome,
                    expectations: scenario.expect.clone(),
                }),
                // Nobody asked for this runtime by name: that it is not here is worth a line, not a failure.
                Err(SessionError::Runtime {
                    source: source @ (RuntimeError::Missing { .. } | RuntimeError::WorkloadLacks { .. }),
                    ..
                }) if args.targets.is_empty() => {
                    tell(&format!("note: left out {}: {source}", target.name));
                    break;
                }
                Err(error) => {
                    stopped_by = Some(error);
                    break 'targets;
                }
            }
        }
    }
    // What was measured before an interrupt or a failure is shown and kept all the same.
    if rows.is_empty()
        && let Some(error) = stopped_by
    {
        return Err(error.into());
    }
    print(&rows, args.format)?;
    let (session, _) = measure::new_session();
    let path = measure::report_path(&args.folders.reports, &session, "parity.md");
    let mut markdown = Vec::new();
    report::markdown::parity(&rows, &mut markdown)?;
    store::write_atomically(&path, &markdown)?;
    tell(&format!("report: {}", path.display()));
    stopped_by.map_or_else(|| Ok(exit_code(&rows)), |error| Err(error.into()))
}

fn print(rows: &[ParityRow], format: Format) -> Result<(), CliError> {
    let mut stdout = std::io::stdout().lock();
    match format {
        Format::Table => report::table::parity(rows, &mut stdout, super::wants_colour())?,
        Format::Json => report::json::parity(rows, &mut stdout)?,
        Format::Md => report::markdown::parity(rows, &mut stdout)?,
    }
    Ok(())
}

fn chosen(args: &Args) -> Result<Vec<Scenario>, CliError> {
    let mut all = match &args.scenario_dir {
        Some(folder) => config::scenario::load_dir(folder)?,
        None => config::scenario::shipped(),
    };
    for wanted in &args.scenarios {
        if !all.iter().any(|scenario| scenario.name == *wanted) {
            let names: Vec<&str> = all.iter().map(|scenario| scenario.name.as_str()).collect();
            return Err(CliError::usage(
                format!("unknown scenario `{wanted}`"),
                format!("known: {}", names.join(", ")),
            ));
        }
    }
    if !args.scenarios.is_empty() {
        all.retain(|scenario| args.scenarios.contains(&scenario.name));
    }
    if let Some(repeat) = args.repeat {
        for scenario in &mut all {
            scenario.repeat = repeat;
        }
    }
    Ok(all)
}

/// Clopper–Pearson's upper bound at 95% on the rate of failed requests, all repetitions together.
fn error_rate_bound(outcome: &ScenarioOutcome) -> Option<f64> {
    let ScenarioOutcome::Ran { runs } = outcome else { return None };
    let total = |figure| runs.iter().filter_map(|run| run.get(&figure)).sum::<f64>() as u64;
    upper_bound(total(Figure::Errors), total(Figure::Requests), judge::CONFIDENCE)
}

/// The same on the rate of repetitions in which any request failed.
fn run_error_rate_bound(outcome: &ScenarioOutcome) -> Option<f64> {
    let (events, runs) = outcome.runs_with_errors()?;
    upper_bound(events, runs, judge::CONFIDENCE)
}

/// Anything that did not meet its expectations is a failure; what a runtime cannot do is at best inconclusive.
fn exit_code(rows: &[ParityRow]) -> ExitCode {
    let any = |wanted: &[Outcome]| rows.iter().any(|row| wanted.contains(&row.verdict()));
    if any(&[Outcome::Fail, Outcome::Broken]) {
        ExitCode::Fail
    } else if rows.is_empty() || any(&[Outcome::Unsupported]) {
        ExitCode::Inconclusive
    } else {
        ExitCode::Pass
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Figure, ScenarioOutcome, error_rate_bound, run_error_rate_bound};

    fn ran(errors: &[f64]) -> ScenarioOutcome {
        let run = |errors: &f64| BTreeMap::from([(Figure::Errors, *errors), (Figure::Requests, 1000.0)]);
        ScenarioOutcome::Ran { runs: errors.iter().map(run).collect() }
    }

    #[test]
    fn a_bound_per_run_is_not_fooled_by_many_requests() {
        let within = |bound: Option<f64>, expected: f64| bound.is_some_and(|b| (b - expected).abs() < 1e-4);
        let none = ran(&[0.0; 5]);
        assert!(within(error_rate_bound(&none), 0.000_599), "{:?}", error_rate_bound(&none));
        assert!(within(run_error_rate_bound(&none), 0.450_7), "{:?}", run_error_rate_bound(&none));
        assert!(within(run_error_rate_bound(&ran(&[0.0; 20])), 0.139_1));
        // Clopper–Pearson for 1 of 5: the 95% quantile of Beta(2, 4).
        assert!(within(run_error_rate_bound(&ran(&[0.0, 41.0, 0.0, 0.0, 0.0])), 0.657_4));
        assert_eq!(run_error_rate_bound(&ran(&[3.0, 3.0])), Some(1.0));
        assert_eq!(run_error_rate_bound(&ran(&[])), None);
        assert_eq!(run_error_rate_bound(&ScenarioOutcome::Unsupported { reason: String::new() }), None);
    }
}
