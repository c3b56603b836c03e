//! What happens on one connection: a request goes out, its answer comes in, or something breaks.

use rustix::{event::epoll, io::Errno};

use super::{
    check::CompiledChecks,
    clock::timespec,
    connection::{FirstFailure, Gathered, Job, Phase, Watch},
    http1::{Answer, Broken, Progress, Sink},
    prepare::Choice,
    recorder::Completion,
    shard::Shard,
    socket::{self, Peer, Received},
    sys,
    template::Template,
};
use crate::model::{sample::ErrorClass, settings::ConnectionUse};

/// A Unix socket whose queue is full is tried again after this, and a refused client of a closed loop.
const REOPEN_NS: u64 = 1_000_000;

/// An answer of more than this may not fit into a socket's receive buffer.
const LARGE_ANSWER_BYTES: u64 = 32 << 10;

/// Of an answer's body that was kept for its checks, so much memory is kept for the next.
const USUAL_BODY_BYTES: usize = 64 << 10;

/// Buffers read from one connection before others have their turn.
const BUFFERS_IN_A_ROW: usize = 8;

/// Connections opened at once before the load begins: a listener's queue is finite.
const OPENING: usize = 64;

/// For opening all connections beforehand: so long, and so much longer for each.
const OPENING_NS: u64 = 1_000_000_000;
const OPENING_EACH_NS: u64 = 500_000;

impl Shard {
    /// Sends a request on a connection that has none. `now` is as of this moment.
    pub(super) fn start(&mut self, index: usize, job: Job, now: u64) {
        let connection = &mut self.connections[index];
        connection.job = job;
        connection.sent = now;
        connection.deadline = now.saturating_add(self.load.timeout_ns);
        connection.first_failure = None;
        self.in_flight += 1;
        let lane = self.pools[connection.pool as usize].lane;
        self.lanes[lane].recorder.sent(job.intended, now);
        self.attempt(index);
    }

    /// Writes the request of a connection, over the connection that is open, or else over a new one.
    fn attempt(&mut self, index: usize) {
        let is_head = self.template(index).is_head();
        let connection = &mut self.connections[index];
        connection.parser.begin(is_head);
        if let Some(gathered) = &mut connection.gathered {
            gathered.headers_hold = true;
            gathered.forget_body();
        }
        if connection.phase == Phase::Idle {
            self.write(index, 0);
        } else {
            self.open(index);
        }
    }

    fn choice(&self, index: usize) -> &Choice {
        let connection = &self.connections[index];
        let lane = self.pools[connection.pool as usize].lane;
        &self.load.lanes[lane].choices[connection.job.choice as usize]
    }

    fn template(&self, index: usize) -> &Template {
        let address = self.pools[self.connections[index].pool as usize].route_address;
        &self.choice(index).templates[address]
    }

    fn open(&mut self, index: usize) {
        match self.connect(index) {
            Ok(()) => {
                self.connections[index].phase = Phase::Connecting;
                // On loopback the connection stands already, although the call did not wait for it.
                self.write(index, 0);
            }
            // The queue of a Unix listener is full: unlike TCP the kernel does not try again by itself.
            Err(Errno::AGAIN) => {
                self.connections[index].phase = Phase::Connecting;
                let due = self.now() + REOPEN_NS;
                self.connections[index].reopens_at = due;
                self.reopening.push_back((due, index as u32));
            }
            Err(error) => self.fail(index, class_of_connect(error)),
        }
    }

    /// Tries again what could not be opened for a moment.
    pub(super) fn reopen(&mut self, index: usize, due: u64) {
        let connection = &self.connections[index];
        // It may have timed out meanwhile, and the next request there may wait for a moment of its own.
        let waits = connection.phase == Phase::Connecting && connection.socket.is_none();
        if waits && connection.reopens_at == due {
            self.open(index);
        }
    }

    fn connect(&mut self, index: usize) -> Result<(), Errno> {
        let connection = &mut self.connections[index];
        let pool = &self.pools[connection.pool as usize];
        let stamped = self.stamped && matches!(pool.peer, Peer::Tcp(_));
        let opened = socket::open(&pool.peer, stamped)?;
        connection.generation = connection.generation.wrapping_add(1);
        connection.reused = false;
        connection.socket = Some(opened);
        self.counts.opened += 1;
        Ok(())
    }

