//! What becomes of one request: a first try, a second where it may have one, and the record of both.

use std::{borrow::Cow, rc::Rc};

use tokio::time::{Instant, timeout_at};

use super::{
    context::Context,
    dial::dial,
    gathered::Gathered,
    http1::Http1,
    http2::{Broken, Http2, Message},
    place::Place,
    pool::Pool,
};
use crate::{
    load::{Protocol, connection::Job, prepare::Choice, recorder::Completion, template::Template},
    model::{sample::ErrorClass, settings::ConnectionUse},
};

/// A request and where it goes.
struct Attempt<'a> {
    context: &'a Rc<Context>,
    pool: &'a Pool,
    place: &'a Rc<Place>,
    job: Job,
    choice: &'a Choice,
    template: &'a Template,
    sent: u64,
    deadline: Instant,
}

/// Sends a request, and again where that is allowed, and records what came of it. Gives how the first try ended.
pub(super) async fn perform(pool: &Pool, place: &Rc<Place>, job: Job) -> Result<(), ErrorClass> {
    let context = &pool.context;
    let choice = &context.load.lanes[pool.lane].choices[job.choice as usize];
    let template = &choice.templates[pool.route_address];
    let sent = context.now();
    context.turns.update(|turns| turns + 1);
    let deadline_ns = sent.saturating_add(context.load.timeout_ns);
    let deadline = context.instant(deadline_ns);
    context.record(pool.lane, |recorder| recorder.sent(job.intended, sent));
    let attempt = Attempt { context, pool, place, job, choice, template, sent, deadline };
    let outcome = attempt.make().await;
    let first_done = context.now();
    let mut last = outcome;
    let mut retry = None;
    // The retry has what the first try left of the time-out, so nothing takes longer than it.
    if outcome.is_err() && template.is_idempotent() && first_done < deadline_ns {
        last = attempt.make().await;
        retry = Some(last.is_ok());
    }
    let done = context.now();
    let timed_out = matches!(last, Err(ErrorClass::Timeout | ErrorClass::ConnectTimeout));
    context.turns.update(|turns| turns + 1);
    let address = pool.lane_address;
    let intended = job.intended;
    let completion = Completion { address, intended, sent, first_done, done, outcome, retry, timed_out };
    context.record(pool.lane, |recorder| recorder.completed(&completion));
    outcome
}

impl Attempt<'_> {
    async fn make(&self) -> Result<(), ErrorClass> {
        let mut gathered = Gathered::new(&self.choice.checks, self.place.cookies.as_ref());
        let status = match self.context.load.transport.protocol {
            Protocol::Http1 => self.over_http1(&mut gathered).await?,
            Protocol::Http2 => self.over_http2(&mut gathered).await?,
        };
        if !self.choice.checks.status_ok(status) {
            Err(ErrorClass::Status)
        } else if gathered.holds() {
            Ok(())
        } else {
            Err(ErrorClass::Check)
        }
    }

    fn keeps_alive(&self) -> bool {
        self.context.load.connection_use == ConnectionUse::KeepAlive
    }

    async fn over_http1(&self, gathered: &mut Gathered<'_>) -> Result<u16, ErrorClass> {
        let mut connection = match self.place.take_http1(self.context).await {
            Some(connection) => connection,
            None => self.open_http1().await?,
        };
        let request = self.rendered();
        let buffer = &self.context.buffer;
        let exchange = connection.exchange(&request, self.template.is_head(), buffer, gathered);
        let answer = timeout_at(self.deadline, exchange).await.map_err(|_| ErrorClass::Timeout)??;
        if self.keeps_alive() && answer.is_reusable {
            self.place.keep_http1(connection);
        }
        Ok(answer.status)
    }

    async fn open_http1(&self) -> Result<Http1, ErrorClass> {
        let dialled = timeout_at(self.deadline, dial(&self.pool.peer, self.context)).await;
        Ok(Http1::new(dialled.map_err(|_| ErrorClass::ConnectTimeout)??))
    }

    fn rendered(&self) -> Cow<'_, [u8]> {
        let cookie = self.place.cookie();
        match self.template.fixed() {
            Some(fixed) if cookie.is_none() => Cow::Borrowed(fixed),
            _ => {
                let mut bytes = Vec::new();
                self.template.render(self.job.index, cookie.as_deref(), &mut bytes);
                Cow::Owned(bytes)
            }
        }
    }

    async fn over_http2(&self, gathered: &mut Gathered<'_>) -> Result<u16, ErrorClass> {
        // Never sent, so that it is not a failure of the request's either.
        let message = self.message().ok_or(ErrorClass::Other)?;
        loop {
            let (connection, was_open) = self.connection().await?;
            let reused = connection.heard.get().is_some();
            let now = || self.context.now();
            let exchange = connection.exchange(message.clone(), gathered, now);
            match timeout_at(self.deadline, exchange).await {
                Ok(Ok(status)) => return Ok(status),
                // The server is known to have ended it, or to be about to: that is no failure, another is opened.
                // Ends, because whoever opens that other one does not come here.
                Ok(Err(Broken::Unsent(_))) if was_open => {
                    self.place.forget(&Rc::downgrade(&connection));
                }
                Ok(Err(broken)) => {
                    if broken.is_of_connection() {
                        connection.has_failed.set(true);
                    }
                    return Err(broken.class(reused));
                }
                Err(_) => {
                    // Of a connection on which nothing has come in all that time nobody knows whether it still is
                    // one. Others wait for an answer on it, but no new request shall.
                    if connection.heard.get().is_none_or(|heard| heard < self.sent) {
                        self.place.forget(&Rc::downgrade(&connection));
                    }
                    return Err(ErrorClass::Timeout);
                }
            }
        }
    }

    async fn connection(&self) -> Result<(Rc<Http2>, bool), ErrorClass> {
        let (peer, context, deadline) = (&self.pool.peer, self.context, self.deadline);
        if self.keeps_alive() {
            self.place.http2(peer, context, deadline).await
        } else {
            Ok((self.place.open_http2(peer, context, deadline).await?, false))
        }
    }

    fn message(&self) -> Option<Message> {
        let cookie = self.place.cookie();
        match &self.pool.messages[self.job.choice as usize] {
            Some(fixed) if cookie.is_none() => Some(fixed.clone()),
            _ => {
                let parts = self.template.parts(self.job.index, cookie.as_deref());
                Message::new(&parts, self.context.security.is_some())
            }
        }
    }
}
