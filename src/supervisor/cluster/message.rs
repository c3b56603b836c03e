//! The messages of the Node cluster: what a line from a worker means, and the lines that go to it.
//!
//! Deliberately absent: sockets, and what is done about a message.
//!
//! A line is one JSON value. An object whose `cmd` begins with `NODE_` is Node's own; anything else is the
//! application's. A line that is JSON but not representable here (half a surrogate pair, a number beyond all bounds)
//! is skipped; only a line that is not JSON at all means that the worker's end is not what we think it is.

use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::query::Query;

/// How a message that carries a descriptor begins, as Node writes it.
const CARRIER: &[u8] = br#"{"cmd":"NODE_HANDLE","#;

/// What a worker said.
#[derive(Debug, PartialEq)]
pub(super) enum Incoming {
    Online,
    /// It wants a listening socket; the whole message, so that it can be kept.
    Query(Map<String, Value>),
    /// A server of its listens.
    Listening(Query),
    /// It has closed the server of this key.
    Close(String),
    /// It means to end, and waits for an answer to this number.
    Leaving(u64),
    /// What became of the connection that we sent with this number.
    Accepted {
        ack: u64,
        accepted: bool,
    },
    /// The descriptor that we sent has arrived.
    HandleArrived,
    /// The descriptor that we sent has not arrived.
    HandleMissing,
    /// It sent a descriptor, which must be acknowledged, around this message.
    Handle(Box<Incoming>),
    Ready,
    Application(Value),
    /// The application's, and not representable.
    Unreadable,
    /// Node's own, and no concern of a primary's.
    Ignored,
}

/// Understands one line, without its end; the error is for people.
pub(super) fn understand(line: &[u8]) -> Result<Incoming, String> {
    if line.is_empty() {
        return Ok(Incoming::Ignored);
    }
    match serde_json::from_slice(line) {
        Ok(value) => Ok(understand_value(value)),
        Err(_) if serde_json::from_slice::<IgnoredAny>(line).is_ok() => {
            let unreadable = Incoming::Unreadable;
            Ok(if carries_handle(line) { Incoming::Handle(Box::new(unreadable)) } else { unreadable })
        }
        Err(error) => Err(format!("not JSON: {error}")),
    }
}

/// Whether a line of which perhaps only the beginning is known carries a descriptor.
pub(super) fn carries_handle(beginning: &[u8]) -> bool {
    beginning.starts_with(CARRIER)
}

fn understand_value(value: Value) -> Incoming {
    let Value::Object(mut message) = value else {
        return if value == "ready" { Incoming::Ready } else { Incoming::Application(value) };
    };
    match message.get("cmd").and_then(Value::as_str) {
        Some("NODE_CLUSTER") => understand_cluster(message),
        Some("NODE_HANDLE") => {
            let inner = message.remove("msg").map_or(Incoming::Ignored, understand_value);
            // A descriptor inside of a descriptor's message is nobody's; this also ends the recursion in memory.
            Incoming::Handle(Box::new(if let Incoming::Handle(_) = inner {
                Incoming::Ignored
            } else {
                inner
            }))
        }
        Some("NODE_HANDLE_ACK") => Incoming::HandleArrived,
        Some("NODE_HANDLE_NACK") => Incoming::HandleMissing,
        Some(command) if command.starts_with("NODE_") && command.len() > "NODE_".len() => Incoming::Ignored,
        _ => Incoming::Application(Value::Object(message)),
    }
}

fn understand_cluster(message: Map<String, Value>) -> Incoming {
    let sequence = message.get("seq").and_then(Value::as_u64);
    match (message.get("act").and_then(Value::as_str), sequence) {
        (Some("online"), _) => Incoming::Online,
        (Some("queryServer"), Some(_)) => Incoming::Query(message),
        (Some("listening"), _) => Query::read(&message).map_or(Incoming::Ignored, Incoming::Listening),
        (Some("close"), _) => match message.get("key") {
            Some(Value::String(key)) => Incoming::Close(key.clone()),
            _ => Incoming::Ignored,
        },
        (Some("exitedAfterDisconnect"), Some(sequence)) => Incoming::Leaving(sequence),
        (None, _) => match (message.get("ack").and_then(Value::as_u64), message.get("accepted")) {
            (Some(ack), Some(&Value::Bool(accepted))) => Incoming::Accepted { ack, accepted },
            _ => Incoming::Ignored,
        },
        _ => Incoming::Ignored,
    }
}

/// The answer to a query with a socket, which travels along.
pub(super) fn socket_answer(query: &Query, data: &Value, datagram: bool, sequence: u64) -> Vec<u8> {
    line(&json!({
        "cmd": "NODE_HANDLE",
        "type": if datagram { "dgram.Native" } else { "net.Native" },
        "msg": {"cmd": "NODE_CLUSTER", "errno": 0, "key": query.key, "ack": query.sequence, "data": data, "seq": sequence},
    }))
}

