//! An HTTP/1.1 server whose own clock tells the truth about a load client.
//!
//! Of every request it notes when the kernel received it (`SO_TIMESTAMPNS`) and when its answer had been
//! written, both on the real-time clock. Told to end by SIGTERM or SIGINT it prints one line of JSON: how long
//! requests waited here, and for each `--rate` how late they arrived and what a client that hides nothing has
//! to report.
//!
//! Deliberately absent: threads, TLS, HTTP/2, chunked request bodies and anything about what is asked for:
//! every request gets the same answer. A request is stamped with the arrival of the last byte read with it, so
//! requests sent in one write (pipelining) share a stamp.

use std::{
    env,
    fmt::Write as _,
    io::{self, Write as _},
    mem,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::ExitCode,
    ptr,
    str::FromStr,
    time::Duration,
};

use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, EventData, EventFlags},
    io::Errno,
    net::{self, AddressFamily, SendFlags, SocketFlags, SocketType, sockopt},
    process::{self, Resource, Rlimit},
    thread::{self, CpuSet},
    time::{self, ClockId, Timespec},
};

const USAGE: &str = "\
usage: truth-server [options]
  --port N           listen on 127.0.0.1:N; 0 takes any free port (default 0)
  --spin-us N        busy work for each request, in microseconds (default 0)
  --stall-at SECS    answer nothing from SECS after the first request ...
  --stall-for SECS   ... for this long
  --body BYTES       length of the answer's body (default 3)
  --max N            requests whose times are kept (default 5000000)
  --core N           run on this core only
  --rate R           judge the arrivals against R requests/s; may be given more than once
                     (without it: the rates of TRUTH_RATE, separated by commas)
  --settle SECS      how long after the first request the settled lag begins (default 1)
  --t0-ns N          the schedule's start on the real-time clock, if it is known";

/// As many connections as may wait to be accepted: all of a client that opens thousands at once.
const BACKLOG: i32 = 4096;
const EVENTS_AT_ONCE: usize = 1024;
const ACCEPTS_AT_ONCE: usize = 256;
const READ_AT_ONCE: usize = 64 << 10;
/// A longer request, body included, is refused.
const LONGEST_REQUEST: usize = 1 << 20;
const LONGEST_BODY: usize = 64 << 20;

/// What the event loop is told of, apart from connections, which have their slot's number.
const LISTENER: u64 = u64::MAX;
const SIGNALS: u64 = u64::MAX - 1;

/// Nanoseconds since 1970, the unit of the kernel's stamps.
type RealtimeNs = u64;

