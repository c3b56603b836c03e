//! A stall of the service is in the latencies, whatever the options: no coordinated omission.

use std::{
    sync::{Arc, Mutex, RwLock},
    thread,
    time::{Duration, Instant},
};

use super::{
    OK, lane, measure, plan, request,
    server::{Deed, Server},
};
use crate::{
    load::{Plan, Tuning},
    model::{
        load::{Precision, ReceiveClock},
        measurement::LaneMeasurement,
        settings::ConnectionUse,
    },
};

const STALL: Duration = Duration::from_secs(1);

/// What the load reports, and what the server's own notes say, sorted.
struct Stalled {
    lane: LaneMeasurement,
    truth: Vec<Duration>,
}

/// A load of `seconds` in which the server does nothing for a second, two seconds before the end.
async fn stalled(plan: Plan, rate: u64, seconds: u64) -> Stalled {
    let begun = Instant::now();
    let gate = Arc::new(RwLock::new(()));
    let answered = Arc::new(Mutex::new(Vec::new()));
    let (passing, notes) = (Arc::clone(&gate), Arc::clone(&answered));
    let closes = plan.connection_use == ConnectionUse::PerRequest;
    let server = Server::start(move |_, _| {
        drop(passing.read().unwrap());
        notes.lock().unwrap().push(Instant::now());
        if closes { Deed::AnswerAndClose(OK) } else { Deed::Answer(OK) }
    });
    let stall = thread::spawn(move || {
        thread::sleep(Duration::from_secs(seconds - 2).saturating_sub(begun.elapsed()));
        let _closed = gate.write().unwrap();
        thread::sleep(STALL);
    });
    let mut measured = measure(plan, vec![lane(server.address, request("GET"))]).await;
    stall.join().unwrap();
    // The k-th answer to the k-th request, by the server's clock and the schedule's arithmetic alone.
    let mut truth = answered.lock().unwrap().clone();
    truth.sort();
    let intended = |k: u32| measured.started + Duration::from_secs(1) * k / rate as u32;
    let mut truth: Vec<Duration> =
        (0..).zip(&truth).map(|(k, at)| at.saturating_duration_since(intended(k))).collect();
    truth.sort();
    assert_eq!(truth.len() as u64, rate * seconds);
    Stalled { lane: measured.lanes.remove(0), truth }
}

impl Stalled {
    /// Holds a quantile to the server's clock and to theory: the stalled requests waited between 0 and 1 s, evenly
    /// spread, and a little more by the time that the service needed to catch up.
    fn check(&self, name: &str, quantile: f64, theory: f64) {
        let reported = self.lane.latency.quantile(quantile).unwrap().as_secs_f64();
        let truth = self.truth[(self.truth.len() as f64 * quantile) as usize].as_secs_f64();
        assert!((reported - truth).abs() < 0.02, "{name}: p{quantile} {reported}, truth {truth}");
        assert!(reported > theory * 0.95, "{name}: p{quantile} {reported}, theory {theory}");
    }
}

#[tokio::test]
async fn a_stalled_second_is_not_left_out() {
    let outcome = stalled(plan(1000.0, 10_000), 1000, 10).await;
    assert_eq!((outcome.lane.counts.offered, outcome.lane.counts.succeeded), (10_000, 10_000));
    outcome.check("p95", 0.95, 0.5);
    outcome.check("p99", 0.99, 0.9);
    assert!(outcome.lane.longest_gap >= Duration::from_millis(950), "{:?}", outcome.lane.longest_gap);
}

/// All at once, each against a server of its own: a fifth of the requests fall into the stall.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_option_hides_a_stall() {
    let tuned = |tuning: Tuning| Plan { tuning, ..plan(200.0, 5000) };
    let precise = |precision| tuned(Tuning { precision, ..Tuning::default() });
    let plans = [
        ("one connection", Plan { connections: 1, ..plan(200.0, 5000) }),
        ("many connections", Plan { connections: 200, ..plan(200.0, 5000) }),
        ("a connection a request", Plan { connection_use: ConnectionUse::PerRequest, ..plan(200.0, 5000) }),
        ("eco", precise(Precision::Eco)),
        ("exact", precise(Precision::Exact)),
        ("own clock", tuned(Tuning { receive_clock: ReceiveClock::User, ..Tuning::default() })),
        ("threads", tuned(Tuning { threads: 3, ..Tuning::default() })),
    ];
    let running: Vec<_> =
        plans.into_iter().map(|(name, plan)| (name, tokio::spawn(stalled(plan, 200, 5)))).collect();
    for (name, load) in running {
        let outcome = load.await.unwrap();
        outcome.check(name, 0.95, 0.75);
        outcome.check(name, 0.99, 0.95);
    }
}
