//! Whom a load trusts, and what happens when it does not.

use std::{
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{HandshakeKind, RootCertStore, ServerConfig, crypto::ring, server::WebPkiClientVerifier},
};

use super::{
    failed, lane, measure, plan, request,
    server::{Kind, Server, authority_file, ok, server_config},
    ten, willing,
};
use crate::{
    load::{LoadError, Plan, Protocol, Tls, Transport, Trust, run},
    model::{sample::ErrorClass, settings::ConnectionUse},
};

fn trusting(protocol: Protocol, server_name: &str, trust: Trust) -> Transport {
    Transport { protocol, tls: Some(Tls { server_name: server_name.to_owned(), trust }) }
}

/// What becomes of ten requests that cannot be mended.
async fn outcome(address: SocketAddr, transport: Transport) -> Vec<(ErrorClass, u64)> {
    let kind = Kind::secure(transport.protocol);
    failed(&ten(&kind, "POST", address, |plan| Plan { transport, ..plan }).await)
}

const ALL_FAIL: [(ErrorClass, u64); 1] = [(ErrorClass::Tls, 10)];

#[tokio::test]
async fn only_who_is_trusted_is_spoken_to() {
    let folder = tempfile::tempdir().unwrap();
    let stranger = folder.path().join("stranger.pem");
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    // With a note before it and the right one after it, as people put such files together.
    fs::write(&stranger, other.cert.pem()).unwrap();
    let both = folder.path().join("both.pem");
    let right = fs::read_to_string(authority_file()).unwrap();
    fs::write(&both, format!("# ours\n{}\n{right}", other.cert.pem())).unwrap();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let server = willing(&Kind::secure(protocol));
        let to = |name: &str, trust| outcome(server.address, trusting(protocol, name, trust));
        assert_eq!(to("localhost", Trust::File(authority_file())).await, []);
        assert_eq!(to("127.0.0.1", Trust::File(authority_file())).await, []);
        assert_eq!(to("localhost", Trust::File(both.clone())).await, []);
        assert_eq!(to("localhost", Trust::Anything).await, []);
        assert_eq!(to("example.org", Trust::Anything).await, []);
        assert_eq!(to("localhost", Trust::File(stranger.clone())).await, ALL_FAIL);
        assert_eq!(to("example.org", Trust::File(authority_file())).await, ALL_FAIL);
    }
}

#[tokio::test]
async fn the_system_does_not_trust_an_authority_of_our_own() {
    let server = willing(&Kind::secure(Protocol::Http1));
    let transport = trusting(Protocol::Http1, "localhost", Trust::System);
    let kind = Kind::secure(Protocol::Http1);
    let plan = Plan { connections: 1, transport, ..plan(&kind, 100.0, 100) };
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    match run(plan, vec![lane(server.address, request("POST"))], stopped).await {
        Ok(measured) => assert_eq!(failed(&measured.lanes[0]), ALL_FAIL),
        // Containers may have none at all.
        Err(error) => assert!(matches!(error, LoadError::Tls(_)), "{error}"),
    }
}

#[tokio::test]
async fn a_server_that_speaks_something_else_fails_the_handshake() {
    let file = || Trust::File(authority_file());
    let only_http_1 = Kind { tls: Some(server_config(&[b"http/1.1"])), ..Kind::secure(Protocol::Http1) };
    let refusing = willing(&only_http_1);
    assert_eq!(outcome(refusing.address, trusting(Protocol::Http2, "localhost", file())).await, ALL_FAIL);
    let without_names = Kind { tls: Some(server_config(&[])), ..Kind::secure(Protocol::Http1) };
    let ignoring = willing(&without_names);
    assert_eq!(outcome(ignoring.address, trusting(Protocol::Http2, "localhost", file())).await, ALL_FAIL);
    assert_eq!(outcome(ignoring.address, trusting(Protocol::Http1, "localhost", file())).await, []);
    let plain = Server::start(Kind { tls: None, ..Kind::secure(Protocol::Http1) }, |_| async { ok() });
    assert_eq!(outcome(plain.address, trusting(Protocol::Http1, "localhost", file())).await, ALL_FAIL);
}

#[tokio::test]
async fn a_server_that_wants_to_know_us_fails_the_handshake() {
    let mut roots = RootCertStore::empty();
    let own = rcgen::generate_simple_self_signed(vec!["client".to_owned()]).unwrap();
    roots.add(own.cert.der().clone()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let certificate = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![certificate.cert.der().clone()],
            certificate.signing_key.serialize_der().try_into().unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let config = Arc::new(config);
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let server = willing(&Kind { tls: Some(Arc::clone(&config)), ..Kind::secure(protocol) });
        let transport = trusting(protocol, "localhost", Trust::Anything);
        let failed = outcome(server.address, transport).await;
        // Over HTTP/2 we may find the connection reset while we write, and not come to read why.
        let known =
            |class| class == ErrorClass::Tls || (class == ErrorClass::Reset && protocol == Protocol::Http2);
        assert!(failed.iter().all(|(class, _)| known(*class)), "{protocol:?} {failed:?}");
        assert_eq!(failed.iter().map(|(_, count)| count).sum::<u64>(), 10);
    }
}

#[tokio::test]
async fn certificates_that_cannot_be_read_end_a_load_before_it_begins() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.pem");
    let empty = folder.path().join("empty.pem");
    fs::write(&empty, "no certificate").unwrap();
    let broken = folder.path().join("broken.pem");
    fs::write(&broken, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    for (name, path) in [("localhost", missing), ("localhost", empty), ("localhost", broken)] {
        let problem = refused(trusting(Protocol::Http2, name, Trust::File(path.clone()))).await;
        assert!(problem.contains(path.to_str().unwrap()), "{problem}");
    }
    let problem = refused(trusting(Protocol::Http1, "not a name", Trust::Anything)).await;
    assert!(problem.contains("not a name"), "{problem}");
}

async fn refused(transport: Transport) -> String {
    let kind = Kind::secure(Protocol::Http1);
    let plan = Plan { transport, ..plan(&kind, 100.0, 100) };
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    let error = run(plan, vec![lane(address, request("GET"))], stopped).await.unwrap_err();
    assert!(matches!(error, LoadError::Tls(_)), "{error}");
    error.to_string()
}

#[tokio::test]
async fn each_connection_shakes_hands_anew() {
    let kinds_seen = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&kinds_seen);
    let server = Server::raw(move |stream, _| {
        let seen = Arc::clone(&seen);
        async move {
            let acceptor = TlsAcceptor::from(server_config(&[]));
            let mut stream = acceptor.accept(stream).await.unwrap();
            seen.lock().unwrap().push(stream.get_ref().1.handshake_kind().unwrap());
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            let _ = stream.shutdown().await;
        }
    });
    let kind = Kind::secure(Protocol::Http1);
    let plan = Plan { connection_use: ConnectionUse::PerRequest, ..plan(&kind, 100.0, 200) };
    let measured = measure(plan, vec![lane(server.address, request("GET"))]).await;
    assert_eq!(measured.lanes[0].counts.succeeded, 20);
    assert_eq!(measured.connections.opened, 20);
    let seen = kinds_seen.lock().unwrap();
    assert!(seen.iter().all(|kind| matches!(kind, HandshakeKind::Full)), "{seen:?}");
    assert_eq!(seen.len(), 20);
}
