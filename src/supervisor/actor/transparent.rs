//! The transparent mode: processes that bind their own ports get sockets of ours.
//!
//! A reload starts a second generation of all instances on second sockets, steers new connections there once all of them
//! listen, waits until the first generation has answered what was its own, and only then ends it.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    super::{
        launch::{
            Drain, HeldSocket, ListenSockets, Notifier, Remaining, TransparentEvent, remaining, retire, steer,
        },
        spec::{Mode, ReadyWhen},
        tree,
        vault::Vault,
    },
    Actor, Token,
    app::{Phase, RunId},
    remember,
};

/// From one look at what an old generation has left to the next.
const DRAIN_EVERY: Duration = Duration::from_millis(20);

/// The sockets of an app, by address and generation.
#[derive(Default)]
pub(super) struct Generations {
    /// What new processes belong to.
    pub(super) current: u64,
    pub(super) sockets: Vec<(SocketAddr, u64, OwnedFd)>,
}

/// The same with the vault that new ones go to.
struct Kept<'a> {
    app: u32,
    generations: &'a mut Generations,
    vault: &'a mut Vault,
}

/// The name under which the keeper holds a socket.
fn socket_name(app: u32, generation: u64, address: SocketAddr) -> String {
    format!("t/{app}/{generation}/{address}")
}

impl ListenSockets for Generations {
    fn held(&self, address: SocketAddr) -> Vec<HeldSocket<'_>> {
        let here = self.sockets.iter().filter(|(at, ..)| *at == address);
        here.map(|(_, generation, socket)| HeldSocket { generation: *generation, socket: socket.as_fd() })
            .collect()
    }

    fn keep(&mut self, address: SocketAddr, generation: u64, socket: OwnedFd) -> io::Result<()> {
        self.sockets.push((address, generation, socket));
        Ok(())
    }
}

impl ListenSockets for Kept<'_> {
    fn held(&self, address: SocketAddr) -> Vec<HeldSocket<'_>> {
        self.generations.held(address)
    }

    fn keep(&mut self, address: SocketAddr, generation: u64, socket: OwnedFd) -> io::Result<()> {
        self.vault.keep(&[(socket_name(self.app, generation, address), socket.as_fd())]);
        self.generations.keep(address, generation, socket)
    }
}

impl Generations {
    /// Takes a socket that the supervisor of before had, by the name it was kept under.
    pub(super) fn adopt(&mut self, name: &str, socket: OwnedFd) {
        let parts = name.splitn(2, '/').collect::<Vec<_>>();
        let [generation, address] = parts[..] else { return };
        if let (Ok(generation), Ok(address)) = (generation.parse(), address.parse()) {
            self.sockets.push((address, generation, socket));
        }
    }

    /// The addresses on which a generation listens or is about to.
    fn addresses(&self, generation: u64) -> Vec<SocketAddr> {
        self.sockets.iter().filter(|(_, of, _)| *of == generation).map(|(address, ..)| *address).collect()
    }
}

impl Actor {
    /// The kernel will ask us whenever the process binds or listens.
    pub(super) fn begin_notifier(&mut self, id: RunId, listener: OwnedFd) {
        let Ok(page) = Notifier::page() else { return };
        self.vault.keep(&[
            (remember::fd_name(id, "notify"), listener.as_fd()),
            (remember::fd_name(id, "page"), page.as_fd()),
        ]);
        self.adopt_notifier(id, listener, page);
    }

