//! `qbench verdict`: the verdict on stored epochs again, and how often it is right where the truth is known.

use std::path::PathBuf;

use clap::ValueEnum;

use super::{
    CliError, ExitCode, Format, compare, measure,
    tally::{self, Tally},
};
use crate::{
    judge::{
        self, Question, Steering,
        rehearsal::{self, Damage, Disturbance, Truth},
    },
    model::{
        random::SplitMix,
        record::{Record, Session},
        settings::{COLLECT_EPOCHS, MOST_EPOCHS, Thresholds},
    },
    store,
};

/// Judge measured epochs again, or count how often the verdict is right where the truth is known
///
/// With --from alone the epochs go through the same engine as in the session, look by look. With --resample they are
/// drawn again with replacement, thousands of times, to see what other sessions on the same machine would have said.
/// With --rehearse the epochs are made up, with a noise and a truth of your choice.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Records of the baseline and of the candidate, as a session or `collect` wrote them
    #[arg(long, num_args = 2, value_names = ["BASELINE", "CANDIDATE"], required_unless_present = "rehearse")]
    from: Vec<PathBuf>,
    /// Draw this many sessions from the epochs of --from
    #[arg(long, value_name = "SESSIONS", requires = "from", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    resample: Option<u32>,
    /// Make up epochs that suffer from this, beside a noise of every arm's own
    #[arg(long, value_name = "KIND", value_enum, conflicts_with = "from")]
    rehearse: Option<Kind>,
    /// Sessions to make up
    #[arg(long, value_name = "N", default_value_t = 1000, conflicts_with = "from", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    sessions: u32,
    /// By how much the candidate's times are longer in truth; with --resample, beyond what was measured
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = percent, allow_hyphen_values = true)]
    effect: f64,
    /// Standard deviation of an epoch's change
    #[arg(long, value_name = "PERCENT", default_value = "3%", conflicts_with = "from", value_parser = spread)]
    noise: f64,
    /// Make up stored records instead of one session: sessions of the baseline and of the candidate, such as 3x2
    #[arg(long, value_name = "AxB", conflicts_with = "from", value_parser = sessions_each)]
    stored: Option<(u32, u32)>,
    /// Standard deviation of a target's change from session to session, for --stored; of both sides, or of each
    #[arg(long, value_name = "PERCENT[:PERCENT]", default_value = "0%", conflicts_with = "from", value_parser = spreads)]
    session_spread: (f64, f64),
    /// Spoil the data in this way
    #[arg(long, value_name = "HOW", value_enum, conflicts_with = "from")]
    damage: Option<How>,
    /// Epochs after which a session gives up; of stored records, epochs of each session
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=200))]
    epochs: Option<u32>,
    /// The seed of everything drawn
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The description of the workload, for its thresholds
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// See [`Disturbance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Nothing else
    Noise,
    /// A machine that gets slower and faster
    Drift,
    /// Epochs slower for all arms, for each by its own amount
    SharedSpikes,
    /// Student's t with three degrees of freedom
    HeavyTails,
    /// One arm alone slower, never faster
    OneSidedSpikes,
}

impl From<Kind> for Disturbance {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Noise => Self::None,
            Kind::Drift => Self::Drift,
            Kind::SharedSpikes => Self::SharedSpikes,
            Kind::HeavyTails => Self::HeavyTails,
            Kind::OneSidedSpikes => Self::OneSidedSpikes,
        }
    }
}

/// See [`Damage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum How {
    /// The candidate lacks an epoch
    Ragged,
    /// The records are cut off
    Truncated,
    /// There are no epochs
    Empty,
    /// A figure is no number
    Nan,
}

impl From<How> for Damage {
    fn from(how: How) -> Self {
        match how {
            How::Ragged => Self::Ragged,
            How::Truncated => Self::Truncated,
            How::Empty => Self::Empty,
            How::Nan => Self::NotANumber,
        }
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    number
        .filter(|percent| *percent > -100.0 && *percent <= 1000.0)
        .map(|percent| percent / 100.0)
        .ok_or_else(|| "not a percentage above -100% and up to 1000%, such as 5%".to_owned())
}

/// A standard deviation.
fn spread(text: &str) -> Result<f64, String> {
    percent(text)
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "not a percentage from 0% to 100%, such as 3%".to_owned())
}

fn spreads(text: &str) -> Result<(f64, f64), String> {
    match text.split_once(':') {
        Some((baseline, candidate)) => Ok((spread(baseline)?, spread(candidate)?)),
        None => spread(text).map(|both| (both, both)),
    }
}

