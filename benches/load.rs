//! The load engine's own hot paths: what it does for every request besides its two system calls.

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use qbench::{
    load::{Schedule, Slot, bench},
    model::{
        load::{Arrivals, Shape, Stage},
        request::{Request, VariableSource, Variables},
        sample::LatencyHistogram,
    },
};

const REQUESTS: u64 = 100_000;

/// As nginx answers, 240 bytes.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Wed, 25 Nov 2026 08:00:00 GMT\r\n\
    Content-Type: text/plain\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\
    X-Request-Id: 0123456789abcdef0123456789abcdef\r\nCache-Control: no-store\r\n\r\nok\n";

fn schedule(c: &mut Criterion) {
    let mut group = c.benchmark_group("schedule");
    group.throughput(Throughput::Elements(REQUESTS));
    let length = Duration::from_secs(REQUESTS / 1000);
    let one = vec![Slot { lane: 0, length }];
    let lanes = (0..2).cycle().take(400);
    let slots: Vec<Slot> = lanes.map(|lane| Slot { lane, length: Duration::from_millis(250) }).collect();
    let constant = Shape::constant(1000.0);
    let ramp = Shape::Stages(vec![Stage { from: 0.0, to: 2000.0, length }]);
    let sine = Shape::Sine { mean: 1000.0, amplitude: 500.0, period: Duration::from_secs(10) };
    let poisson = Arrivals::Poisson { seed: 1 };
    for (name, shape, arrivals, slots) in [
        ("constant", &constant, Arrivals::Even, &one),
        ("constant in slots of 250 ms", &constant, Arrivals::Even, &slots),
        ("poisson", &constant, poisson, &one),
        ("ramp", &ramp, Arrivals::Even, &one),
        ("sine", &sine, Arrivals::Even, &one),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let schedule = Schedule::new(black_box(shape), arrivals, slots.clone());
                schedule.map(|arrival| arrival.lane).sum::<usize>()
            });
        });
    }
    group.finish();
}

fn record(c: &mut Criterion) {
    let mut group = c.benchmark_group("record");
    group.throughput(Throughput::Elements(REQUESTS));
    // Spread over three decades, as latencies are.
    let latencies: Vec<u64> = (0..REQUESTS).map(|k| 50_000 + k * k % 50_000_000).collect();
    let mut recorder = bench::Record::default();
    group.bench_function("a request", |b| {
        b.iter(|| {
            for (index, latency) in (0..).zip(&latencies) {
                recorder.request(index * 1_000_000, black_box(*latency));
            }
        });
    });
    let mut histogram = LatencyHistogram::new();
    group.bench_function("a latency", |b| {
        b.iter(|| latencies.iter().for_each(|latency| histogram.record_ns(black_box(*latency))));
    });
    group.finish();
    c.bench_function("record/merge of two histograms", |b| {
        let mut sum = LatencyHistogram::new();
        b.iter(|| sum.merge(black_box(&histogram)));
    });
}

fn parse(c: &mut Criterion) {
    let mut parser = bench::Parse::default();
    let mut group = c.benchmark_group("parse");
    group.throughput(Throughput::Bytes(ANSWER.len() as u64));
    group.bench_function("an answer of nginx", |b| b.iter(|| parser.answer(black_box(ANSWER))));
    group.finish();
}

fn write(c: &mut Criterion) {
    let mut group = c.benchmark_group("write");
    let number = VariableSource::Random { name: "id".to_owned(), from: 1, to: 1_000_000, seed: 1 };
    let variables = Variables { sources: vec![number] };
    for (name, path, variables) in
        [("fixed", "/orders", Variables::default()), ("with a variable", "/orders/{{id}}", variables)]
    {
        let Some(mut request) = bench::Write::new(&Request::get(path), &variables) else { continue };
        let mut index = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                index += 1;
                request.request(black_box(index))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, schedule, record, parse, write);
criterion_main!(benches);