fn main() -> ExitCode {
    let options = match Options::parse(env::args().skip(1), env::var("TRUTH_RATE").ok().as_deref()) {
        Ok(options) => options,
        Err(message) => {
            let _ = writeln!(io::stderr(), "truth-server: {message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match serve(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "truth-server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: &Options) -> io::Result<()> {
    raise_file_limit()?;
    if let Some(core) = options.core {
        let mut cores = CpuSet::new();
        cores.set(core);
        thread::sched_setaffinity(None, &cores)?;
    }
    // Before anyone knows the port: from then on a signal means to report.
    let signals = signal_descriptor()?;
    let mut server = Server::new(options, &signals)?;
    writeln!(io::stdout(), "listening on 127.0.0.1:{}", server.port()?)?;
    io::stdout().flush()?;
    let before = cpu_time();
    server.run()?;
    let tally = server.tally(cpu_time().saturating_sub(before));
    writeln!(io::stdout(), "{}", report(&tally, server.samples, options))?;
    io::stdout().flush()
}

// ---- options --------------------------------------------------------------------------------------------

#[derive(Clone, Debug, PartialEq)]
struct Options {
    port: u16,
    spin: Duration,
    stall: Option<Stall>,
    body_bytes: usize,
    samples: usize,
    core: Option<usize>,
    rates_per_second: Vec<f64>,
    settle: Duration,
    t0: Option<RealtimeNs>,
}

/// A time, counted from the first request, in which nothing is done.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stall {
    at: Duration,
    length: Duration,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>, env_rates: Option<&str>) -> Result<Self, String> {
        let mut options = Self {
            port: 0,
            spin: Duration::ZERO,
            stall: None,
            body_bytes: 3,
            samples: 5_000_000,
            core: None,
            rates_per_second: Vec::new(),
            settle: Duration::from_secs(1),
            t0: None,
        };
        let (mut stall_at, mut stall_for) = (None, None);
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("no value for {name}, or no such option"))?;
            match name.as_str() {
                "--port" => options.port = number(&name, &value)?,
                "--spin-us" => options.spin = Duration::from_micros(number(&name, &value)?),
                "--stall-at" => stall_at = Some(seconds(&name, &value)?),
                "--stall-for" => stall_for = Some(seconds(&name, &value)?),
                "--body" => options.body_bytes = number(&name, &value)?,
                "--max" => options.samples = number(&name, &value)?,
                "--core" => options.core = Some(number(&name, &value)?),
                "--rate" => options.rates_per_second.push(rate(&name, &value)?),
                "--settle" => options.settle = seconds(&name, &value)?,
                "--t0-ns" => options.t0 = Some(number(&name, &value)?),
                _ => return Err(format!("no such option: {name}")),
            }
        }
        options.stall = match (stall_at, stall_for) {
            (Some(at), Some(length)) => Some(Stall { at, length }),
            (None, None) => None,
            _ => return Err("--stall-at and --stall-for belong together".to_owned()),
        };
        if options.body_bytes > LONGEST_BODY {
            return Err(format!("--body is at most {LONGEST_BODY}"));
        }
        if options.core.is_some_and(|core| core >= CpuSet::MAX_CPU) {
            return Err(format!("--core is less than {}", CpuSet::MAX_CPU));
        }
        if options.rates_per_second.is_empty() {
            for text in env_rates.unwrap_or_default().split(',').filter(|text| !text.is_empty()) {
                options.rates_per_second.push(rate("TRUTH_RATE", text.trim())?);
            }
        }
        Ok(options)
    }
}

fn number<T: FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{name} is not such a number: {text}"))
}

fn seconds(name: &str, text: &str) -> Result<Duration, String> {
    Duration::try_from_secs_f64(number(name, text)?).map_err(|_| format!("{name} is not a time: {text}"))
}

fn rate(name: &str, text: &str) -> Result<f64, String> {
    let rate: f64 = number(name, text)?;
    if rate.is_finite() && rate > 0.0 { Ok(rate) } else { Err(format!("{name} is above 0: {text}")) }
}

// ---- the server -----------------------------------------------------------------------------------------

/// When one request came and when its answer was gone.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sample {
    arrival: RealtimeNs,
    written: RealtimeNs,
}

struct Connection {
    socket: OwnedFd,
    /// What was read and is not answered yet.
    unread: Vec<u8>,
    /// The stamp of the last bytes in `unread`.
    arrival: RealtimeNs,
    /// The answer that the socket has not wholly taken.
    answering: Option<Answering>,
    interest: EventFlags,
}

#[derive(Clone, Copy)]
struct Answering {
    arrival: RealtimeNs,
    close: bool,
    sent: usize,
}

/// What a connection waits for.
enum Next {
    Request,
    RoomToWrite,
    Nothing,
}

struct Server {
    epoll: OwnedFd,
    listener: OwnedFd,
    /// By the number that the event loop knows them by.
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
    answer: Vec<u8>,
    closing_answer: Vec<u8>,
    spin: Duration,
    /// The stall that is still to come.
    stall: Option<Stall>,
    first_arrival: Option<RealtimeNs>,
    samples: Vec<Sample>,
    requests: u64,
    accepted: u64,
    refused: u64,
    unstamped: u64,
}

