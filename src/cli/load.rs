//! `qbench load`: the load engine on its own, against one URL.

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use clap::ValueEnum;
use hyper::Uri;
use serde_json::{Value, json};
use tokio::{net::TcpStream, sync::watch};

use crate::{
    load::{self, Lane, LoadError, Measured, Plan, Route, Slot},
    model::{
        measurement::LaneMeasurement,
        sample::LatencyHistogram,
        settings::ConnectionUse,
        units::{format_duration, parse_duration},
        request::Request,
    },
};

/// A larger body file is a mistake rather than a request.
const LARGEST_BODY: u64 = 64 << 20;

const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.50), ("p90", 0.90), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999)];

/// Send requests at a fixed rate and time them from the intended send
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LoadArgs {
    /// Where to send, e.g. <http://127.0.0.1:8080/path>
    #[arg(value_name = "URL")]
    url: Uri,
    /// Requests per second, whether or not answers keep up
    #[arg(long, value_name = "PER-SECOND", default_value_t = 1000.0)]
    rate: f64,
    /// How long to send
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Connections per address at most; requests beyond them wait, and their wait counts
    #[arg(long, value_name = "COUNT", default_value_t = 64)]
    connections: u32,
    /// Whether connections are used again
    #[arg(long, value_enum, value_name = "USE", default_value = "keep-alive")]
    connection: Connection,
    /// From a request's actual send to the end of its answer
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    timeout: Duration,
    /// The method of every request
    #[arg(long, default_value = "GET")]
    method: String,
    /// A header, as 'name: value'; may be given more than once
    #[arg(long = "header", value_name = "HEADER", value_parser = header)]
    headers: Vec<(String, String)>,
    /// The file whose content is the body of every request
    #[arg(long, value_name = "FILE")]
    body_file: Option<PathBuf>,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[arg(long)]
    closed: bool,
    #[arg(long)]
    user_clock: bool,
    #[arg(long)]
    realtime: bool,
    #[arg(long, default_value = "balanced")]
    precision: String,
    #[arg(long, default_value_t = 1)]
    threads: u32,
    #[arg(long, value_delimiter = ',')]
    cores: Vec<usize>,
    /// Send to a host that is not this machine
    #[arg(long)]
    allow_remote: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Connection {
    /// One connection, many requests
    KeepAlive,
    /// A new connection for each request
    PerRequest,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// Lines for people
    #[default]
    Table,
    /// JSON for programs
    Json,
}

/// A load that could not be asked for, carried or printed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadCliError {
    /// The URL itself is not one to send to. It is not repeated: it may hold a password.
    #[error("cannot send to that URL: {0}")]
    Url(&'static str),
    /// Another machine, without leave.
    #[error("host {host} is not this machine ({address})")]
    Remote {
        /// As given.
        host: String,
        /// The address it has.
        address: SocketAddr,
    },
    /// The name has no address.
    #[error("cannot find host {host}: {source}")]
    Resolve {
        /// As given.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// The body file.
    #[error("cannot read body file {}: {source}", path.display())]
    Body {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The load itself.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The output cannot be written.
    #[error("cannot write the result: {0}")]
    Output(#[from] io::Error),
}

impl LoadCliError {
    /// Whether the command line is at fault rather than the machine.
    pub(crate) fn is_usage(&self) -> bool {
        match self {
            Self::Url(_) | Self::Remote { .. } | Self::Body { .. } => true,
            Self::Load(error) => {
                matches!(error, LoadError::Rate(_) | LoadError::Plan(_) | LoadError::Request { .. })
            }
            Self::Resolve { .. } | Self::Output(_) => false,
        }
    }

    /// What the user can do about it, where that is known.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Url(_) => Some("give it as http://HOST:PORT/PATH".to_owned()),
            Self::Remote { .. } => Some(
                "a load can bring a service down; if you may do that there, add --allow-remote".to_owned(),
            ),
            _ => None,
        }
    }
}

/// Sends the load and prints what it measured; `stop` ends it early.
pub(crate) async fn run(
    args: &LoadArgs,
    stop: watch::Receiver<bool>,
    out: &mut dyn Write,
) -> Result<(), LoadCliError> {
    let (lane, plan) = (lane(args).await?, plan(args));
    let measured = load::run(plan, vec![lane], stop).await?;
    // One lane went in, so one comes out.
    for lane in &measured.lanes {
        match args.format {
            Format::Table => print(args, &measured, lane, out)?,
            Format::Json => writeln!(out, "{:#}", to_json(args, &measured, lane))?,
        }
    }
    out.flush()?;
    Ok(())
}

fn plan(args: &LoadArgs) -> Plan {
    let pacing = if args.closed {
        crate::model::load::Pacing::Closed { think: Duration::ZERO }
    } else {
        crate::model::load::Pacing::constant(args.rate)
    };
    let tuning = load::Tuning {
        precision: match args.precision.as_str() {
            "eco" => crate::model::load::Precision::Eco,
            "exact" => crate::model::load::Precision::Exact,
            _ => crate::model::load::Precision::Balanced,
        },
        receive_clock: if args.user_clock {
            crate::model::load::ReceiveClock::User
        } else {
            crate::model::load::ReceiveClock::Kernel
        },
        threads: args.threads,
        cores: args.cores.clone(),
        realtime: args.realtime,
        ..load::Tuning::default()
    };
    Plan {
        tuning,
        connections: args.connections,
        connection_use: match args.connection {
            Connection::KeepAlive => ConnectionUse::KeepAlive,
            Connection::PerRequest => ConnectionUse::PerRequest,
        },
        timeout: args.timeout,
        ..Plan::new(pacing, vec![Slot { lane: 0, length: args.duration }])
    }
}

async fn lane(args: &LoadArgs) -> Result<Lane, LoadCliError> {
    let url = &args.url;
    if url.scheme_str() != Some("http") {
        return Err(LoadCliError::Url("only http:// is supported"));
    }
    let authority = url.authority().ok_or(LoadCliError::Url("it has no host"))?;
    if authority.as_str().contains('@') {
        return Err(LoadCliError::Url("it holds a user name or password, which belong in a header"));
    }
    let addresses = resolve(authority.host(), authority.port_u16().unwrap_or(80), args).await?;
    let mut headers = args.headers.clone();
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        headers.push(("host".to_owned(), authority.as_str().to_owned()));
    }
    let body = match &args.body_file {
        Some(path) => {
            read_body(path).await.map_err(|source| LoadCliError::Body { path: path.clone(), source })?
        }
        None => Vec::new(),
    };
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let method = args.method.to_ascii_uppercase();
    let request = Request { method, path: path.to_owned(), headers, body, weight: 1, checks: Default::default() };
    let peers = addresses.into_iter().map(Into::into).collect();
    let route = Route { peers, requests: vec![request], variables: Default::default() };
    Ok(Lane { name: authority.to_string(), routes: vec![route] })
}

async fn resolve(host: &str, port: u16, args: &LoadArgs) -> Result<Vec<SocketAddr>, LoadCliError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let found = tokio::net::lookup_host((bare, port))
        .await
        .map_err(|source| LoadCliError::Resolve { host: host.to_owned(), source })?;
    let addresses: Vec<SocketAddr> = found.collect();
    if let Some(address) = addresses.iter().find(|address| !address.ip().is_loopback())
        && !args.allow_remote
    {
        return Err(LoadCliError::Remote { host: host.to_owned(), address: *address });
    }
    if addresses.len() < 2 {
        return Ok(addresses);
    }
    // `localhost` has an address of each family, and many services listen on one of them: as any client would,
    // use those that answer. When none does, that is what the load will show.
    let mut answering = Vec::new();
    for address in &addresses {
        if let Ok(Ok(_)) = tokio::time::timeout(args.timeout, TcpStream::connect(address)).await {
            answering.push(*address);
        }
    }
    Ok(if answering.is_empty() { addresses } else { answering })
}

