//! Servers of other people's making, in the process of the test: hyper and h2 over tokio-rustls, with certificates
//! made by rcgen.

use std::{
    future::Future,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Method, Request, Response, Uri,
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

use super::super::dial::Duplex;
use crate::load::{Protocol, Tls, Transport, Trust};

/// A request as a server saw it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// From 0, in the order they were accepted.
    pub(super) connection: usize,
    /// From 0, on its connection.
    pub(super) number: usize,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// What is spoken, and how it is secured; the server's side of [`Transport`].
#[derive(Clone)]
pub(super) struct Kind {
    pub(super) protocol: Protocol,
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// Streams on a connection of HTTP/2.
    pub(super) most_streams: u32,
}

impl Kind {
    pub(super) fn plain_http2() -> Self {
        Self { protocol: Protocol::Http2, tls: None, most_streams: 200 }
    }

    pub(super) fn secure(protocol: Protocol) -> Self {
        let name: &[u8] = if protocol == Protocol::Http2 { b"h2" } else { b"http/1.1" };
        Self { protocol, tls: Some(server_config(&[name])), most_streams: 200 }
    }

    /// How a load has to speak to it.
    pub(super) fn transport(&self) -> Transport {
        let trust = Trust::File(authority_file());
        let tls = self.tls.as_ref().map(|_| Tls { server_name: "localhost".to_owned(), trust });
        Transport { protocol: self.protocol, tls }
    }
}

/// An authority, and a certificate that it signed for `localhost` and 127.0.0.1.
struct Authority {
    folder: TempDir,
    certificate: rcgen::Certificate,
    key: KeyPair,
}

static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("authority.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    Authority { folder, certificate, key }
});

/// Where the authority's own certificate is.
pub(super) fn authority_file() -> PathBuf {
    AUTHORITY.folder.path().join("authority.pem")
}

pub(super) fn server_config(protocols: &[&[u8]]) -> Arc<ServerConfig> {
    let chain = vec![AUTHORITY.certificate.der().clone()];
    let key = PrivateKeyDer::try_from(AUTHORITY.key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// A server that ends when it is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    counts: Arc<Counts>,
    runtime: Option<Runtime>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    requests: AtomicUsize,
    present: AtomicUsize,
    peak: AtomicUsize,
}

type Answering = Pin<Box<dyn Future<Output = Response<Full<Bytes>>> + Send>>;
type Service = Arc<dyn Fn(Seen) -> Answering + Send + Sync>;

impl Server {
    /// Answers by a function.
    pub(super) fn start<F>(kind: Kind, answer: impl Fn(Seen) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let service: Service = Arc::new(move |seen| Box::pin(answer(seen)));
        let counts = Arc::new(Counts::default());
        let held = Arc::clone(&counts);
        Self::accepting(counts, move |stream, number| {
            let (kind, service, counts) = (kind.clone(), Arc::clone(&service), Arc::clone(&held));
            serve(stream, number, kind, service, counts)
        })
    }

    /// Does to each connection whatever `serve` does.
    pub(super) fn raw<F>(serve: impl Fn(TcpStream, usize) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::accepting(Arc::default(), serve)
    }

    fn accepting<F>(
        counts: Arc<Counts>,
        serve: impl Fn(TcpStream, usize) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        // The test has a runtime of its own around it, so that nothing may block on this one.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let held = Arc::clone(&counts);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let number = held.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, number));
            }
        });
        Self { address, counts, runtime: Some(runtime) }
    }

    pub(super) fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    pub(super) fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::SeqCst)
    }

    /// The most requests that it had at once.
    pub(super) fn peak(&self) -> usize {
        self.counts.peak.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(stream: TcpStream, number: usize, kind: Kind, service: Service, counts: Arc<Counts>) {
    match &kind.tls {
        None => speak(stream, number, &kind, service, counts).await,
        Some(config) => {
            // A client that does not trust us is what some tests are about.
            if let Ok(stream) = TlsAcceptor::from(Arc::clone(config)).accept(stream).await {
                speak(stream, number, &kind, service, counts).await;
            }
        }
    }
}

async fn speak(
    stream: impl Duplex + Send + 'static,
    connection: usize,
    kind: &Kind,
    service: Service,
    counts: Arc<Counts>,
) {
    let on_connection = Arc::new(AtomicUsize::new(0));
    let answer = service_fn(move |request: Request<Incoming>| {
        let number = on_connection.fetch_add(1, Ordering::SeqCst);
        let (service, counts) = (Arc::clone(&service), Arc::clone(&counts));
        async move {
            counts.requests.fetch_add(1, Ordering::SeqCst);
            let present = counts.present.fetch_add(1, Ordering::SeqCst) + 1;
            counts.peak.fetch_max(present, Ordering::SeqCst);
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let (method, uri, headers) = (head.method, head.uri, head.headers);
            let answer = service(Seen { connection, number, method, uri, headers, body }).await;
            counts.present.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, hyper::Error>(answer)
        }
    });
    // A connection that breaks is the client's affair.
    let _ = match kind.protocol {
        Protocol::Http1 => {
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await
        }
        Protocol::Http2 => {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .max_concurrent_streams(kind.most_streams)
                .serve_connection(TokioIo::new(stream), answer)
                .await
        }
    };
}

/// The shortest answer.
pub(super) fn ok() -> Response<Full<Bytes>> {
    Response::new(Full::from("ok"))
}
