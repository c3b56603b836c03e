//! The integration tests, one file a subject.
//!
//! Those under `whole` need a real engine. Without it they say so and return, unless `QBENCH_TEST_REQUIRE` names the
//! engine: then its absence is a failure.

#![expect(clippy::unwrap_used, reason = "a set-up that fails is a failed test")]

mod arms;
mod bad_input;
mod bare_runtime;
mod baselines;
mod builtin_runtime;
mod main_job;
mod pm;
mod rooms;
mod schema;
mod stored_records;
mod supervisor;
mod support;
mod times;
mod verdict;
mod whole;
