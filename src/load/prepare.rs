//! From a plan and lanes as given to a load that can be carried: checked, and with every request built beforehand.

use std::{sync::Arc, time::Duration};

use super::{
    Lane, LoadError, Peer, Plan, Route, Slot, Transport, Tuning, check::CompiledChecks, template::Template,
    variables::CompiledVariables,
};
use crate::model::{
    load::{Pacing, Shape},
    request::{Request, Variables},
    settings::ConnectionUse,
};

const HIGHEST_RATE: f64 = 1e6;
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
const LONGEST_LOAD: Duration = Duration::from_secs(366 * 24 * 3600);
/// More threads than this would only take turns.
const MOST_THREADS: u32 = 256;

/// A load ready to be carried.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) pacing: Pacing,
    /// None of them empty.
    pub(super) slots: Arc<[Slot]>,
    pub(super) length_ns: u64,
    pub(super) connections: u32,
    pub(super) connection_use: ConnectionUse,
    pub(super) timeout_ns: u64,
    pub(super) tuning: Tuning,
    pub(super) transport: Transport,
    pub(super) cookies: bool,
    pub(super) keep_samples: bool,
    pub(super) lanes: Vec<PreparedLane>,
}

/// The choices of a lane: each request of each route.
#[derive(Debug)]
pub(super) struct PreparedLane {
    pub(super) routes: Vec<Vec<Peer>>,
    pub(super) choices: Vec<Choice>,
}

impl PreparedLane {
    /// How many addresses its routes have.
    pub(super) fn addresses(&self) -> usize {
        self.routes.iter().map(Vec::len).sum()
    }
}

/// One kind of request of a lane.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) route: usize,
    pub(super) weight: u32,
    /// One for each address of the route, for they differ in the host.
    pub(super) templates: Vec<Template>,
    pub(super) checks: CompiledChecks,
}

/// Checks the plan and builds the requests.
pub(super) fn prepare(plan: Plan, lanes: Vec<Lane>) -> Result<Load, LoadError> {
    if lanes.is_empty() {
        return Err(LoadError::NoLanes);
    }
    check_pacing(&plan.pacing, &lanes)?;
    if plan.connections == 0 {
        return Err(LoadError::Plan("it has no connections"));
    }
    if plan.tuning.threads == 0 || plan.tuning.threads > MOST_THREADS {
        return Err(LoadError::Plan("its threads are not from 1 to 256"));
    }
    if plan.tuning.cores.iter().any(|core| *core >= rustix::thread::CpuSet::MAX_CPU) {
        return Err(LoadError::Plan("it names a CPU that no machine has"));
    }
    if plan.timeout.is_zero() || plan.timeout > LONGEST_TIMEOUT {
        return Err(LoadError::Plan("the time-out is not above 0 and at most a day"));
    }
    let slots: Vec<Slot> = plan.slots.into_iter().filter(|slot| !slot.length.is_zero()).collect();
    if slots.iter().any(|slot| slot.lane >= lanes.len()) {
        return Err(LoadError::Plan("a slot names a lane that is not there"));
    }
    let length = slots.iter().fold(Duration::ZERO, |sum, slot| sum.saturating_add(slot.length));
    if length.is_zero() || length > LONGEST_LOAD {
        return Err(LoadError::Plan("its slots are not above 0 and at most a year"));
    }
    let close = plan.connection_use == ConnectionUse::PerRequest;
    let lanes = lanes.into_iter().map(|lane| prepare_lane(lane, close)).collect::<Result<_, _>>()?;
    Ok(Load {
        pacing: plan.pacing,
        slots: slots.into(),
        length_ns: length.as_nanos() as u64,
        connections: plan.connections,
        connection_use: plan.connection_use,
        timeout_ns: plan.timeout.as_nanos() as u64,
        tuning: plan.tuning,
        transport: plan.transport,
        cookies: plan.cookies,
        keep_samples: plan.keep_samples,
        lanes,
    })
}

fn check_pacing(pacing: &Pacing, lanes: &[Lane]) -> Result<(), LoadError> {
    // Written so that NaN is refused as well.
    let rate = |rate: f64, least: f64| {
        if rate >= least && rate <= HIGHEST_RATE { Ok(()) } else { Err(LoadError::Rate(rate)) }
    };
    match pacing {
        Pacing::Closed { think } if *think > LONGEST_TIMEOUT => {
            Err(LoadError::Plan("its clients think for more than a day"))
        }
        Pacing::Closed { .. } if lanes.len() > 1 => {
            Err(LoadError::Plan("a closed loop has one lane: its clients cannot take turns"))
        }
        Pacing::Closed { .. } => Ok(()),
        Pacing::Open { shape: Shape::Sine { mean, amplitude, period }, .. } => {
            rate(*mean, f64::MIN_POSITIVE)?;
            rate(*amplitude, 0.0)?;
            if amplitude > mean {
                return Err(LoadError::Plan("the amplitude of its rate is greater than the mean"));
            }
            if period.is_zero() {
                return Err(LoadError::Plan("the period of its rate is 0"));
            }
            Ok(())
        }
        Pacing::Open { shape: Shape::Stages(stages), .. } => {
            for stage in stages {
                rate(stage.from, 0.0)?;
                rate(stage.to, 0.0)?;
            }
            let sends = |stage: &crate::model::load::Stage| {
                stage.to > 0.0 || (stage.from > 0.0 && !stage.length.is_zero())
            };
            if stages.iter().any(sends) { Ok(()) } else { Err(LoadError::Rate(0.0)) }
        }
    }
}