impl Server {
    fn new(options: &Options, signals: &OwnedFd) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let listener = listen(options.port)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        epoll::add(&epoll, signals, EventData::new_u64(SIGNALS), EventFlags::IN)?;
        // Written once, so that no page of it is first touched while requests are timed.
        let mut samples = vec![Sample { arrival: 1, written: 1 }; options.samples];
        samples.clear();
        Ok(Self {
            epoll,
            listener,
            connections: Vec::new(),
            free: Vec::new(),
            buffer: vec![0; READ_AT_ONCE],
            answer: answer(options.body_bytes, "keep-alive"),
            closing_answer: answer(options.body_bytes, "close"),
            spin: options.spin,
            stall: options.stall,
            first_arrival: None,
            samples,
            requests: 0,
            accepted: 0,
            refused: 0,
            unstamped: 0,
        })
    }

    fn port(&self) -> io::Result<u16> {
        let address = SocketAddrV4::try_from(net::getsockname(&self.listener)?)?;
        Ok(address.port())
    }

    /// Serves until a signal says to end.
    fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        loop {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                self.stall_if_due()?;
                match event.data.u64() {
                    SIGNALS => return Ok(()),
                    LISTENER => self.accept()?,
                    slot => self.attend(slot as usize, event.flags)?,
                }
            }
        }
    }

    fn stall_if_due(&mut self) -> io::Result<()> {
        let (Some(stall), Some(first)) = (self.stall, self.first_arrival) else { return Ok(()) };
        let begin = first + stall.at.as_nanos() as u64;
        let end = begin + stall.length.as_nanos() as u64;
        let now = realtime();
        if now < begin {
            return Ok(());
        }
        self.stall = None;
        if now < end {
            let end = Timespec::try_from(Duration::from_nanos(end)).map_err(io::Error::other)?;
            thread::clock_nanosleep_absolute(ClockId::Realtime, &end)?;
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        for _ in 0..ACCEPTS_AT_ONCE {
            let socket = match net::accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)
            {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(error) => return Err(error.into()),
            };
            self.accepted += 1;
            let slot = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let interest = EventFlags::IN;
            epoll::add(&self.epoll, &socket, EventData::new_u64(slot as u64), interest)?;
            self.connections[slot] =
                Some(Connection { socket, unread: Vec::new(), arrival: 0, answering: None, interest });
        }
        Ok(())
    }

    /// Reads and answers what a connection has. To let go of it closes it, which also takes it out of epoll.
    fn attend(&mut self, slot: usize, flags: EventFlags) -> io::Result<()> {
        let Some(mut connection) = self.connections[slot].take() else { return Ok(()) };
        let readable = flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR);
        let open = connection.answering.is_some() || !readable || self.read(&mut connection);
        let interest = match if open { self.answer(&mut connection) } else { Next::Nothing } {
            Next::Request => EventFlags::IN,
            Next::RoomToWrite => EventFlags::OUT,
            Next::Nothing => {
                self.free.push(slot);
                return Ok(());
            }
        };
        if interest != connection.interest {
            connection.interest = interest;
            epoll::modify(&self.epoll, &connection.socket, EventData::new_u64(slot as u64), interest)?;
        }
        self.connections[slot] = Some(connection);
        Ok(())
    }

    /// Whether the connection is still of use.
    fn read(&mut self, connection: &mut Connection) -> bool {
        match receive(&connection.socket, &mut self.buffer) {
            Ok((0, _)) => false,
            Ok((length, stamp)) => {
                connection.arrival = stamp.unwrap_or_else(|| {
                    self.unstamped += 1;
                    realtime()
                });
                self.first_arrival.get_or_insert(connection.arrival);
                connection.unread.extend_from_slice(&self.buffer[..length]);
                true
            }
            Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        }
    }

    /// Answers all requests that are there.
    fn answer(&mut self, connection: &mut Connection) -> Next {
        loop {
            let Some(mut answering) = connection.answering else {
                match parse(&connection.unread) {
                    Parsed::Incomplete => return Next::Request,
                    Parsed::Refused => {
                        self.refused += 1;
                        return Next::Nothing;
                    }
                    Parsed::Request { length, close } => {
                        connection.unread.drain(..length);
                        spin(self.spin);
                        let arrival = connection.arrival;
                        connection.answering = Some(Answering { arrival, close, sent: 0 });
                    }
                }
                continue;
            };
            let answer = if answering.close { &self.closing_answer } else { &self.answer };
            match net::send(&connection.socket, &answer[answering.sent..], SendFlags::NOSIGNAL) {
                Ok(sent) if answering.sent + sent == answer.len() => {
                    connection.answering = None;
                    self.note(Sample { arrival: answering.arrival, written: realtime() });
                    if answering.close {
                        return Next::Nothing;
                    }
                }
                Ok(sent) => {
                    answering.sent += sent;
                    connection.answering = Some(answering);
                }
                Err(Errno::AGAIN) => return Next::RoomToWrite,
                Err(Errno::INTR) => {}
                Err(_) => return Next::Nothing,
            }
        }
    }

    fn note(&mut self, sample: Sample) {
        self.requests += 1;
        // Never grows: that would stop the server while it copies.
        if self.samples.len() < self.samples.capacity() {
            self.samples.push(sample);
        }
    }

    fn tally(&self, cpu: Duration) -> Tally {
        let (requests, connections) = (self.requests, self.accepted);
        Tally { requests, connections, refused: self.refused, unstamped: self.unstamped, cpu }
    }
}

