//! The protocol word by word, with a worker that is played by the test; and floods from real ones.

use std::{
    collections::VecDeque,
    io::IoSliceMut,
    mem::MaybeUninit,
    os::fd::{AsFd as _, OwnedFd},
};

use proptest::prelude::*;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde_json::{Value, json};

use super::{
    super::{Admission, Channel, Cluster, Options, Outcome, Reading, environment},
    driver::{Driver, FakeVault, nodes},
};

/// A cluster with one worker, whose words are the test's.
struct Stage {
    cluster: Cluster,
    vault: FakeVault,
    worker: OwnedFd,
    /// What came, and with what.
    letters: VecDeque<(Value, Option<OwnedFd>)>,
}

impl Stage {
    fn new() -> Self {
        let mut cluster = Cluster::new("a", Options::default());
        let mut vault = FakeVault::default();
        let (channel, worker) = Channel::pair().unwrap();
        let admission = Admission { worker: 1, slot: 0, held: false, note: None };
        assert_eq!(cluster.admit(&admission, channel, &mut vault), []);
        Self { cluster, vault, worker, letters: VecDeque::new() }
    }

    fn say(&mut self, value: &Value) -> Vec<Outcome> {
        self.say_bytes(format!("{value}\n").as_bytes())
    }

    fn say_bytes(&mut self, bytes: &[u8]) -> Vec<Outcome> {
        rustix::io::write(&self.worker, bytes).unwrap();
        self.read()
    }

    fn read(&mut self) -> Vec<Outcome> {
        let Reading { outcomes, more } = self.cluster.readable(1, &mut self.vault);
        assert!(!more);
        outcomes
    }

    /// The next letter, if there is one.
    fn letter(&mut self) -> Option<(Value, Option<OwnedFd>)> {
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut bytes = vec![0; 65536];
            let mut slices = [IoSliceMut::new(&mut bytes)];
            let Ok(message) = recvmsg(&self.worker, &mut slices, &mut control, RecvFlags::DONTWAIT) else {
                break;
            };
            let mut descriptor = None;
            for part in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = part {
                    descriptor = descriptors.last();
                }
            }
            let text = String::from_utf8(bytes[..message.bytes].to_vec()).unwrap();
            let mut lines: Vec<Value> =
                text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let last = lines.pop();
            self.letters.extend(lines.into_iter().map(|line| (line, None)));
            self.letters.extend(last.map(|line| (line, descriptor)));
        }
        self.letters.pop_front()
    }

    fn query(&mut self, seq: u64, index: u64, data: &Value) -> Vec<Outcome> {
        self.say(&json!({
            "cmd": "NODE_CLUSTER", "act": "queryServer", "index": index, "data": data, "address": "127.0.0.1", "port": 0,
            "addressType": 4, "flags": 0, "seq": seq,
        }))
    }
}

#[test]
fn a_query_is_answered_with_a_socket() {
    let mut stage = Stage::new();
    assert_eq!(stage.say(&json!({"cmd": "NODE_CLUSTER", "act": "online", "seq": 0})), [Outcome::Online]);
    assert_eq!(stage.query(1, 0, &json!({"keys": "first"})), []);
    let (answer, descriptor) = stage.letter().unwrap();
    assert!(descriptor.is_some());
    assert_eq!(answer["cmd"], "NODE_HANDLE");
    assert_eq!(answer["type"], "net.Native");
    let inner = &answer["msg"];
    assert_eq!(
        (&inner["cmd"], &inner["errno"], &inner["ack"]),
        (&json!("NODE_CLUSTER"), &json!(0), &json!(1))
    );
    assert_eq!(inner["data"], json!({"keys": "first"}));
    assert_eq!(inner["key"], "127.0.0.1:0:4:undefined:0");
    assert_eq!(stage.vault.descriptors.keys().collect::<Vec<_>>(), ["l/a/0/shared"]);
}

