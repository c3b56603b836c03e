//! What is noted in the vault, and how it is written.
//!
//! Deliberately absent: descriptors, which the vault keeps under names of their own.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// The version of the notes; another one is not read.
const VERSION: u32 = 1;

/// A note with its version.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    note: T,
}

/// The cluster as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct ClusterNote {
    /// How many processes had this cluster before.
    pub(super) epoch: u64,
    /// The number that the next listener gets.
    pub(super) next: u32,
    pub(super) listeners: Vec<ListenerNote>,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ListenerNote {
    pub(super) number: u32,
    pub(super) key: String,
    pub(super) kind: Kind,
    pub(super) data: Value,
    pub(super) superseded: bool,
    /// The slots with a socket, in the order in which the kernel has the sockets; none: all share one.
    pub(super) slots: Vec<Option<u32>>,
    /// Those of them that are being retired.
    pub(super) retired: Vec<u32>,
}

/// What a listener is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    Tcp {
        address: Option<SocketAddr>,
        only_v6: bool,
        /// A socket for each slot.
        spread: bool,
    },
    Udp,
    Unix {
        path: PathBuf,
        identity: Option<(u64, u64)>,
    },
    Inherited,
}

/// One worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct WorkerNote {
    pub(super) slot: u32,
    pub(super) held: bool,
    /// Told to close its servers.
    pub(super) draining: bool,
    /// Wants to end by itself.
    pub(super) leaving: bool,
    pub(super) online: bool,
    pub(super) ready: bool,
    pub(super) open: BTreeMap<String, OpenNote>,
    pub(super) owed: Vec<Map<String, Value>>,
    pub(super) skipping: Option<bool>,
}

/// One server of a worker's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OpenNote {
    /// The number of the listener it got.
    pub(super) listener: u32,
    /// The number of the query that asked for it.
    pub(super) sequence: u64,
    /// It asked for any port.
    pub(super) any_port: bool,
    /// What the query has in common with the message that tells its port.
    pub(super) kin: String,
    pub(super) listening: bool,
}

/// A note as it is kept.
pub(super) fn write<T: Serialize>(note: &T) -> Vec<u8> {
    // Notes are plain trees of text and numbers, for which writing cannot fail.
    serde_json::to_vec(&Versioned { version: VERSION, note }).unwrap_or_default()
}

/// A note as it was kept, if it is one of ours.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let versioned: Versioned<T> = serde_json::from_slice(bytes).ok()?;
    (versioned.version == VERSION).then_some(versioned.note)
}