    pub(super) fn adopt_notifier(&mut self, id: RunId, listener: OwnedFd, page: OwnedFd) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        let watch = listener.try_clone().and_then(|fd| self.poller.watch(fd, Token::Notifier(id)));
        if let (Ok(notifier), Ok(watch)) = (Notifier::new(listener, page, run.generation), watch) {
            run.notifier = Some((notifier, watch));
        }
        self.notifier_ready(id);
    }

    /// A process asks before it binds or listens, or has ended.
    pub(super) fn notifier_ready(&mut self, id: RunId) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        let number = run.key.0;
        let Some((notifier, watch)) = &mut run.notifier else { return };
        let Some(app) = self.apps.get_mut(&number) else { return };
        let mut kept = Kept { app: number, generations: &mut app.generations, vault: &mut self.vault };
        let Ok(events) = notifier.readable(&mut kept) else {
            // Nobody is left who could ask.
            return watch.mute();
        };
        for event in events {
            match event {
                TransparentEvent::Listening { .. } => self.run_has_done(id, ReadyWhen::Listening),
                TransparentEvent::Bound { .. } => {}
                TransparentEvent::Ended => {
                    if let Some(run) = self.runs.get_mut(&id) {
                        run.notifier = None;
                    }
                    self.vault.discard(&[remember::fd_name(id, "notify"), remember::fd_name(id, "page")]);
                }
                TransparentEvent::Refused { process, address, error } => {
                    self.warn(Some(number), format!("process {process} could not have {address}: {error}"));
                }
                TransparentEvent::Unmanaged { process, reason } => {
                    let what = "has a socket of its own, which a reload will close";
                    self.warn(Some(number), format!("process {process} {what}: {reason}"));
                }
            }
        }
    }

    /// The generation that a process is to belong to.
    pub(super) fn generation_for(&self, number: u32, is_candidate: bool) -> u64 {
        let Some(app) = self.apps.get(&number) else { return 0 };
        app.generations.current + u64::from(is_candidate && app.spec.mode == Mode::Transparent)
    }

    /// All of the next generation listen: new connections are theirs from now on.
    pub(super) fn steer_to(&mut self, number: u32, generation: u64) {
        let Some(app) = self.apps.get_mut(&number).filter(|app| app.generations.current < generation) else {
            return;
        };
        for address in app.generations.addresses(generation) {
            if let Err(error) = steer(&app.generations, address, generation) {
                let message = format!("new connections to {address} cannot be steered: {error}");
                let name = Some(app.spec.name.clone());
                let _ = self.events.send(super::Event::Warning { app: name, message });
            }
        }
        app.generations.current = generation;
        self.remember_app(number);
    }

    /// Whether a process must finish what it has begun before it is told to end: another generation has taken over.
    pub(super) fn must_drain(&self, id: RunId) -> bool {
        let Some(run) = self.runs.get(&id) else { return false };
        self.apps
            .get(&run.key.0)
            .is_some_and(|app| app.spec.mode == Mode::Transparent && run.generation < app.generations.current)
    }

    pub(super) fn begin_drain(&mut self, id: RunId) {
        if let Some(run) = self.runs.get_mut(&id) {
            run.drain = Some(Drain::begin(std::time::Instant::now()));
        }
        self.drain_at = Some(Instant::now() + DRAIN_EVERY);
    }

    /// Looks which processes have answered all that was theirs.
    pub(super) fn look_at_drains(&mut self) {
        let draining =
            self.runs.iter().filter(|(_, run)| run.drain.is_some() && run.phase == Phase::Draining);
        let draining: Vec<RunId> = draining.map(|(id, _)| *id).collect();
        self.drain_at = (!draining.is_empty()).then(|| Instant::now() + DRAIN_EVERY);
        for id in draining {
            let Some(run) = self.runs.get(&id) else { continue };
            let left = self.left_of(run.key.0, run.generation);
            let Some(drain) = self.runs.get_mut(&id).and_then(|run| run.drain.as_mut()) else { continue };
            if left.is_ok_and(|left| drain.is_over(std::time::Instant::now(), &left)) {
                self.interrupt(id);
            }
        }
    }

    /// What all processes of a generation have left to do, on all addresses.
    fn left_of(&self, number: u32, generation: u64) -> io::Result<Remaining> {
        let members = self.runs.values().filter(|run| run.key.0 == number && run.generation == generation);
        let pids: Vec<u32> = members.flat_map(|run| tree::all_below(run.pid)).collect();
        let mut sum = Remaining::default();
        let Some(app) = self.apps.get(&number) else { return Ok(sum) };
        for (_, of, socket) in &app.generations.sockets {
            if *of == generation {
                let left = remaining(socket.as_fd(), &pids)?;
                sum.queued += left.queued;
                sum.handshakes += left.handshakes;
                sum.open += left.open;
            }
        }
        Ok(sum)
    }

    /// Closes the sockets of generations that no process belongs to any more.
    pub(super) fn retire_generations(&mut self, number: u32) {
        let Some(app) = self.apps.get_mut(&number) else { return };
        let current = app.generations.current;
        let used: Vec<u64> =
            self.runs.values().filter(|run| run.key.0 == number).map(|run| run.generation).collect();
        let old = app.generations.sockets.extract_if(.., |(_, of, _)| *of != current && !used.contains(of));
        let mut names = Vec::new();
        for (address, generation, socket) in old {
            // An error means that it is no listening socket any more, which is what is wanted.
            let _ = retire(socket.as_fd());
            names.push(socket_name(number, generation, address));
        }
        self.vault.discard(&names);
    }
}
