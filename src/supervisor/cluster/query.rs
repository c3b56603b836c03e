//! What a worker asks to listen on.
//!
//! Deliberately absent: the sockets themselves (`bind`).

use std::{net::IpAddr, path::PathBuf};

use rustix::io::Errno;
use serde_json::{Map, Value};

/// What `listen` gets when the application does not say, as in Node.
const BACKLOG: i32 = 511;
/// Node's flags of a listening socket.
const ONLY_V6: u64 = 1;
/// Node's flag of a datagram socket that shares its address.
const REUSE_ADDRESS: u64 = 4;

/// One request for a socket.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Query {
    /// The worker's number of the message, which the answer names.
    pub(super) sequence: u64,
    /// Names the same socket in every worker, and one server in each.
    pub(super) key: String,
    /// The same, but for the port: what is left when a worker tells the port it was given instead of 0.
    pub(super) kin: String,
    pub(super) address: Option<String>,
    /// No port: a Unix socket, or a descriptor.
    pub(super) port: Option<u16>,
    pub(super) backlog: i32,
    /// What the servers of all workers must share, such as the keys of TLS tickets.
    pub(super) data: Value,
    pub(super) place: Result<Place, Errno>,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Without a host: every address, IPv6 and IPv4 together where there is IPv6.
    Tcp {
        host: Option<Host>,
        port: u16,
        only_v6: bool,
    },
    Udp {
        host: Host,
        port: u16,
        only_v6: bool,
        reuse_address: bool,
    },
    Unix(PathBuf),
    /// A descriptor that the process was given, by its number.
    Inherited(i32),
}

/// An address, with the interface of one that is local to a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) ip: IpAddr,
    pub(super) zone: Option<String>,
}

impl Query {
    /// Reads the fields of a `queryServer` or `listening` message. None: it has no number to be answered by.
    pub(super) fn read(message: &Map<String, Value>) -> Option<Self> {
        let sequence = message.get("seq")?.as_u64()?;
        let address = message.get("address").and_then(Value::as_str);
        let port = message.get("port").and_then(Value::as_i64);
        let place = read_place(message, address, port);
        // With port 0 each server of a worker has a port of its own; each UDP socket may share its address.
        let each_its_own = port == Some(0) || matches!(place, Ok(Place::Udp { .. }));
        let [own, family, fd, index] =
            ["address", "addressType", "fd", "index"].map(|name| written(message.get(name)));
        let key = match (written(message.get("port")), each_its_own) {
            (port, false) => format!("{own}:{port}:{family}:{fd}"),
            (port, true) => format!("{own}:{port}:{family}:{fd}:{index}"),
        };
        Some(Self {
            sequence,
            key,
            kin: format!("{own}:{family}:{fd}:{index}"),
            address: address.map(str::to_owned),
            port: port.and_then(|port| u16::try_from(port).ok()),
            backlog: read_backlog(message.get("backlog")),
            data: message.get("data").cloned().unwrap_or(Value::Null),
            place,
        })
    }
}

fn read_place(
    message: &Map<String, Value>,
    address: Option<&str>,
    port: Option<i64>,
) -> Result<Place, Errno> {
    let fd = message.get("fd").and_then(Value::as_i64).filter(|&fd| fd >= 0);
    let flags = message.get("flags").and_then(Value::as_u64).unwrap_or(0);
    if let Some(fd) = fd {
        return i32::try_from(fd).map(Place::Inherited).map_err(|_| Errno::BADF);
    }
    let family = message.get("addressType");
    if family.and_then(Value::as_i64) == Some(-1) {
        let path = address.filter(|path| path.starts_with('/')).ok_or(Errno::INVAL)?;
        return Ok(Place::Unix(path.into()));
    }
    let port = port.and_then(|port| u16::try_from(port).ok()).ok_or(Errno::INVAL)?;
    let only_v6 = flags & ONLY_V6 != 0;
    let host = address.filter(|address| !address.is_empty()).map(read_host).transpose()?;
    match family.and_then(Value::as_str) {
        Some(family @ ("udp4" | "udp6")) => {
            let any = if family == "udp4" { "0.0.0.0" } else { "::" };
            let host = host.map_or_else(|| read_host(any), Ok)?;
            Ok(Place::Udp { host, port, only_v6, reuse_address: flags & REUSE_ADDRESS != 0 })
        }
        Some(_) => Err(Errno::INVAL),
        None => Ok(Place::Tcp { host, port, only_v6 }),
    }
}

