//! From the URL and the options to what the engine sends to: names are looked up, files read.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use hyper::{Uri, http::uri::Authority};
use tokio::net::TcpStream;

use super::{args::LoadArgs, error::LoadCliError};
use crate::{
    config,
    load::{Lane, Peer, Protocol, Route, Tls, Transport, Trust},
    model::{
        load_report::{AskedTrust, RequestKind},
        request::{Checks, Request, Variables},
    },
};

/// A larger body file is a mistake rather than a request.
const LARGEST_BODY: u64 = 64 << 20;

/// Where a load goes, and what it is made of.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// For the engine.
    pub(super) lane: Lane,
    /// For the engine.
    pub(super) transport: Transport,
    /// The URL, to be shown.
    pub(super) url: String,
    /// What its host was found to be, to be shown.
    pub(super) peers: Vec<String>,
    /// How the server's certificate is judged, to be shown.
    pub(super) trust: Option<AskedTrust>,
    /// What is sent, to be shown.
    pub(super) kinds: Vec<RequestKind>,
}

impl Target {
    /// Looks up and reads everything the load needs.
    ///
    /// # Errors
    /// When the URL is not one to send to, its host is not found or is another machine, or a file cannot be read.
    pub(super) async fn of(args: &LoadArgs) -> Result<Self, LoadCliError> {
        let is_tls = is_tls(&args.url)?;
        let uri: Uri = args.url.parse().map_err(|_| LoadCliError::Url("it is not a URL"))?;
        let authority = uri.authority().ok_or(LoadCliError::Url("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(LoadCliError::Url("it holds a user name or password, which belong in a header"));
        }
        let trust = trust(args, is_tls)?;
        let (requests, variables) = requests(args, &uri, authority).await?;
        let kinds = requests.iter().map(kind).collect();
        let peers = peers(args, authority, if is_tls { 443 } else { 80 }).await?;
        let shown = peers.iter().map(shown).collect();
        let tls = trust.as_ref().map(|trust| Tls {
            server_name: bare(authority.host()).to_owned(),
            trust: match trust {
                AskedTrust::System => Trust::System,
                AskedTrust::File(path) => Trust::File(path.clone()),
                AskedTrust::Anything => Trust::Anything,
            },
        });
        let protocol = if args.transport.http2 { Protocol::Http2 } else { Protocol::Http1 };
        Ok(Self {
            lane: Lane { name: authority.to_string(), routes: vec![Route { peers, requests, variables }] },
            transport: Transport { protocol, tls },
            url: uri.to_string(),
            peers: shown,
            trust,
            kinds,
        })
    }
}

fn is_tls(url: &str) -> Result<bool, LoadCliError> {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    match scheme.as_deref() {
        Some("http") => Ok(false),
        Some("https") => Ok(true),
        Some("ws" | "wss") => Err(LoadCliError::Url(
            "WebSocket is out of scope: a load here is made of HTTP requests, each with an answer",
        )),
        Some("grpc" | "grpcs") => Err(LoadCliError::Url(
            "gRPC is out of scope: a load here is made of HTTP requests, with checks of status, headers and body",
        )),
        Some("http+unix" | "unix") => {
            Err(LoadCliError::Url("a Unix socket is given with --unix-socket PATH"))
        }
        Some(_) => Err(LoadCliError::Url("only http:// and https:// are supported")),
        None => Err(LoadCliError::Url("it does not begin with http:// or https://")),
    }
}

fn trust(args: &LoadArgs, is_tls: bool) -> Result<Option<AskedTrust>, LoadCliError> {
    let transport = &args.transport;
    if !is_tls && (transport.ca.is_some() || transport.insecure) {
        return Err(LoadCliError::option(
            "--ca and --insecure are about certificates, and http:// has none",
            "give the URL as https://, or leave them out",
        ));
    }
    if let Some(path) = &transport.ca {
        std::fs::File::open(path).map_err(|error| {
            LoadCliError::option(
                format!("cannot read --ca {}: {error}", path.display()),
                "give a PEM file with the certificates to trust",
            )
        })?;
    }
    Ok(is_tls.then(|| match &transport.ca {
        Some(path) => AskedTrust::File(path.clone()),
        None if transport.insecure => AskedTrust::Anything,
        None => AskedTrust::System,
    }))
}

async fn requests(
    args: &LoadArgs,
    uri: &Uri,
    authority: &Authority,
) -> Result<(Vec<Request>, Variables), LoadCliError> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let (mut requests, variables) = match &args.request.requests {
        Some(file) => {
            if path != "/" {
                return Err(LoadCliError::option(
                    "with --requests the paths are those of its file, and the URL has one too",
                    "end the URL after host and port",
                ));
            }
            config::requests_file(file)?
        }
        None => (vec![own_request(args, path).await?], Variables::default()),
    };
    for request in &mut requests {
        if !request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request.headers.push(("host".to_owned(), authority.as_str().to_owned()));
        }
    }
    Ok((requests, variables))
}