fn answer(body_bytes: usize, connection: &str) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {body_bytes}\r\nConnection: {connection}\r\n\r\n"
    );
    let mut answer = head.into_bytes();
    answer.resize(answer.len() + body_bytes, b'x');
    answer
}

fn spin(length: Duration) {
    if length.is_zero() {
        return;
    }
    let begin = std::time::Instant::now();
    while begin.elapsed() < length {
        std::hint::spin_loop();
    }
}

// ---- requests -------------------------------------------------------------------------------------------

#[derive(Debug, PartialEq)]
enum Parsed {
    /// More has to be read.
    Incomplete,
    /// One request with its body, `length` bytes in all.
    Request { length: usize, close: bool },
    /// Too long, chunked, or not HTTP.
    Refused,
}

/// The first request in `bytes`. Only what decides where it ends and whether the connection lasts is looked at.
fn parse(bytes: &[u8]) -> Parsed {
    let (mut read, mut body, mut close, mut is_first_line) = (0, 0, false, true);
    loop {
        let Some(end) = bytes[read..].iter().position(|byte| *byte == b'\n') else {
            return if bytes.len() < LONGEST_REQUEST { Parsed::Incomplete } else { Parsed::Refused };
        };
        let line = bytes[read..read + end].trim_ascii_end();
        read += end + 1;
        if is_first_line {
            is_first_line = false;
            match line.rsplit(|byte| *byte == b' ').next() {
                Some(b"HTTP/1.1") => {}
                Some(b"HTTP/1.0") => close = true,
                _ => return Parsed::Refused,
            }
            continue;
        }
        if line.is_empty() {
            break;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return Parsed::Refused };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"connection") {
            if value.eq_ignore_ascii_case(b"close") {
                close = true;
            } else if value.eq_ignore_ascii_case(b"keep-alive") {
                close = false;
            }
        } else if name.eq_ignore_ascii_case(b"content-length") {
            match str::from_utf8(value).ok().and_then(|value| value.parse().ok()) {
                Some(length) if length <= LONGEST_REQUEST => body = length,
                _ => return Parsed::Refused,
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Parsed::Refused;
        }
    }
    match read + body {
        length if length > LONGEST_REQUEST => Parsed::Refused,
        length if length > bytes.len() => Parsed::Incomplete,
        length => Parsed::Request { length, close },
    }
}

// ---- the report -----------------------------------------------------------------------------------------

struct Tally {
    requests: u64,
    connections: u64,
    refused: u64,
    unstamped: u64,
    cpu: Duration,
}

