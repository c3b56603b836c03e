//! One listening address of the application's: its socket, or its socket of each slot.
//!
//! Deliberately absent: workers.
//!
//! The sockets of a `SO_REUSEPORT` group are kept in the order in which the kernel has them: a new one comes last, and
//! the last one takes the place of one that leaves. By these places a classic BPF program can steer new connections
//! away from sockets at which nobody accepts. Were the order ever wrong, connections would only come to sockets from
//! which they must be handed over.

use std::{
    net::SocketAddr,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::Instant,
};

use rustix::{
    io::Errno,
    net::{Shutdown, shutdown},
};
use serde_json::Value;

use super::{
    Options, Policy,
    bind::{self, Sharing},
    note::{Kind, ListenerNote},
    query::{Place, Query},
    sys,
};

/// More sockets than this are not steered: the program would be too long.
const STEERED: usize = 1000;

/// One listening address.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) number: u32,
    pub(super) key: String,
    pub(super) kind: Kind,
    pub(super) data: Value,
    /// The application has taken its Unix path for a newer socket.
    pub(super) superseded: bool,
    pub(super) sockets: Vec<Held>,
    /// Since when no worker has used it.
    pub(super) unused_since: Option<Instant>,
    /// The worker that closed the last server of it on purpose.
    pub(super) abandoned_by: Option<u64>,
    steered: Option<Vec<usize>>,
}

/// One socket.
#[derive(Debug)]
pub(super) struct Held {
    /// None: shared by all.
    pub(super) slot: Option<u32>,
    pub(super) socket: OwnedFd,
    /// When its slot was retired.
    pub(super) retired: Option<Instant>,
}

impl Listener {
    /// Binds what a query asks for. `joining`: the address is taken, but only by sockets of the same application.
    pub(super) fn bind(
        number: u32,
        query: &Query,
        slot: u32,
        options: &Options,
        joining: bool,
    ) -> Result<Self, Errno> {
        let backlog = query.backlog;
        let mut slot = Some(slot);
        let (kind, socket) = match query.place.as_ref().map_err(|&errno| errno)? {
            &Place::Tcp { ref host, port, only_v6 } => {
                let spread = options.policy == Policy::ReusePort && port != 0;
                let sharing = if spread { Sharing::Group } else { Sharing::Alone };
                if spread && !joining {
                    // A group would hide that somebody else is there.
                    bind::bind_tcp(host.as_ref(), port, only_v6, Sharing::Alone)?;
                }
                let socket = bind::listen_tcp(host.as_ref(), port, only_v6, backlog, sharing)?;
                slot = slot.filter(|_| spread);
                (Kind::Tcp { address: bind::bound_to(socket.as_fd()), only_v6, spread }, socket)
            }
            &Place::Udp { ref host, port, only_v6, reuse_address } => {
                slot = None;
                (Kind::Udp, bind::bind_udp(host, port, only_v6, reuse_address)?)
            }
            Place::Unix(path) => {
                slot = None;
                let socket = bind::listen_unix(path, backlog)?;
                (Kind::Unix { path: path.clone(), identity: bind::identity(path) }, socket)
            }
            Place::Inherited(descriptor) => {
                slot = None;
                let descriptor = options.inherited.get(descriptor).ok_or(Errno::BADF)?;
                (Kind::Inherited, bind::inherit(descriptor.as_fd())?)
            }
        };
        Ok(Self {
            number,
            key: query.key.clone(),
            kind,
            data: query.data.clone(),
            superseded: false,
            sockets: vec![Held { slot, socket, retired: None }],
            unused_since: None,
            abandoned_by: None,
            steered: None,
        })
    }

    /// As it was before the death of another process; none when nothing is left of it.
    pub(super) fn restore(note: ListenerNote, mut take: impl FnMut(&str) -> Option<OwnedFd>) -> Option<Self> {
        let mut sockets = Vec::new();
        let now = Instant::now();
        for slot in note.slots {
            if let Some(socket) = take(&stored(note.number, slot)) {
                let retired = slot.is_some_and(|slot| note.retired.contains(&slot)).then_some(now);
                sockets.push(Held { slot, socket, retired });
            }
        }
        let ListenerNote { number, key, kind, data, superseded, .. } = note;
        // Whether the kernel is told to steer is not known; the next look at the workers tells it anew.
        let steered = Some(Vec::new());
        (!sockets.is_empty()).then_some(Self {
            number,
            key,
            kind,
            data,
            superseded,
            sockets,
            unused_since: None,
            abandoned_by: None,
            steered,
        })
    }

