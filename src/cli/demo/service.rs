//! What the two HTTP services answer.

use std::{
    collections::BTreeMap,
    hint::black_box,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::{Body, Bytes},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Role, Settings};

const KNOBS: &str = "/knobs/";
const BODY_LIMIT_BYTES: usize = 64 << 10;
const METRICS_MOST: usize = 100;
const DAY_MS: u64 = 24 * 3600 * 1000;
/// Lets an answer leave before the process does what it announced.
const AFTER_ANSWER: Duration = Duration::from_millis(10);

/// One HTTP service.
pub(super) struct Service {
    role: Role,
    release: String,
    started: Instant,
    knobs: bool,
    extra_us: u64,
    /// Taken at the start and never given back, so that there is memory to measure.
    _held: Vec<u8>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    metrics: BTreeMap<String, Summary>,
    leaked: Vec<Vec<u8>>,
    late: Option<Late>,
}

#[derive(Clone, Copy)]
struct Late {
    by: Duration,
    until: Instant,
}

#[derive(Clone, Copy, Serialize)]
struct Summary {
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
}

#[derive(Deserialize)]
struct Ingest {
    values: Vec<Measured>,
}

#[derive(Deserialize)]
struct Measured {
    metric: String,
    value: f64,
}

/// An answer that is not what was asked for.
#[derive(Debug)]
struct Refusal(StatusCode, String);