/// One line of JSON; a figure that there is no sample for is null.
fn report(tally: &Tally, samples: Vec<Sample>, options: &Options) -> String {
    let service: Vec<u64> =
        sorted(samples.iter().map(|sample| sample.written.saturating_sub(sample.arrival)));
    let arrivals: Vec<u64> = sorted(samples.iter().map(|sample| sample.arrival));
    let written: Vec<u64> = sorted(samples.into_iter().map(|sample| sample.written));
    let mut json = String::from("{");
    let Tally { requests, connections, refused, unstamped, cpu } = tally;
    // Writing to a string cannot fail.
    let _ = write!(
        json,
        r#""requests":{requests},"samples":{},"connections":{connections},"refused":{refused},"unstamped":{unstamped},"#,
        arrivals.len()
    );
    let _ = write!(
        json,
        r#""first_arrival_ns":{},"last_arrival_ns":{},"cpu_s":{:.6},"service_us":{},"schedules":["#,
        figure(arrivals.first()),
        figure(arrivals.last()),
        cpu.as_secs_f64(),
        object(&service, &[("p50", 0.5), ("p99", 0.99), ("p999", 0.999)], MICROSECOND)
    );
    for (index, rate) in options.rates_per_second.iter().enumerate() {
        let lag = sorted(lags(&arrivals, *rate, options.t0).into_iter());
        let settled = sorted(lags(settled(&arrivals, options.settle), *rate, None).into_iter());
        let errors = sorted(interarrival_errors(&arrivals, *rate).into_iter());
        let t0 = options.t0.or_else(|| arrivals.first().copied());
        let latency = sorted(t0.map(|t0| behind(&written, *rate, t0)).unwrap_or_default().into_iter());
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(
            json,
            r#"{comma}{{"rate":{rate},"lag_us":{},"settled_lag_us":{},"interarrival_error_us":{},"latency_ms":{}}}"#,
            object(&lag, &[("p50", 0.5), ("p99", 0.99), ("max", 1.0)], MICROSECOND),
            object(&settled, &[("p50", 0.5), ("p99", 0.99), ("max", 1.0)], MICROSECOND),
            object(&errors, &[("p50", 0.5), ("p99", 0.99)], MICROSECOND),
            object(&latency, &[("p50", 0.5), ("p95", 0.95), ("p99", 0.99)], MILLISECOND),
        );
    }
    json.push_str("]}");
    json
}

const MICROSECOND: f64 = 1e3;
const MILLISECOND: f64 = 1e6;

