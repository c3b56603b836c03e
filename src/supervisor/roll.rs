//! A rolling reload: which instances are being replaced, and what follows from what happens to them. Pure.
//!
//! Where the supervisor holds the sockets a successor starts beside the old process, and only once it is ready is the
//! old one told to end ([`Way::Overlap`]), for some all together once all are ([`Way::Together`]). Elsewhere a port can be open once only, so each process is stopped before
//! its successor starts ([`Way::InPlace`]): an app of several instances serves on, a single one has a gap.
//!
//! When a successor fails, whatever was replaced before it is replaced once more, from the specification of before the
//! reload. The roll then ends as failed, and says why.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

/// The progress of a reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Roll {
    way: Way,
    parallel: usize,
    left: VecDeque<u32>,
    under_way: BTreeMap<u32, Step>,
    replaced: Vec<u32>,
    /// Those whose old process was still ending when another failed: they are put back once it is gone.
    to_put_back: BTreeSet<u32>,
    /// Why it failed; what is under way now is the way back.
    back: Option<String>,
    /// What could not be put back either.
    stuck: Vec<u32>,
}

/// Whether old and new processes can serve side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Way {
    Overlap,
    /// The same, but nothing of the old is touched before all of the new are ready.
    Together,
    InPlace,
}

/// How far an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Step {
    /// Its successor is not ready yet.
    Starting,
    /// Its successor is ready, and waits for those of the others.
    Ready,
    /// Its successor has taken over; the old process is ending.
    Retiring,
}

/// What happened to an instance under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Happened {
    /// The successor is ready.
    Ready,
    /// The successor will not be: it ended, could not be started, or took too long. Why.
    Failed(String),
    /// The old process is gone.
    Retired,
    /// Somebody asked this instance for something else.
    Interrupted,
}

/// What to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Start a successor beside the process of this instance.
    Start(u32),
    /// Stop the process of this instance and start its successor.
    Restart(u32),
    /// Let the successor take over, and tell the old process to end.
    Promote(u32),
    /// End the successor, if there is one.
    Discard(u32),
    /// What is started from here on is of the specification of before.
    UseFormer,
    /// It is over: well, or why not.
    Finish(Result<(), String>),
}

impl Roll {
    /// A roll over these instances, so many at a time; the first commands with it.
    pub(super) fn over(
        way: Way,
        instances: impl Iterator<Item = u32>,
        parallel: u32,
    ) -> (Self, Vec<Command>) {
        let mut roll = Self {
            way,
            parallel: if way == Way::Together { usize::MAX } else { parallel.max(1) as usize },
            left: instances.collect(),
            under_way: BTreeMap::new(),
            replaced: Vec::new(),
            to_put_back: BTreeSet::new(),
            back: None,
            stuck: Vec::new(),
        };
        let commands = roll.next();
        (roll, commands)
    }

    /// How far an instance is, if it is under way.
    pub(super) fn step_of(&self, instance: u32) -> Option<Step> {
        self.under_way.get(&instance).copied()
    }

    /// The instances under way.
    pub(super) fn under_way(&self) -> Vec<(u32, Step)> {
        self.under_way.iter().map(|(instance, step)| (*instance, *step)).collect()
    }

    /// Whether processes are stopped before their successors start.
    pub(super) fn is_in_place(&self) -> bool {
        self.way == Way::InPlace
    }

    /// An instance under way, at whatever is known of it, goes one step on.
    pub(super) fn happened(&mut self, instance: u32, what: Happened) -> Vec<Command> {
        match (self.step_of(instance), what) {
            (Some(Step::Starting), Happened::Ready) => self.ready(instance),
            (Some(Step::Retiring), Happened::Retired) => self.done(instance),
            (Some(Step::Starting | Step::Ready), Happened::Failed(why)) => self.failed(instance, why),
            (Some(_), Happened::Interrupted) => self.interrupt("it was asked for something else"),
            // A successor that fails after it took over is an instance that crashed; the supervisor restarts it.
            (Some(Step::Starting | Step::Ready | Step::Retiring) | None, _) => Vec::new(),
        }
    }

    /// Goes on after the supervisor of before ended with nothing under way.
    pub(super) fn resume(&mut self) -> Vec<Command> {
        self.next()
    }

    /// Ends the roll where it is.
    pub(super) fn interrupt(&mut self, why: &str) -> Vec<Command> {
        let starting: Vec<u32> = self.starting();
        self.left.clear();
        self.under_way.clear();
        let discard = starting.into_iter().map(Command::Discard);
        discard.chain([Command::Finish(Err(format!("the reload was given up: {why}")))]).collect()
    }

