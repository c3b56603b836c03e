//! From an address to a stream of bytes that is ready for HTTP.

use std::{io, path::Path, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use super::{context::Context, tls::Security};
use crate::{load::Peer, model::sample::ErrorClass};

/// A Unix socket whose queue is full is tried again after this.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(1);

/// Bytes in both directions.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Duplex for S {}

/// TCP or a Unix socket, secured or not: told apart once a connection, while a call through a pointer is next to
/// nothing against what TLS or HTTP/2 do for each.
pub(super) type Stream = Box<dyn Duplex>;

/// Connects, and shakes hands where the connection is to be secure. How long it may take is the caller's affair.
pub(super) async fn dial(peer: &Peer, context: &Context) -> Result<Stream, ErrorClass> {
    let security = context.security.as_ref();
    match peer {
        Peer::Tcp(address) => {
            let stream = TcpStream::connect(address).await.map_err(|error| class_of_connect(&error))?;
            // Frames and records are written when they are complete; nothing is gained by holding them back.
            stream.set_nodelay(true).map_err(|_| ErrorClass::Other)?;
            context.count_opened();
            secured(stream, security).await
        }
        Peer::Unix(path) => {
            let stream = connect_unix(path).await.map_err(|error| class_of_connect(&error))?;
            context.count_opened();
            secured(stream, security).await
        }
    }
}

async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            // Unlike TCP, the kernel does not try again by itself.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(FULL_QUEUE_PAUSE).await;
            }
            connected => return connected,
        }
    }
}

async fn secured(stream: impl Duplex + 'static, security: Option<&Security>) -> Result<Stream, ErrorClass> {
    match security {
        None => Ok(Box::new(stream)),
        Some(security) => Ok(Box::new(security.secure(stream).await?)),
    }
}

fn class_of_connect(error: &io::Error) -> ErrorClass {
    match error.kind() {
        // A Unix socket that is not there is a service that does not listen.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => ErrorClass::Refused,
        io::ErrorKind::TimedOut => ErrorClass::ConnectTimeout,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            ErrorClass::Reset
        }
        _ => ErrorClass::Other,
    }
}
