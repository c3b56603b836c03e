//! What an instance does next: a total table, `(state, input) → (state, actions)`. Pure.
//!
//! An instance has at most one timer. [`Action::Timer`] sets it; a change to another kind of state drops it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Uptime after which a growing pause begins anew.
const BACKOFF_RESET: Duration = Duration::from_secs(30);
/// The longest growing pause.
const BACKOFF_CAP: Duration = Duration::from_secs(15);
/// The least pause after a process could not even be spawned, so that trying again never becomes a busy loop.
const SPAWN_RETRY: Duration = Duration::from_millis(100);

/// What an app's settings say about its instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    /// Whether readiness is asked for; without it an instance is online once spawned.
    pub(super) checked: bool,
    pub(super) kill_timeout: Duration,
    pub(super) listen_timeout: Duration,
    /// Whether an instance that ended by itself is started again.
    pub(super) automatic: bool,
    /// Exit codes after which it is not.
    pub(super) stop_exit_codes: Vec<i32>,
    pub(super) restart_delay: Duration,
    pub(super) backoff: Option<Duration>,
    pub(super) min_uptime: Duration,
    /// Unstable ends in a row after which it is given up.
    pub(super) max_unstable: u32,
}

/// The state of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    /// Has no process and shall have none.
    Stopped,
    /// Being spawned, or spawned and not ready yet.
    Launching {
        /// The listen timeout has passed. It may still become ready.
        overdue: bool,
    },
    /// Ready.
    Online,
    /// Told to end.
    Stopping {
        /// What comes after.
        then: Then,
    },
    /// Ended by itself, to be started again when the timer is up.
    Waiting,
    /// Given up on.
    Errored,
}

/// What follows once an instance has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Then {
    Rest,
    Start,
}

/// What happened to an instance, or is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Start,
    Stop,
    Restart,
    Spawned,
    SpawnFailed,
    Ready,
    /// Its process and all of its session are gone.
    Exited {
        uptime: Duration,
        /// The exit code, when it has one and it is known.
        code: Option<i32>,
    },
    /// A process that was started beside it, and is ready, has taken its place.
    Replaced,
    /// The timer is up.
    TimeUp,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Spawn, and report `Spawned` or `SpawnFailed` at once.
    Spawn,
    /// Ask for readiness until it is there, and report `Ready`.
    Check,
    /// Tell its process to end, and make sure that it does.
    End,
    /// Report `TimeUp` after so long.
    Timer(Duration),
}

/// An instance's state and what it remembers of its past.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) state: State,
    /// Every restart, asked for or not.
    pub(super) restarts: u32,
    /// Unstable ends in a row.
    pub(super) unstable: u32,
    /// The last growing pause.
    backoff: Option<Duration>,
}

impl Machine {
    /// An instance that has never run.
    pub(super) fn new() -> Self {
        Self { state: State::Stopped, restarts: 0, unstable: 0, backoff: None }
    }

    /// Takes an input and returns what is to be done, in order.
    pub(super) fn step(&mut self, policy: &Policy, input: Input) -> Vec<Action> {
        match self.state {
            State::Stopped | State::Errored => self.at_rest(input),
            State::Launching { .. } | State::Online => self.running(policy, input),
            State::Stopping { .. } => self.stopping(input),
            State::Waiting => self.waiting(input),
        }
    }

    fn at_rest(&mut self, input: Input) -> Vec<Action> {
        match input {
            Input::Start | Input::Restart => {
                self.unstable = 0;
                self.backoff = None;
                self.launch()
            }
            Input::Stop => {
                self.state = State::Stopped;
                Vec::new()
            }
            Input::Replaced => self.replaced(),
            Input::Spawned | Input::SpawnFailed | Input::Ready | Input::Exited { .. } | Input::TimeUp => {
                Vec::new()
            }
        }
    }

    fn running(&mut self, policy: &Policy, input: Input) -> Vec<Action> {
        match (input, self.state) {
            (Input::Stop, _) => self.end(Then::Rest),
            (Input::Restart, _) => self.end(Then::Start),
            (Input::Replaced, _) => self.replaced(),
            (Input::Exited { uptime, code }, _) => self.ended(policy, uptime, code),
            (Input::SpawnFailed, _) => self.not_spawned(policy),
            (Input::Spawned, State::Launching { .. }) if policy.checked => {
                vec![Action::Check, Action::Timer(policy.listen_timeout)]
            }
            (Input::Spawned | Input::Ready, _) => {
                self.state = State::Online;
                Vec::new()
            }
            (Input::TimeUp, State::Launching { .. }) => {
                self.state = State::Launching { overdue: true };
                Vec::new()
            }
            (Input::Start | Input::TimeUp, _) => Vec::new(),
        }
    }