    fn ready(&mut self, instance: u32) -> Vec<Command> {
        match self.way {
            Way::Overlap => {
                self.under_way.insert(instance, Step::Retiring);
                vec![Command::Promote(instance)]
            }
            Way::Together => {
                self.under_way.insert(instance, Step::Ready);
                self.promote_all()
            }
            Way::InPlace => self.done(instance),
        }
    }

    fn promote_all(&mut self) -> Vec<Command> {
        if self.under_way.values().any(|step| *step == Step::Starting) {
            return Vec::new();
        }
        let ready = self.under_way.iter_mut().filter(|(_, step)| **step == Step::Ready);
        ready
            .map(|(instance, step)| {
                *step = Step::Retiring;
                Command::Promote(*instance)
            })
            .collect()
    }

    fn done(&mut self, instance: u32) -> Vec<Command> {
        self.under_way.remove(&instance);
        if self.to_put_back.remove(&instance) {
            self.left.push_back(instance);
        } else {
            self.replaced.push(instance);
        }
        self.next()
    }

    fn failed(&mut self, instance: u32, why: String) -> Vec<Command> {
        self.under_way.remove(&instance);
        if self.back.is_some() {
            self.stuck.push(instance);
            let mut commands = vec![Command::Discard(instance)];
            commands.extend(self.next());
            return commands;
        }
        let mut commands = vec![Command::Discard(instance)];
        for other in self.starting() {
            self.under_way.remove(&other);
            commands.push(Command::Discard(other));
            if self.is_in_place() {
                self.replaced.push(other);
            }
        }
        self.to_put_back = self.under_way.keys().copied().collect();
        self.back = Some(why);
        self.left = std::mem::take(&mut self.replaced).into();
        if self.is_in_place() {
            // Its old process is gone, so this one has to be put back as well.
            self.left.push_front(instance);
        }
        commands.push(Command::UseFormer);
        commands.extend(self.next());
        commands
    }

    fn starting(&self) -> Vec<u32> {
        let new = |step: &Step| matches!(step, Step::Starting | Step::Ready);
        self.under_way.iter().filter(|(_, step)| new(step)).map(|(n, _)| *n).collect()
    }

    /// Starts as many as may be under way, or finishes.
    fn next(&mut self) -> Vec<Command> {
        let mut commands = Vec::new();
        while self.under_way.len() < self.parallel
            && let Some(instance) = self.left.pop_front()
        {
            self.under_way.insert(instance, Step::Starting);
            commands.push(match self.way {
                Way::Overlap | Way::Together => Command::Start(instance),
                Way::InPlace => Command::Restart(instance),
            });
        }
        if self.under_way.is_empty() {
            commands.push(Command::Finish(self.result()));
        }
        commands
    }

    fn result(&self) -> Result<(), String> {
        let Some(why) = &self.back else { return Ok(()) };
        let after = match (self.way, self.replaced.len(), self.stuck.len()) {
            (_, 0, 0) => "the old processes serve on".to_owned(),
            (_, back, 0) => format!("{back} instances were put back; the others had not been touched"),
            (Way::Overlap | Way::Together, _, stuck) => {
                format!("{stuck} instances stay replaced, since the former release does not start any more")
            }
            (Way::InPlace, _, stuck) => {
                format!("{stuck} instances do not start with the former release either")
            }
        };
        Err(format!("the reload failed: {why}; {after}"))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Command::{Discard, Finish, Promote, Restart, Start, UseFormer},
        Happened::{Failed, Interrupted, Ready, Retired},
        Roll, Step, Way,
    };

    fn fails(why: &str) -> super::Happened {
        Failed(why.to_owned())
    }

    #[test]
    fn the_old_process_ends_only_after_its_successor_is_ready() {
        let (mut roll, commands) = Roll::over(Way::Overlap, 0..2, 1);
        assert_eq!(commands, [Start(0)]);
        assert_eq!(roll.happened(0, Retired), []);
        assert_eq!(roll.happened(0, Ready), [Promote(0)]);
        assert_eq!(roll.step_of(0), Some(Step::Retiring));
        assert_eq!(roll.happened(0, Retired), [Start(1)]);
        assert_eq!(roll.happened(1, Ready), [Promote(1)]);
        assert_eq!(roll.happened(1, Retired), [Finish(Ok(()))]);
    }