fn sessions_each(text: &str) -> Result<(u32, u32), String> {
    let each = |text: &str| text.parse::<u32>().ok().filter(|count| (1..=50).contains(count));
    let both = text.split_once('x').and_then(|(from, to)| Some((each(from)?, each(to)?)));
    both.ok_or_else(|| "not two numbers of sessions from 1 to 50, such as 3x2".to_owned())
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CliError> {
    let config = measure::configuration(args.config.as_deref())?;
    let thresholds = config.map(|config| config.thresholds);
    if args.rehearse.is_some() {
        let tally = rehearse(args, &thresholds.unwrap_or_default());
        return tally::print(&tally, args.format);
    }
    let (baseline, candidate) = (store::load(&args.from[0])?, store::load(&args.from[1])?);
    let thresholds = thresholds.unwrap_or_else(|| candidate.thresholds.clone());
    if args.resample.is_none() && (args.effect != 0.0 || args.epochs.is_some()) {
        return Err(CliError::usage(
            "--effect and --epochs change what is drawn, and nothing is",
            "add --resample, or leave them out",
        ));
    }
    match args.resample {
        Some(sessions) => {
            let tally = resample(args, sessions, &baseline, &candidate, &thresholds)?;
            tally::print(&tally, args.format)
        }
        None => replay(args, &baseline, &candidate, &thresholds),
    }
}

fn rehearse(args: &Args, thresholds: &Thresholds) -> Tally {
    let truth = Truth {
        effect: args.effect,
        epoch_sd: args.noise,
        disturbance: args.rehearse.unwrap_or(Kind::Noise).into(),
        session_sd: args.session_spread,
        damage: args.damage.map(Into::into),
    };
    tally::of(args.sessions, args.seed, |random: &mut SplitMix| match args.stored {
        Some(sessions) => {
            let epochs = args.epochs.unwrap_or(COLLECT_EPOCHS);
            rehearsal::stored(&truth, sessions, epochs, thresholds, random)
        }
        None => rehearsal::paired(&truth, args.epochs.unwrap_or(MOST_EPOCHS), thresholds, random),
    })
}

fn resample(
    args: &Args,
    sessions: u32,
    baseline: &Record,
    candidate: &Record,
    thresholds: &Thresholds,
) -> Result<Tally, CliError> {
    if baseline.session.id != candidate.session.id {
        return Err(CliError::usage(
            "only the two records of one session can be drawn from together",
            "give the two files of one folder of `qbench validate --reports`",
        ));
    }
    let cap = args.epochs.unwrap_or(MOST_EPOCHS);
    Ok(tally::of(sessions, args.seed, |random: &mut SplitMix| {
        rehearsal::resampled(baseline, candidate, args.effect, cap, thresholds, random)
    }))
}

/// The same epochs in the same order, asked after each as the session asked.
fn replay(
    args: &Args,
    baseline: &Record,
    candidate: &Record,
    thresholds: &Thresholds,
) -> Result<ExitCode, CliError> {
    let until = |record: &Record, epochs: usize, ended| Record {
        session: Session { measured_epochs: epochs as u32, ended, ..record.session.clone() },
        epochs: record.epochs[..epochs].to_vec(),
        ..record.clone()
    };
    let is_whole = |record: &Record| {
        record.session.is_complete() && record.epochs.len() >= record.session.measured_epochs as usize
    };
    // What is left of a broken session is judged as that, and not as a shorter one that was whole.
    let paired = baseline.session.id == candidate.session.id && is_whole(baseline) && is_whole(candidate);
    let most = baseline.epochs.len().min(candidate.epochs.len());
    let stopped = (1..=most).filter(|_| paired).find_map(|epochs| {
        let (from, to) = (until(baseline, epochs, None), until(candidate, epochs, None));
        match judge::steer(&from, &to, thresholds) {
            Steering::GoOn => None,
            Steering::Stop(ended) => Some((epochs, ended)),
        }
    });
    let comparison = match stopped {
        Some((epochs, ended)) => {
            super::tell(&format!("the session stops after {epochs} epochs: {}", tally::why(ended)));
            let (from, to) = (until(baseline, epochs, Some(ended)), until(candidate, epochs, Some(ended)));
            judge::compare(&Question::of(&from, &to, thresholds))
        }
        None => judge::compare(&Question::of(baseline, candidate, thresholds)),
    };
    compare::print(&comparison, args.format)?;
    Ok(comparison.verdict.into())
}
