//! What is looked at from time to time: memory, liveness, the calendar.

use std::time::Duration;

use jiff::Zoned;
use tokio::time::{Instant, sleep};

use super::{
    super::{cron::Cron, readiness, state::Input, tree},
    Actor, CheckNews, Notice,
    app::{Check, Key, Phase, Role, RunId},
};

/// From one look at the memory of apps that have a limit to the next.
const SAMPLE_EVERY: Duration = Duration::from_millis(400);

impl Actor {
    /// Looks at memory only while an app has a limit for it.
    pub(super) fn plan_sampling(&mut self) {
        let wanted = self.apps.values().any(|app| app.spec.restart.max_memory_bytes.is_some());
        self.sample_at =
            if wanted { self.sample_at.or_else(|| Some(Instant::now() + SAMPLE_EVERY)) } else { None };
    }

    /// Restarts instances whose tree holds more than they may.
    pub(super) fn sample(&mut self) {
        self.sample_at = Some(Instant::now() + SAMPLE_EVERY);
        let over: Vec<(Key, u64, u64)> = self
            .runs
            .values()
            .filter(|run| run.role == Role::Main && run.phase == Phase::Running && run.end.is_none())
            .filter_map(|run| {
                let limit = self.apps.get(&run.key.0)?.spec.restart.max_memory_bytes?;
                let holds = tree::resident_bytes(run.pid);
                (holds > limit).then_some((run.key, holds, limit))
            })
            .collect();
        for (key, holds, limit) in over {
            let message = format!("{} holds {holds} bytes, more than {limit}: restarted", self.name_of(key));
            self.warn(Some(key.0), message);
            self.step([(key, Input::Restart)].into_iter());
        }
    }

    /// Asks an instance that is online again and again whether it still answers.
    pub(super) fn begin_liveness(&mut self, id: RunId) {
        let Some(run) = self.runs.get(&id) else { return };
        let Some(app) = self.apps.get(&run.key.0) else { return };
        let (Some(liveness), Some(port)) = (app.spec.liveness.clone(), app.spec.port_of(run.key.1)) else {
            return;
        };
        let to_self = self.to_self.clone();
        let check = Check(tokio::spawn(async move {
            let limit = Duration::from_millis(liveness.timeout_ms);
            let mut failed = 0;
            while failed < liveness.failures {
                sleep(Duration::from_millis(liveness.interval_ms)).await;
                let answers = readiness::answers(port, &liveness.http.path, limit).await;
                failed = if answers { 0 } else { failed + 1 };
            }
            let why = format!("it did not answer {} {failed} times in a row", liveness.http.path);
            let _ = to_self.send(Notice { run: id, news: CheckNews::Dead(why) }).await;
        }));
        if let Some(run) = self.runs.get_mut(&id) {
            run.check = Some(check);
        }
    }

    /// Works out when an app is to be restarted next.
    pub(super) fn plan_cron(&mut self, number: u32) {
        let Some(app) = self.apps.get_mut(&number) else { return };
        app.cron = None;
        let Some(cron) = app.spec.restart.cron.as_deref().and_then(|text| Cron::parse(text).ok()) else {
            return;
        };
        let now = Zoned::now();
        let next =
            cron.next_after(now.datetime()).and_then(|next| next.to_zoned(now.time_zone().clone()).ok());
        if let Some(wait) = next.and_then(|next| Duration::try_from(next.duration_since(&now)).ok()) {
            app.cron = Some((cron, Instant::now() + wait));
        }
    }

    /// Restarts the apps whose time has come.
    pub(super) fn crons_due(&mut self, now: Instant) {
        let due = |at: &Instant| *at <= now;
        let apps: Vec<u32> = self
            .apps
            .iter()
            .filter(|(_, app)| app.cron.as_ref().is_some_and(|(_, at)| due(at)))
            .map(|(number, _)| *number)
            .collect();
        for number in apps {
            self.plan_cron(number);
            let keys = self.keys_of(number);
            let running = |key: &Key| self.instance(*key).is_some_and(|instance| instance.run.is_some());
            let keys: Vec<Key> = keys.into_iter().filter(running).collect();
            self.step(keys.into_iter().map(|key| (key, Input::Restart)));
        }
    }
}
