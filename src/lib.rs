//! qbench shows, with evidence good enough to sign, that a service lost nothing by moving from one runtime to another.
//!
//! The rooms, bottom up: [`model`] holds the nouns; [`stats`] and [`supervisor`] stand alone; [`load`], [`probe`],
//! [`config`], [`store`] and [`report`] know the model; [`runtime`] starts workloads; [`judge`] compares records;
//! [`session`] measures. The command line is in `cli`, which may use everything. `ARCHITECTURE.md` has the map,
//! and a test holds the directions of imports.

pub mod load;
pub mod model;
pub mod runtime;