/// The answer to a query that cannot be met.
pub(super) fn refusal(key: &str, ack: u64, errno: i32, sequence: u64) -> Vec<u8> {
    line(
        &json!({"cmd": "NODE_CLUSTER", "errno": -errno, "key": key, "ack": ack, "data": null, "seq": sequence}),
    )
}

/// A connection to the server of this key, which travels along.
pub(super) fn connection(key: &str, sequence: u64) -> Vec<u8> {
    line(&json!({
        "cmd": "NODE_HANDLE",
        "type": "net.Native",
        "msg": {"cmd": "NODE_CLUSTER", "act": "newconn", "key": key, "seq": sequence},
    }))
}

/// Closes every server of the worker, and its channel once the last connection has ended.
pub(super) fn disconnect(sequence: u64) -> Vec<u8> {
    line(&json!({"cmd": "NODE_CLUSTER", "act": "disconnect", "seq": sequence}))
}

/// The bare answer to a worker's message.
pub(super) fn acknowledgement(ack: u64, sequence: u64) -> Vec<u8> {
    line(&json!({"cmd": "NODE_CLUSTER", "ack": ack, "seq": sequence}))
}

/// The worker's descriptor has arrived.
pub(super) fn handle_arrived() -> Vec<u8> {
    line(&json!({"cmd": "NODE_HANDLE_ACK"}))
}

/// One JSON value on a line of its own.
pub(super) fn line(value: &Value) -> Vec<u8> {
    let mut text = value.to_string().into_bytes();
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tells_node_from_the_application() {
        for (line, expected) in [
            (r#"{"cmd":"NODE_CLUSTER","act":"online","seq":0}"#, Incoming::Online),
            (r#"{"cmd":"NODE_CLUSTER","act":"close","key":"k","seq":3}"#, Incoming::Close("k".into())),
            (r#"{"cmd":"NODE_CLUSTER","act":"exitedAfterDisconnect","seq":4}"#, Incoming::Leaving(4)),
            (
                r#"{"cmd":"NODE_CLUSTER","ack":7,"accepted":false,"seq":5}"#,
                Incoming::Accepted { ack: 7, accepted: false },
            ),
            (r#"{"cmd":"NODE_HANDLE_ACK"}"#, Incoming::HandleArrived),
            (r#"{"cmd":"NODE_HANDLE_NACK"}"#, Incoming::HandleMissing),
            (r#"{"cmd":"NODE_DEBUG_ENABLED"}"#, Incoming::Ignored),
            (r#"{"cmd":"NODE_"}"#, Incoming::Application(json!({"cmd": "NODE_"}))),
            (r#""ready""#, Incoming::Ready),
            (r#""shutdown""#, Incoming::Application(json!("shutdown"))),
            ("3", Incoming::Application(json!(3))),
            ("", Incoming::Ignored),
            (r#"{"cmd":"NODE_CLUSTER","act":"queryServer"}"#, Incoming::Ignored),
            (
                r#"{"cmd":"NODE_HANDLE","type":"net.Socket","msg":{"a":1}}"#,
                Incoming::Handle(Box::new(Incoming::Application(json!({"a": 1})))),
            ),
            (
                r#"{"cmd":"NODE_HANDLE","msg":{"cmd":"NODE_HANDLE","msg":1}}"#,
                Incoming::Handle(Box::new(Incoming::Ignored)),
            ),
        ] {
            assert_eq!(understand(line.as_bytes()), Ok(expected), "{line}");
        }
    }

    #[test]
    fn what_node_can_write_is_never_garbage() {
        let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
        for line in [r#""\ud800""#, "1e999", r#"{"a":"\udc00\ud800"}"#, &deep] {
            assert_eq!(understand(line.as_bytes()), Ok(Incoming::Unreadable), "{line}");
        }
        assert_eq!(
            understand(br#"{"cmd":"NODE_HANDLE","type":"net.Socket","msg":"\ud800"}"#),
            Ok(Incoming::Handle(Box::new(Incoming::Unreadable)))
        );
        for line in ["{", "hello", "1 2", "\u{0}", "{\"cmd\":\"NODE_CLUSTER\""] {
            assert!(understand(line.as_bytes()).is_err(), "{line}");
        }
    }

    /// Any JSON of the kind that `process.send` writes.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            Just(json!("NODE_CLUSTER")),
            Just(json!("queryServer")),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            let name =
                prop_oneof![any::<String>(), Just("cmd".into()), Just("act".into()), Just("seq".into())];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                prop::collection::vec((name, inner), 0..6)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn understands_whatever_is_json(value in value()) {
            let text = line(&value);
            prop_assert_eq!(text.iter().position(|&byte| byte == b'\n'), Some(text.len() - 1));
            let understood = understand(&text[..text.len() - 1]);
            prop_assert!(understood.is_ok());
            if value.get("cmd").is_none() && value != "ready" {
                prop_assert!(matches!(understood, Ok(Incoming::Application(_))));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = understand(&bytes);
        }
    }
}