fn prepare_lane(lane: Lane, close: bool) -> Result<PreparedLane, LoadError> {
    let Lane { name, routes } = lane;
    let empty = |what| LoadError::EmptyLane { lane: name.clone(), what };
    if routes.is_empty() {
        return Err(empty("routes"));
    }
    let mut prepared = PreparedLane { routes: Vec::new(), choices: Vec::new() };
    for (index, route) in routes.into_iter().enumerate() {
        if route.peers.is_empty() {
            return Err(empty("addresses"));
        }
        if route.requests.is_empty() {
            return Err(empty("requests"));
        }
        prepared.choices.extend(choices(&name, index, &route, close)?);
        prepared.routes.push(route.peers);
    }
    Ok(prepared)
}

fn choices(lane: &str, index: usize, route: &Route, close: bool) -> Result<Vec<Choice>, LoadError> {
    let variables: &Variables = &route.variables;
    let variables = CompiledVariables::new(variables)
        .map_err(|problem| LoadError::Variables { lane: lane.to_owned(), problem })?;
    let variables = Arc::new(variables);
    let choice = |request: &Request| {
        let invalid = |part| LoadError::Request {
            lane: lane.to_owned(),
            method: request.method.clone(),
            path: request.path.clone(),
            part,
        };
        let template = |peer: &Peer| Template::new(request, &peer.host(), close, &variables);
        let templates = route.peers.iter().map(template).collect::<Result<_, _>>().map_err(invalid)?;
        let checks = CompiledChecks::new(&request.checks).map_err(invalid)?;
        Ok(Choice { route: index, weight: request.weight, templates, checks })
    };
    route.requests.iter().map(choice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::load::{Arrivals, Stage};

    fn plan() -> Plan {
        Plan { connections: 1, ..Plan::new(Pacing::constant(10.0), vec![slot(0, Duration::from_secs(1))]) }
    }

    fn slot(lane: usize, length: Duration) -> Slot {
        Slot { lane, length }
    }

    fn request() -> Request {
        Request::get("/a?b=c")
    }

    fn lane(request: Request) -> Lane {
        let address: std::net::SocketAddr = "127.0.0.1:9".parse().unwrap();
        let route =
            Route { peers: vec![address.into()], requests: vec![request], variables: Variables::default() };
        Lane { name: "l".into(), routes: vec![route] }
    }

    fn open(shape: Shape) -> Pacing {
        Pacing::Open { shape, arrivals: Arrivals::Even }
    }

    #[test]
    fn nonsense_is_refused() {
        let good = || vec![lane(request())];
        assert!(prepare(plan(), good()).is_ok());
        assert!(matches!(prepare(plan(), vec![]), Err(LoadError::NoLanes)));
        let second = Duration::from_secs(1);
        let bad = [
            Plan { connections: 0, ..plan() },
            Plan { timeout: Duration::ZERO, ..plan() },
            Plan { timeout: Duration::MAX, ..plan() },
            Plan { slots: vec![], ..plan() },
            Plan { slots: vec![slot(1, second)], ..plan() },
            Plan { slots: vec![slot(0, Duration::MAX); 2], ..plan() },
            Plan { tuning: Tuning { threads: 0, ..Tuning::default() }, ..plan() },
            Plan { tuning: Tuning { cores: vec![5000], ..Tuning::default() }, ..plan() },
            Plan { pacing: Pacing::Closed { think: Duration::MAX }, ..plan() },
            Plan { pacing: open(Shape::Sine { mean: 1.0, amplitude: 2.0, period: second }), ..plan() },
            Plan {
                pacing: open(Shape::Sine { mean: 1.0, amplitude: 1.0, period: Duration::ZERO }),
                ..plan()
            },
        ];
        for plan in bad {
            assert!(matches!(prepare(plan.clone(), good()), Err(LoadError::Plan(_))), "{plan:?}");
        }
        let two = vec![lane(request()), lane(request())];
        let closed = Plan { pacing: Pacing::Closed { think: Duration::ZERO }, ..plan() };
        assert!(matches!(prepare(closed, two), Err(LoadError::Plan(_))));
        let mut lacking = lane(request());
        lacking.routes[0].peers.clear();
        assert!(matches!(prepare(plan(), vec![lacking]), Err(LoadError::EmptyLane { .. })));
    }

    #[test]
    fn rates_that_no_clock_keeps_are_refused() {
        let refused = |shape| {
            let outcome = prepare(Plan { pacing: open(shape), ..plan() }, vec![lane(request())]);
            matches!(outcome, Err(LoadError::Rate(_)))
        };
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e6 + 1.0] {
            assert!(refused(Shape::constant(rate)), "{rate}");
        }
        let length = Duration::from_secs(1);
        assert!(refused(Shape::Sine { mean: f64::NAN, amplitude: 0.0, period: length }));
        assert!(refused(Shape::Stages(vec![Stage { from: 1.0, to: f64::NAN, length }])));
        assert!(refused(Shape::Stages(Vec::new())));
        assert!(!refused(Shape::Stages(vec![Stage { from: 1.0, to: 0.0, length }])), "a ramp may end at 0");
    }

    #[test]
    fn a_bad_request_is_named_without_its_secrets() {
        let secret = "se\ncret".to_owned();
        let bad = Request { headers: vec![("x-token".into(), secret)], ..request() };
        let message = prepare(plan(), vec![lane(bad)]).unwrap_err().to_string();
        assert!(message.contains("header x-token") && !message.contains("cret\""), "{message}");
        for path in ["", "no-slash", "/a b", "*"] {
            let bad = Request { path: path.into(), ..request() };
            assert!(prepare(plan(), vec![lane(bad)]).is_err(), "{path}");
        }
        let bad = Request { method: "GE T".into(), ..request() };
        assert!(prepare(plan(), vec![lane(bad)]).is_err());
    }
}