fn object<T: Copy + Into<i128>>(sorted: &[T], quantiles: &[(&str, f64)], unit_ns: f64) -> String {
    let fields: Vec<String> = quantiles
        .iter()
        .map(|(name, q)| match quantile(sorted, *q) {
            Some(ns) => format!(r#""{name}":{:.3}"#, Into::<i128>::into(ns) as f64 / unit_ns),
            None => format!(r#""{name}":null"#),
        })
        .collect();
    format!("{{{}}}", fields.join(","))
}

fn figure(value: Option<&u64>) -> String {
    value.map_or_else(|| "null".to_owned(), u64::to_string)
}

fn sorted<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values
}

/// The nearest rank: the smallest value that at least the share `q` of all values does not exceed.
fn quantile<T: Copy>(sorted: &[T], q: f64) -> Option<T> {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

/// How far the k-th event is behind `t0` + k/`rate`, in nanoseconds.
fn behind(sorted: &[RealtimeNs], rate_per_second: f64, t0: RealtimeNs) -> Vec<i64> {
    sorted
        .iter()
        .enumerate()
        .map(|(k, at)| at.wrapping_sub(t0).cast_signed() - (k as f64 * 1e9 / rate_per_second).round() as i64)
        .collect()
}

/// How late each request came, in nanoseconds.
///
/// Nobody tells a server when the schedule began. Without `t0` the request that is earliest by the schedule is
/// taken to have been on time: lags are then at least 0, and what all requests have in common is not seen.
fn lags(sorted_arrivals: &[RealtimeNs], rate_per_second: f64, t0: Option<RealtimeNs>) -> Vec<i64> {
    let Some(first) = sorted_arrivals.first() else { return Vec::new() };
    let mut offsets = behind(sorted_arrivals, rate_per_second, t0.unwrap_or(*first));
    if t0.is_none() {
        let least = offsets.iter().min().copied().unwrap_or_default();
        for offset in &mut offsets {
            *offset -= least;
        }
    }
    offsets
}

/// The arrivals without those of the beginning, in which some clients open their connections one by one: what
/// such a client did not send then is a lag of all that follows, unless the schedule is taken to begin later.
fn settled(sorted_arrivals: &[RealtimeNs], settle: Duration) -> &[RealtimeNs] {
    let Some(first) = sorted_arrivals.first() else { return sorted_arrivals };
    let begin = first + settle.as_nanos() as u64;
    &sorted_arrivals[sorted_arrivals.partition_point(|arrival| *arrival < begin)..]
}

/// How far each gap between arrivals is from 1/`rate`, in nanoseconds.
fn interarrival_errors(sorted_arrivals: &[RealtimeNs], rate_per_second: f64) -> Vec<u64> {
    let gap = (1e9 / rate_per_second).round() as u64;
    sorted_arrivals.windows(2).map(|pair| (pair[1] - pair[0]).abs_diff(gap)).collect()
}

// ---- the system -----------------------------------------------------------------------------------------

fn realtime() -> RealtimeNs {
    nanoseconds(time::clock_gettime(ClockId::Realtime))
}

fn cpu_time() -> Duration {
    Duration::from_nanos(nanoseconds(time::clock_gettime(ClockId::ProcessCPUTime)))
}

fn nanoseconds(time: Timespec) -> u64 {
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn raise_file_limit() -> io::Result<()> {
    let hard = process::getrlimit(Resource::Nofile).maximum;
    Ok(process::setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard })?)
}

/// Accepted sockets inherit `TCP_NODELAY` and the wish for stamps from the listener: no byte comes before it is
/// set, and no connection costs a call for it.
fn listen(port: u16) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let listener = net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&listener, true)?;
    sockopt::set_tcp_nodelay(&listener, true)?;
    ask_for_stamps(&listener)?;
    net::bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

