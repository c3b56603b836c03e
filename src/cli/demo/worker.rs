//! The background worker: asks the other two how they are and logs what changed.

use std::{future::Future, io, pin::pin, time::Duration};

use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, StatusCode, Uri, body::Bytes, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{DemoError, log};

const PERIOD: Duration = Duration::from_secs(1);
/// Less than the period, so that checks never overlap.
const LIMIT: Duration = Duration::from_millis(450);

/// A service to look after.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    name: &'static str,
    host: String,
    port: u16,
}

impl Watched {
    /// From the URL in `variable`; without one, the port on loopback that the ecosystem file gives it.
    pub(super) fn new(
        name: &'static str,
        variable: &'static str,
        url: Option<String>,
        default_port: u16,
    ) -> Result<Self, DemoError> {
        let Some(url) = url else {
            return Ok(Self { name, host: "127.0.0.1".to_owned(), port: default_port });
        };
        let refused =
            || DemoError::Variable { name: variable, expected: "a URL such as http://127.0.0.1:3000" };
        let uri: Uri = url.parse().map_err(|_| refused())?;
        let host = uri.host().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(refused)?;
        Ok(Self { name, host: host.to_owned(), port: uri.port_u16().unwrap_or(80) })
    }
}

/// Checks each second until `stop`.
pub(super) async fn watch(watched: &[Watched], stop: impl Future<Output = ()>) {
    let mut stop = pin!(stop);
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut states = vec!["unknown".to_owned(); watched.len()];
    loop {
        tokio::select! {
            () = &mut stop => return,
            _ = ticks.tick() => {}
        }
        for (service, state) in watched.iter().zip(&mut states) {
            let now = tokio::select! {
                () = &mut stop => return,
                now = check(service) => now,
            };
            if now != *state {
                log(&format!("worker: {}: {state} -> {now}", service.name));
                *state = now;
            }
        }
    }
}

async fn check(service: &Watched) -> String {
    match timeout(LIMIT, health(service)).await {
        Ok(Ok(StatusCode::OK)) => "up".to_owned(),
        Ok(Ok(status)) => format!("status {}", status.as_u16()),
        Ok(Err(_)) | Err(_) => "down".to_owned(),
    }
}

/// On a connection of its own: a kept one would not notice that new ones are refused.
async fn health(service: &Watched) -> io::Result<StatusCode> {
    let stream = TcpStream::connect((service.host.as_str(), service.port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = Request::get("/health")
        .header(HOST, format!("{}:{}", service.host, service.port))
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        answer.into_body().collect().await?;
        Ok::<_, hyper::Error>(status)
    };
    // The connection only moves while it is polled beside the exchange; it ends no earlier than the exchange.
    let mut connection = pin!(connection);
    let mut exchange = pin!(exchange);
    tokio::select! {
        status = &mut exchange => status.map_err(io::Error::other),
        ended = &mut connection => match ended {
            Ok(()) => exchange.await.map_err(io::Error::other),
            Err(error) => Err(io::Error::other(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    async fn answering(with: &'static [u8]) -> Watched {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(with).await.unwrap();
        });
        Watched::new("front", "FRONT_URL", Some(format!("http://127.0.0.1:{port}")), 1).unwrap()
    }

    #[tokio::test]
    async fn states_are_told_apart() {
        assert_eq!(check(&answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await).await, "up");
        assert_eq!(check(&answering(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok").await).await, "up");
        assert_eq!(
            check(&answering(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").await).await,
            "status 503"
        );
        assert_eq!(check(&answering(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok").await).await, "down");
        assert_eq!(check(&answering(b"").await).await, "down");
        let nobody = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap().port();
        let gone = Watched { name: "front", host: "127.0.0.1".to_owned(), port: nobody };
        assert_eq!(check(&gone).await, "down");
    }
}
