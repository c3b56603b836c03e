//! What the keeper has to tell the brain: the replay first, then each exit as it comes.
//!
//! Nothing is queued in memory. A position says what has been told; the next message is made from what is on the shelf
//! when the socket has room for it.

use std::{
    collections::BTreeMap,
    ops::Bound,
    os::fd::{AsFd as _, BorrowedFd},
};

use rustix::io::Errno;

use super::{
    channel::{Sent, send},
    shelf::{Shelf, Value},
    wire::{DESCRIPTORS_MAX, MESSAGE_MAX_BYTES, Message, Summary},
};

/// How far the telling is. Positions are the last name that was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outbound {
    /// The brain has not asked yet.
    Mute,
    Held(Option<Box<str>>),
    Notes(Option<Box<str>>),
    /// The exits from this serial on, then the end of the replay.
    Exits(u64),
    /// The replay is over; exits from this serial on are told as they come.
    Live(u64),
}

/// Why the telling stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paused {
    /// Everything has been told.
    Done,
    /// Until the socket has room.
    Full,
    /// For a moment.
    Busy,
    /// The brain is gone.
    Gone,
}

/// A message, what goes beside it, and the position once it is sent.
struct Next<'a> {
    message: Message<'a>,
    descriptors: Vec<BorrowedFd<'a>>,
    then: Outbound,
}

impl Outbound {
    /// Sends until all is told or the socket takes no more.
    pub(super) fn tell(&mut self, brain: BorrowedFd<'_>, kept: &Shelf, summary: &Summary) -> Paused {
        while let Some(next) = self.following(kept, summary) {
            match send(brain, &next.message.encode(), &next.descriptors) {
                Ok(Sent::Whole) => *self = next.then,
                Ok(Sent::Full) => return Paused::Full,
                Ok(Sent::Gone) | Err(Errno::BADF) => return Paused::Gone,
                // A message that cannot be sent for another reason is tried again too: a brain that misses one
                // descriptor of its replay must not go on as if that had not been there.
                Ok(Sent::Busy) | Err(_) => return Paused::Busy,
            }
        }
        Paused::Done
    }

    fn following<'a>(&self, kept: &'a Shelf, summary: &Summary) -> Option<Next<'a>> {
        match self {
            Self::Mute => None,
            Self::Held(told) => match next_held(kept, told.as_deref()) {
                Some(next) => Some(next),
                None => Self::Notes(None).following(kept, summary),
            },
            Self::Notes(told) => match next_note(kept, told.as_deref()) {
                Some(next) => Some(next),
                None => Self::Exits(0).following(kept, summary),
            },
            Self::Exits(from) => Some(match kept.exits.range(from..).next() {
                Some((serial, exit)) => Next::bare(Message::Exit(*exit), Self::Exits(serial + 1)),
                None => Next::bare(Message::ReplayEnd(*summary), Self::Live(*from)),
            }),
            Self::Live(from) => {
                let (serial, exit) = kept.exits.range(from..).next()?;
                Some(Next::bare(Message::Exit(*exit), Self::Live(serial + 1)))
            }
        }
    }
}

impl Next<'_> {
    fn bare(message: Message<'static>, then: Outbound) -> Self {
        Self { message, descriptors: Vec::new(), then }
    }
}

fn next_held<'a>(kept: &'a Shelf, told: Option<&str>) -> Option<Next<'a>> {
    let mut room = MESSAGE_MAX_BYTES - 1;
    let batch = after(&kept.held, told).take(DESCRIPTORS_MAX).take_while(|(name, _)| {
        let fits = name.len() < room;
        room = room.saturating_sub(name.len() + 1);
        fits
    });
    let (names, descriptors): (Vec<&str>, Vec<_>) =
        batch.map(|(name, descriptor)| (&**name, descriptor.as_fd())).unzip();
    let then = Outbound::Held(Some((*names.last()?).into()));
    Some(Next { message: Message::Put(names), descriptors, then })
}

fn next_note<'a>(kept: &'a Shelf, told: Option<&str>) -> Option<Next<'a>> {
    let (key, value) = after(&kept.notes, told).next()?;
    let message = match value {
        Value::Inline(value) => Message::Note { key, value },
        Value::Sealed(_) => Message::Sealed { key },
    };
    let descriptors = value.descriptor().into_iter().collect();
    Some(Next { message, descriptors, then: Outbound::Notes(Some(key.clone())) })
}

fn after<'a, V>(
    map: &'a BTreeMap<Box<str>, V>,
    told: Option<&str>,
) -> impl Iterator<Item = (&'a Box<str>, &'a V)> {
    map.range::<str, _>((told.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded))
}

#[cfg(test)]
mod tests {
    use super::super::{
        shelf::{Shelf, Value, high},
        wire::{Exit, Message, Summary},
    };
    use super::{Outbound, next_held};

    #[test]
    fn the_replay_tells_each_thing_once_in_order() {
        let mut shelf = Shelf::default();
        for name in 0..450 {
            shelf.held.insert(format!("{name:0>200}").into(), high(std::io::stdin()).unwrap());
        }
        shelf.note("a", Value::of(b"1").unwrap());
        shelf.note("b", Value::of(&vec![1; 99_999]).unwrap());
        shelf.record(Exit { serial: 4, pid: 1, status: 2 });
        let mut told = Vec::new();
        let mut position = Outbound::Held(None);
        while let Some(next) = position.following(&shelf, &Summary::default()) {
            let bytes = next.message.encode();
            assert_eq!(next.message.descriptors(), next.descriptors.len());
            assert!(bytes.len() <= super::MESSAGE_MAX_BYTES);
            told.push(match Message::decode(&bytes).unwrap() {
                Message::Put(names) => names.len(),
                Message::Note { .. } => 1001,
                Message::Sealed { .. } => 1002,
                Message::Exit(_) => 1003,
                Message::ReplayEnd(_) => 1004,
                other => panic!("{other:?}"),
            });
            position = next.then;
        }
        assert_eq!(told, [200, 200, 50, 1001, 1002, 1003, 1004]);
        assert_eq!(position, Outbound::Live(5));
        shelf.record(Exit { serial: 9, pid: 1, status: 2 });
        assert_eq!(
            position.following(&shelf, &Summary::default()).map(|next| next.then),
            Some(Outbound::Live(10))
        );
    }

    #[test]
    fn names_of_the_greatest_length_are_split_by_their_bytes() {
        let mut shelf = Shelf::default();
        for name in 0..300 {
            shelf.held.insert(format!("{name:0>255}").into(), high(std::io::stdin()).unwrap());
        }
        let next = next_held(&shelf, None).unwrap();
        assert!(next.message.encode().len() <= super::MESSAGE_MAX_BYTES);
        assert_eq!(next.descriptors.len(), 200);
    }
}
