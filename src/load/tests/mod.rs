//! The engine on real sockets, against small servers that misbehave in one way each.

mod classes;
mod content;
mod pacing;
mod server;
mod stall;

use std::{net::SocketAddr, time::Duration};

use tokio::sync::watch;

use super::{Lane, Measured, Plan, Route, Slot, run};
use crate::model::{
    load::Pacing,
    measurement::LaneMeasurement,
    request::{Request, Variables},
    sample::ErrorClass,
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn request(method: &str) -> Request {
    Request { method: method.into(), ..Request::get("/") }
}

fn lane(address: SocketAddr, request: Request) -> Lane {
    Lane { name: "lane".into(), routes: vec![route(vec![address], request)] }
}

fn route(addresses: Vec<SocketAddr>, request: Request) -> Route {
    let peers = addresses.into_iter().map(Into::into).collect();
    Route { peers, requests: vec![request], variables: Variables::default() }
}

fn plan(rate_per_second: f64, millis: u64) -> Plan {
    let slot = Slot { lane: 0, length: Duration::from_millis(millis) };
    Plan {
        connections: 8,
        timeout: Duration::from_secs(20),
        keep_samples: true,
        ..Plan::new(Pacing::constant(rate_per_second), vec![slot])
    }
}

async fn measure(plan: Plan, lanes: Vec<Lane>) -> Measured {
    let (_stop, stopped) = watch::channel(false);
    run(plan, lanes, stopped).await.unwrap()
}

/// Ten requests of a method.
async fn ten(method: &str, address: SocketAddr, adapt: impl FnOnce(Plan) -> Plan) -> LaneMeasurement {
    let plan = adapt(Plan { connections: 1, ..plan(100.0, 100) });
    measure(plan, vec![lane(address, request(method))]).await.lanes.remove(0)
}

fn failed(lane: &LaneMeasurement) -> Vec<(ErrorClass, u64)> {
    lane.counts.failed.iter().map(|(class, count)| (*class, *count)).collect()
}
