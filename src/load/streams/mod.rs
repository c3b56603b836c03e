//! One thread's share of a load over HTTP/2, or over TLS: tasks on a tokio runtime of the thread's own.
//!
//! The plain HTTP/1.1 of `shard` owns its sockets and needs neither tasks nor a runtime. Here the bytes of a
//! connection are not the bytes of a request: TLS keeps records, HTTP/2 frames of many requests, and both keep state
//! that is not ours. What a load is stays the same: its schedule, its backlog, its one retry, its classes of errors.
//!
//! # Theory of operation
//!
//! [`Carrier`] is the root task: it keeps time by the same `pace` as a shard and offers requests to a [`pool::Pool`]
//! an address. A pool has [`place::Place`]s, the plan's number of connections, and starts a task for each request
//! that finds room in one: a single request at a time over HTTP/1.1, up to a hundred over HTTP/2. `attempt` is what
//! such a task does; `http1` and `http2` speak, over what `dial` has connected and `tls` secured. All tasks are of one
//! thread, and what they share is a [`context::Context`] without locks.
//!
//! A connection of HTTP/2 has a task of its own, which reads and writes for the requests on it. A client of a closed
//! loop has a connection to itself, also over HTTP/2.
//!
//! Deliberately absent: hyper, whose client of HTTP/2 hides how many streams a server allows, so that requests would
//! wait inside of it, counted as sent; and kernel time stamps, which say when a record or a frame came, not an answer.

mod attempt;
mod carrier;
mod context;
mod dial;
mod gathered;
mod http1;
mod http2;
mod lanes;
mod place;
mod pool;
#[cfg(test)]
mod tests;
mod tls;

pub(super) use carrier::Carrier;
