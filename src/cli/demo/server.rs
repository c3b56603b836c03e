//! Connections in, answers out, and the graceful stop.

use std::{convert::Infallible, future::Future, pin::pin, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{log, service::Service};

/// What is in flight at a stop may take this long.
const STOP_LIMIT: Duration = Duration::from_secs(1);
/// After an accept that failed, which is mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Serves until `stop`, then finishes what is in flight.
pub(super) async fn serve(listener: TcpListener, service: Service, stop: impl Future<Output = ()>) {
    let service = Arc::new(service);
    let (stopping, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, Arc::clone(&service), stopped.clone()));
                }
                Err(error) => {
                    log(&format!("cannot accept: {error}"));
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            // Reaped as they end, so that the set does not grow with every connection ever made.
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    drop(stopping);
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(STOP_LIMIT, all).await.is_err() {
        log("requests were still in flight at the end");
    }
}

async fn converse(stream: TcpStream, service: Arc<Service>, mut stopped: watch::Receiver<()>) {
    let _ = stream.set_nodelay(true);
    let answer = service_fn(move |request| answer(Arc::clone(&service), request));
    let mut connection = pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
    // A connection that the client cut off is the client's business, so how it ended is not looked at.
    tokio::select! {
        _ = connection.as_mut() => return,
        // The sender is dropped at the stop: the change is that there will be no more of them.
        _ = stopped.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn answer(
    service: Arc<Service>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, value) = service.answer(request).await;
    let mut response = Response::new(Full::new(Bytes::from(format!("{value}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::oneshot,
    };

    use super::*;
    use crate::cli::demo::{Role, Settings};

    async fn send(stream: &mut TcpStream, line: &str) {
        stream.write_all(format!("{line} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    }

    #[tokio::test]
    async fn a_stop_finishes_what_is_in_flight_and_ends_idle_connections() {
        let read = |name: &str| (name == "QBENCH_DEMO_KNOBS").then(|| "1".to_owned());
        let service = Service::new(&Settings::read(Role::Front, read).unwrap());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, service, async {
            let _ = stopped.await;
        }));

        let mut idle = TcpStream::connect(address).await.unwrap();
        send(&mut idle, "POST /knobs/delay?ms=200").await;
        let mut first = [0; 12];
        idle.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");

        let mut busy = TcpStream::connect(address).await.unwrap();
        send(&mut busy, "GET /health").await;
        // An answer on a third connection, made later, shows that the server has read the request above.
        let mut third = TcpStream::connect(address).await.unwrap();
        send(&mut third, "POST /knobs/leak?mb=0").await;
        third.read_exact(&mut first).await.unwrap();
        stop.send(()).unwrap();

        let mut answer = String::new();
        busy.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        idle.read_to_end(&mut Vec::new()).await.unwrap();
        server.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