    fn stopping(&mut self, input: Input) -> Vec<Action> {
        let State::Stopping { then } = self.state else { return Vec::new() };
        match (input, then) {
            (Input::Start | Input::Restart, _) => {
                self.state = State::Stopping { then: Then::Start };
                Vec::new()
            }
            (Input::Stop, _) => {
                self.state = State::Stopping { then: Then::Rest };
                Vec::new()
            }
            (Input::Exited { .. }, Then::Rest) => {
                self.state = State::Stopped;
                Vec::new()
            }
            (Input::Exited { .. }, Then::Start) => {
                self.unstable = 0;
                self.backoff = None;
                self.relaunch()
            }
            (Input::Replaced, Then::Start) => self.replaced(),
            (Input::Spawned | Input::SpawnFailed | Input::Ready | Input::TimeUp | Input::Replaced, _) => {
                Vec::new()
            }
        }
    }

    fn waiting(&mut self, input: Input) -> Vec<Action> {
        match input {
            Input::TimeUp => self.relaunch(),
            Input::Start | Input::Restart => {
                self.unstable = 0;
                self.backoff = None;
                self.relaunch()
            }
            Input::Stop => {
                self.state = State::Stopped;
                Vec::new()
            }
            Input::Replaced => self.replaced(),
            Input::Spawned | Input::SpawnFailed | Input::Ready | Input::Exited { .. } => Vec::new(),
        }
    }

    /// A successor that has proved itself clears the past.
    fn replaced(&mut self) -> Vec<Action> {
        self.state = State::Online;
        self.restarts = self.restarts.saturating_add(1);
        self.unstable = 0;
        self.backoff = None;
        Vec::new()
    }

    fn launch(&mut self) -> Vec<Action> {
        self.state = State::Launching { overdue: false };
        vec![Action::Spawn]
    }

    fn relaunch(&mut self) -> Vec<Action> {
        self.restarts = self.restarts.saturating_add(1);
        self.launch()
    }

    fn end(&mut self, then: Then) -> Vec<Action> {
        self.state = State::Stopping { then };
        vec![Action::End]
    }

    /// It ended by itself, well or badly: a service has no business ending, unless it was declared so.
    fn ended(&mut self, policy: &Policy, uptime: Duration, code: Option<i32>) -> Vec<Action> {
        if !policy.automatic || code.is_some_and(|code| policy.stop_exit_codes.contains(&code)) {
            self.state = State::Stopped;
            return Vec::new();
        }
        if uptime >= BACKOFF_RESET {
            self.backoff = None;
        }
        self.unstable = if uptime < policy.min_uptime { self.unstable.saturating_add(1) } else { 0 };
        self.again(policy, Duration::ZERO)
    }

    fn not_spawned(&mut self, policy: &Policy) -> Vec<Action> {
        self.unstable = self.unstable.saturating_add(1);
        self.again(policy, SPAWN_RETRY)
    }

    fn again(&mut self, policy: &Policy, least_delay: Duration) -> Vec<Action> {
        if self.unstable > 0 && self.unstable >= policy.max_unstable {
            self.state = State::Errored;
            return Vec::new();
        }
        let delay = self.next_delay(policy).max(least_delay);
        if delay.is_zero() {
            return self.relaunch();
        }
        self.state = State::Waiting;
        vec![Action::Timer(delay)]
    }

    fn next_delay(&mut self, policy: &Policy) -> Duration {
        let Some(first) = policy.backoff else { return policy.restart_delay };
        let delay = self.backoff.map_or(first, |last| (last.saturating_mul(3) / 2).min(BACKOFF_CAP));
        self.backoff = Some(delay);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Action::{self, Check, End, Spawn, Timer},
        BACKOFF_CAP, BACKOFF_RESET, Duration, Input, Machine, Policy, SPAWN_RETRY,
        State::{self, Errored, Launching, Online, Stopped, Stopping, Waiting},
        Then::{Rest, Start},
    };

    const KILL: Duration = Duration::from_millis(1600);
    const LISTEN: Duration = Duration::from_secs(3);
    const DELAY: Duration = Duration::from_millis(500);
    const EXITED: Input = Input::Exited { uptime: Duration::from_secs(5), code: Some(1) };
    const NEW: State = Launching { overdue: false };
    const LATE: State = Launching { overdue: true };
    const ENDING: State = Stopping { then: Rest };
    const AGAIN: State = Stopping { then: Start };

    fn policy() -> Policy {
        Policy {
            checked: true,
            kill_timeout: KILL,
            listen_timeout: LISTEN,
            automatic: true,
            stop_exit_codes: vec![42],
            restart_delay: DELAY,
            backoff: None,
            min_uptime: Duration::from_secs(1),
            max_unstable: 3,
        }
    }