    /// Writes what is left of a request, the first `written` bytes being out.
    fn write(&mut self, index: usize, written: usize) {
        let mut rendered = std::mem::take(&mut self.rendered);
        let connection = &self.connections[index];
        let cookies = connection.gathered.as_ref().and_then(|gathered| gathered.cookies.header());
        let template = self.template(index);
        // Decided at the first write: an answer to the first part of a request may change the cookies.
        let bytes = match template.fixed() {
            _ if !connection.unwritten.is_empty() => &connection.unwritten,
            Some(fixed) if written > 0 || cookies.is_none() => fixed,
            _ => {
                template.render(connection.job.index, cookies, &mut rendered);
                &rendered
            }
        };
        let is_rendered = std::ptr::eq(bytes.as_ptr(), rendered.as_ptr());
        let Some(open) = &connection.socket else { return };
        let outcome = socket::write(open, &bytes[written..]);
        let total = bytes.len();
        match outcome {
            Ok(sent) if written + sent == total => {
                let connection = &mut self.connections[index];
                connection.unwritten = Vec::new();
                connection.phase = Phase::Receiving;
                if !self.watch(index, Watch::Answers) {
                    self.fail(index, ErrorClass::Other);
                }
            }
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {
                let connection = &mut self.connections[index];
                // What differs each time is kept until it is out.
                if is_rendered {
                    connection.unwritten.clone_from(&rendered);
                }
                let connecting = connection.phase == Phase::Connecting && outcome.is_err();
                if !connecting {
                    connection.phase = Phase::Sending { written: written + outcome.unwrap_or(0) };
                }
                if !self.watch(index, Watch::AnswersAndRoom) {
                    self.fail(index, ErrorClass::Other);
                }
            }
            Err(error) => self.broken_while_writing(index, error),
        }
        self.rendered = rendered;
    }

    /// Has the kernel tell at least so much of a connection, and says whether it does. More than is needed does no
    /// harm.
    fn watch(&mut self, index: usize, watch: Watch) -> bool {
        let connection = &mut self.connections[index];
        let before = connection.watch;
        connection.watch = before.max(watch);
        let Some(open) = connection.socket.as_ref().filter(|_| before < watch) else { return true };
        let mut flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        flags.set(epoll::EventFlags::OUT, watch == Watch::AnswersAndRoom);
        let data = epoll::EventData::new_u64(u64::from(connection.generation) << 32 | index as u64);
        let told = if before == Watch::Nothing {
            epoll::add(&self.epoll, open, data, flags)
        } else {
            epoll::modify(&self.epoll, open, data, flags)
        };
        told.is_ok()
    }

    /// The server may have answered before it broke the connection off, which then says more than the broken pipe.
    fn broken_while_writing(&mut self, index: usize, error: Errno) {
        if self.connections[index].phase == Phase::Connecting {
            return self.fail(index, class_of_connect(error));
        }
        let generation = self.connections[index].generation;
        self.connections[index].phase = Phase::Receiving;
        self.read(index, true);
        // Unless what was read has ended the attempt: there may be a retry on a connection of its own by now.
        let connection = &self.connections[index];
        if connection.phase == Phase::Receiving && connection.generation == generation {
            self.break_off(index, error);
        }
    }

    /// Something has happened on a connection.
    pub(super) fn happened(&mut self, index: usize, flags: epoll::EventFlags) {
        use epoll::EventFlags;
        let ended = flags.intersects(EventFlags::RDHUP | EventFlags::ERR | EventFlags::HUP);
        let has_room = flags.contains(EventFlags::OUT);
        let has_answer = ended || flags.contains(EventFlags::IN);
        match self.connections[index].phase {
            Phase::Connecting if ended || has_room => {
                let generation = self.connections[index].generation;
                self.connected(index);
                // What came with the news that the connection stands is not told again.
                let connection = &self.connections[index];
                if has_answer && connection.generation == generation && connection.is_busy() {
                    self.read(index, ended);
                }
            }
            Phase::Sending { written } => {
                if has_answer {
                    self.read(index, ended);
                }
                // The answer may have ended the request.
                if has_room && self.connections[index].phase == (Phase::Sending { written }) {
                    self.write(index, written);
                }
            }
            Phase::Receiving if has_answer => self.read(index, ended),
            Phase::Idle if has_answer => self.read_idle(index),
            Phase::Closed | Phase::Connecting | Phase::Receiving | Phase::Idle => {}
        }
        // The end of the connection behind an answer is not told again.
        if ended && self.connections[index].phase == Phase::Idle {
            self.read_idle(index);
        }
    }