#[test]
fn one_descriptor_travels_at_a_time() {
    let mut stage = Stage::new();
    stage.query(1, 0, &Value::Null);
    stage.query(2, 1, &Value::Null);
    assert!(stage.cluster.send(1, &json!("after")));
    assert_eq!(stage.letter().unwrap().0["msg"]["ack"], 1);
    assert!(stage.letter().is_none());
    // It did not arrive: again, with the descriptor.
    stage.say(&json!({"cmd": "NODE_HANDLE_NACK"}));
    let (again, descriptor) = stage.letter().unwrap();
    assert_eq!((&again["msg"]["ack"], descriptor.is_some()), (&json!(1), true));
    stage.say(&json!({"cmd": "NODE_HANDLE_ACK"}));
    assert_eq!(stage.letter().unwrap().0["msg"]["ack"], 2);
    assert!(stage.letter().is_none());
    stage.say(&json!({"cmd": "NODE_HANDLE_ACK"}));
    assert_eq!(stage.letter().unwrap().0, "after");
    // One that never arrives is given up in the end.
    stage.query(3, 2, &Value::Null);
    for _ in 0..4 {
        assert_eq!(stage.letter().unwrap().0["msg"]["ack"], 3);
        stage.say(&json!({"cmd": "NODE_HANDLE_NACK"}));
    }
    assert!(stage.letter().is_none());
}