    /// Every state with every input.
    #[rustfmt::skip]
    const TABLE: &[(State, Input, State, &[Action])] = &[
        (Stopped, Input::Start,       NEW,     &[Spawn]),
        (Stopped, Input::Stop,        Stopped, &[]),
        (Stopped, Input::Restart,     NEW,     &[Spawn]),
        (Stopped, Input::Spawned,     Stopped, &[]),
        (Stopped, Input::SpawnFailed, Stopped, &[]),
        (Stopped, Input::Ready,       Stopped, &[]),
        (Stopped, EXITED,             Stopped, &[]),
        (Stopped, Input::TimeUp,      Stopped, &[]),
        (Stopped, Input::Replaced, Online, &[]),

        (NEW,     Input::Start,       NEW,     &[]),
        (NEW,     Input::Stop,        ENDING,     &[End]),
        (NEW,     Input::Restart,     AGAIN,   &[End]),
        (NEW,     Input::Spawned,     NEW,     &[Check, Timer(LISTEN)]),
        (NEW,     Input::SpawnFailed, Waiting, &[Timer(DELAY)]),
        (NEW,     Input::Ready,       Online,  &[]),
        (NEW,     EXITED,             Waiting, &[Timer(DELAY)]),
        (NEW,     Input::TimeUp,      LATE,    &[]),
        (NEW, Input::Replaced, Online, &[]),

        (LATE,    Input::Start,       LATE,    &[]),
        (LATE,    Input::Stop,        ENDING,     &[End]),
        (LATE,    Input::Restart,     AGAIN,   &[End]),
        (LATE,    Input::Spawned,     LATE,    &[Check, Timer(LISTEN)]),
        (LATE,    Input::SpawnFailed, Waiting, &[Timer(DELAY)]),
        (LATE,    Input::Ready,       Online,  &[]),
        (LATE,    EXITED,             Waiting, &[Timer(DELAY)]),
        (LATE,    Input::TimeUp,      LATE,    &[]),
        (LATE, Input::Replaced, Online, &[]),

        (Online,  Input::Start,       Online,  &[]),
        (Online,  Input::Stop,        ENDING,     &[End]),
        (Online,  Input::Restart,     AGAIN,   &[End]),
        (Online,  Input::Spawned,     Online,  &[]),
        (Online,  Input::SpawnFailed, Waiting, &[Timer(DELAY)]),
        (Online,  Input::Ready,       Online,  &[]),
        (Online,  EXITED,             Waiting, &[Timer(DELAY)]),
        (Online,  Input::TimeUp,      Online,  &[]),
        (Online, Input::Replaced, Online, &[]),

        (ENDING,     Input::Start,       AGAIN,   &[]),
        (ENDING,     Input::Stop,        ENDING,     &[]),
        (ENDING,     Input::Restart,     AGAIN,   &[]),
        (ENDING,     Input::Spawned,     ENDING,     &[]),
        (ENDING,     Input::SpawnFailed, ENDING,     &[]),
        (ENDING,     Input::Ready,       ENDING,     &[]),
        (ENDING,     EXITED,             Stopped, &[]),
        (ENDING,     Input::TimeUp,      ENDING,     &[]),
        (ENDING, Input::Replaced, ENDING, &[]),

        (AGAIN,   Input::Start,       AGAIN,   &[]),
        (AGAIN,   Input::Stop,        ENDING,     &[]),
        (AGAIN,   Input::Restart,     AGAIN,   &[]),
        (AGAIN,   Input::Spawned,     AGAIN,   &[]),
        (AGAIN,   Input::SpawnFailed, AGAIN,   &[]),
        (AGAIN,   Input::Ready,       AGAIN,   &[]),
        (AGAIN,   EXITED,             NEW,     &[Spawn]),
        (AGAIN,   Input::TimeUp,      AGAIN,   &[]),
        (AGAIN, Input::Replaced, Online, &[]),

        (Waiting, Input::Start,       NEW,     &[Spawn]),
        (Waiting, Input::Stop,        Stopped, &[]),
        (Waiting, Input::Restart,     NEW,     &[Spawn]),
        (Waiting, Input::Spawned,     Waiting, &[]),
        (Waiting, Input::SpawnFailed, Waiting, &[]),
        (Waiting, Input::Ready,       Waiting, &[]),
        (Waiting, EXITED,             Waiting, &[]),
        (Waiting, Input::TimeUp,      NEW,     &[Spawn]),
        (Waiting, Input::Replaced, Online, &[]),

        (Errored, Input::Start,       NEW,     &[Spawn]),
        (Errored, Input::Stop,        Stopped, &[]),
        (Errored, Input::Restart,     NEW,     &[Spawn]),
        (Errored, Input::Spawned,     Errored, &[]),
        (Errored, Input::SpawnFailed, Errored, &[]),
        (Errored, Input::Ready,       Errored, &[]),
        (Errored, EXITED,             Errored, &[]),
        (Errored, Input::TimeUp,      Errored, &[]),
        (Errored, Input::Replaced, Online, &[]),
    ];

