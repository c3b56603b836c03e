//! The nouns every other room speaks in.
//!
//! Deliberately absent: input and output, clocks, async. Whatever is here can be built in a test by hand.

pub mod calibration;
pub mod difference;
pub mod event;
pub mod hdr;
pub mod load;
pub mod load_report;
pub mod measurement;
pub mod process;
pub mod random;
pub mod record;
pub mod request;
pub mod sample;
pub mod scenario;
pub mod settings;
pub mod supervision;
pub mod target;
pub mod units;
pub mod verdict;
pub mod workload;