fn read_host(address: &str) -> Result<Host, Errno> {
    let (ip, zone) = match address.split_once('%') {
        Some((ip, zone)) => (ip, Some(zone.to_owned())),
        None => (address, None),
    };
    Ok(Host { ip: ip.parse().map_err(|_| Errno::INVAL)?, zone })
}

fn read_backlog(backlog: Option<&Value>) -> i32 {
    match backlog.and_then(Value::as_i64) {
        Some(backlog) if backlog > 0 => i32::try_from(backlog).unwrap_or(i32::MAX),
        _ => BACKLOG,
    }
}

/// As JavaScript writes a value into a string, near enough for a key.
fn written(value: Option<&Value>) -> String {
    match value {
        None => "undefined".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use serde_json::json;

    use super::*;

    fn read(message: Value) -> Query {
        let Value::Object(message) = message else { panic!("not an object") };
        Query::read(&message).unwrap()
    }

    fn host(ip: impl Into<IpAddr>) -> Host {
        Host { ip: ip.into(), zone: None }
    }

    #[test]
    fn reads_each_kind_of_place() {
        let tcp = |host, port, only_v6| Ok(Place::Tcp { host, port, only_v6 });
        for (message, place, key) in [
            (
                json!({"index":0,"data":null,"address":null,"port":3000,"addressType":4,"flags":0,"seq":1}),
                tcp(None, 3000, false),
                "null:3000:4:undefined",
            ),
            (
                json!({"index":2,"address":"127.0.0.1","port":0,"addressType":4,"seq":1}),
                tcp(Some(host(Ipv4Addr::LOCALHOST)), 0, false),
                "127.0.0.1:0:4:undefined:2",
            ),
            (
                json!({"index":0,"address":"::","port":80,"addressType":6,"flags":1,"seq":1}),
                tcp(Some(host(Ipv6Addr::UNSPECIFIED)), 80, true),
                ":::80:6:undefined",
            ),
            (
                json!({"index":0,"address":"fe80::1%eth0","port":80,"addressType":6,"seq":1}),
                tcp(Some(Host { ip: "fe80::1".parse().unwrap(), zone: Some("eth0".into()) }), 80, false),
                "fe80::1%eth0:80:6:undefined",
            ),
            (
                json!({"index":0,"address":"/run/a","port":-1,"addressType":-1,"seq":1}),
                Ok(Place::Unix("/run/a".into())),
                "/run/a:-1:-1:undefined",
            ),
            (
                json!({"index":1,"address":"0.0.0.0","port":53,"addressType":"udp4","fd":-1,"flags":4,"seq":1}),
                Ok(Place::Udp {
                    host: host(Ipv4Addr::UNSPECIFIED),
                    port: 53,
                    only_v6: false,
                    reuse_address: true,
                }),
                "0.0.0.0:53:udp4:-1:1",
            ),
            (
                json!({"index":0,"address":null,"port":null,"addressType":null,"fd":3,"seq":1}),
                Ok(Place::Inherited(3)),
                "null:null:null:3",
            ),
            (
                json!({"index":0,"address":"nonsense","port":1,"addressType":4,"seq":1}),
                Err(Errno::INVAL),
                "nonsense:1:4:undefined",
            ),
            (
                json!({"index":0,"address":null,"port":70000,"addressType":4,"seq":1}),
                Err(Errno::INVAL),
                "null:70000:4:undefined",
            ),
        ] {
            let query = read(message);
            assert_eq!((query.place, query.key.as_str()), (place, key));
        }
    }

    #[test]
    fn a_backlog_is_a_number_above_zero_or_nodes_own() {
        for (backlog, expected) in [
            (json!(false), 511),
            (json!(0), 511),
            (json!(-3), 511),
            (json!(16), 16),
            (json!(1_u64 << 40), i32::MAX),
        ] {
            assert_eq!(read_backlog(Some(&backlog)), expected);
        }
        assert_eq!(read_backlog(None), 511);
    }
}
