//! Where a lane's requests go, in which order, and the pools of all lanes.

use std::{cell::RefCell, rc::Rc};

use super::{
    context::Context,
    http2::{MOST_STREAMS, Message},
    place::Place,
    pool::{Pool, Requests},
};
use crate::{
    load::{
        LoadError, Protocol,
        connection::Job,
        prepare::{Choice, PreparedLane},
        rotation::Rotation,
        schedule::Arrival,
    },
    model::settings::ConnectionUse,
};

/// The lanes, and the pools of all of them by number.
pub(super) struct Lanes {
    pub(super) pools: Vec<Rc<Pool>>,
    lanes: Vec<Lane>,
}

struct Lane {
    rotation: Rotation,
    /// For each choice, its route.
    routes_of_choices: Vec<usize>,
    routes: Vec<Route>,
}

struct Route {
    first_pool: usize,
    pools: usize,
    next: usize,
}

impl Lanes {
    /// With `places` connections to each address.
    pub(super) fn new(context: &Rc<Context>, places: usize) -> Result<Self, LoadError> {
        let mut pools = Vec::new();
        let lanes = context.load.lanes.iter().enumerate();
        let lanes = lanes.map(|(index, lane)| {
            Ok(Lane {
                rotation: Rotation::new(lane.choices.iter().map(|choice| choice.weight)),
                routes_of_choices: lane.choices.iter().map(|choice| choice.route).collect(),
                routes: routes(context, index, lane, places, &mut pools)?,
            })
        });
        let lanes = lanes.collect::<Result<_, _>>()?;
        Ok(Self { pools, lanes })
    }

    /// Takes a request that is due. Never waits.
    pub(super) fn offer(&mut self, arrival: Arrival) {
        let lane = &mut self.lanes[arrival.lane];
        let choice = lane.rotation.next();
        let route = &mut lane.routes[lane.routes_of_choices[choice]];
        let pool = &self.pools[route.first_pool + route.next];
        route.next = (route.next + 1) % route.pools;
        pool.context.record(pool.lane, |recorder| recorder.offered(arrival.offset_ns));
        pool.offer(Job { intended: arrival.offset_ns, index: arrival.index, choice: choice as u32 });
    }
}

fn routes(
    context: &Rc<Context>,
    lane_index: usize,
    lane: &PreparedLane,
    places: usize,
    pools: &mut Vec<Rc<Pool>>,
) -> Result<Vec<Route>, LoadError> {
    let mut routes = Vec::new();
    let mut lane_address = 0;
    for (route, peers) in lane.routes.iter().enumerate() {
        let of_route = lane.choices.iter().enumerate().filter(|(_, choice)| choice.route == route);
        let (choices, weights): (Vec<u32>, Vec<u32>) =
            of_route.map(|(at, choice)| (at as u32, choice.weight)).unzip();
        let requests = Rc::new(Requests { choices, rotation: RefCell::new(Rotation::new(weights)) });
        routes.push(Route { first_pool: pools.len(), pools: peers.len(), next: 0 });
        for (route_address, peer) in peers.iter().enumerate() {
            let places: Vec<Rc<Place>> = (0..places).map(|_| Place::new(context.load.cookies)).collect();
            pools.push(Rc::new(Pool {
                context: Rc::clone(context),
                peer: peer.clone(),
                number: pools.len(),
                lane: lane_index,
                lane_address,
                route_address,
                requests: Rc::clone(&requests),
                messages: messages(context, lane, route, route_address)?,
                streams_each: streams_each(context),
                free: RefCell::new(places.iter().cloned().collect()),
                places,
                backlog: RefCell::default(),
            }));
            lane_address += 1;
        }
    }
    Ok(routes)
}

/// A client of a closed loop, and a connection that is for one request, have one at a time.
fn streams_each(context: &Context) -> usize {
    let load = &context.load;
    let is_shared = load.transport.protocol == Protocol::Http2
        && load.connection_use == ConnectionUse::KeepAlive
        && !context.is_closed_loop();
    if is_shared { MOST_STREAMS } else { 1 }
}

/// What is sent over HTTP/2 to an address. Also what is different each time is made once, to see whether it can be.
fn messages(
    context: &Context,
    lane: &PreparedLane,
    route: usize,
    route_address: usize,
) -> Result<Vec<Option<Message>>, LoadError> {
    let of_choice = |choice: &Choice| {
        if choice.route != route || context.load.transport.protocol != Protocol::Http2 {
            return Ok(None);
        }
        let template = &choice.templates[route_address];
        let message = Message::new(&template.parts(0, None), context.security.is_some())
            .ok_or(LoadError::Plan("the host or path of a request is none in HTTP/2"))?;
        Ok(template.fixed().map(|_| message))
    };
    lane.choices.iter().map(of_choice).collect()
}
