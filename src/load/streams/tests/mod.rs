//! The engine over HTTP/2 and TLS, on real sockets.

mod classes;
mod content;
mod pacing;
mod secure;
mod server;
mod shared;

use std::{net::SocketAddr, time::Duration};

use tokio::sync::watch;

use self::server::{Kind, Server, ok};
use crate::{
    load::{Lane, Measured, Plan, Protocol, Route, Slot, run},
    model::{
        load::Pacing,
        measurement::LaneMeasurement,
        request::{Request, Variables},
        sample::ErrorClass,
    },
};

fn kinds() -> [Kind; 3] {
    [Kind::plain_http2(), Kind::secure(Protocol::Http1), Kind::secure(Protocol::Http2)]
}

fn request(method: &str) -> Request {
    Request { method: method.into(), ..Request::get("/") }
}

fn lane(address: SocketAddr, request: Request) -> Lane {
    let route =
        Route { peers: vec![address.into()], requests: vec![request], variables: Variables::default() };
    Lane { name: "lane".into(), routes: vec![route] }
}

fn plan(kind: &Kind, rate_per_second: f64, millis: u64) -> Plan {
    let slot = Slot { lane: 0, length: Duration::from_millis(millis) };
    Plan {
        connections: 4,
        timeout: Duration::from_secs(20),
        transport: kind.transport(),
        keep_samples: true,
        ..Plan::new(Pacing::constant(rate_per_second), vec![slot])
    }
}

async fn measure(plan: Plan, lanes: Vec<Lane>) -> Measured {
    let (_stop, stopped) = watch::channel(false);
    run(plan, lanes, stopped).await.unwrap()
}

/// Ten requests of a method over one connection.
async fn ten(
    kind: &Kind,
    method: &str,
    address: SocketAddr,
    adapt: impl FnOnce(Plan) -> Plan,
) -> LaneMeasurement {
    let plan = adapt(Plan { connections: 1, ..plan(kind, 100.0, 100) });
    measure(plan, vec![lane(address, request(method))]).await.lanes.remove(0)
}

fn failed(lane: &LaneMeasurement) -> Vec<(ErrorClass, u64)> {
    lane.counts.failed.iter().map(|(class, count)| (*class, *count)).collect()
}

/// A server that answers at once.
fn willing(kind: &Kind) -> Server {
    Server::start(kind.clone(), |_| async { ok() })
}
