//! Live progress on stderr: a bar with what is left for a terminal, nothing but warnings otherwise.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::model::{event::Event, units::format_duration};

/// Receives a session's events.
pub type Sink = Arc<dyn Fn(Event) + Send + Sync>;

/// A sink that shows events on stderr.
pub fn sink(is_terminal: bool) -> Sink {
    let progress = Mutex::new(Progress::new(is_terminal));
    Arc::new(move |event| progress.lock().unwrap_or_else(PoisonError::into_inner).show(event))
}

struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
    /// Epochs, or the windows of a soak.
    epochs: u32,
    done: u32,
    /// What an epoch takes: planned at first, measured from the first finished one on.
    per_epoch: Duration,
    begun: Instant,
}

impl Progress {
    fn new(is_terminal: bool) -> Self {
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let style = ProgressStyle::with_template("{spinner} [{bar:24}] {pos}/{len} {msg}");
        bar.set_style(style.expect("the template is a constant").progress_chars("=> "));
        if is_terminal {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        Self { bar, is_terminal, epochs: 0, done: 0, per_epoch: Duration::ZERO, begun: Instant::now() }
    }

    fn show(&mut self, event: Event) {
        match event {
            Event::SessionStarted { session, identities, epochs, epoch_estimate } => {
                self.epochs = epochs;
                self.per_epoch = epoch_estimate;
                self.begun = Instant::now();
                self.bar.set_length(u64::from(epochs));
                self.bar.println(format!("session {session}"));
                for identity in identities {
                    self.bar.println(format!("  {identity}"));
                }
                self.message("beginning");
            }
            Event::ArmStarting { arm, .. } => self.message(&format!("starting {arm}")),
            Event::ArmReady { arm, after } => {
                self.message(&format!("{arm} ready in {}", format_duration(after)));
            }
            Event::WindowStarted { window, .. } => {
                self.message(&format!("measuring {}", format_duration(window)));
            }
            Event::ArmSearching { arm, rate } => self.message(&format!("{arm} at {rate:.0}/s")),
            Event::ArmTiming { arm } => self.message(&format!("reloading and restarting {arm}")),
            Event::SoakStarted { windows, window } => {
                self.epochs = windows;
                self.done = 0;
                self.per_epoch = window;
                self.bar.set_length(u64::from(windows));
                self.bar.set_position(0);
                self.message("soaking");
            }
            Event::SoakWindowFinished { finished, summary } => {
                self.done = finished;
                self.bar.set_position(u64::from(finished));
                self.bar.println(format!("soak window {finished}: {summary}"));
                self.message("soaking");
            }
            Event::EpochFinished { epoch, summary, .. } => {
                self.done = epoch + 1;
                self.per_epoch = self.begun.elapsed() / self.done.max(1);
                self.bar.set_position(u64::from(self.done));
                self.bar.println(format!("epoch {}: {summary}", self.done));
            }
            Event::ScenarioStarted { scenario, target } => {
                self.bar.println(format!("{scenario} on {target}"));
                self.bar.set_message(format!("{scenario} on {target}"));
            }
            Event::ScenarioFinished { scenario, target, summary } => {
                self.bar.println(format!("{scenario} on {target}: {summary}"));
            }
            Event::Warning(text) => self.warn(&text),
            Event::Interrupted => self.bar.set_message("ending"),
            Event::SessionFinished => self.bar.finish_and_clear(),
        }
    }

    fn message(&self, text: &str) {
        let left = self.per_epoch * self.epochs.saturating_sub(self.done);
        self.bar.set_message(format!("{text}; about {} left", format_duration(left)));
    }

    fn warn(&self, text: &str) {
        if self.is_terminal {
            self.bar.println(format!("warning: {text}"));
        } else {
            eprintln!("warning: {text}");
        }
    }
}
