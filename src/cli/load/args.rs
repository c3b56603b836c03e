//! The options of `qbench load`.

use std::{path::PathBuf, time::Duration};

use clap::{ArgGroup, ValueEnum};

use super::{
    shape::RateShape,
    threshold::{self, MaxSearch},
};
use crate::model::{
    load::{Precision, ReceiveClock},
    load_report::LoadThreshold,
    settings::ConnectionUse,
    units::parse_duration,
};

/// Where the schedule of a Poisson process comes from, unless said: the same every time.
const SEED: u64 = 1;
/// Without `--duration` and without a shape that has a length.
const DURATION: Duration = Duration::from_secs(10);
/// Without `--rate`, requests per second.
const RATE: f64 = 1000.0;

/// Send requests and time them from the moment they were meant to be sent
///
/// Open loop unless --closed: the schedule does not wait for answers. Names are looked up once, before the load.
///
/// With thresholds the exit code says whether they hold: 0 all do, 1 one does not, 4 something was not measured,
/// 5 this machine was itself in the way. Otherwise it is 0 also when requests failed.
#[derive(Clone, Debug, clap::Args)]
#[command(group = ArgGroup::new("own-request").args(["method", "headers", "body_file", "expect_status"]).multiple(true).conflicts_with("requests"))]
pub(crate) struct LoadArgs {
    /// Where to send, e.g. <http://127.0.0.1:8080/path>
    #[arg(value_name = "URL")]
    pub(super) url: String,
    #[command(flatten)]
    pub(super) pacing: PacingArgs,
    #[command(flatten)]
    pub(super) request: RequestArgs,
    #[command(flatten)]
    pub(super) transport: TransportArgs,
    #[command(flatten)]
    pub(super) client: ClientArgs,
    #[command(flatten)]
    pub(super) result: ResultArgs,
}

/// When requests are sent.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "When requests are sent")]
pub(super) struct PacingArgs {
    /// Requests per second, whether or not answers keep up [default: 1000]
    ///
    /// One of: 1000 | ramp:100..1000 (over the whole load) | ramp:100..1000/30s (and on at its end) |
    /// steps:100@10s,200@10s | spike:100,1000@20s+5s (from 100 to 1000 after 20s, for 5s) |
    /// sine:500,200,60s (between 300 and 700, once a minute)
    #[arg(long, value_name = "RATE")]
    pub(super) rate: Option<RateShape>,
    /// Requests come like independent users', at random around the rate
    #[arg(long)]
    pub(super) poisson: bool,
    /// The same seed gives the same moments [default: 1]
    #[arg(long, value_name = "N", requires = "poisson")]
    pub(super) seed: Option<u64>,
    /// Closed loop: each of --connections clients waits for its answer before it sends again; a stall thins the load
    #[arg(long, conflicts_with_all = ["rate", "poisson", "find_max"])]
    pub(super) closed: bool,
    /// What a client of a closed loop waits between an answer and its next request
    #[arg(long, value_name = "TIME", requires = "closed", value_parser = duration)]
    pub(super) think_time: Option<Duration>,
    /// How long to send; with --find-max, each window [default: 10s, or as long as the rate's shape]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(super) duration: Option<Duration>,
}

/// What is sent, and what its answer must be.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "What is sent")]
pub(super) struct RequestArgs {
    /// The method of every request [default: GET]
    #[arg(long, value_name = "METHOD")]
    pub(super) method: Option<String>,
    /// A header, as 'name: value'; may be given more than once
    #[arg(long = "header", value_name = "HEADER")]
    pub(super) headers: Vec<String>,
    /// The file whose content is the body of every request
    #[arg(long, value_name = "FILE")]
    pub(super) body_file: Option<PathBuf>,
    /// Several kinds of requests, with variables and checks, from a TOML file
    #[arg(long, value_name = "FILE")]
    pub(super) requests: Option<PathBuf>,
    /// Keep the cookies that answers set, and send them
    #[arg(long)]
    pub(super) cookies: bool,
    /// Statuses that are successes, e.g. 200-299,404 [default: 200-299]
    #[arg(long, value_name = "STATUS")]
    pub(super) expect_status: Option<StatusList>,
}

/// How it is sent.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "How it is sent")]
pub(super) struct TransportArgs {
    /// Connections per address at most; requests beyond them wait, and their wait counts
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) connections: u32,
    /// Whether connections are used again
    #[arg(long, value_enum, value_name = "USE", default_value = "keep-alive")]
    pub(super) connection: Connection,
    /// From a request's actual send to the end of its answer
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub(super) timeout: Duration,
    /// HTTP/2; without TLS from the first byte on (prior knowledge)
    #[arg(long)]
    pub(super) http2: bool,
    /// Send over this Unix socket; the URL's host is then only a name
    #[arg(long, value_name = "PATH")]
    pub(super) unix_socket: Option<PathBuf>,
    /// Trust the certificates of this PEM file instead of the system's
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub(super) ca: Option<PathBuf>,
    /// Do not check the server's certificate
    #[arg(long)]
    pub(super) insecure: bool,
    /// Send to a host that is not this machine
    #[arg(long)]
    pub(super) allow_remote: bool,
}