impl Service {
    /// The service as the environment says.
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            role: settings.role,
            release: settings.release.clone(),
            started: Instant::now(),
            knobs: settings.knobs,
            extra_us: settings.extra_us,
            _held: taken(settings.hold_mb << 20),
            state: Mutex::default(),
        }
    }

    /// The answer to a request, later than usual if the knob says so.
    pub(super) async fn answer<B>(&self, request: Request<B>) -> (StatusCode, Value)
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let is_knob = request.uri().path().starts_with(KNOBS);
        let answer = self.route(request).await;
        let late = self.state().late.filter(|late| !is_knob && Instant::now() < late.until);
        if let Some(late) = late {
            sleep(late.by).await;
        }
        match answer {
            Ok(value) => (StatusCode::OK, value),
            Err(Refusal(status, message)) => (status, json!({ "error": message })),
        }
    }

    async fn route<B>(&self, request: Request<B>) -> Result<Value, Refusal>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let body = read(body).await?;
        let query = head.uri.query().unwrap_or_default();
        match (&head.method, head.uri.path()) {
            (&Method::GET, "/health") => Ok(self.health()),
            (&Method::GET, "/version") => Ok(json!({ "release": self.release })),
            (&Method::GET | &Method::POST, "/work") => work(query, self.extra_us),
            (&Method::POST, "/ingest") if self.role == Role::Back => self.ingest(&body),
            (&Method::GET, "/summary") if self.role == Role::Back => {
                Ok(json!({ "metrics": self.state().metrics }))
            }
            (&Method::POST, path) if path.starts_with(KNOBS) => self.knob(&path[KNOBS.len()..], query),
            _ => Err(Refusal(StatusCode::NOT_FOUND, "no such route".to_owned())),
        }
    }

    fn health(&self) -> Value {
        json!({
            "status": "ok",
            "service": self.role.to_string(),
            "pid": std::process::id(),
            "uptime": self.started.elapsed().as_secs_f64(),
        })
    }

    fn ingest(&self, body: &[u8]) -> Result<Value, Refusal> {
        let Ingest { values } = serde_json::from_slice(body).map_err(|_| {
            bad_request(r#"body must be {"values": [{"metric": "name", "value": number}]}"#.to_owned())
        })?;
        let count = values.len();
        let metrics = &mut self.state().metrics;
        for Measured { metric, value } in values {
            if let Some(known) = metrics.get_mut(&metric) {
                known.count += 1;
                known.sum += value;
                known.min = known.min.min(value);
                known.max = known.max.max(value);
            } else if metrics.len() < METRICS_MOST {
                metrics.insert(metric, Summary { count: 1, sum: value, min: value, max: value });
            } else {
                let message = format!("more than {METRICS_MOST} metrics");
                return Err(Refusal(StatusCode::INSUFFICIENT_STORAGE, message));
            }
        }
        Ok(json!({ "ingested": count }))
    }

    fn knob(&self, knob: &str, query: &str) -> Result<Value, Refusal> {
        if !self.knobs {
            let message = "knobs are off; start with QBENCH_DEMO_KNOBS=1".to_owned();
            return Err(Refusal(StatusCode::FORBIDDEN, message));
        }
        match knob {
            "crash" => {
                tokio::spawn(async {
                    sleep(AFTER_ANSWER).await;
                    std::process::exit(1);
                });
                Ok(json!({ "crashing": true }))
            }
            "hang" => {
                let hang = number(query, "ms", DAY_MS)?;
                tokio::spawn(async move {
                    sleep(AFTER_ANSWER).await;
                    block(hang.map(Duration::from_millis));
                });
                Ok(json!({ "hanging_ms": hang }))
            }
            "leak" => {
                let mb = number(query, "mb", 4096)?.unwrap_or(10);
                let leaked = &mut self.state().leaked;
                leaked.push(taken((mb << 20) as usize));
                Ok(json!({ "leaked_mb": leaked.iter().map(Vec::len).sum::<usize>() >> 20 }))
            }
            "delay" => {
                let delay = number(query, "ms", DAY_MS)?.unwrap_or(100);
                let lasting = number(query, "for_ms", DAY_MS)?.unwrap_or(DAY_MS);
                let until = Instant::now() + Duration::from_millis(lasting);
                self.state().late = Some(Late { by: Duration::from_millis(delay), until });
                Ok(json!({ "delay_ms": delay, "for_ms": lasting }))
            }
            _ => Err(Refusal(StatusCode::NOT_FOUND, "no such knob".to_owned())),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Spins for `cpu_us`, and `extra_us` that the service was started with, and holds `memory_kb` meanwhile.
fn work(query: &str, extra_us: u64) -> Result<Value, Refusal> {
    let cpu_us = number(query, "cpu_us", 10_000_000)?.unwrap_or(300);
    let memory_kb = number(query, "memory_kb", 1 << 20)?.unwrap_or(16);
    let end = Instant::now() + Duration::from_micros(cpu_us.saturating_add(extra_us));
    let held = taken((memory_kb << 10) as usize);
    while Instant::now() < end {}
    black_box(held);
    Ok(json!({ "cpu_us": cpu_us, "memory_kb": memory_kb }))
}

/// Memory that is written to: what nobody writes to is never really taken.
fn taken(bytes: usize) -> Vec<u8> {
    black_box(vec![1; bytes])
}

/// Blocks the only thread, for ever when no time is given.
fn block(time: Option<Duration>) {
    match time {
        Some(time) => std::thread::sleep(time),
        None => loop {
            std::thread::park();
        },
    }
}

async fn read<B>(body: B) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(body, BODY_LIMIT_BYTES).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Refusal(StatusCode::PAYLOAD_TOO_LARGE, format!("body is over {BODY_LIMIT_BYTES} bytes")))
        }
        Err(_) => Err(bad_request("the request was cut off".to_owned())),
    }
}

fn number(query: &str, name: &str, most: u64) -> Result<Option<u64>, Refusal> {
    let Some((_, value)) =
        query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)
    else {
        return Ok(None);
    };
    match value.parse() {
        Ok(value) if value <= most => Ok(Some(value)),
        _ => Err(bad_request(format!("{name} must be a whole number from 0 to {most}"))),
    }
}

