//! What one request came to, and histograms of many.

use std::{collections::BTreeMap, fmt, time::Duration};

use hdrhistogram::{
    Histogram,
    serialization::{Deserializer, Serializer, V2DeflateSerializer},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a request failed, in classes a person can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorClass {
    /// The name has no address.
    Dns,
    /// Nobody listens there.
    Refused,
    /// No connection within the time-out.
    ConnectTimeout,
    /// No secure connection: the handshake failed, or the certificate is not trusted.
    Tls,
    /// The connection ended before the answer's first byte, on a fresh connection.
    Reset,
    /// The connection ended inside the answer.
    ResetMidAnswer,
    /// A reused keep-alive connection was closed by the server as the request went out. RFC 9110 section 9.2.2
    /// lets a client send an idempotent request again.
    StaleKeepAlive,
    /// No whole answer within the time-out.
    Timeout,
    /// An answer with a status that is not expected; unless said otherwise, outside 200 to 299: a redirect is not
    /// the work that was asked for.
    Status,
    /// An answer that does not hold what its header or body must hold.
    Check,
    /// An answer that is not HTTP.
    Protocol,
    /// Anything else of the operating system (descriptors, addresses).
    Other,
}

impl ErrorClass {
    /// Every class, in the order of a request's way: so that a class is also an index.
    pub const ALL: [Self; 12] = [
        Self::Dns,
        Self::Refused,
        Self::ConnectTimeout,
        Self::Tls,
        Self::Reset,
        Self::ResetMidAnswer,
        Self::StaleKeepAlive,
        Self::Timeout,
        Self::Status,
        Self::Check,
        Self::Protocol,
        Self::Other,
    ];

    /// The name used in records and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Refused => "refused",
            Self::ConnectTimeout => "connect-timeout",
            Self::Tls => "tls",
            Self::Reset => "reset",
            Self::ResetMidAnswer => "reset-mid-answer",
            Self::StaleKeepAlive => "stale-keep-alive",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::Check => "check",
            Self::Protocol => "protocol",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One request of a scenario's load, kept whole so that it can be set against the moment of a fault.
/// Times are since the start of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When the schedule wanted it sent.
    pub intended: Duration,
    /// When its answer (or its failure) was complete.
    pub done: Duration,
    /// How the first try ended.
    pub outcome: Result<(), ErrorClass>,
    /// Whether the one retry of an idempotent request succeeded; `None` when there was none.
    pub retry: Option<bool>,
}

/// Requests counted by outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RequestCounts {
    /// Wanted by the schedule.
    pub offered: u64,
    /// Sent. Fewer than offered when the run was cut off.
    pub sent: u64,
    /// Answered well at the first try.
    pub succeeded: u64,
    /// Failed at the first try, by class.
    pub failed: BTreeMap<ErrorClass, u64>,
    /// Of the failed, those that one idempotent retry mended.
    pub mended_by_retry: u64,
    /// Answers that took more than a second from their intended time.
    pub over_one_second: u64,
}

impl RequestCounts {
    /// Failed at the first try.
    pub fn failures(&self) -> u64 {
        self.failed.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Failed also after one idempotent retry.
    pub fn failures_after_retry(&self) -> u64 {
        self.failures().saturating_sub(self.mended_by_retry)
    }

    /// Requests with an outcome.
    pub fn completed(&self) -> u64 {
        self.succeeded.saturating_add(self.failures())
    }

    /// Wanted by the schedule and without an outcome.
    pub fn unanswered(&self) -> u64 {
        self.offered.saturating_sub(self.completed())
    }

    /// When nothing failed: the largest rate of failure that would still show none so often once in twenty times,
    /// 1 − 0.05^(1/n), which is Clopper–Pearson's upper bound at 95% for zero events.
    pub fn bound_of_none_failed(&self) -> Option<f64> {
        let completed = self.completed();
        (self.failures() == 0 && completed > 0).then(|| 1.0 - 0.05_f64.powf(1.0 / completed as f64))
    }

    /// Adds another count to this one.
    pub fn merge(&mut self, other: &Self) {
        let add = |own: &mut u64, more: u64| *own = own.saturating_add(more);
        add(&mut self.offered, other.offered);
        add(&mut self.sent, other.sent);
        add(&mut self.succeeded, other.succeeded);
        for (class, count) in &other.failed {
            add(self.failed.entry(*class).or_default(), *count);
        }
        add(&mut self.mended_by_retry, other.mended_by_retry);
        add(&mut self.over_one_second, other.over_one_second);
    }
}

/// Latencies with three significant digits from 1 µs to 10 minutes, recorded in nanoseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct LatencyHistogram(pub(super) Histogram<u64>);

/// A stored histogram that does not decode.
#[derive(Debug, thiserror::Error)]
#[error("stored histogram is damaged: {0}")]
pub struct DamagedHistogram(String);

/// Tells times of some microseconds apart to a tenth of one.
const LOWEST_NS: u64 = 100;
const HIGHEST_NS: u64 = 600_000_000_000;

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self::new()
    }
}