async fn own_request(args: &LoadArgs, path: &str) -> Result<Request, LoadCliError> {
    let asked = &args.request;
    let method = asked.method.as_deref().unwrap_or("GET").to_ascii_uppercase();
    if method == "CONNECT" {
        return Err(LoadCliError::option(
            "--method cannot be CONNECT",
            "a load sends requests, it opens no tunnels",
        ));
    }
    let body = match &asked.body_file {
        Some(path) => {
            read_body(path).await.map_err(|source| LoadCliError::Body { path: path.clone(), source })?
        }
        None => Vec::new(),
    };
    let status = asked.expect_status.as_ref().map(|list| list.ranges.clone()).unwrap_or_default();
    Ok(Request {
        method,
        path: path.to_owned(),
        headers: asked.headers.iter().map(|text| header(text)).collect::<Result<_, _>>()?,
        body,
        weight: 1,
        checks: Checks { status, ..Checks::default() },
    })
}

/// The text is not repeated in errors: it may be a secret.
fn header(text: &str) -> Result<(String, String), LoadCliError> {
    let pair = text.split_once(':').map(|(name, value)| (name.trim(), value.trim()));
    match pair {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(LoadCliError::option("a --header has no name, or no colon", "give it as 'name: value'")),
    }
}

async fn read_body(path: &Path) -> io::Result<Vec<u8>> {
    use tokio::io::AsyncReadExt as _;
    let file = tokio::fs::File::open(path).await?;
    let mut body = Vec::new();
    let read = file.take(LARGEST_BODY + 1).read_to_end(&mut body).await?;
    if read as u64 > LARGEST_BODY {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 64 MiB"));
    }
    Ok(body)
}

fn kind(request: &Request) -> RequestKind {
    RequestKind { method: request.method.clone(), path: request.path.clone(), weight: request.weight }
}

async fn peers(args: &LoadArgs, authority: &Authority, default_port: u16) -> Result<Vec<Peer>, LoadCliError> {
    if let Some(path) = &args.transport.unix_socket {
        return Ok(vec![Peer::Unix(PathBuf::from(path))]);
    }
    let port = authority.port_u16().unwrap_or(default_port);
    Ok(addresses(args, authority.host(), port).await?.into_iter().map(Peer::Tcp).collect())
}

async fn addresses(args: &LoadArgs, host: &str, port: u16) -> Result<Vec<SocketAddr>, LoadCliError> {
    let not_found = |source| LoadCliError::Resolve { host: host.to_owned(), source };
    let found = tokio::net::lookup_host((bare(host), port)).await.map_err(not_found)?;
    let addresses: Vec<SocketAddr> = found.collect();
    if addresses.is_empty() {
        return Err(not_found(io::Error::new(io::ErrorKind::NotFound, "it has no address")));
    }
    if let Some(address) = addresses.iter().find(|address| !address.ip().is_loopback())
        && !args.transport.allow_remote
    {
        return Err(LoadCliError::Remote { host: host.to_owned(), address: *address });
    }
    if addresses.len() < 2 {
        return Ok(addresses);
    }
    // `localhost` has an address of each family, and many services listen on one of them: as any client would,
    // use those that answer. When none does, that is what the load will show.
    let mut answering = Vec::new();
    for address in &addresses {
        let connecting = tokio::time::timeout(args.transport.timeout, TcpStream::connect(address));
        if let Ok(Ok(_)) = connecting.await {
            answering.push(*address);
        }
    }
    Ok(if answering.is_empty() { addresses } else { answering })
}

/// An IPv6 address is in brackets in a URL, and nowhere else.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn shown(peer: &Peer) -> String {
    match peer {
        Peer::Tcp(address) => address.to_string(),
        Peer::Unix(path) => path.display().to_string(),
    }
}