fn bad_request(message: String) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, message)
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    fn service(role: Role, knobs: &str) -> Service {
        let read = |name: &str| (name == "QBENCH_DEMO_KNOBS").then(|| knobs.to_owned());
        Service::new(&Settings::read(role, read).unwrap())
    }

    async fn ask(service: &Service, method: Method, path: &str, body: &'static str) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).body(Full::new(Bytes::from(body))).unwrap();
        let (status, value) = service.answer(request).await;
        (status.as_u16(), value)
    }

    #[tokio::test]
    async fn work_takes_at_least_what_was_asked_and_refuses_nonsense() {
        let front = service(Role::Front, "0");
        let begun = Instant::now();
        let (status, value) = ask(&front, Method::POST, "/work?memory_kb=5&cpu_us=2000", "").await;
        assert!(begun.elapsed() >= Duration::from_millis(2));
        assert_eq!((status, value), (200, json!({ "cpu_us": 2000, "memory_kb": 5 })));
        for query in ["cpu_us=x", "cpu_us=", "cpu_us=-1", "cpu_us=99999999999", "memory_kb=1.5"] {
            assert_eq!(ask(&front, Method::GET, &format!("/work?{query}"), "").await.0, 400, "{query}");
        }
    }

    #[tokio::test]
    async fn the_back_sums_up_and_stays_bounded() {
        let back = service(Role::Back, "0");
        let body = r#"{"values":[{"metric":"a","value":2},{"metric":"a","value":-1}]}"#;
        assert_eq!(ask(&back, Method::POST, "/ingest", body).await, (200, json!({ "ingested": 2 })));
        let (_, summary) = ask(&back, Method::GET, "/summary", "").await;
        assert_eq!(
            summary,
            json!({ "metrics": { "a": { "count": 2, "sum": 1.0, "min": -1.0, "max": 2.0 } } })
        );
        assert_eq!(ask(&back, Method::POST, "/ingest", "[]").await.0, 400);
        for index in 1..METRICS_MOST {
            let metric = json!({ "values": [{ "metric": index.to_string(), "value": 1 }] }).to_string();
            assert!(back.ingest(metric.as_bytes()).is_ok());
        }
        let (status, _) =
            ask(&back, Method::POST, "/ingest", r#"{"values":[{"metric":"z","value":1}]}"#).await;
        assert_eq!(status, 507);
    }

    #[tokio::test]
    async fn a_body_that_is_too_long_is_refused() {
        let long: &'static str = "x".repeat(BODY_LIMIT_BYTES + 1).leak();
        assert_eq!(ask(&service(Role::Back, "0"), Method::POST, "/ingest", long).await.0, 413);
    }

    #[tokio::test]
    async fn only_the_back_takes_values_in() {
        assert_eq!(ask(&service(Role::Front, "0"), Method::POST, "/ingest", "{}").await.0, 404);
        assert_eq!(ask(&service(Role::Front, "0"), Method::GET, "/nope", "").await.0, 404);
    }

    #[tokio::test]
    async fn knobs_are_off_unless_asked_for() {
        let off = service(Role::Front, "0");
        for knob in ["crash", "hang", "leak", "delay"] {
            assert_eq!(ask(&off, Method::POST, &format!("/knobs/{knob}"), "").await.0, 403, "{knob}");
        }
    }

    #[tokio::test]
    async fn knobs_leak_and_delay_but_are_never_late_themselves() {
        let front = service(Role::Front, "1");
        assert_eq!(ask(&front, Method::POST, "/knobs/leak?mb=2", "").await.1, json!({ "leaked_mb": 2 }));
        assert_eq!(ask(&front, Method::POST, "/knobs/leak?mb=1", "").await.1, json!({ "leaked_mb": 3 }));
        // Longer than any test may take: a knob that were late itself would never come back.
        assert_eq!(ask(&front, Method::POST, "/knobs/delay?ms=86400000", "").await.0, 200);
        assert_eq!(ask(&front, Method::POST, "/knobs/delay?ms=30&for_ms=60000", "").await.0, 200);
        let begun = Instant::now();
        assert_eq!(ask(&front, Method::GET, "/health", "").await.0, 200);
        assert!(begun.elapsed() >= Duration::from_millis(30));
        assert_eq!(ask(&front, Method::POST, "/knobs/nope", "").await.0, 404);
    }
}