impl LatencyHistogram {
    /// An empty one.
    pub fn new() -> Self {
        Self(
            Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, 3)
                .expect("the bounds are constants within HDR's limits"),
        )
    }

    /// Counts one latency; beyond 10 minutes it counts as 10 minutes.
    pub fn record(&mut self, latency: Duration) {
        self.record_ns(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The same in nanoseconds.
    pub fn record_ns(&mut self, latency_ns: u64) {
        self.0.saturating_record(latency_ns);
    }

    /// Forgets everything, keeping its memory.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds another histogram to this one, exactly.
    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both histograms have the same bounds");
    }

    /// How many latencies were counted.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency at a quantile in 0..=1; `None` when nothing was counted.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        (!self.0.is_empty()).then(|| Duration::from_nanos(self.0.value_at_quantile(quantile)))
    }

    /// The mean; `None` when nothing was counted.
    pub fn mean(&self) -> Option<Duration> {
        (!self.0.is_empty()).then(|| Duration::from_nanos(self.0.mean() as u64))
    }

    /// The largest, to three digits; `None` when nothing was counted.
    pub fn max(&self) -> Option<Duration> {
        (!self.0.is_empty()).then(|| Duration::from_nanos(self.0.max()))
    }

    /// What was counted, in ascending order: latencies in seconds, each with how often.
    pub fn counts(&self) -> Vec<(f64, u64)> {
        let seconds = |value| self.0.median_equivalent(value) as f64 * 1e-9;
        self.0.iter_recorded().map(|bin| (seconds(bin.value_iterated_to()), bin.count_at_value())).collect()
    }

    /// The V2 compressed form that every `HdrHistogram` reads, in base64. Unit: nanoseconds.
    pub fn encode(&self) -> String {
        use base64::Engine as _;
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&self.0, &mut bytes).expect("a Vec takes every write");
        base64::engine::general_purpose::STANDARD.encode(bytes)
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// When the text is not base64 or not a V2 compressed histogram with these bounds.
    pub fn decode(text: &str) -> Result<Self, DamagedHistogram> {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(|e| DamagedHistogram(e.to_string()))?;
        let decoded: Histogram<u64> = Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .map_err(|e| DamagedHistogram(format!("{e:?}")))?;
        let mut own = Self::new();
        own.0.add(&decoded).map_err(|e| DamagedHistogram(e.to_string()))?;
        Ok(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_survives_encoding() {
        let mut histogram = LatencyHistogram::new();
        for millis in 1..=1000 {
            histogram.record(Duration::from_millis(millis));
        }
        let back = LatencyHistogram::decode(&histogram.encode()).unwrap();
        assert_eq!(back.count(), 1000);
        assert_eq!(back.quantile(0.99), histogram.quantile(0.99));
        let counts = back.counts();
        assert!(counts.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 1000);
        assert!((counts[0].0 - 0.001).abs() < 1e-6, "{counts:?}");
        let p99 = histogram.quantile(0.99).unwrap().as_secs_f64();
        assert!((p99 - 0.990).abs() < 0.001, "three digits: {p99}");
    }

    #[test]
    fn nothing_counted_is_unknown_not_zero() {
        assert_eq!(LatencyHistogram::new().quantile(0.5), None);
        assert_eq!(LatencyHistogram::new().mean(), None);
    }

    #[test]
    fn damaged_text_is_an_error() {
        assert!(LatencyHistogram::decode("not base64!").is_err());
        assert!(LatencyHistogram::decode("AAAA").is_err());
    }
}
