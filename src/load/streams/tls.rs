//! Whom to trust, and what to offer, when a connection is made secure.

use std::{io, path::Path, sync::Arc};

use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
        client::{
            Resumption,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    },
};

use super::dial::Duplex;
use crate::{
    load::{LoadError, Protocol, Tls, Trust},
    model::sample::ErrorClass,
};

const HTTP_1: &[u8] = b"http/1.1";
const HTTP_2: &[u8] = b"h2";

/// All that is needed to make a connection secure.
pub(super) struct Security {
    connector: TlsConnector,
    server_name: ServerName<'static>,
    protocol: Protocol,
}

impl Security {
    /// Reads the certificates that are trusted.
    pub(super) fn new(tls: &Tls, protocol: Protocol) -> Result<Self, LoadError> {
        let server_name = ServerName::try_from(tls.server_name.clone())
            .map_err(|_| LoadError::Tls(format!("{} is not a server's name or address", tls.server_name)))?;
        let provider = Arc::new(ring::default_provider());
        let versions = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| LoadError::Tls(error.to_string()))?;
        let trusting = match &tls.trust {
            Trust::System => versions.with_root_certificates(of_system()?),
            Trust::File(path) => versions.with_root_certificates(of_file(path)?),
            Trust::Anything => versions
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Unchecked { provider: Arc::clone(&provider) })),
        };
        let mut config = trusting.with_no_client_auth();
        config.alpn_protocols = match protocol {
            Protocol::Http1 => vec![HTTP_1.to_vec()],
            Protocol::Http2 => vec![HTTP_2.to_vec()],
        };
        // Each connection is as dear as that of a new user. With resumption it would depend on the number of threads,
        // and on what was connected before, how many are.
        config.resumption = Resumption::disabled();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), server_name, protocol })
    }

    /// Shakes hands over a connection.
    ///
    /// A reset is the connection's and not the handshake's failure: so ends a service that was killed. Everything else
    /// means that the two do not agree, also when the server just hangs up.
    pub(super) async fn secure<S: Duplex>(&self, stream: S) -> Result<TlsStream<S>, ErrorClass> {
        let secured = self.connector.connect(self.server_name.clone(), stream).await.map_err(|error| {
            match error.kind() {
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => ErrorClass::Reset,
                _ => ErrorClass::Tls,
            }
        })?;
        let agreed = secured.get_ref().1.alpn_protocol();
        // HTTP/1.1 is what is spoken where nothing was agreed.
        let is_right = match self.protocol {
            Protocol::Http1 => agreed.is_none_or(|agreed| agreed == HTTP_1),
            Protocol::Http2 => agreed == Some(HTTP_2),
        };
        if is_right { Ok(secured) } else { Err(ErrorClass::Tls) }
    }
}

fn of_system() -> Result<RootCertStore, LoadError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems have some that are too old to be read; what they signed is then not trusted.
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(roots);
    }
    let problem = found.errors.first().map_or_else(|| "none were found".to_owned(), ToString::to_string);
    Err(LoadError::Tls(format!("the system's certificates cannot be read: {problem}")))
}

fn of_file(path: &Path) -> Result<RootCertStore, LoadError> {
    let wrong = |problem: &dyn std::fmt::Display| {
        LoadError::Tls(format!("the certificates in {} cannot be read: {problem}", path.display()))
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))? {
        let certificate = certificate.map_err(|error| wrong(&error))?;
        roots.add(certificate).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() { Err(wrong(&"there are none in PEM")) } else { Ok(roots) }
}

/// Trusts every certificate, whoever signed it, for whatever name, expired or not, and does not ask for proof that the
/// server has its key. Traffic is encrypted, but to whom is unknown: for services of one's own with certificates of
/// their own, where the load is to be like that of a client that trusts them.
#[derive(Debug)]
struct Unchecked {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
