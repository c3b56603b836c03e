//! Latencies for `HdrHistogram`'s own tools: the percentile distribution (`.hgrm`) and the interval log.
//!
//! Both are as Java's `AbstractHistogram.outputPercentileDistribution` and `HistogramLogWriter` write them, checked
//! against those by `tests/hdr_tools.py`. The log is written here and not by the crate's own writer, which leaves
//! out the version and the legend, and which holds on to its stream for as long as it lives.

use std::{
    io::{self, Write},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jiff::Timestamp;

use crate::model::sample::LatencyHistogram;

/// Histograms count nanoseconds, these formats show milliseconds.
const NS_PER_MS: f64 = 1_000_000.0;
/// Steps for each halving of the distance to 100%; what `HistogramLogProcessor` takes.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// Writes the percentile distribution, in milliseconds.
///
/// # Errors
/// When the stream cannot be written to.
pub fn percentiles(histogram: &LatencyHistogram, out: &mut dyn Write) -> io::Result<()> {
    let ms = |ns: f64| ns / NS_PER_MS;
    writeln!(out, "{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")?;
    for step in histogram.percentile_steps(TICKS_PER_HALF_DISTANCE) {
        write!(out, "{:12.3} {:.12} {:10}", ms(step.value_ns as f64), step.quantile, step.count)?;
        if step.quantile < 1.0 {
            write!(out, " {:14.2}", 1.0 / (1.0 - step.quantile))?;
        }
        writeln!(out)?;
    }
    let deviation = ms(histogram.standard_deviation_ns());
    let max = histogram.max().unwrap_or_default().as_nanos() as f64;
    let (buckets, sub_buckets) = histogram.buckets();
    writeln!(out, "#[Mean    = {:12.3}, StdDeviation   = {deviation:12.3}]", ms(histogram.mean_ns()))?;
    writeln!(out, "#[Max     = {:12.3}, Total count    = {:12}]", ms(max), histogram.count())?;
    writeln!(out, "#[Buckets = {buckets:12}, SubBuckets     = {sub_buckets:12}]")
}

/// An interval log, whole after every line: it is of use also when the program was ended.
#[derive(Debug)]
pub struct IntervalLog<W: Write> {
    out: W,
}

impl<W: Write> IntervalLog<W> {
    /// Begins a log of a load that started at that time.
    ///
    /// # Errors
    /// When the stream cannot be written to.
    pub fn begin(mut out: W, started: SystemTime) -> io::Result<Self> {
        let since_epoch = started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let date = Timestamp::try_from(started).map_or_else(|_| String::new(), |date| format!("{date:.3}"));
        writeln!(
            out,
            "#[Logged with qbench {}: values in nanoseconds, maxima in milliseconds]",
            env!("CARGO_PKG_VERSION")
        )?;
        writeln!(out, "#[Histogram log format version 1.3]")?;
        writeln!(out, "#[StartTime: {since_epoch:.3} (seconds since epoch), {date}]")?;
        // Without it, readers have to guess that what follows is relative to the start.
        writeln!(out, "#[BaseTime: {since_epoch:.3} (seconds since epoch)]")?;
        writeln!(
            out,
            "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\""
        )?;
        out.flush()?;
        Ok(Self { out })
    }

    /// Adds the latencies of an interval, which began that long after the start.
    ///
    /// # Errors
    /// When the stream cannot be written to.
    pub fn write(&mut self, start: Duration, length: Duration, latency: &LatencyHistogram) -> io::Result<()> {
        let max_ms = latency.max().unwrap_or_default().as_nanos() as f64 / NS_PER_MS;
        writeln!(
            self.out,
            "{:.3},{:.3},{max_ms:.3},{}",
            start.as_secs_f64(),
            length.as_secs_f64(),
            latency.encode()
        )?;
        self.out.flush()
    }

    /// Adds a remark.
    ///
    /// # Errors
    /// When the stream cannot be written to.
    pub fn remark(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "#{}", text.replace(['\r', '\n'], " "))?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Java's `HdrHistogram` 2.1.11, `outputPercentileDistribution(System.out, 5, 1e6)` of the values of the test.
    const FROM_JAVA: &str = "       Value     Percentile TotalCount 1/(1-Percentile)

       1.000 0.000000000000          1           1.00
       1.000 0.100000000000          1           1.11
       2.001 0.200000000000          2           1.25
       3.000 0.300000000000          3           1.43
       4.002 0.400000000000          4           1.67
       5.001 0.500000000000          5           2.00
       6.001 0.550000000000          6           2.22
       6.001 0.600000000000          6           2.50
       7.000 0.650000000000          7           2.86
       7.000 0.700000000000          7           3.33
       8.004 0.750000000000          8           4.00
       8.004 0.775000000000          8           4.44
       8.004 0.800000000000          8           5.00
       9.003 0.825000000000          9           5.71
       9.003 0.850000000000          9           6.67
       9.003 0.875000000000          9           8.00
       9.003 0.887500000000          9           8.89
       9.003 0.900000000000          9          10.00
     100.008 0.912500000000         10          11.43
     100.008 1.000000000000         10
#[Mean    =       14.497, StdDeviation   =       28.598]
#[Max     =      100.008, Total count    =           10]
#[Buckets =           24, SubBuckets     =         2048]
";

    fn histogram(millis: impl IntoIterator<Item = u64>) -> LatencyHistogram {
        let mut histogram = LatencyHistogram::new();
        millis.into_iter().for_each(|ms| histogram.record(Duration::from_millis(ms)));
        histogram
    }

    fn text(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_distribution_is_as_java_prints_it() {
        let printed = text(|out| percentiles(&histogram([1, 2, 3, 4, 5, 6, 7, 8, 9, 100]), out));
        assert_eq!(printed, FROM_JAVA);
    }

    #[test]
    fn a_distribution_of_nothing_has_no_steps() {
        let printed = text(|out| percentiles(&LatencyHistogram::new(), out));
        assert_eq!(printed.lines().filter(|line| !line.starts_with('#')).count(), 2, "{printed}");
        assert!(printed.contains("Total count    =            0]"), "{printed}");
    }

    #[test]
    fn the_log_is_whole_after_every_line() {
        let started = UNIX_EPOCH + Duration::from_millis(1_441_812_279_474);
        let first = histogram(1..=50);
        let second = histogram([7]);
        let printed = text(|out| {
            let mut log = IntervalLog::begin(out, started)?;
            log.write(Duration::ZERO, Duration::from_secs(1), &first)?;
            log.write(Duration::from_secs(1), Duration::from_millis(250), &second)?;
            log.remark("ended\nearly")
        });
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!(lines[1], "#[Histogram log format version 1.3]");
        assert_eq!(lines[2], "#[StartTime: 1441812279.474 (seconds since epoch), 2015-09-09T15:24:39.474Z]");
        assert_eq!(lines[3], "#[BaseTime: 1441812279.474 (seconds since epoch)]");
        assert!(lines[4].starts_with("\"StartTimestamp\","));
        assert!(lines[5].starts_with("0.000,1.000,50.004,HISTFAAA"), "{}", lines[5]);
        assert!(lines[6].starts_with("1.000,0.250,7.000,HISTFAAA"), "{}", lines[6]);
        assert_eq!(lines[7], "#ended early");
        let decoded = LatencyHistogram::decode(lines[5].rsplit(',').next().unwrap()).unwrap();
        assert_eq!(decoded, first);
    }
}