#[test]
fn a_descriptor_from_the_worker_is_acknowledged_and_closed() {
    let mut stage = Stage::new();
    let (ours, theirs) = Channel::pair().unwrap();
    // While a descriptor of ours is travelling.
    stage.query(1, 0, &Value::Null);
    assert!(stage.cluster.send(1, &json!("held")));
    assert_eq!(stage.letter().unwrap().0["msg"]["ack"], 1);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [theirs.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let text = b"{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Socket\",\"msg\":{\"take\":1}}\n\"next\"\n";
    sendmsg(&stage.worker, &[std::io::IoSlice::new(text)], &mut control, SendFlags::empty()).unwrap();
    assert_eq!(stage.read(), [Outcome::Message(json!({"take": 1})), Outcome::Message(json!("next"))]);
    assert_eq!(stage.letter().unwrap().0, json!({"cmd": "NODE_HANDLE_ACK"}));
    assert!(stage.letter().is_none());
    drop(theirs);
    // Nobody has the other end any more.
    let mut byte = [0; 1];
    let (length, _) = rustix::net::recv(&ours, &mut byte, RecvFlags::DONTWAIT).unwrap();
    assert_eq!(length, 0);
}

#[test]
fn a_line_that_is_too_long_is_thrown_away() {
    for (head, receipt) in
        [("\"", false), ("{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Socket\",\"msg\":\"", true)]
    {
        let mut stage = Stage::new();
        let mut outcomes = stage.say_bytes(b"1\n");
        outcomes.extend(stage.say_bytes(head.as_bytes()));
        for part in 0..5 {
            outcomes.extend(stage.say_bytes(&vec![b'x'; 40_000]));
            if part == 3 {
                // The supervisor dies in the middle of it.
                let note = stage.vault.notes["c/a/1"].clone();
                let admission = Admission { worker: 1, slot: 0, held: false, note: Some(&note) };
                let channel = stage.cluster.channel(1).unwrap().try_clone_to_owned().unwrap();
                let channel = Channel::adopt(channel).unwrap();
                let whole = stage.vault.notes.get("c/a").cloned().unwrap_or_default();
                let options = Options::default();
                let (cluster, _) = Cluster::restore("a", options, &whole, [].into(), &mut stage.vault);
                stage.cluster = cluster;
                stage.cluster.admit(&admission, channel, &mut stage.vault);
            }
        }
        outcomes.extend(stage.say_bytes(b"\"\n2\n"));
        assert_eq!(outcomes, [Outcome::Message(1.into()), Outcome::Dropped, Outcome::Message(2.into())]);
        assert_eq!(stage.letter().is_some(), receipt);
    }
}

#[test]
fn what_is_not_json_ends_the_channel() {
    let mut stage = Stage::new();
    let outcomes = stage.say_bytes(b"1\nhello\n2\n");
    assert!(matches!(&outcomes[..], [Outcome::Message(_), Outcome::Broken(_)]), "{outcomes:?}");
    assert_eq!(stage.say_bytes(b"3\n"), []);
    assert!(!stage.cluster.standing(1).unwrap().connected);
    assert!(!stage.cluster.send(1, &json!(1)));
}

#[test]
fn the_end_comes_after_everything_else() {
    let mut stage = Stage::new();
    // The worker has not read this when it closes, so the socket tells a reset first.
    assert!(stage.cluster.send(1, &json!("unread")));
    rustix::io::write(&stage.worker, b"1\n2\n").unwrap();
    stage.worker = Channel::pair().unwrap().1;
    assert_eq!(stage.read(), [Outcome::Message(1.into()), Outcome::Message(2.into()), Outcome::Closed]);
    assert_eq!(stage.read(), []);
}

#[test]
fn a_worker_that_does_not_read_is_waited_for_within_bounds() {
    let mut stage = Stage::new();
    let long = json!("x".repeat(20_000));
    let mut sent = 0;
    while stage.cluster.send(1, &long) {
        sent += 1;
    }
    assert!((256..600).contains(&sent), "{sent}");
    assert!(stage.cluster.wants_write(1));
    assert!(!stage.cluster.send(1, &json!("x".repeat(40_000))));
    let mut received = 0;
    while received < sent {
        let mut bytes = vec![0; 65536];
        let (length, _) =
            rustix::net::recv(&stage.worker, bytes.as_mut_slice(), RecvFlags::DONTWAIT).unwrap();
        received += bytes[..length].split(|&byte| byte == b'\n').count() - 1;
        stage.cluster.writable(1);
    }
    assert!(!stage.cluster.wants_write(1));
}

#[test]
fn a_worker_may_leave_by_itself() {
    let mut stage = Stage::new();
    let outcomes = stage.say(&json!({"cmd": "NODE_CLUSTER", "act": "exitedAfterDisconnect", "seq": 9}));
    assert_eq!(outcomes, [Outcome::Leaving]);
    assert_eq!(stage.letter().unwrap().0["ack"], 9);
}

#[test]
fn the_vault_can_be_filled_again() {
    let mut stage = Stage::new();
    stage.query(1, 0, &Value::Null);
    let mut vault = FakeVault::default();
    assert_eq!(stage.cluster.replay(&mut vault), []);
    assert_eq!(vault.notes, stage.vault.notes);
    assert!(vault.descriptors.keys().eq(stage.vault.descriptors.keys()));
}

#[test]
fn a_socket_without_a_note_is_thrown_away() {
    let mut stage = Stage::new();
    stage.query(1, 0, &Value::Null);
    let copies = |stage: &Stage| {
        let all = stage.vault.descriptors.iter();
        all.map(|(name, descriptor)| (name.clone(), descriptor.try_clone().unwrap())).collect()
    };
    let listeners = copies(&stage);
    let (_, outcomes) = Cluster::restore("a", Options::default(), b"nonsense", listeners, &mut stage.vault);
    assert_eq!(outcomes, []);
    assert!(stage.vault.descriptors.is_empty());
}

#[test]
fn the_environment_of_a_worker() {
    let expected = [("NODE_CHANNEL_FD", "3".to_owned()), ("NODE_UNIQUE_ID", "7".to_owned())];
    assert_eq!(environment(7, 3), expected);
    assert_eq!(environment(u64::MAX, 3)[1].1, i32::MAX.to_string());
}

#[test]
fn a_flood_of_messages_is_read_to_the_last() {
    let source = "
        for (let number = 0; number < 10000; number++) process.send({ number, text: 'ü'.repeat(20) });
        process.send('x'.repeat(300000));
        process.send('\\ud800');
        process.send({ after: true });
        setInterval(() => {}, 1000);
    ";
    for node in nodes() {
        let mut driver = Driver::new(&node, source);
        driver.spawn(0);
        driver.until("the last", |driver| driver.messages().last() == Some(&json!({"after": true})));
        let numbers = driver.messages().into_iter().filter_map(|message| message["number"].as_u64());
        assert!(numbers.eq(0..10_000));
        let dropped = driver.told.iter().filter(|(_, outcome)| *outcome == Outcome::Dropped).count();
        assert_eq!(dropped, 2);
    }
}

#[test]
fn descriptors_that_an_application_sends_do_no_harm() {
    let source = "
        const net = require('net');
        const server = net.createServer((socket) => process.send('socket', socket));
        server.listen(0, '127.0.0.1', () => {
          for (let left = 5; left; left--) net.connect(server.address().port, '127.0.0.1').on('error', () => {});
          setTimeout(() => process.send('after'), 200);
        });
    ";
    for node in nodes() {
        let mut driver = Driver::new(&node, source);
        let worker = driver.spawn(0);
        driver.until("the last", |driver| {
            let messages = driver.messages();
            messages.contains(&json!("after"))
                && messages.iter().filter(|it| **it == json!("socket")).count() == 5
        });
        assert_eq!(driver.error_text(worker), "");
    }
}

#[test]
fn garbage_from_one_worker_does_not_hurt_the_other() {
    let source = "
        if (process.env.BAD) setTimeout(() => require('fs').writeSync(3, 'garbage\\n'), 50);
        require('http').createServer((request, response) => response.end('x')).listen(Number(process.env.PORT));
    ";
    for node in nodes() {
        let (mut driver, port) = Driver::on_port(&node, source);
        driver.start(0);
        driver.set("BAD", "1");
        let bad = driver.spawn(1);
        driver.until("its end", |driver| {
            let broken =
                |(worker, outcome): &(u64, Outcome)| *worker == bad && matches!(outcome, Outcome::Broken(_));
            if driver.told.iter().any(broken) && driver.workers.contains_key(&bad) {
                driver.kill(bad);
            }
            !driver.workers.contains_key(&bad)
        });
        for _ in 0..20 {
            super::clients::ask_once(port).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However the bytes are cut, and whenever the supervisor dies, each message is told once and in order.
    #[test]
    fn cuts_and_deaths_lose_nothing(
        messages in prop::collection::vec("[a-z\u{e9}\u{1f600}\\\\\"]{0,40}", 1..40),
        cuts in prop::collection::vec(1_usize..60, 1..40),
        deaths in prop::collection::vec(any::<bool>(), 40),
    ) {
        let mut stage = Stage::new();
        let text: Vec<u8> =
            messages.iter().flat_map(|text| format!("{}\n", json!(["m", text])).into_bytes()).collect();
        let mut rest = text.as_slice();
        let mut told = Vec::new();
        for (turn, cut) in cuts.iter().cycle().enumerate() {
            if rest.is_empty() {
                break;
            }
            let (part, others) = rest.split_at((*cut).min(rest.len()));
            rest = others;
            told.extend(stage.say_bytes(part));
            if deaths[turn % deaths.len()] {
                let channel = stage.cluster.channel(1).unwrap().try_clone_to_owned().unwrap();
                let note = stage.vault.notes["c/a/1"].clone();
                stage.cluster = Cluster::new("a", Options::default());
                let admission = Admission { worker: 1, slot: 0, held: false, note: Some(&note) };
                stage.cluster.admit(&admission, Channel::adopt(channel).unwrap(), &mut stage.vault);
            }
        }
        let expected: Vec<Outcome> = messages.iter().map(|text| Outcome::Message(json!(["m", text]))).collect();
        prop_assert_eq!(told, expected);
    }

    /// Whatever Node's own words are, nothing panics, and the cluster can be ended.
    #[test]
    fn no_words_make_it_panic(
        words in prop::collection::vec((
            prop::sample::select(vec!["online", "queryServer", "listening", "close", "exitedAfterDisconnect", "x"]),
            prop::sample::select(vec![json!(null), json!("127.0.0.1"), json!("::1"), json!("/dev/null/x"), json!(3)]),
            prop::sample::select(vec![json!(0), json!(-1), json!(null), json!(70_000), json!("x")]),
            prop::sample::select(vec![json!(4), json!(6), json!(-1), json!("udp4"), json!("udp6"), json!(null)]),
            0_u64..4,
            0_u64..3,
        ), 0..30),
    ) {
        let mut stage = Stage::new();
        for (act, address, port, family, seq, index) in words {
            stage.say(&json!({
                "cmd": "NODE_CLUSTER", "act": act, "address": address, "port": port, "addressType": family, "seq": seq,
                "index": index, "key": "127.0.0.1:0:4:undefined:0", "ack": seq, "accepted": index == 0,
            }));
            stage.say(&json!({"cmd": "NODE_HANDLE_ACK"}));
            stage.cluster.accept_orphans();
            while stage.letter().is_some() {}
        }
        stage.cluster.end(&mut stage.vault);
        prop_assert!(stage.vault.descriptors.is_empty());
    }
}