    #[test]
    fn every_state_knows_every_input() {
        assert_eq!(TABLE.len(), 8 * 9);
        for (n, (from, input, to, actions)) in TABLE.iter().enumerate() {
            assert!(!TABLE[..n].iter().any(|(f, i, ..)| (f, i) == (from, input)), "{from:?} {input:?} twice");
            let mut machine = Machine { state: *from, ..Machine::new() };
            assert_eq!(&machine.step(&policy(), *input), actions, "{from:?} {input:?}");
            assert_eq!(machine.state, *to, "{from:?} {input:?}");
        }
    }

    #[test]
    fn an_instance_without_a_check_is_online_once_spawned() {
        let unchecked = Policy { checked: false, ..policy() };
        let mut machine = Machine::new();
        machine.step(&unchecked, Input::Start);
        assert_eq!(machine.step(&unchecked, Input::Spawned), []);
        assert_eq!(machine.state, Online);
    }

    #[test]
    fn what_was_declared_to_end_is_left_stopped() {
        let exited = |code| Input::Exited { uptime: Duration::from_secs(5), code };
        let after = |policy: &Policy, code| {
            let mut machine = Machine { state: Online, ..Machine::new() };
            (machine.step(policy, exited(code)), machine.state)
        };
        assert_eq!(after(&policy(), Some(42)), (vec![], Stopped));
        assert_eq!(after(&policy(), None), (vec![Timer(DELAY)], Waiting));
        assert_eq!(after(&Policy { automatic: false, ..policy() }, Some(1)), (vec![], Stopped));
    }

    #[test]
    fn unstable_ends_in_a_row_lead_to_errored_even_with_a_delay() {
        let policy = policy();
        let short = Input::Exited { uptime: Duration::from_millis(10), code: Some(1) };
        let mut machine = Machine { state: Online, ..Machine::new() };
        for _ in 0..2 {
            machine.step(&policy, short);
            assert_eq!(machine.state, Waiting);
            machine.step(&policy, Input::TimeUp);
        }
        machine.step(&policy, short);
        assert_eq!((machine.state, machine.unstable, machine.restarts), (Errored, 3, 2));
        machine.step(&policy, Input::Start);
        assert_eq!((machine.state, machine.unstable), (NEW, 0));
    }

    #[test]
    fn a_stable_run_forgives_unstable_ones() {
        let policy = Policy { restart_delay: Duration::ZERO, ..policy() };
        let mut machine = Machine { state: Online, unstable: 2, ..Machine::new() };
        assert_eq!(machine.step(&policy, EXITED), [Spawn]);
        assert_eq!((machine.state, machine.unstable, machine.restarts), (NEW, 0, 1));
    }

    #[test]
    fn the_growing_pause_grows_to_its_cap_and_begins_anew_after_a_long_run() {
        let policy = Policy { backoff: Some(Duration::from_millis(100)), max_unstable: u32::MAX, ..policy() };
        let mut machine = Machine { state: Online, ..Machine::new() };
        let mut pause = |uptime| match machine.step(&policy, Input::Exited { uptime, code: None })[..] {
            [Timer(pause)] => {
                machine.step(&policy, Input::TimeUp);
                pause.as_millis()
            }
            ref other => panic!("{other:?}"),
        };
        let short = Duration::from_millis(10);
        assert_eq!([pause(short), pause(short), pause(short)], [100, 150, 225]);
        for _ in 0..20 {
            pause(short);
        }
        assert_eq!(pause(short), BACKOFF_CAP.as_millis());
        assert_eq!(pause(BACKOFF_RESET), 100);
    }

    #[test]
    fn what_cannot_be_spawned_is_never_tried_in_a_busy_loop() {
        let policy =
            Policy { restart_delay: Duration::ZERO, min_uptime: Duration::ZERO, max_unstable: 2, ..policy() };
        let mut machine = Machine { state: NEW, ..Machine::new() };
        assert_eq!(machine.step(&policy, Input::SpawnFailed), [Timer(SPAWN_RETRY)]);
        machine.step(&policy, Input::TimeUp);
        machine.step(&policy, Input::SpawnFailed);
        assert_eq!(machine.state, Errored);
    }
}