/// What the load may take of this machine.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "What it may take of this machine")]
pub(super) struct ClientArgs {
    /// How exactly requests are sent on time
    #[arg(long, value_enum, value_name = "PRECISION", default_value_t)]
    pub(super) precision: PrecisionArg,
    /// Which clock says when an answer was there
    #[arg(long, value_enum, value_name = "CLOCK", default_value_t)]
    pub(super) clock: ClockArg,
    /// Threads that carry the load
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(super) threads: u32,
    /// Keep the threads to these cores, e.g. 0,1
    #[arg(long, value_name = "CORES", value_delimiter = ',')]
    pub(super) cores: Vec<usize>,
    /// Run the threads at a real-time priority, before all others; needs the privilege
    #[arg(long)]
    pub(super) realtime: bool,
    /// How late the load itself may be (p99) before the measurement counts as disturbed
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(super) lag_limit: Option<Duration>,
}

/// What comes of it.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "What comes of it")]
pub(super) struct ResultArgs {
    /// What must hold, e.g. 'p99<20ms'; may be given more than once
    ///
    /// p50, p90, p95, p99, p99.9, max, mean and gap (between successes) < or <= a time; errors < or <= a share
    /// (0.1%) or a number of requests; throughput > or >= a rate (950/s)
    #[arg(long = "threshold", value_name = "LIMIT", value_parser = threshold::parse)]
    pub(super) thresholds: Vec<LoadThreshold>,
    /// Search the highest rate with 'p99<20ms', or 'p99<20ms,errors<0.1%'; --rate is where it begins
    ///
    /// The rate is doubled until a window fails, then narrowed down to within 5%, then confirmed by two more windows;
    /// 64 windows at most, each as long as --duration. A window that this machine disturbed is run again, and after
    /// three times the search ends, with exit code 5. In each window 99% of the requests must be answered in time.
    #[arg(long, value_name = "LIMITS", conflicts_with_all = ["thresholds", "hdr_log"])]
    pub(super) find_max: Option<MaxSearch>,
    /// Write latencies second by second to this file, as an HDR interval log
    #[arg(long, value_name = "FILE")]
    pub(super) hdr_log: Option<PathBuf>,
    /// Write the latency distribution to this file, as HDR percentiles
    #[arg(long, value_name = "FILE")]
    pub(super) hgrm: Option<PathBuf>,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t)]
    pub(super) format: Format,
}

/// Whether connections are used again.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Connection {
    /// One connection, many requests
    KeepAlive,
    /// A new connection for each request
    PerRequest,
}

impl From<Connection> for ConnectionUse {
    fn from(connection: Connection) -> Self {
        match connection {
            Connection::KeepAlive => Self::KeepAlive,
            Connection::PerRequest => Self::PerRequest,
        }
    }
}

/// How exactly requests are sent on time.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum PrecisionArg {
    /// Sleeps only; up to a millisecond late
    Eco,
    /// Wakes early and spins to the moment; a whole core where requests are closer than a sleep ends late
    #[default]
    Balanced,
    /// Spins 200 µs and more: a whole core from 5,000 requests per second on
    Exact,
}

impl From<PrecisionArg> for Precision {
    fn from(precision: PrecisionArg) -> Self {
        match precision {
            PrecisionArg::Eco => Self::Eco,
            PrecisionArg::Balanced => Self::Balanced,
            PrecisionArg::Exact => Self::Exact,
        }
    }
}

/// Which clock says when an answer was there.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum ClockArg {
    /// The kernel's, at the answer's last packet
    #[default]
    Kernel,
    /// The load's own, after it had read the answer
    User,
}

impl From<ClockArg> for ReceiveClock {
    fn from(clock: ClockArg) -> Self {
        match clock {
            ClockArg::Kernel => Self::Kernel,
            ClockArg::User => Self::User,
        }
    }
}

/// How the result is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Lines for people
    #[default]
    Table,
    /// JSON for programs
    Json,
}

/// Statuses that are successes, and how they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StatusList {
    /// As given.
    pub(super) text: String,
    /// At least one.
    pub(super) ranges: Vec<std::ops::RangeInclusive<u16>>,
}

impl std::str::FromStr for StatusList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let status = |text: &str| {
            text.trim()
                .parse::<u16>()
                .ok()
                .filter(|status| (100..=599).contains(status))
                .ok_or_else(|| "a status is a number from 100 to 599".to_owned())
        };
        let range = |text: &str| {
            let (from, to) = text.split_once('-').unwrap_or((text, text));
            let (from, to) = (status(from)?, status(to)?);
            if from > to {
                return Err(format!("{from}-{to} is empty: the lower status comes first"));
            }
            Ok(from..=to)
        };
        let ranges = text.split(',').map(range).collect::<Result<_, String>>()?;
        Ok(Self { text: text.to_owned(), ranges })
    }
}

impl LoadArgs {
    /// How long the load, or each window of a search, is.
    pub(super) fn duration(&self) -> Duration {
        let of_shape = self.pacing.rate.as_ref().and_then(RateShape::length);
        self.pacing.duration.or(of_shape).unwrap_or(DURATION)
    }

    /// The rate over time.
    pub(super) fn rate(&self) -> RateShape {
        self.pacing.rate.clone().unwrap_or(RateShape::Constant(RATE))
    }

    /// The seed of a Poisson process, when one is asked for.
    pub(super) fn poisson_seed(&self) -> Option<u64> {
        self.pacing.poisson.then(|| self.pacing.seed.unwrap_or(SEED))
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "a duration has a unit, such as 250ms, 5s or 2m".to_owned())
}