    fn connected(&mut self, index: usize) {
        let error = self.connections[index].socket.as_ref().and_then(socket::error_of);
        match error {
            None => self.write(index, 0),
            Some(error) => self.fail(index, class_of_connect(error)),
        }
    }

    /// Without a request there can only be the end of the connection, or something that nobody asked for.
    fn read_idle(&mut self, index: usize) {
        let Some(open) = &self.connections[index].socket else { return };
        if matches!(socket::read(open, &mut self.buffer), Err(Errno::AGAIN | Errno::INTR)) {
            return;
        }
        self.counts.closed_idle += 1;
        self.connections[index].close();
    }

    /// Reads what has come in; to the very end when the server has `ended` its side, else a read that does not fill
    /// the buffer was the last: what comes after it is told anew.
    fn read(&mut self, index: usize, ended: bool) {
        for _ in 0..BUFFERS_IN_A_ROW {
            let Some(open) = &self.connections[index].socket else { return };
            let received = if self.stamped {
                sys::read_stamped(open, &mut self.buffer)
            } else {
                socket::read(open, &mut self.buffer)
            };
            match received {
                Ok(Received { length: 0, .. }) => return self.ended(index),
                Ok(received) => {
                    let is_all = received.length < self.buffer.len() && !ended;
                    if self.received(index, &received) || is_all {
                        return;
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(error) => return self.break_off(index, error),
            }
        }
        self.unread.push((index as u32, ended));
    }

    /// Goes on with answers that are so large that others had to have their turn.
    pub(super) fn read_on(&mut self) {
        for (index, ended) in std::mem::take(&mut self.unread) {
            if matches!(self.connections[index as usize].phase, Phase::Receiving | Phase::Sending { .. }) {
                self.read(index as usize, ended);
            }
        }
    }

    /// Takes a part of an answer, and says whether the request has ended with it.
    fn received(&mut self, index: usize, received: &Received) -> bool {
        let done = self.time_of(index, received);
        let bytes = &self.buffer[..received.length];
        let connection = &mut self.connections[index];
        let lane = self.pools[connection.pool as usize].lane;
        let progress = match &mut connection.gathered {
            None => connection.parser.feed(bytes, &mut ()),
            Some(gathered) => {
                let choice = &self.load.lanes[lane].choices[connection.job.choice as usize];
                let keeps_cookies = self.load.cookies;
                let mut sink = Gathering { checks: &choice.checks, keeps_cookies, gathered };
                connection.parser.feed(bytes, &mut sink)
            }
        };
        match progress {
            Ok(Progress::More) => {
                self.has_large_answers |= received.length as u64 > LARGE_ANSWER_BYTES;
                false
            }
            // More than it said it would send: what comes next on this connection could be anything.
            Ok(Progress::Done { surplus, .. }) if surplus > 0 => {
                self.finish(index, Err(ErrorClass::Protocol), done);
                true
            }
            Ok(Progress::Done { answer, .. }) => {
                self.answered(index, answer, done);
                true
            }
            Err(_) => {
                self.finish(index, Err(ErrorClass::Protocol), done);
                true
            }
        }
    }

    /// When a part of an answer was there: by the kernel's stamp, unless somebody has set the clock meanwhile.
    fn time_of(&mut self, index: usize, received: &Received) -> u64 {
        let arrived = received.stamp_ns.and_then(|stamp| self.stamps.on_our_clock(stamp));
        if let Some(arrived) = arrived.and_then(|arrived| arrived.checked_sub(self.started_ns))
            && arrived >= self.connections[index].sent
        {
            return arrived;
        }
        self.used_own_clock |= self.stamped;
        self.now()
    }

    fn answered(&mut self, index: usize, answer: Answer, done: u64) {
        self.has_large_answers |= answer.body_len > LARGE_ANSWER_BYTES;
        let kept = self.load.connection_use == ConnectionUse::KeepAlive;
        let is_sent = self.connections[index].phase == Phase::Receiving;
        if kept && answer.reusable && is_sent {
            self.connections[index].phase = Phase::Idle;
            self.connections[index].reused = true;
        } else {
            self.connections[index].close();
        }
        let checks = &self.choice(index).checks;
        let outcome = if !checks.status_ok(answer.status) {
            Err(ErrorClass::Status)
        } else if self.connections[index].gathered.as_ref().is_some_and(|gathered| !gathered.holds(checks)) {
            Err(ErrorClass::Check)
        } else {
            Ok(())
        };
        if let Some(gathered) = &mut self.connections[index].gathered {
            gathered.forget_body();
        }
        self.finish(index, outcome, done);
    }

    /// The server has closed its side, which is how some answers end.
    fn ended(&mut self, index: usize) {
        let now = self.now();
        match self.connections[index].parser.close() {
            Ok(answer) => {
                // The kernel stamps data, not the end of a stream.
                self.used_own_clock = true;
                self.answered(index, answer, now);
            }
            Err(Broken::Malformed(_)) => self.finish(index, Err(ErrorClass::Protocol), now),
            Err(Broken::InsideAnswer) => self.finish(index, Err(ErrorClass::ResetMidAnswer), now),
            Err(Broken::BeforeFirstByte) => self.unanswered(index),
        }
    }

    fn break_off(&mut self, index: usize, error: Errno) {
        match error {
            Errno::CONNRESET | Errno::PIPE | Errno::CONNABORTED
                if self.connections[index].parser.has_begun() =>
            {
                self.fail(index, ErrorClass::ResetMidAnswer);
            }
            Errno::CONNRESET | Errno::PIPE | Errno::CONNABORTED => self.unanswered(index),
            Errno::TIMEDOUT => self.fail(index, ErrorClass::Timeout),
            _ => self.fail(index, ErrorClass::Other),
        }
    }

    /// No byte of an answer. On a connection that was used before, the server had most likely given it up already.
    fn unanswered(&mut self, index: usize) {
        let reused = self.connections[index].reused;
        self.fail(index, if reused { ErrorClass::StaleKeepAlive } else { ErrorClass::Reset });
    }

    /// Gives up the request of a connection.
    pub(super) fn time_out(&mut self, index: usize, now: u64) {
        let connecting = self.connections[index].phase == Phase::Connecting;
        let class = if connecting { ErrorClass::ConnectTimeout } else { ErrorClass::Timeout };
        self.finish(index, Err(class), now);
    }

    fn fail(&mut self, index: usize, class: ErrorClass) {
        let now = self.now();
        self.finish(index, Err(class), now);
    }

    /// Ends an attempt, and the request unless it may be tried once more.
    fn finish(&mut self, index: usize, outcome: Result<(), ErrorClass>, done: u64) {
        // After an answer, even an unwelcome one, that has been decided already.
        if self.connections[index].is_busy() {
            self.connections[index].close();
        }
        let may_retry = self.template(index).is_idempotent();
        let connection = &mut self.connections[index];
        let timed_out = matches!(outcome, Err(ErrorClass::Timeout | ErrorClass::ConnectTimeout));
        let retry = match (connection.first_failure, outcome) {
            // The retry has what the first try left of the time-out, so nothing takes longer than it.
            (None, Err(class)) if may_retry && done < connection.deadline => {
                connection.first_failure = Some(FirstFailure { class, done });
                return self.attempt(index);
            }
            (None, _) => None,
            (Some(_), outcome) => Some(outcome.is_ok()),
        };
        let (outcome, first_done) =
            connection.first_failure.map_or((outcome, done), |first| (Err(first.class), first.done));
        let pool = &self.pools[connection.pool as usize];
        let completion = Completion {
            address: pool.lane_address,
            intended: connection.job.intended,
            sent: connection.sent,
            first_done,
            done,
            outcome,
            retry,
            timed_out,
        };
        self.lanes[pool.lane].recorder.completed(&completion);
        self.free(index, outcome);
    }

    /// What a connection does after its request.
    fn free(&mut self, index: usize, outcome: Result<(), ErrorClass>) {
        use crate::model::load::Pacing;
        let Pacing::Closed { think } = &self.load.pacing else { return self.vacate(index) };
        let mut pause = think.as_nanos() as u64;
        if matches!(outcome, Err(ErrorClass::Refused | ErrorClass::Other)) {
            // Nobody is there, or we have no more sockets: asking without a pause would only keep us busy.
            pause = pause.max(REOPEN_NS);
        }
        if pause > 0 && !self.is_closing() {
            self.in_flight -= 1;
            let due = self.now() + pause;
            self.thinking.push_back((due, index as u32));
        } else {
            self.vacate(index);
        }
    }

    /// Opens the connections that will be kept alive, so that the first requests of a window do not pay for them: they
    /// would pay more where a service has more addresses. What cannot be opened now is the affair of the request that
    /// wants it.
    pub(super) fn open_beforehand(&mut self) {
        let limit = OPENING_NS + OPENING_EACH_NS * self.connections.len() as u64;
        let deadline = self.now() + limit;
        let mut given_up = vec![false; self.pools.len()];
        let mut next = 0;
        while next < self.connections.len() && self.now() < deadline {
            let batch = next..(next + OPENING).min(self.connections.len());
            for index in batch.clone() {
                let pool = self.connections[index].pool as usize;
                if !given_up[pool] && self.connect(index).is_err() {
                    given_up[pool] = true;
                }
            }
            for index in batch.clone() {
                let pool = self.connections[index].pool as usize;
                if !self.stands_by(index, deadline) {
                    self.connections[index].close();
                    given_up[pool] = true;
                }
            }
            next = batch.end;
        }
    }

    /// Waits for a connection that was begun.
    fn stands_by(&mut self, index: usize, deadline: u64) -> bool {
        use rustix::event::{PollFd, PollFlags, poll};
        let now = self.now();
        let Some(open) = &self.connections[index].socket else { return false };
        let limit = timespec(deadline.saturating_sub(now));
        let mut room = [PollFd::new(open, PollFlags::OUT)];
        let stands = matches!(poll(&mut room, Some(&limit)), Ok(1)) && socket::error_of(open).is_none();
        if stands {
            self.connections[index].phase = Phase::Idle;
        }
        stands && self.watch(index, Watch::Answers)
    }
}

/// Keeps of an answer what its checks and the client's cookies need.
struct Gathering<'a> {
    checks: &'a CompiledChecks,
    keeps_cookies: bool,
    gathered: &'a mut Gathered,
}

impl Sink for Gathering<'_> {
    fn head(&mut self, _status: u16, headers: &[httparse::Header<'_>]) {
        if self.checks.needs_headers() {
            let pairs = headers.iter().map(|header| (header.name, header.value));
            self.gathered.headers_hold = self.checks.headers_ok(pairs);
        }
        if self.keeps_cookies {
            for header in headers.iter().filter(|header| header.name.eq_ignore_ascii_case("set-cookie")) {
                self.gathered.cookies.take(header.value);
            }
        }
    }

    fn body(&mut self, bytes: &[u8]) {
        if self.checks.needs_body() {
            self.gathered.body.extend_from_slice(bytes);
        }
    }
}

impl Gathered {
    /// Keeps the memory of usual bodies for the next one, and not that of large ones.
    fn forget_body(&mut self) {
        self.body.clear();
        self.body.shrink_to(USUAL_BODY_BYTES);
    }

    fn holds(&self, checks: &CompiledChecks) -> bool {
        self.headers_hold && (!checks.needs_body() || checks.body_ok(&self.body))
    }
}

fn class_of_connect(error: Errno) -> ErrorClass {
    match error {
        // A Unix socket that is not there is a service that does not listen.
        Errno::CONNREFUSED | Errno::NOENT => ErrorClass::Refused,
        Errno::TIMEDOUT => ErrorClass::ConnectTimeout,
        Errno::CONNRESET | Errno::CONNABORTED | Errno::PIPE => ErrorClass::Reset,
        _ => ErrorClass::Other,
    }
}
