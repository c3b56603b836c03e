//! A place for a connection to an address, and for the requests on it. Whose connection ends gets another in the same
//! place, and keeps its cookies.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
};

use tokio::{
    sync::Notify,
    task::{spawn_local, yield_now},
    time::{Instant, timeout_at},
};

use super::{
    context::Context,
    dial::dial,
    http1::Http1,
    http2::{self, Driver, Http2},
};
use crate::{
    load::{Peer, Protocol, cookies::CookieJar},
    model::sample::ErrorClass,
};

pub(super) struct Place {
    link: RefCell<Link>,
    /// In a load with cookies.
    pub(super) cookies: Option<RefCell<CookieJar>>,
    /// Requests on it.
    pub(super) streams: Cell<usize>,
    /// It is among those that are known to have room.
    pub(super) is_listed: Cell<bool>,
}

enum Link {
    None,
    Opening(Rc<Opening>),
    /// Without a request: one that is under way has the connection with it.
    Http1(Http1),
    Http2(Rc<Http2>),
}

/// A connection that one request opens and others wait for.
#[derive(Default)]
struct Opening {
    over: Notify,
    /// Why there is none. A time-out is only that of the request which opened it.
    failure: Cell<Option<ErrorClass>>,
}

impl Place {
    pub(super) fn new(keeps_cookies: bool) -> Rc<Self> {
        Rc::new(Self {
            link: RefCell::new(Link::None),
            cookies: keeps_cookies.then(RefCell::default),
            streams: Cell::new(0),
            is_listed: Cell::new(true),
        })
    }

    /// How many requests the server lets it have at once, of `most`.
    pub(super) fn capacity(&self, most: usize) -> usize {
        match &*self.link.borrow() {
            Link::Http2(connection) => connection.limit().min(most),
            _ => most,
        }
    }

    /// The value of the Cookie header of its next request.
    pub(super) fn cookie(&self) -> Option<String> {
        let cookies = self.cookies.as_ref()?.borrow();
        cookies.header().map(str::to_owned)
    }

    /// Opens the connection before there is a request for it, and says whether it stands.
    pub(super) async fn open_beforehand(self: Rc<Self>, peer: Peer, context: Rc<Context>) -> bool {
        let Ok(stream) = dial(&peer, &context).await else { return false };
        if context.load.transport.protocol == Protocol::Http1 {
            *self.link.borrow_mut() = Link::Http1(Http1::new(stream));
            return true;
        }
        let Ok((connection, mut driver)) = Http2::new(stream).await else { return false };
        // With what the server allows being known, not one request is sent that it would refuse.
        let stands = http2::answers(&mut driver).await;
        if stands {
            let connection = Rc::new(connection);
            self.drive(driver, &connection, &context);
            *self.link.borrow_mut() = Link::Http2(connection);
        }
        stands
    }

    /// The connection of HTTP/1.1 that was kept, unless the server has closed it meanwhile.
    pub(super) async fn take_http1(&self, context: &Context) -> Option<Http1> {
        let mut connection = match self.link.replace(Link::None) {
            Link::Http1(connection) => connection,
            other => {
                *self.link.borrow_mut() = other;
                return None;
            }
        };
        if connection.is_usable().await {
            return Some(connection);
        }
        context.count_closed_idle();
        None
    }

    pub(super) fn keep_http1(&self, connection: Http1) {
        *self.link.borrow_mut() = Link::Http1(connection);
    }

    /// A connection of HTTP/2, and whether it was open already. Requests that need one at the same time open one.
    pub(super) async fn http2(
        self: &Rc<Self>,
        peer: &Peer,
        context: &Rc<Context>,
        deadline: Instant,
    ) -> Result<(Rc<Http2>, bool), ErrorClass> {
        let mut has_waited = false;
        loop {
            let opening = match &*self.link.borrow() {
                Link::Http2(connection) => return Ok((Rc::clone(connection), !has_waited)),
                Link::Opening(opening) => Some(Rc::clone(opening)),
                Link::None | Link::Http1(_) => None,
            };
            let Some(opening) = opening else {
                let connection = self.open_shared(peer, context, deadline).await?;
                return Ok((connection, false));
            };
            has_waited = true;
            if timeout_at(deadline, opening.over.notified()).await.is_err() {
                return Err(ErrorClass::ConnectTimeout);
            }
            if let Some(class) = opening.failure.get() {
                return Err(class);
            }
        }
    }

    async fn open_shared(
        self: &Rc<Self>,
        peer: &Peer,
        context: &Rc<Context>,
        deadline: Instant,
    ) -> Result<Rc<Http2>, ErrorClass> {
        let opening = Rc::new(Opening::default());
        *self.link.borrow_mut() = Link::Opening(Rc::clone(&opening));
        let opened = self.open_http2(peer, context, deadline).await;
        *self.link.borrow_mut() = match &opened {
            Ok(connection) => Link::Http2(Rc::clone(connection)),
            Err(class) => {
                opening.failure.set(Some(*class).filter(|class| *class != ErrorClass::ConnectTimeout));
                Link::None
            }
        };
        opening.over.notify_waiters();
        opened
    }

    /// A connection for whoever asks.
    pub(super) async fn open_http2(
        self: &Rc<Self>,
        peer: &Peer,
        context: &Rc<Context>,
        deadline: Instant,
    ) -> Result<Rc<Http2>, ErrorClass> {
        let opening = async {
            let stream = dial(peer, context).await?;
            Http2::new(stream).await.map_err(|error| http2::class_of(&error, false, false))
        };
        let opened = timeout_at(deadline, opening).await.map_err(|_| ErrorClass::ConnectTimeout)?;
        let (connection, driver) = opened?;
        let connection = Rc::new(connection);
        self.drive(driver, &connection, context);
        Ok(connection)
    }

    /// Has a connection read and write. It ends when nobody holds it any more, or when the server ends it.
    fn drive(self: &Rc<Self>, driver: Driver, connection: &Rc<Http2>, context: &Rc<Context>) {
        let (place, context) = (Rc::clone(self), Rc::clone(context));
        let (has_failed, connection) = (Rc::clone(&connection.has_failed), Rc::downgrade(connection));
        spawn_local(async move {
            // An error has also gone to the requests under way, if there are any.
            let _ = driver.await;
            if place.forget(&connection) {
                // Which these notice next.
                yield_now().await;
                if !has_failed.get() {
                    context.count_closed_idle();
                }
            }
        });
    }

    /// Leaves a connection to the requests that are on it, and says whether it was the present one.
    pub(super) fn forget(&self, connection: &Weak<Http2>) -> bool {
        let mut link = self.link.borrow_mut();
        let is_present =
            matches!(&*link, Link::Http2(present) if std::ptr::eq(Rc::as_ptr(present), connection.as_ptr()));
        if is_present {
            *link = Link::None;
        }
        is_present
    }
}
