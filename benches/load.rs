//! The load engine's own hot paths: what it does for every request besides sending it.

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use qbench::{
    load::{Schedule, Slot},
    model::sample::LatencyHistogram,
};

const REQUESTS: u64 = 100_000;

fn schedule(c: &mut Criterion) {
    let mut group = c.benchmark_group("schedule");
    group.throughput(Throughput::Elements(REQUESTS));
    let one = vec![Slot { lane: 0, length: Duration::from_secs(REQUESTS / 1000) }];
    let lanes = (0..2).cycle().take(400);
    let slots: Vec<Slot> = lanes.map(|lane| Slot { lane, length: Duration::from_millis(250) }).collect();
    for (name, slots) in [("one slot", one), ("slots of 250 ms", slots)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                Schedule::new(black_box(1000.0), slots.clone()).map(|arrival| arrival.lane).sum::<usize>()
            });
        });
    }
    group.finish();
}

fn histogram(c: &mut Criterion) {
    let mut group = c.benchmark_group("histogram");
    group.throughput(Throughput::Elements(REQUESTS));
    // Spread over three decades, as latencies are.
    let latencies: Vec<Duration> =
        (0..REQUESTS).map(|k| Duration::from_nanos(50_000 + k * k % 50_000_000)).collect();
    let mut recorded = LatencyHistogram::new();
    group.bench_function("record", |b| {
        b.iter(|| latencies.iter().for_each(|latency| recorded.record(black_box(*latency))));
    });
    group.finish();
    c.bench_function("histogram/merge", |b| {
        let mut sum = LatencyHistogram::new();
        b.iter(|| sum.merge(black_box(&recorded)));
    });
}

criterion_group!(benches, schedule, histogram);
criterion_main!(benches);
