//! What a session tells whoever watches it. Samples never travel this way.

use std::time::Duration;

/// Something that happened in a session.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The session is about to begin.
    SessionStarted {
        /// Its identifier.
        session: String,
        /// Which runtimes really run, one line each.
        identities: Vec<String>,
        /// Epochs planned.
        epochs: u32,
        /// How long one epoch is expected to take.
        epoch_estimate: Duration,
    },
    /// An arm is being started.
    ArmStarting {
        /// From 0.
        epoch: u32,
        /// The arm's name.
        arm: String,
    },
    /// An arm's services all answer.
    ArmReady {
        /// The arm's name.
        arm: String,
        /// From the start command.
        after: Duration,
    },
    /// The measured window began.
    WindowStarted {
        /// From 0.
        epoch: u32,
        /// Its length.
        window: Duration,
    },
    /// The highest rate of an arm is being searched.
    ArmSearching {
        /// The arm's name.
        arm: String,
        /// The rate of the window that now begins, in requests per second.
        rate: f64,
    },
    /// An arm is being reloaded and restarted.
    ArmTiming {
        /// The arm's name.
        arm: String,
    },
    /// The soak began: every arm is ready.
    SoakStarted {
        /// Windows planned.
        windows: u32,
        /// The length of one.
        window: Duration,
    },
    /// A window of the soak is over and saved.
    SoakWindowFinished {
        /// How many are.
        finished: u32,
        /// One line of figures.
        summary: String,
    },
    /// An epoch is over and saved.
    EpochFinished {
        /// From 0.
        epoch: u32,
        /// How long it took in all.
        took: Duration,
        /// One line of figures.
        summary: String,
    },
    /// A scenario begins on a target.
    ScenarioStarted {
        /// The scenario.
        scenario: String,
        /// The target.
        target: String,
    },
    /// A scenario is over on a target.
    ScenarioFinished {
        /// The scenario.
        scenario: String,
        /// The target.
        target: String,
        /// One line of figures.
        summary: String,
    },
    /// Something the user should know that does not stop the session.
    Warning(String),
    /// The user asked to end; what was measured is being saved.
    Interrupted,
    /// Over.
    SessionFinished,
}