    pub(super) fn note(&self) -> ListenerNote {
        ListenerNote {
            number: self.number,
            key: self.key.clone(),
            kind: self.kind.clone(),
            data: self.data.clone(),
            superseded: self.superseded,
            slots: self.sockets.iter().map(|held| held.slot).collect(),
            retired: self
                .sockets
                .iter()
                .filter(|held| held.retired.is_some())
                .filter_map(|held| held.slot)
                .collect(),
        }
    }

    /// The socket for a worker of this slot, and whether it is a new one.
    pub(super) fn socket(&mut self, slot: u32, backlog: i32) -> Result<(BorrowedFd<'_>, bool), Errno> {
        let found = self.sockets.iter().position(|held| held.slot.is_none_or(|of| of == slot));
        let place = match (found, &self.kind) {
            (Some(place), _) => place,
            (None, &Kind::Tcp { address: Some(address), only_v6, .. }) => {
                let socket = bind::join_group(address, only_v6, backlog)?;
                self.sockets.push(Held { slot: Some(slot), socket, retired: None });
                self.sockets.len() - 1
            }
            (None, _) => return Err(Errno::BADF),
        };
        let held = self.sockets.get(place).ok_or(Errno::BADF)?;
        Ok((held.socket.as_fd(), found.is_none()))
    }

    /// Ends the retirement of a slot. Whether there was one.
    pub(super) fn take_into_use(&mut self, slot: u32) -> bool {
        let held = self.sockets.iter_mut().find(|held| held.slot == Some(slot));
        held.is_some_and(|held| held.retired.take().is_some())
    }

    /// Where a TCP listener is bound.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self.kind {
            Kind::Tcp { address, .. } => address,
            _ => None,
        }
    }

    /// Whether its Unix path still leads to it.
    pub(super) fn is_reachable(&self) -> bool {
        match &self.kind {
            Kind::Unix { path, identity } => identity.is_some() && bind::identity(path) == *identity,
            _ => true,
        }
    }

    /// Whether connections can be accepted from it.
    pub(super) fn has_connections(&self) -> bool {
        self.kind != Kind::Udp
    }

    /// Has new connections come only to the slots that `serves` names; to all, when it names none.
    pub(super) fn steer(&mut self, serves: impl Fn(u32) -> bool) {
        if !matches!(self.kind, Kind::Tcp { spread: true, .. }) {
            return;
        }
        let serving = |held: &Held| held.retired.is_none() && held.slot.is_some_and(&serves);
        let places: Vec<usize> = self
            .sockets
            .iter()
            .enumerate()
            .filter(|(_, held)| serving(held))
            .map(|(place, _)| place)
            .collect();
        let some = !places.is_empty() && places.len() < self.sockets.len().min(STEERED);
        let wanted = some.then_some(places);
        let Some(held) = self.sockets.first().filter(|_| wanted != self.steered) else { return };
        // Where the kernel does not do it, connections are handed over instead.
        let done = match &wanted {
            Some(places) => sys::attach_choice(held.socket.as_fd(), &mut program(places)).is_ok(),
            None => {
                let _ = sys::detach_choice(held.socket.as_fd());
                false
            }
        };
        self.steered = wanted.filter(|_| done);
    }

    /// Whether the kernel leaves some of the sockets out.
    pub(super) fn is_steered(&self) -> bool {
        self.steered.as_ref().is_some_and(|places| !places.is_empty())
    }

    /// Closes the socket at this place for everybody who has it, and names it.
    pub(super) fn close_socket(&mut self, place: usize) -> String {
        let held = self.sockets.swap_remove(place);
        // The workers' descriptors and the vault's would keep it in its group.
        let _ = shutdown(&held.socket, Shutdown::Both);
        // The places have changed; whatever the program says now is a socket of ours or the kernel's own choice.
        self.steered = self.steered.take().map(|_| Vec::new());
        stored(self.number, held.slot)
    }

    /// Closes all, and takes the file away. The names of the sockets.
    pub(super) fn close(mut self) -> Vec<String> {
        if let Kind::Unix { path, .. } = &self.kind
            && self.is_reachable()
        {
            let _ = rustix::fs::unlink(path);
        }
        if self.kind == Kind::Inherited {
            // It is not ours to shut.
            return self.sockets.iter().map(|held| stored(self.number, held.slot)).collect();
        }
        (0..self.sockets.len()).rev().map(|place| self.close_socket(place)).collect()
    }
}

