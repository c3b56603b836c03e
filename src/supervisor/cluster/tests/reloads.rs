//! Workers replaced under load.

use std::{
    env,
    time::{Duration, Instant},
};

use super::{
    super::{DRAIN_GRACE, Outcome, Policy},
    clients::{Kind, Load, Tally, ask_once},
    driver::{Driver, nodes},
};

/// An application that knows nothing of signals and reloads.
pub(super) const PLAIN: &str = "
    require('http').createServer((request, response) => {
      setTimeout(() => response.end(String(process.pid)), Number(process.env.DELAY ?? 5));
    }).listen(Number(process.env.PORT));
";

fn rounds() -> u32 {
    env::var("QBENCH_RELOADS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(3)
}

/// Replaces both workers again and again.
fn reload_under_load(driver: &mut Driver, port: u16, kind: Kind, think: Duration) -> Tally {
    for slot in 0..2 {
        driver.start(slot);
    }
    let load = Load::start(port, kind, 16, think);
    let began = Instant::now();
    for _ in 0..rounds() {
        for slot in 0..2 {
            driver.reload(slot);
        }
    }
    let each = began.elapsed() / (2 * rounds());
    let tally = load.finish();
    let failed = tally.failures.len();
    eprintln!(
        "{kind:?}: {} requests, {failed} failed, {each:?} a reload, slowest {:?}",
        tally.done, tally.slowest
    );
    tally
}

#[test]
fn nothing_fails_when_workers_are_replaced() {
    for node in nodes() {
        for kind in [Kind::PerRequest, Kind::KeepAlive] {
            eprintln!("{}", node.display());
            let (mut driver, port) = Driver::on_port(&node, PLAIN);
            let tally = reload_under_load(&mut driver, port, kind, Duration::ZERO);
            assert_eq!(tally.failures, Vec::<String>::new());
            assert!(tally.done > 0);
            assert_eq!(driver.killed, 0);
        }
    }
}

#[test]
fn clients_that_think_do_not_notice_either() {
    for node in nodes() {
        let (mut driver, port) = Driver::on_port(&node, PLAIN);
        driver.set(DRAIN_GRACE, "3000");
        for slot in 0..2 {
            driver.start(slot);
        }
        let load = Load::start(port, Kind::KeepAlive, 8, Duration::from_millis(200));
        for slot in 0..2 {
            driver.reload(slot);
        }
        assert_eq!(load.finish().failures, Vec::<String>::new());
        assert_eq!(driver.killed, 0);
    }
}

#[test]
fn one_shared_socket_does_as_well() {
    for node in nodes() {
        let mut driver = Driver::with_policy(&node, PLAIN, Policy::Shared);
        let port = super::driver::free_port();
        driver.set("PORT", &port.to_string());
        let tally = reload_under_load(&mut driver, port, Kind::PerRequest, Duration::ZERO);
        assert_eq!(tally.failures, Vec::<String>::new());
    }
}

#[test]
fn an_application_may_say_when_it_is_ready() {
    for node in nodes() {
        let source = "
            const server = require('http').createServer((request, response) => response.end('x'));
            server.listen(Number(process.env.PORT), () => setTimeout(() => process.send('ready'), 50));
            process.on('message', (message) => process.send({ heard: message }));
        ";
        let (mut driver, _) = Driver::on_port(&node, source);
        let worker = driver.spawn(0);
        driver.until("ready", |driver| driver.cluster().standing(worker).is_some_and(|it| it.ready));
        let place = |wanted: &Outcome| driver.told.iter().position(|(_, outcome)| outcome == wanted);
        assert!(place(&Outcome::Online) < place(&Outcome::Ready));
        assert!(driver.cluster().standing(worker).unwrap().listening);
        assert!(driver.cluster().send(worker, &"shutdown".into()));
        let heard = serde_json::json!({"heard": "shutdown"});
        driver.until("an answer", |driver| driver.messages().contains(&heard));
    }
}

#[test]
fn a_spare_gets_its_sockets_when_it_is_released() {
    for node in nodes() {
        let (mut driver, port) = Driver::on_port(&node, PLAIN);
        let first = driver.start(0);
        let spare = driver.spawn_held(7, true);
        driver.until("online", |driver| driver.cluster().standing(spare).is_some_and(|it| it.online));
        let asked = |driver: &mut Driver| {
            let note = driver.vault.notes.get(&format!("c/app/{spare}")).unwrap();
            String::from_utf8_lossy(note).contains("queryServer")
        };
        driver.until("a question", asked);
        driver.die();
        assert!(driver.cluster().standing(spare).unwrap().held);
        driver.kill(first);
        driver.until("its end", |driver| !driver.workers.contains_key(&first));
        let began = Instant::now();
        let outcomes = driver.cluster.as_mut().unwrap().release(spare, 0, &mut driver.vault);
        assert_eq!(outcomes, []);
        driver.until_listening(spare);
        eprintln!("a spare listens after {:?}", began.elapsed());
        assert_eq!(ask_once(port).unwrap(), driver.workers[&spare].child.id().to_string());
    }
}

#[test]
fn scaling_down_loses_nothing() {
    for node in nodes() {
        let (mut driver, port) = Driver::on_port(&node, PLAIN);
        for slot in 0..3 {
            driver.start(slot);
        }
        let load = Load::start(port, Kind::PerRequest, 16, Duration::ZERO);
        let mut now = Instant::now();
        for slot in [2, 1] {
            let gone: Vec<u64> = driver
                .workers
                .iter()
                .filter(|(_, process)| process.slot == slot)
                .map(|(&id, _)| id)
                .collect();
            let outcomes = driver.cluster.as_mut().unwrap().retire_slot(slot, now, &mut driver.vault);
            assert_eq!(outcomes, []);
            driver.drain(gone[0]);
            driver.until("its end", |driver| !driver.workers.contains_key(&gone[0]));
            let name = format!("l/app/0/{slot}");
            assert!(driver.vault.descriptors.contains_key(&name), "{name} in {:?}", driver.vault.descriptors);
            // The clock is the caller's.
            now += Duration::from_secs(6);
            driver.until("the socket's end", |driver| {
                driver.cluster.as_mut().unwrap().tidy(now, &mut driver.vault);
                !driver.vault.descriptors.contains_key(&name)
            });
        }
        let back = driver.start(2);
        let tally = load.finish();
        eprintln!("scaled down and up: {} requests, slowest {:?}", tally.done, tally.slowest);
        assert_eq!(tally.failures, Vec::<String>::new());
        let slot = driver.cluster().standing(back).unwrap().slot;
        assert!(driver.vault.descriptors.contains_key(&format!("l/app/0/{slot}")));
    }
}
