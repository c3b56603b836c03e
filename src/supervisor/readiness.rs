//! Asking a starting process whether it is ready: an HTTP 200, never a mere connect.

use std::{net::Ipv4Addr, pin::pin, time::Duration};

use http_body_util::Empty;
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1::handshake, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

/// The pause between questions while the process is expected to come up.
const PAUSE: Duration = Duration::from_millis(10);
/// The pause once it is overdue, so that a process that never answers costs little.
const PAUSE_OVERDUE: Duration = Duration::from_millis(250);
/// The most one question may take. A process that accepts and then stalls is asked again.
const QUESTION_LIMIT: Duration = Duration::from_secs(2);

/// Completes once `GET path` answers 200; asks less often after `listen_timeout`.
pub(super) async fn ready(port: u16, path: &str, listen_timeout: Duration) {
    let began = Instant::now();
    loop {
        if let Ok(Some(StatusCode::OK)) = timeout(QUESTION_LIMIT, ask(port, path)).await {
            return;
        }
        sleep(if began.elapsed() < listen_timeout { PAUSE } else { PAUSE_OVERDUE }).await;
    }
}

/// Whether `GET path` answers 200 within `limit`.
pub(super) async fn answers(port: u16, path: &str, limit: Duration) -> bool {
    matches!(timeout(limit, ask(port, path)).await, Ok(Some(StatusCode::OK)))
}

async fn ask(port: u16, path: &str) -> Option<StatusCode> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
    let request =
        Request::get(path).header(HOST, format!("127.0.0.1:{port}")).body(Empty::<Bytes>::new()).ok()?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
    let mut answer = pin!(sender.send_request(request));
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // A server that closes at once may end the connection in the very poll that delivered its answer.
        _ = connection => answer.await,
    };
    answer.ok().map(|answer| answer.status())
}