/// The name of a socket in the vault, without the application's.
pub(super) fn stored(number: u32, slot: Option<u32>) -> String {
    slot.map_or_else(|| format!("{number}/shared"), |slot| format!("{number}/{slot}"))
}

/// Chooses one of these places at random.
fn program(places: &[usize]) -> Vec<libc::sock_filter> {
    let step = |code: u32, jf: u8, k: usize| libc::sock_filter { code: code as u16, jt: 0, jf, k: k as u32 };
    let random = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32 as usize;
    let mut program = vec![
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, random),
        step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, places.len()),
    ];
    for (number, &place) in places.iter().enumerate() {
        if number + 1 < places.len() {
            program.push(step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, number));
        }
        program.push(step(libc::BPF_RET | libc::BPF_K, 0, place));
    }
    program
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use serde_json::json;

    use super::*;

    /// A free port's listener with sockets of three slots.
    fn three_slots() -> (Listener, SocketAddr) {
        loop {
            let probe = bind::listen_tcp(None, 0, false, 1, Sharing::Alone).unwrap();
            let port = bind::bound_to(probe.as_fd()).unwrap().port();
            drop(probe);
            let Value::Object(message) =
                json!({"address": "127.0.0.1", "port": port, "addressType": 4, "seq": 1, "index": 0})
            else {
                panic!("not an object")
            };
            let query = Query::read(&message).unwrap();
            // Somebody else may be faster; then another port.
            let Ok(mut listener) = Listener::bind(1, &query, 0, &Options::default(), false) else { continue };
            assert!(listener.socket(1, 64).unwrap().1);
            assert!(listener.socket(2, 64).unwrap().1);
            assert!(!listener.socket(1, 64).unwrap().1);
            let address = listener.address().unwrap();
            return (listener, address);
        }
    }

    /// How many of so many connections come to each socket.
    fn arrivals(listener: &Listener, address: SocketAddr, count: usize) -> Vec<(u32, usize)> {
        let clients: Vec<_> = (0..count).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut arrivals: Vec<_> = listener
            .sockets
            .iter()
            .map(|held| {
                (held.slot.unwrap(), std::iter::from_fn(|| bind::accept(held.socket.as_fd())).count())
            })
            .collect();
        arrivals.sort_unstable();
        assert_eq!(arrivals.iter().map(|(_, count)| count).sum::<usize>(), clients.len());
        arrivals
    }

    #[test]
    fn steers_away_and_back() {
        let (mut listener, address) = three_slots();
        for out in 0..3 {
            listener.steer(|slot| slot != out);
            assert!(listener.is_steered());
            for (slot, count) in arrivals(&listener, address, 40) {
                assert_eq!(count == 0, slot == out, "slot {slot} got {count} without {out}");
            }
        }
        listener.steer(|slot| slot == 2);
        assert_eq!(arrivals(&listener, address, 20), [(0, 0), (1, 0), (2, 20)]);
        listener.steer(|_| true);
        assert!(arrivals(&listener, address, 60).iter().all(|&(_, count)| count > 0));
    }

    #[test]
    fn the_order_survives_a_socket_that_leaves() {
        let (mut listener, address) = three_slots();
        listener.steer(|slot| slot != 0);
        assert_eq!(listener.close_socket(0), "1/0");
        listener.steer(|slot| slot == 2);
        assert_eq!(arrivals(&listener, address, 20), [(1, 0), (2, 20)]);
        listener.socket(0, 64).unwrap();
        listener.steer(|slot| slot == 0);
        assert_eq!(arrivals(&listener, address, 20), [(0, 20), (1, 0), (2, 0)]);
        listener.steer(|slot| slot == 1);
        assert_eq!(arrivals(&listener, address, 20), [(0, 0), (1, 20), (2, 0)]);
    }
}
