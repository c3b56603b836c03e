//! The one owner of every instance: takes messages, steps state machines, does what they say.

use std::{
    collections::{BTreeMap, VecDeque},
    future::{Future, pending},
    mem::discriminant,
    pin::pin,
};

use tokio::{
    sync::{broadcast, mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::{
    control::{Call, Event, InstanceReport, InstanceState, Request, Response},
    readiness,
    roll::{Progress, Reason, Roll},
    spawn::spawn,
    spec::{AppSpec, Spec},
    state::{Action, Input, Machine, Policy, State},
    tree::{Order, guard},
};

/// Messages of guards and readiness checks that wait for the actor; further ones wait with their senders.
const NOTICES: usize = 256;
/// A guard gets at most one order of each kind.
const ORDERS: usize = 2;

/// Which instance: the app's index in the specification and the instance's number.
type Key = (usize, u32);

pub(super) struct Actor {
    apps: Vec<App>,
    calls: mpsc::Receiver<Call>,
    events: broadcast::Sender<Event>,
    notices: mpsc::Receiver<Notice>,
    to_self: mpsc::Sender<Notice>,
    /// Calls that are answered once none of their instances is stopping.
    pending: Vec<(Vec<Key>, oneshot::Sender<Response>)>,
    /// The number of the last process spawned.
    last_run: u64,
    closing: bool,
}

struct App {
    spec: AppSpec,
    policy: Policy,
    instances: BTreeMap<u32, Instance>,
    rolling: Option<Rolling>,
}

struct Instance {
    machine: Machine,
    run: Option<Run>,
    timer: Option<Instant>,
    /// It is to disappear once it has stopped.
    surplus: bool,
    last_end: Option<String>,
}

/// A process of an instance.
struct Run {
    /// Unique, so that a late message about an earlier process is not taken for one about this.
    number: u64,
    pid: u32,
    start_ticks: Option<u64>,
    spawned_at: Instant,
    orders: mpsc::Sender<Order>,
    check: Option<Check>,
}

/// A running readiness check, ended when dropped.
struct Check(JoinHandle<()>);

struct Rolling {
    roll: Roll,
    settled_at: Option<Instant>,
    reply: oneshot::Sender<Response>,
}

/// What a guard or a readiness check tells.
struct Notice {
    key: Key,
    run: u64,
    news: News,
}

enum News {
    Ready,
    /// How it ended.
    Ended(String),
}

impl Actor {
    pub(super) fn new(spec: Spec, calls: mpsc::Receiver<Call>, events: broadcast::Sender<Event>) -> Self {
        let (to_self, notices) = mpsc::channel(NOTICES);
        let apps = spec.apps.into_iter().map(App::new).collect();
        Self { apps, calls, events, notices, to_self, pending: Vec::new(), last_run: 0, closing: false }
    }

    /// Works until shutdown was asked for, by a client or by `shutdown`, and everything has ended.
    pub(super) async fn work(mut self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        while !(self.closing && self.all_keys().iter().all(|key| self.is_settled(*key))) {
            let timer = self.next_timer();
            tokio::select! {
                Some(notice) = self.notices.recv() => self.notice(notice),
                Some(call) = self.calls.recv() => self.call(call),
                () = until(timer) => self.timers_up(),
                () = &mut shutdown, if !self.closing => self.close(),
            }
            self.answer_pending();
        }
    }

    fn call(&mut self, Call { request, reply }: Call) {
        let response = match request {
            Request::Status => Response::Status(self.reports()),
            // The connection sees to it; here it only has to be answered.
            Request::Subscribe => Response::Done,
            _ if self.closing => Response::Failed("the supervisor is ending".to_owned()),
            Request::Start => self.start(),
            Request::Stop => {
                self.stop_all();
                return self.pending.push((self.all_keys(), reply));
            }
            Request::Shutdown => {
                self.close();
                return self.pending.push((self.all_keys(), reply));
            }
            Request::Restart { app } => match self.idle_app(&app) {
                Ok(index) => {
                    let keys = self.keys_of(index);
                    self.step(keys.iter().map(|key| (*key, Input::Restart)));
                    return self.pending.push((keys, reply));
                }
                Err(reason) => Response::Failed(reason),
            },
            Request::Scale { app, instances } => match self.scale(&app, instances) {
                Ok(keys) => return self.pending.push((keys, reply)),
                Err(reason) => Response::Failed(reason),
            },
            Request::Reload { app } => match self.idle_app(&app) {
                Ok(index) => return self.reload(index, reply),
                Err(reason) => Response::Failed(reason),
            },
        };
        // A client that did not wait for its answer has no use for it.
        let _ = reply.send(response);
    }

    fn start(&mut self) -> Response {
        let keys = self.all_keys();
        self.step(keys.iter().map(|key| (*key, Input::Start)));
        let failed: Vec<String> = keys
            .iter()
            .filter_map(|key| {
                let instance = self.instance(*key)?;
                let at_a_loss = matches!(instance.machine.state, State::Waiting | State::Errored);
                let why = instance.last_end.as_ref().filter(|_| at_a_loss)?;
                Some(format!("{}: {why}", self.name_of(*key)))
            })
            .collect();
        if failed.is_empty() { Response::Done } else { Response::Failed(failed.join("; ")) }
    }

    fn stop_all(&mut self) {
        for index in 0..self.apps.len() {
            self.break_roll(index, Reason::Interrupted);
        }
        let keys = self.all_keys();
        self.step(keys.into_iter().map(|key| (key, Input::Stop)));
    }

    fn close(&mut self) {
        self.closing = true;
        self.stop_all();
    }

    fn scale(&mut self, app: &str, instances: u32) -> Result<Vec<Key>, String> {
        let index = self.idle_app(app)?;
        let app = &mut self.apps[index];
        app.spec.check_instances(instances)?;
        let mut inputs = Vec::new();
        for (number, instance) in app.instances.range_mut(instances..) {
            instance.surplus = true;
            inputs.push(((index, *number), Input::Stop));
        }
        for number in 0..instances {
            let instance = app.instances.entry(number).or_insert_with(|| {
                inputs.push(((index, number), Input::Start));
                Instance::new()
            });
            if std::mem::take(&mut instance.surplus) {
                // It was on its way out.
                inputs.push(((index, number), Input::Start));
            }
        }
        let keys = inputs.iter().map(|(key, _)| *key).collect();
        self.step(inputs.into_iter());
        Ok(keys)
    }

    fn reload(&mut self, index: usize, reply: oneshot::Sender<Response>) {
        let Some(roll) = Roll::over(self.apps[index].instances.keys().copied()) else {
            let _ = reply.send(Response::Done);
            return;
        };
        let first = roll.current();
        self.apps[index].rolling = Some(Rolling { roll, settled_at: None, reply });
        self.step([((index, first), Input::Restart)].into_iter());
    }

    fn notice(&mut self, Notice { key, run, news }: Notice) {
        let Some(instance) = self.instance_mut(key) else { return };
        let Some(current) = instance.run.as_ref().filter(|current| current.number == run) else { return };
        let input = match news {
            News::Ready => Input::Ready,
            News::Ended(how) => {
                let uptime = current.spawned_at.elapsed();
                instance.last_end = Some(how);
                instance.run = None;
                Input::Exited { uptime }
            }
        };
        self.step([(key, input)].into_iter());
    }

    fn timers_up(&mut self) {
        let now = Instant::now();
        let is_up = |timer: &Option<Instant>| timer.is_some_and(|at| at <= now);
        for key in self.all_keys() {
            if let Some(instance) = self.instance_mut(key).filter(|instance| is_up(&instance.timer)) {
                instance.timer = None;
                self.step([(key, Input::TimeUp)].into_iter());
            }
        }
        for index in 0..self.apps.len() {
            if self.apps[index].rolling.as_ref().is_some_and(|rolling| is_up(&rolling.settled_at)) {
                let next = self.advance(index);
                self.step(next.into_iter());
            }
        }
    }

    /// Steps instances, and whatever follows from that, until nothing more does.
    fn step(&mut self, inputs: impl Iterator<Item = (Key, Input)>) {
        let mut queue: VecDeque<(Key, Input)> = inputs.collect();
        while let Some((key, input)) = queue.pop_front() {
            let Some(app) = self.apps.get_mut(key.0) else { continue };
            let Some(instance) = app.instances.get_mut(&key.1) else { continue };
            let before = instance.machine.state;
            let actions = instance.machine.step(&app.policy, input);
            let after = instance.machine.state;
            if discriminant(&before) != discriminant(&after) {
                instance.timer = None;
                if let Some(run) = &mut instance.run {
                    run.check = None;
                }
            }
            for action in actions {
                // What follows from a spawn comes before anything else, as if it were part of it.
                if let Some(input) = self.act(key, action) {
                    queue.push_front((key, input));
                }
            }
            // One process may follow another without a change of state.
            if before != after || matches!(input, Input::Exited { .. }) {
                self.publish(key);
            }
            if let Some(next) = self.observe_roll(key, input, after) {
                queue.push_back(next);
            }
            self.remove_surplus(key);
        }
    }

    fn act(&mut self, key: Key, action: Action) -> Option<Input> {
        match action {
            Action::Spawn => return Some(self.spawn(key)),
            Action::Check => self.check(key),
            Action::Interrupt => self.order(key, Order::Interrupt),
            Action::Kill => self.order(key, Order::Kill),
            Action::Timer(after) => {
                if let Some(instance) = self.instance_mut(key) {
                    instance.timer = Some(Instant::now() + after);
                }
            }
        }
        None
    }

    fn spawn(&mut self, key: Key) -> Input {
        let spawned = spawn(&self.apps[key.0].spec, key.1);
        self.last_run += 1;
        let number = self.last_run;
        let to_self = self.to_self.clone();
        let Some(instance) = self.instance_mut(key) else { return Input::SpawnFailed };
        match spawned {
            Ok(leader) => {
                let (orders, received) = mpsc::channel(ORDERS);
                instance.run = Some(Run {
                    number,
                    pid: leader.pid,
                    start_ticks: leader.start_ticks,
                    spawned_at: Instant::now(),
                    orders,
                    check: None,
                });
                tokio::spawn(async move {
                    let how = guard(leader, received).await;
                    // It fails only when the actor is gone, and then nobody asks any more.
                    let _ = to_self.send(Notice { key, run: number, news: News::Ended(how) }).await;
                });
                Input::Spawned
            }
            Err(e) => {
                instance.last_end = Some(format!("could not be started: {e}"));
                Input::SpawnFailed
            }
        }
    }

    fn check(&mut self, key: Key) {
        let app = &self.apps[key.0];
        let (Some(check), Some(port)) = (&app.spec.ready, app.spec.port_of(key.1)) else { return };
        let (path, limit) = (check.path.clone(), app.policy.listen_timeout);
        let to_self = self.to_self.clone();
        let Some(run) = self.instance_mut(key).and_then(|instance| instance.run.as_mut()) else { return };
        let number = run.number;
        run.check = Some(Check(tokio::spawn(async move {
            readiness::ready(port, &path, limit).await;
            let _ = to_self.send(Notice { key, run: number, news: News::Ready }).await;
        })));
    }

    fn order(&mut self, key: Key, order: Order) {
        if let Some(run) = self.instance_mut(key).and_then(|instance| instance.run.as_ref()) {
            // The channel holds every order there can be; it is closed when the process has ended already.
            let _ = run.orders.try_send(order);
        }
    }

    fn observe_roll(&mut self, key: Key, input: Input, state: State) -> Option<(Key, Input)> {
        let app = self.apps.get_mut(key.0)?;
        let rolling = app.rolling.as_mut().filter(|rolling| rolling.roll.current() == key.1)?;
        match rolling.roll.observe(input, state, app.policy.checked) {
            Progress::Same => None,
            Progress::Settle => {
                rolling.settled_at = Some(Instant::now() + app.policy.min_uptime);
                None
            }
            Progress::Replaced => self.advance(key.0),
            Progress::Broken(reason) => {
                self.break_roll(key.0, reason);
                None
            }
        }
    }

    /// Goes on with the next instance of a roll, or answers that it is done.
    fn advance(&mut self, index: usize) -> Option<(Key, Input)> {
        let rolling = self.apps[index].rolling.as_mut()?;
        rolling.settled_at = None;
        match rolling.roll.advance() {
            Some(next) => Some(((index, next), Input::Restart)),
            None => {
                let rolling = self.apps[index].rolling.take()?;
                let _ = rolling.reply.send(Response::Done);
                None
            }
        }
    }

    fn break_roll(&mut self, index: usize, reason: Reason) {
        let Some(Rolling { roll, reply, .. }) = self.apps[index].rolling.take() else { return };
        let key = (index, roll.current());
        let why = match reason {
            Reason::Ended => {
                let how = self.instance(key).and_then(|instance| instance.last_end.clone());
                format!("the new process {}", how.as_deref().unwrap_or("ended"))
            }
            Reason::NotReady => {
                format!("the new process was not ready after {:?}", self.apps[index].policy.listen_timeout)
            }
            Reason::Interrupted => "it was asked for something else".to_owned(),
        };
        let _ = reply.send(Response::Failed(format!(
            "the reload ended at {}: {why}; {} of {} instances were left as they are",
            self.name_of(key),
            roll.untouched(),
            self.apps[index].instances.len(),
        )));
    }

    fn remove_surplus(&mut self, key: Key) {
        let gone = |instance: &Instance| instance.surplus && instance.machine.state == State::Stopped;
        if self.instance(key).is_some_and(gone) {
            self.apps[key.0].instances.remove(&key.1);
            let app = self.apps[key.0].spec.name.clone();
            let _ = self.events.send(Event::Removed { app, instance: key.1 });
        }
    }

    fn answer_pending(&mut self) {
        for (keys, reply) in std::mem::take(&mut self.pending) {
            if keys.iter().all(|key| self.is_settled(*key)) {
                let _ = reply.send(Response::Done);
            } else {
                self.pending.push((keys, reply));
            }
        }
    }

    fn is_settled(&self, key: Key) -> bool {
        !self.instance(key).is_some_and(|instance| matches!(instance.machine.state, State::Stopping { .. }))
    }

    /// The app of that name, if no reload of it is under way.
    fn idle_app(&self, name: &str) -> Result<usize, String> {
        let index = self.apps.iter().position(|app| app.spec.name == name);
        let index = index.ok_or_else(|| format!("there is no app {name:?}"))?;
        if self.apps[index].rolling.is_some() {
            return Err(format!("a reload of {name} is under way"));
        }
        Ok(index)
    }

    fn next_timer(&self) -> Option<Instant> {
        let of_app = |app: &App| {
            let instances = app.instances.values().filter_map(|instance| instance.timer).min();
            let settled = app.rolling.as_ref().and_then(|rolling| rolling.settled_at);
            instances.into_iter().chain(settled).min()
        };
        self.apps.iter().filter_map(of_app).min()
    }

    fn publish(&self, key: Key) {
        if let Some(instance) = self.instance(key) {
            let report = instance.report(&self.apps[key.0].spec.name, key.1);
            // Nobody may be listening.
            let _ = self.events.send(Event::Changed(report));
        }
    }

    fn reports(&self) -> Vec<InstanceReport> {
        let of_app = |app: &App| {
            let reports =
                app.instances.iter().map(|(number, instance)| instance.report(&app.spec.name, *number));
            reports.collect::<Vec<_>>()
        };
        self.apps.iter().flat_map(of_app).collect()
    }

    fn all_keys(&self) -> Vec<Key> {
        (0..self.apps.len()).flat_map(|index| self.keys_of(index)).collect()
    }

    fn keys_of(&self, index: usize) -> Vec<Key> {
        self.apps[index].instances.keys().map(|number| (index, *number)).collect()
    }

    fn name_of(&self, (index, number): Key) -> String {
        format!("instance {number} of {}", self.apps[index].spec.name)
    }

    fn instance(&self, (index, number): Key) -> Option<&Instance> {
        self.apps.get(index)?.instances.get(&number)
    }

    fn instance_mut(&mut self, (index, number): Key) -> Option<&mut Instance> {
        self.apps.get_mut(index)?.instances.get_mut(&number)
    }
}

impl App {
    fn new(spec: AppSpec) -> Self {
        let instances = (0..spec.instances).map(|number| (number, Instance::new())).collect();
        Self { policy: spec.policy(), spec, instances, rolling: None }
    }
}

impl Instance {
    fn new() -> Self {
        Self { machine: Machine::new(), run: None, timer: None, surplus: false, last_end: None }
    }

    fn report(&self, app: &str, instance: u32) -> InstanceReport {
        InstanceReport {
            app: app.to_owned(),
            instance,
            state: match self.machine.state {
                State::Stopped => InstanceState::Stopped,
                State::Launching { .. } => InstanceState::Launching,
                State::Online => InstanceState::Online,
                State::Stopping { .. } => InstanceState::Stopping,
                State::Waiting => InstanceState::Waiting,
                State::Errored => InstanceState::Errored,
            },
            pid: self.run.as_ref().map(|run| run.pid),
            start_ticks: self.run.as_ref().and_then(|run| run.start_ticks),
            uptime_ms: self.run.as_ref().map(|run| run.spawned_at.elapsed().as_millis() as u64),
            restarts: self.machine.restarts,
            unstable_restarts: self.machine.unstable,
            last_end: self.last_end.clone(),
        }
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Completes at that time, or never.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}