async fn read_body(path: &PathBuf) -> io::Result<Vec<u8>> {
    use tokio::io::AsyncReadExt as _;
    let file = tokio::fs::File::open(path).await?;
    let mut body = Vec::new();
    let read = file.take(LARGEST_BODY + 1).read_to_end(&mut body).await?;
    if read as u64 > LARGEST_BODY {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 64 MiB"));
    }
    Ok(body)
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "a duration has a unit, such as 250ms, 5s or 2m".to_owned())
}

/// The text is not repeated in errors by us: it may be a secret.
fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a header is 'name: value'")?;
    let (name, value) = (name.trim(), value.trim());
    if name.is_empty() {
        return Err("a header is 'name: value'".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Answered well per second, until the last answer: a service that only caught up after the load was slower.
fn throughput_per_second(measured: &Measured, lane: &LaneMeasurement) -> Option<f64> {
    let seconds = measured.elapsed.as_secs_f64();
    (seconds > 0.0).then(|| lane.counts.succeeded as f64 / seconds)
}

fn print(
    args: &LoadArgs,
    measured: &Measured,
    lane: &LaneMeasurement,
    out: &mut dyn Write,
) -> io::Result<()> {
    let counts = &lane.counts;
    writeln!(
        out,
        "{} {}: {} requests/s for {}, {} connections, {}",
        args.method.to_ascii_uppercase(),
        args.url,
        args.rate,
        format_duration(measured.scheduled),
        args.connections,
        match args.connection {
            Connection::KeepAlive => "kept alive",
            Connection::PerRequest => "one a request",
        }
    )?;
    if measured.scheduled < args.duration {
        writeln!(out, "stopped early: {} were asked for", format_duration(args.duration))?;
    }
    let unsent = counts.offered.saturating_sub(counts.sent);
    writeln!(out, "\nrequests       {} offered, {} sent", counts.offered, counts.sent)?;
    if unsent > 0 {
        writeln!(out, "               {unsent} given up waiting for a connection")?;
    }
    let bound = counts.bound_of_none_failed();
    let bound = bound.map(|bound| format!(" (< {:.3}% at 95%)", bound * 100.0)).unwrap_or_default();
    writeln!(out, "               {} succeeded, {} failed{bound}", counts.succeeded, counts.failures())?;
    for (class, count) in &counts.failed {
        writeln!(out, "               {count:>8} {class}")?;
    }
    if counts.failures() > 0 {
        writeln!(out, "               {} failed after one idempotent retry", counts.failures_after_retry())?;
    }
    writeln!(out, "               {} answered after more than 1 s", counts.over_one_second)?;
    if let Some(throughput) = throughput_per_second(measured, lane) {
        writeln!(out, "throughput     {throughput:.1} succeeded/s")?;
    }
    writeln!(out, "longest gap    {} between successes", format_duration(lane.longest_gap))?;
    writeln!(out, "send lag       p99 {}\n", time(lane.lag.quantile(0.99)))?;
    write!(out, "{:<15}", "")?;
    for name in QUANTILES.map(|(name, _)| name).into_iter().chain(["max", "mean"]) {
        write!(out, "{name:>10}")?;
    }
    writeln!(out)?;
    row("latency", &lane.latency, out)?;
    row("service time", &lane.service_time, out)?;
    writeln!(
        out,
        "\nlatency: from the intended send, n = {}; service time: from the actual send, n = {}",
        lane.latency.count(),
        lane.service_time.count()
    )
}

fn row(name: &str, histogram: &LatencyHistogram, out: &mut dyn Write) -> io::Result<()> {
    write!(out, "{name:<15}")?;
    let quantiles = QUANTILES.map(|(_, quantile)| histogram.quantile(quantile));
    for figure in quantiles.into_iter().chain([histogram.max(), histogram.mean()]) {
        write!(out, "{:>10}", time(figure))?;
    }
    writeln!(out)
}

fn time(figure: Option<Duration>) -> String {
    figure.map_or_else(|| "–".to_owned(), format_duration)
}

fn to_json(args: &LoadArgs, measured: &Measured, lane: &LaneMeasurement) -> Value {
    let counts = &lane.counts;
    json!({
        "format": { "name": "qbench-load", "major": 1, "minor": 0 },
        "url": args.url.to_string(),
        "method": args.method.to_ascii_uppercase(),
        "rate_per_second": args.rate,
        "connections": args.connections,
        "connection_use": plan(args).connection_use,
        "timeout_s": args.timeout.as_secs_f64(),
        "planned_s": args.duration.as_secs_f64(),
        "scheduled_s": measured.scheduled.as_secs_f64(),
        "elapsed_s": measured.elapsed.as_secs_f64(),
        "requests": counts,
        "failures": counts.failures(),
        "failures_after_retry": counts.failures_after_retry(),
        "throughput_per_second": throughput_per_second(measured, lane),
        "longest_gap_s": lane.longest_gap.as_secs_f64(),
        "latency_from_intended_send": histogram_json(&lane.latency),
        "service_time": histogram_json(&lane.service_time),
        "send_lag": histogram_json(&lane.lag),
        "client": {"cpu_s": measured.client.cpu.as_secs_f64(), "spun_s": measured.client.spun.as_secs_f64(), "own_lag": histogram_json(&measured.client.own_lag), "waited": measured.client.waited_for_cpu.map(|w| w.as_secs_f64()), "clock": measured.client.receive_clock, "disturbed": measured.client.disturbances.iter().map(|d| d.to_string()).collect::<Vec<_>>(), "opened": measured.connections.opened, "closed_idle": measured.connections.closed_idle},
    })
}

fn histogram_json(histogram: &LatencyHistogram) -> Value {
    let seconds = |figure: Option<Duration>| figure.map(|figure| figure.as_secs_f64());
    let mut object = serde_json::Map::new();
    object.insert("count".to_owned(), json!(histogram.count()));
    for (name, quantile) in QUANTILES {
        // A dot in a key is a nuisance to every query language: p99_9_s.
        object.insert(format!("{}_s", name.replace('.', "_")), json!(seconds(histogram.quantile(quantile))));
    }
    object.insert("max_s".to_owned(), json!(seconds(histogram.max())));
    object.insert("mean_s".to_owned(), json!(seconds(histogram.mean())));
    object.insert("hdr_v2_ns".to_owned(), json!(histogram.encode()));
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        load: LoadArgs,
    }

    fn args(line: &[&str]) -> LoadArgs {
        Line::try_parse_from(["load"].iter().chain(line)).unwrap().load
    }

    /// Answers `count` connections, one request each, and then listens no more.
    fn server(count: usize) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().take(count) {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            }
        });
        address
    }

    async fn output(line: &[&str]) -> Result<String, LoadCliError> {
        let (_stop, stopped) = watch::channel(false);
        let mut out = Vec::new();
        run(&args(line), stopped, &mut out).await?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[tokio::test]
    async fn the_json_says_what_was_sent_and_its_histogram_decodes() {
        let url = format!("http://{}/x?y=z", server(20));
        let per_request = ["--rate", "200", "--duration", "100ms", "--connection", "per-request"];
        let line: Vec<&str> = [url.as_str(), "--format", "json"].into_iter().chain(per_request).collect();
        let json: Value = serde_json::from_str(&output(&line).await.unwrap()).unwrap();
        assert_eq!(json["requests"]["offered"], 20);
        assert_eq!(json["requests"]["succeeded"], 20);
        assert_eq!(json["connection_use"], "per-request");
        let latency = &json["latency_from_intended_send"];
        let decoded = LatencyHistogram::decode(latency["hdr_v2_ns"].as_str().unwrap()).unwrap();
        assert_eq!(decoded.count(), 20);
        assert_eq!(json!(decoded.quantile(0.5).unwrap().as_secs_f64()), latency["p50_s"]);
    }

    #[tokio::test]
    async fn the_table_names_the_failures() {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let url = format!("http://{address}/");
        let text = output(&[&url, "--rate", "100", "--duration", "50ms"]).await.unwrap();
        assert!(text.contains("0 succeeded, 5 failed"), "{text}");
        assert!(text.contains("5 refused") && text.contains("5 failed after one"), "{text}");
        let latency = text.lines().find(|line| line.starts_with("latency  ")).unwrap();
        assert!(latency.contains('–'), "nothing counted is no figure: {latency}");
    }

    #[tokio::test]
    async fn other_machines_need_leave() {
        // An address kept for documentation, and a name that needs no name server.
        let error = output(&["http://192.0.2.1/"]).await.unwrap_err();
        assert!(matches!(error, LoadCliError::Remote { .. }) && error.is_usage());
        assert!(error.hint().unwrap().contains("--allow-remote"));
    }

    #[tokio::test]
    async fn bad_urls_and_files_are_told_apart() {
        for url in ["https://127.0.0.1/", "127.0.0.1:80", "/path", "http://me:secret@127.0.0.1/"] {
            let error = output(&[url]).await.unwrap_err();
            assert!(matches!(error, LoadCliError::Url(_)), "{url}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let missing = output(&["http://127.0.0.1:9/", "--body-file", "/nonexistent"]).await;
        assert!(matches!(missing, Err(LoadCliError::Body { .. })));
        let rate = output(&["http://127.0.0.1:9/", "--rate", "NaN"]).await.unwrap_err();
        assert!(rate.is_usage(), "{rate}");
    }

    #[test]
    fn arguments_need_their_units_and_names() {
        let parsed = args(&["http://[::1]:80/", "--header", "X-A:  b: c "]);
        assert_eq!(parsed.headers, [("X-A".to_owned(), "b: c".to_owned())]);
        for bad in [["--duration", "10"], ["--header", "no colon"], ["--header", ": x"]] {
            assert!(
                Line::try_parse_from(["load", "http://127.0.0.1/"].iter().chain(&bad)).is_err(),
                "{bad:?}"
            );
        }
    }
}