fn ask_for_stamps(socket: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is a c_int that outlives the call, and its length is given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            ptr::from_ref(&on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Becomes readable when SIGTERM or SIGINT comes, which then do nothing else.
fn signal_descriptor() -> io::Result<OwnedFd> {
    // SAFETY: a sigset_t is plain data which sigemptyset fills in; the set outlives the calls that read it, and
    // no thread but this one exists whose mask could differ.
    let descriptor = unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above just made it, and nothing else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Room for one control message with a timespec, aligned as its header has to be.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Reads once; with it the kernel's stamp of the last packet of what was read.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, Option<RealtimeNs>)> {
    let mut control = Control([0; 64]);
    let mut parts = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a msghdr is plain data, for which zero is a value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut parts;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: the message names one buffer and the control room with their lengths; all outlive the call.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((length as usize, stamp(&message)))
}

fn stamp(message: &libc::msghdr) -> Option<RealtimeNs> {
    // SAFETY: the kernel filled in the control room and set its length, which the macros keep within; a message
    // of this type holds a timespec, read without a claim to its alignment.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while let Some(found) = header.as_ref() {
            if found.cmsg_level == libc::SOL_SOCKET && found.cmsg_type == libc::SCM_TIMESTAMPNS {
                let time: libc::timespec = ptr::read_unaligned(libc::CMSG_DATA(found).cast());
                return Some(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64);
            }
            header = libc::CMSG_NXTHDR(message, found);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn options(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(str::to_owned), None)
    }

    #[test]
    fn quantiles_are_nearest_ranks() {
        let values: Vec<u64> = (1..=100).collect();
        assert_eq!(quantile(&values, 0.5), Some(50));
        assert_eq!(quantile(&values, 0.99), Some(99));
        assert_eq!(quantile(&values, 0.999), Some(100));
        assert_eq!(quantile(&values, 1.0), Some(100));
        assert_eq!(quantile(&values, 0.0), Some(1));
        assert_eq!(quantile(&[7], 0.99), Some(7));
        assert_eq!(quantile::<u64>(&[], 0.5), None);
    }

    #[test]
    fn arrivals_on_schedule_have_no_lag_however_the_schedule_began() {
        let arrivals: Vec<u64> = (0..1000).map(|k| 17 * SECOND + 42 + k * 1_000_000).collect();
        assert!(lags(&arrivals, 1000.0, None).iter().all(|lag| *lag == 0));
        assert!(lags(&arrivals, 1000.0, Some(17 * SECOND)).iter().all(|lag| *lag == 42));
        assert!(interarrival_errors(&arrivals, 1000.0).iter().all(|error| *error == 0));
    }

    #[test]
    fn a_late_first_request_does_not_anchor_the_schedule() {
        // The first is 300 µs late, the others on time.
        let arrivals = [SECOND + 300_000, SECOND + 1_000_000, SECOND + 2_000_000];
        assert_eq!(lags(&arrivals, 1000.0, None), [300_000, 0, 0]);
        assert_eq!(interarrival_errors(&arrivals, 1000.0), [300_000, 0]);
    }

    #[test]
    fn requests_sent_by_the_millisecond_lag_by_up_to_one() {
        // 5,000/s sent in fives, each five at the end of its millisecond.
        let arrivals: Vec<u64> = (0..5000).map(|k| SECOND + (k / 5 + 1) * 1_000_000).collect();
        let lag = sorted(lags(&arrivals, 5000.0, None).into_iter());
        assert_eq!(quantile(&lag, 0.5), Some(400_000));
        assert_eq!(lag.last(), Some(&800_000));
    }

    #[test]
    fn a_rate_without_whole_nanoseconds_does_not_drift() {
        let arrivals: Vec<u64> = (0..3_000_000u64).map(|k| SECOND + k * SECOND / 3000).collect();
        assert!(lags(&arrivals, 3000.0, Some(SECOND)).iter().all(|lag| lag.abs() <= 1));
    }

    #[test]
    fn a_slow_beginning_is_not_in_the_settled_lag() {
        // For half a second half the rate: 250 requests were never sent.
        let slow = (0..250u64).map(|k| k * 2_000_000);
        let arrivals: Vec<u64> =
            slow.chain((500..3000).map(|k| k * 1_000_000)).map(|at| SECOND + at).collect();
        assert_eq!(lags(&arrivals, 1000.0, None).last(), Some(&250_000_000));
        let settled = settled(&arrivals, Duration::from_secs(1));
        assert_eq!(settled.len(), 2000);
        assert!(lags(settled, 1000.0, None).iter().all(|lag| *lag == 0));
    }

    #[test]
    fn no_arrivals_have_no_lags() {
        assert!(lags(&[], 1000.0, None).is_empty());
        assert!(interarrival_errors(&[], 1000.0).is_empty());
        assert!(settled(&[], Duration::ZERO).is_empty());
    }

    #[test]
    fn a_stall_of_a_second_in_ten_is_half_a_second_at_p95() {
        // What was due within the stall is answered at its end.
        let written: Vec<u64> = (0..10_000)
            .map(|k| k * 1_000_000)
            .map(|due| if (4 * SECOND..5 * SECOND).contains(&due) { 5 * SECOND } else { due })
            .collect();
        let latency = sorted(behind(&written, 1000.0, 0).into_iter());
        assert_eq!(quantile(&latency, 0.95), Some(500_000_000));
        assert_eq!(quantile(&latency, 0.99), Some(900_000_000));
    }

    #[test]
    fn requests_end_where_they_end() {
        let get = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        assert_eq!(parse(get), Parsed::Request { length: get.len(), close: false });
        assert_eq!(parse(&[get, &get[..5]].concat()), Parsed::Request { length: get.len(), close: false });
        let post = b"POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\nbody";
        assert_eq!(parse(post), Parsed::Request { length: post.len(), close: false });
        for end in 0..post.len() {
            assert_eq!(parse(&post[..end]), Parsed::Incomplete, "{end}");
        }
    }

    #[test]
    fn requests_say_whether_the_connection_lasts() {
        let close = |head: &str| matches!(parse(head.as_bytes()), Parsed::Request { close: true, .. });
        assert!(close("GET / HTTP/1.1\r\nCONNECTION: Close\r\n\r\n"));
        assert!(close("GET / HTTP/1.0\r\n\r\n"));
        assert!(!close("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert_eq!(parse(b"\r\n"), Parsed::Refused);
        assert_eq!(parse(b"GET / HTTP/2\r\n\r\n"), Parsed::Refused);
        assert_eq!(parse(b"GET / HTTP/1.1\r\nno colon\r\n\r\n"), Parsed::Refused);
        assert_eq!(parse(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), Parsed::Refused);
        assert_eq!(
            parse(b"POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n"),
            Parsed::Refused
        );
        assert_eq!(parse(&vec![b'a'; LONGEST_REQUEST]), Parsed::Refused);
    }

    #[test]
    fn options_are_read_and_wrong_ones_refused() {
        let read =
            options("--port 81 --spin-us 5 --stall-at 4 --stall-for 0.5 --rate 1000 --rate 2.5").unwrap();
        assert_eq!((read.port, read.spin), (81, Duration::from_micros(5)));
        assert_eq!(
            read.stall,
            Some(Stall { at: Duration::from_secs(4), length: Duration::from_millis(500) })
        );
        assert_eq!(read.rates_per_second, [1000.0, 2.5]);
        for wrong in ["--stall-at 4", "--rate 0", "--rate nan", "--port 70000", "--core", "--help", "-x 1"] {
            assert!(options(wrong).is_err(), "{wrong}");
        }
        let from_environment = Options::parse(std::iter::empty(), Some("1000, 5000")).unwrap();
        assert_eq!(from_environment.rates_per_second, [1000.0, 5000.0]);
    }

    #[test]
    fn a_report_of_nothing_has_nulls() {
        let tally = Tally { requests: 0, connections: 0, refused: 0, unstamped: 0, cpu: Duration::ZERO };
        let text = report(&tally, Vec::new(), &options("--rate 1000").unwrap());
        assert!(text.contains(r#""first_arrival_ns":null"#), "{text}");
        assert!(text.contains(r#""lag_us":{"p50":null,"p99":null,"max":null}"#), "{text}");
        assert!(!text.contains('\n'));
    }

    #[test]
    fn a_report_is_in_the_units_its_names_say() {
        let tally =
            Tally { requests: 2, connections: 1, refused: 0, unstamped: 0, cpu: Duration::from_millis(5) };
        let sample = |arrival| Sample { arrival, written: arrival + 50_000 };
        let samples = vec![sample(SECOND), sample(SECOND + 1_100_000)];
        let text = report(&tally, samples, &options("--rate 1000").unwrap());
        for part in [
            r#""service_us":{"p50":50.000,"p99":50.000,"p999":50.000}"#,
            r#""lag_us":{"p50":0.000,"p99":100.000,"max":100.000}"#,
            r#""settled_lag_us":{"p50":null,"p99":null,"max":null}"#,
            r#""interarrival_error_us":{"p50":100.000,"p99":100.000}"#,
            r#""latency_ms":{"p50":0.050,"p95":0.150,"p99":0.150}"#,
            r#""cpu_s":0.005000"#,
        ] {
            assert!(text.contains(part), "{part} not in {text}");
        }
    }
}