    #[test]
    fn several_go_at_a_time() {
        let (mut roll, commands) = Roll::over(Way::Overlap, 0..3, 2);
        assert_eq!(commands, [Start(0), Start(1)]);
        assert_eq!(roll.happened(1, Ready), [Promote(1)]);
        assert_eq!(roll.happened(1, Retired), [Start(2)]);
        assert_eq!(roll.under_way(), [(0, Step::Starting), (2, Step::Starting)]);
    }

    #[test]
    fn together_nothing_ends_before_all_are_ready() {
        let (mut roll, commands) = Roll::over(Way::Together, 0..3, 1);
        assert_eq!(commands, [Start(0), Start(1), Start(2)]);
        assert_eq!(roll.happened(2, Ready), []);
        assert_eq!(roll.happened(0, Ready), []);
        assert_eq!(roll.happened(1, Ready), [Promote(0), Promote(1), Promote(2)]);
        let (mut roll, _) = Roll::over(Way::Together, 0..2, 1);
        roll.happened(0, Ready);
        let commands = roll.happened(1, fails("no"));
        assert!(matches!(&commands[..], [Discard(1), Discard(0), UseFormer, Finish(Err(_))]), "{commands:?}");
    }

    #[test]
    fn a_failure_of_the_first_touches_nothing() {
        let (mut roll, _) = Roll::over(Way::Overlap, 0..2, 2);
        let commands = roll.happened(0, fails("it exited with status 1"));
        let [Discard(0), Discard(1), UseFormer, Finish(Err(why))] = &commands[..] else {
            panic!("{commands:?}")
        };
        assert_eq!(why, "the reload failed: it exited with status 1; the old processes serve on");
    }

    #[test]
    fn a_later_failure_puts_back_what_was_replaced() {
        let (mut roll, _) = Roll::over(Way::Overlap, 0..2, 1);
        roll.happened(0, Ready);
        roll.happened(0, Retired);
        assert_eq!(roll.happened(1, fails("no")), [Discard(1), UseFormer, Start(0)]);
        assert!(roll.back.is_some());
        assert_eq!(roll.happened(0, Ready), [Promote(0)]);
        let commands = roll.happened(0, Retired);
        let [Finish(Err(why))] = &commands[..] else { panic!("{commands:?}") };
        assert!(why.contains("1 instances were put back"), "{why}");
    }

    #[test]
    fn what_is_being_replaced_when_another_fails_is_put_back_too() {
        let (mut roll, _) = Roll::over(Way::Overlap, 0..2, 2);
        roll.happened(0, Ready);
        assert_eq!(roll.happened(1, fails("no")), [Discard(1), UseFormer]);
        assert_eq!(roll.happened(0, Retired), [Start(0)]);
        roll.happened(0, Ready);
        assert!(matches!(&roll.happened(0, Retired)[..], [Finish(Err(_))]));
    }

    #[test]
    fn what_cannot_be_put_back_is_said() {
        let (mut roll, _) = Roll::over(Way::Overlap, 0..2, 1);
        roll.happened(0, Ready);
        roll.happened(0, Retired);
        roll.happened(1, fails("no"));
        let commands = roll.happened(0, fails("not this either"));
        let [Discard(0), Finish(Err(why))] = &commands[..] else { panic!("{commands:?}") };
        assert!(why.starts_with("the reload failed: no; 1 instances stay replaced"), "{why}");
    }

    #[test]
    fn in_place_the_failed_one_is_put_back_as_well() {
        let (mut roll, commands) = Roll::over(Way::InPlace, 0..2, 1);
        assert_eq!(commands, [Restart(0)]);
        assert_eq!(roll.happened(0, Ready), [Restart(1)]);
        assert_eq!(roll.happened(1, fails("no")), [Discard(1), UseFormer, Restart(1)]);
        assert_eq!(roll.happened(1, Ready), [Restart(0)]);
        assert!(matches!(&roll.happened(0, Ready)[..], [Finish(Err(_))]));
    }

    #[test]
    fn an_interrupted_roll_ends_where_it_is() {
        let (mut roll, _) = Roll::over(Way::Overlap, 0..3, 1);
        let commands = roll.happened(0, Interrupted);
        assert!(matches!(&commands[..], [Discard(0), Finish(Err(_))]), "{commands:?}");
        assert_eq!(roll.happened(0, Ready), []);
    }

    #[test]
    fn there_is_nothing_to_do_over_nothing() {
        assert_eq!(Roll::over(Way::Overlap, 0..0, 1).1, [Finish(Ok(()))]);
    }
}
