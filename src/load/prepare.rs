//! From a plan and lanes as given to a load that can be carried: checked, and with every request built beforehand.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Uri,
    body::Bytes,
    header::{CONNECTION, HOST, HeaderName, HeaderValue},
};

use super::{Lane, LoadError, Plan, Route, Slot};
use crate::model::{settings::ConnectionUse, workload::Request};

const HIGHEST_RATE: f64 = 1e6;
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
const LONGEST_LOAD: Duration = Duration::from_secs(366 * 24 * 3600);

/// A load ready to be carried.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) rate_per_second: f64,
    /// None of them empty.
    pub(super) slots: Arc<[Slot]>,
    pub(super) length: Duration,
    pub(super) connections: u32,
    pub(super) connection_use: ConnectionUse,
    pub(super) timeout: Duration,
    pub(super) keep_samples: bool,
    pub(super) lanes: Vec<PreparedLane>,
}

/// The choices of a lane: each request of each route.
#[derive(Debug)]
pub(super) struct PreparedLane {
    pub(super) routes: Vec<Vec<SocketAddr>>,
    pub(super) choices: Vec<Choice>,
}

/// One kind of request of a lane.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) route: usize,
    pub(super) weight: u32,
    /// One for each address of the route, for they differ in the host.
    pub(super) templates: Vec<Template>,
}

/// A request to be sent many times.
#[derive(Debug)]
pub(super) struct Template {
    pub(super) request: hyper::Request<Full<Bytes>>,
    /// Whether it may be sent again after a failure (RFC 9110, section 9.2.2).
    pub(super) idempotent: bool,
}

/// Checks the plan and builds the requests.
pub(super) fn prepare(plan: Plan, lanes: Vec<Lane>) -> Result<Load, LoadError> {
    if lanes.is_empty() {
        return Err(LoadError::NoLanes);
    }
    // Written so that NaN is refused as well.
    if !(plan.rate_per_second > 0.0 && plan.rate_per_second <= HIGHEST_RATE) {
        return Err(LoadError::Rate(plan.rate_per_second));
    }
    if plan.connections == 0 {
        return Err(LoadError::Plan("it has no connections"));
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
    let lanes =
        lanes.into_iter().map(|lane| prepare_lane(lane, plan.connection_use)).collect::<Result<_, _>>()?;
    Ok(Load {
        rate_per_second: plan.rate_per_second,
        slots: slots.into(),
        length,
        connections: plan.connections,
        connection_use: plan.connection_use,
        timeout: plan.timeout,
        keep_samples: plan.keep_samples,
        lanes,
    })
}

fn prepare_lane(lane: Lane, connection_use: ConnectionUse) -> Result<PreparedLane, LoadError> {
    let Lane { name, routes } = lane;
    let empty = |what| LoadError::EmptyLane { lane: name.clone(), what };
    if routes.is_empty() {
        return Err(empty("routes"));
    }
    let mut prepared = PreparedLane { routes: Vec::new(), choices: Vec::new() };
    for (index, Route { addresses, requests }) in routes.into_iter().enumerate() {
        if addresses.is_empty() {
            return Err(empty("addresses"));
        }
        if requests.is_empty() {
            return Err(empty("requests"));
        }
        for mut request in requests {
            let body = Bytes::from(std::mem::take(&mut request.body));
            let build = |address: &SocketAddr| build(&request, &body, *address, connection_use);
            let templates = addresses.iter().map(build).collect::<Result<_, _>>();
            let templates = templates.map_err(|part| LoadError::Request {
                lane: name.clone(),
                method: request.method.clone(),
                path: request.path.clone(),
                part,
            })?;
            prepared.choices.push(Choice { route: index, weight: request.weight, templates });
        }
        prepared.routes.push(addresses);
    }
    Ok(prepared)
}

/// The error names the part of the request that HTTP does not allow.
fn build(
    request: &Request,
    body: &Bytes,
    address: SocketAddr,
    connection_use: ConnectionUse,
) -> Result<Template, String> {
    let method = Method::from_bytes(request.method.as_bytes()).map_err(|_| "method".to_owned())?;
    let path: Uri = request.path.parse().map_err(|_| "path".to_owned())?;
    if !request.path.starts_with('/') {
        return Err("path".to_owned());
    }
    let idempotent = matches!(
        method,
        Method::GET | Method::HEAD | Method::PUT | Method::DELETE | Method::OPTIONS | Method::TRACE
    );
    let mut built = hyper::Request::new(Full::new(body.clone()));
    *built.method_mut() = method;
    *built.uri_mut() = path;
    let headers = built.headers_mut();
    for (name, value) in &request.headers {
        let invalid = || format!("header {name}");
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| invalid())?;
        headers.append(key, value);
    }
    if !headers.contains_key(HOST) {
        let host = HeaderValue::try_from(address.to_string()).map_err(|_| "host".to_owned())?;
        headers.insert(HOST, host);
    }
    if connection_use == ConnectionUse::PerRequest && !headers.contains_key(CONNECTION) {
        // The server then closes first, and its side keeps the port in TIME_WAIT, of which we have too few.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(Template { request: built, idempotent })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            rate_per_second: 10.0,
            slots: vec![Slot { lane: 0, length: Duration::from_secs(1) }],
            connections: 1,
            connection_use: ConnectionUse::KeepAlive,
            timeout: Duration::from_secs(1),
            keep_samples: false,
        }
    }

    fn request() -> Request {
        Request { method: "GET".into(), path: "/a?b=c".into(), headers: vec![], body: vec![], weight: 1 }
    }

    fn lane(request: Request) -> Lane {
        let route = Route { addresses: vec!["127.0.0.1:9".parse().unwrap()], requests: vec![request] };
        Lane { name: "l".into(), routes: vec![route] }
    }

    #[test]
    fn nonsense_is_refused() {
        let good = || vec![lane(request())];
        assert!(prepare(plan(), good()).is_ok());
        assert!(matches!(prepare(plan(), vec![]), Err(LoadError::NoLanes)));
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e6 + 1.0] {
            let bad = Plan { rate_per_second: rate, ..plan() };
            assert!(matches!(prepare(bad, good()), Err(LoadError::Rate(_))), "{rate}");
        }
        let bad = [
            Plan { connections: 0, ..plan() },
            Plan { timeout: Duration::ZERO, ..plan() },
            Plan { timeout: Duration::MAX, ..plan() },
            Plan { slots: vec![], ..plan() },
            Plan { slots: vec![Slot { lane: 1, length: Duration::from_secs(1) }], ..plan() },
            Plan { slots: vec![Slot { lane: 0, length: Duration::MAX }; 2], ..plan() },
        ];
        for plan in bad {
            assert!(matches!(prepare(plan.clone(), good()), Err(LoadError::Plan(_))), "{plan:?}");
        }
        let mut lacking = lane(request());
        lacking.routes[0].addresses.clear();
        assert!(matches!(prepare(plan(), vec![lacking]), Err(LoadError::EmptyLane { .. })));
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

    #[test]
    fn the_host_is_the_address_unless_given() {
        let host = |request| {
            let load = prepare(plan(), vec![lane(request)]).unwrap();
            load.lanes[0].choices[0].templates[0].request.headers()[HOST].clone()
        };
        assert_eq!(host(request()), "127.0.0.1:9");
        assert_eq!(
            host(Request { headers: vec![("Host".into(), "x.example".into())], ..request() }),
            "x.example"
        );
    }
}
