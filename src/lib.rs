//! qbench shows, with evidence good enough to sign, that a service lost nothing by moving from one runtime to another.
//!
//! The rooms, bottom up: [`model`] holds the nouns; [`stats`] and [`supervisor`] stand alone; [`load`], [`probe`],
//! [`config`], [`store`] and [`report`] know the model; [`runtime`] starts workloads; [`judge`] compares records;
//! [`session`] measures. [`cli`] is the command line, which may use everything. `ARCHITECTURE.md` has the map, and a
//! test holds the directions of imports.

pub mod cli;
pub mod config;
pub mod judge;
pub mod load;
pub mod model;
pub mod probe;
pub mod report;
pub mod runtime;
pub mod session;
pub mod stats;
pub mod store;
pub mod supervisor;
