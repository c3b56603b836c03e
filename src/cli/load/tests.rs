//! The command against small servers of this process.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
};

use clap::Parser;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{LoadArgs, LoadCliError, run};
use crate::{cli::ExitCode, model::sample::LatencyHistogram};

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    load: LoadArgs,
}

fn parsed(line: &[&str]) -> Result<LoadArgs, clap::Error> {
    Line::try_parse_from(["load"].iter().chain(line)).map(|line| line.load)
}

/// Answers `count` connections, one request each, and then listens no more.
fn server(count: usize) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(count) {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    address
}

/// An address at which nobody listens.
fn nobody() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn outcome(line: &[&str]) -> Result<(ExitCode, String), LoadCliError> {
    let (_stop, stopped) = watch::channel(false);
    let mut out = Vec::new();
    let code = run(&parsed(line).unwrap(), stopped, &mut out).await?;
    Ok((code, String::from_utf8(out).unwrap()))
}

async fn error(line: &[&str]) -> LoadCliError {
    outcome(line).await.unwrap_err()
}

#[tokio::test]
async fn the_json_says_what_was_sent_and_its_histogram_decodes() {
    let url = format!("http://{}/x?y=z", server(20));
    let per_request = ["--rate", "200", "--duration", "100ms", "--connection", "per-request"];
    let line: Vec<&str> = [url.as_str(), "--format", "json"].into_iter().chain(per_request).collect();
    let (code, text) = outcome(&line).await.unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, ExitCode::Pass);
    assert_eq!(json["requests"]["offered"], 20);
    assert_eq!(json["requests"]["succeeded"], 20);
    assert_eq!(json["connection_use"], "per-request");
    assert_eq!(json["pacing"]["shape"], json!({ "kind": "constant", "rate_per_second": 200.0 }));
    let sent: u64 =
        json["series"].as_array().unwrap().iter().map(|tick| tick["sent"].as_u64().unwrap()).sum();
    assert_eq!(sent, 20);
    let latency = &json["latency_from_intended_send"];
    let decoded = LatencyHistogram::decode(latency["hdr_v2_ns"].as_str().unwrap()).unwrap();
    assert_eq!(decoded.count(), 20);
    assert_eq!(json!(decoded.quantile(0.5).unwrap().as_secs_f64()), latency["p50_s"]);
}

#[tokio::test]
async fn the_table_names_the_failures() {
    let url = format!("http://{}/", nobody());
    let (code, text) = outcome(&[&url, "--rate", "100", "--duration", "50ms"]).await.unwrap();
    assert_eq!(code, ExitCode::Pass, "nothing was wanted");
    assert!(text.contains("0 succeeded, 5 failed"), "{text}");
    assert!(text.contains("5 refused") && text.contains("5 failed after one"), "{text}");
    let latency = text.lines().find(|line| line.starts_with("latency  ")).unwrap();
    assert!(latency.contains('–'), "nothing counted is no figure: {latency}");
}

#[tokio::test]
async fn thresholds_decide_the_exit_code() {
    let load = ["--rate", "100", "--duration", "100ms", "--connection", "per-request", "--lag-limit", "10s"];
    let table: [(&[&str], ExitCode); 4] = [
        (&["p99<5s", "errors<=0"], ExitCode::Pass),
        (&["p99<5s", "throughput>=1000000/s"], ExitCode::Fail),
        (&["errors<=0"], ExitCode::Pass),
        (&["p50<1us"], ExitCode::Fail),
    ];
    for (thresholds, expected) in table {
        let url = format!("http://{}/", server(10));
        let mut line: Vec<&str> = [url.as_str()].into_iter().chain(load).collect();
        for threshold in thresholds {
            line.extend(["--threshold", threshold]);
        }
        let (code, text) = outcome(&line).await.unwrap();
        // On a machine so busy that the load did not get a core, it says that instead.
        assert!(code == expected || code == ExitCode::Invalid && text.contains("DISTURBED"), "{text}");
    }
    let url = format!("http://{}/", nobody());
    let unanswered: Vec<&str> = [url.as_str(), "--threshold", "p99<5s"].into_iter().chain(load).collect();
    let (code, text) = outcome(&unanswered).await.unwrap();
    assert!(text.contains("NOT MEASURED"), "{text}");
    assert!(matches!(code, ExitCode::Inconclusive | ExitCode::Invalid), "{code:?}");
}

#[tokio::test]
async fn a_load_that_was_itself_late_decides_nothing() {
    let url = format!("http://{}/", server(20));
    let load = ["--rate", "200", "--duration", "100ms", "--connection", "per-request"];
    // Sleeping to the microsecond is not to be had.
    let late = ["--precision", "eco", "--lag-limit", "1us", "--threshold", "p99<5s"];
    let (code, text) = outcome(&[&[url.as_str()], &load[..], &late[..]].concat()).await.unwrap();
    assert_eq!(code, ExitCode::Invalid, "{text}");
    assert!(text.contains("DISTURBED") && text.contains("INVALID"), "{text}");
}

#[tokio::test]
async fn over_a_unix_socket_the_host_is_only_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let serving = std::thread::spawn(move || {
        let mut heads = Vec::new();
        for stream in listener.incoming().take(3) {
            let mut stream = stream.unwrap();
            let mut head = [0; 4096];
            let read = stream.read(&mut head).unwrap();
            heads.push(String::from_utf8_lossy(&head[..read]).into_owned());
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
        }
        heads
    });
    let load = ["--rate", "30", "--duration", "100ms", "--connection", "per-request"];
    let socket = ["http://app.invalid/x", "--unix-socket", path.to_str().unwrap()];
    let (_, text) = outcome(&[&socket[..], &load[..]].concat()).await.unwrap();
    assert!(text.contains("3 succeeded, 0 failed"), "{text}");
    for head in serving.join().unwrap() {
        assert!(head.starts_with("GET /x HTTP/1.1\r\n") && head.contains("app.invalid"), "{head}");
    }
}

#[tokio::test]
async fn an_interrupted_load_prints_what_it_measured() {
    let url = format!("http://{}/", server(1000));
    let (stop, stopped) = watch::channel(false);
    let args = parsed(&[&url, "--rate", "100", "--duration", "60s", "--connection", "per-request"]).unwrap();
    let mut out = Vec::new();
    let stopping = async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        stop.send_replace(true);
    };
    let (code, ()) = tokio::join!(run(&args, stopped, &mut out), stopping);
    assert_eq!(code.unwrap(), ExitCode::Interrupted);
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("stopped early: 60.00s were asked for"), "{text}");
    assert!(text.contains("succeeded/s"), "{text}");
}

#[tokio::test]
async fn both_files_hold_every_latency() {
    let folder = tempfile::tempdir().unwrap();
    let (log, hgrm) = (folder.path().join("a.hlog"), folder.path().join("a.hgrm"));
    let url = format!("http://{}/", server(20));
    let files = ["--hdr-log", log.to_str().unwrap(), "--hgrm", hgrm.to_str().unwrap()];
    let load = [url.as_str(), "--rate", "200", "--duration", "100ms", "--connection", "per-request"];
    outcome(&[&load[..], &files[..]].concat()).await.unwrap();
    let log = std::fs::read_to_string(log).unwrap();
    let logged: u64 = log
        .lines()
        .filter_map(|line| line.rsplit(',').next().filter(|last| last.starts_with("HISTF")))
        .map(|last| LatencyHistogram::decode(last).unwrap().count())
        .sum();
    assert_eq!(logged, 20, "{log}");
    let hgrm = std::fs::read_to_string(hgrm).unwrap();
    assert!(hgrm.contains("Total count    =           20]"), "{hgrm}");
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_found_before_the_load() {
    let url = format!("http://{}/", nobody());
    let failed = error(&[&url, "--hdr-log", "/nonexistent/a.hlog"]).await;
    assert!(matches!(failed, LoadCliError::File { .. }) && !failed.is_usage(), "{failed}");
}

#[tokio::test]
async fn other_machines_need_leave() {
    // An address kept for documentation, and a name that needs no name server.
    let error = error(&["http://192.0.2.1/"]).await;
    assert!(matches!(error, LoadCliError::Remote { .. }) && error.is_usage());
    assert!(error.hint().unwrap().contains("--allow-remote"));
}

#[tokio::test]
async fn a_name_without_an_address_is_of_the_environment() {
    // RFC 6761: there is nothing under `invalid`.
    let error = error(&["http://qbench.invalid/"]).await;
    assert!(error.to_string().contains("(dns)") && !error.is_usage(), "{error}");
}

#[tokio::test]
async fn bad_urls_and_files_are_told_apart() {
    let urls = [
        ("127.0.0.1:80", "http://"),
        ("/path", "http://"),
        ("ftp://127.0.0.1/", "only http"),
        ("http://", "not a URL"),
        ("http://me:secret@127.0.0.1/", "password"),
        ("http://me:secret@127.0.0.1:x/", "password"),
        ("ws://127.0.0.1/", "WebSocket is out of scope"),
        ("WSS://127.0.0.1/", "WebSocket is out of scope"),
        ("grpc://127.0.0.1/", "gRPC is out of scope"),
        ("http+unix:///run/x.sock", "--unix-socket"),
    ];
    for (url, words) in urls {
        let error = error(&[url]).await;
        assert!(matches!(error, LoadCliError::Url(_)) && error.is_usage(), "{url}: {error}");
        assert!(error.to_string().contains(words), "{url}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    let missing = error(&["http://127.0.0.1:9/", "--body-file", "/nonexistent"]).await;
    assert!(matches!(missing, LoadCliError::Body { .. }) && missing.is_usage());
    let missing = error(&["http://127.0.0.1:9/", "--requests", "/nonexistent"]).await;
    assert!(matches!(missing, LoadCliError::Requests(_)) && missing.is_usage());
}

#[tokio::test]
async fn options_that_make_no_sense_together_are_refused() {
    let lines: [&[&str]; 6] = [
        &["https://127.0.0.1:9/", "--ca", "/nonexistent.pem"],
        &["http://127.0.0.1:9/", "--insecure"],
        &["http://127.0.0.1:9/", "--ca", "ca.pem"],
        &["http://127.0.0.1:9/x", "--requests", "requests.toml"],
        &["http://127.0.0.1:9/", "--rate", "ramp:1..2/10s", "--duration", "5s"],
        &["http://127.0.0.1:9/", "--rate", "ramp:1..2/10s", "--find-max", "p99<1s"],
    ];
    for line in lines {
        let error = error(line).await;
        assert!(matches!(error, LoadCliError::Option { .. }) && error.is_usage(), "{line:?}: {error}");
        assert!(error.hint().is_some(), "{line:?}");
    }
    let lines: [&[&str]; 8] = [
        &["--closed", "--rate", "5"],
        &["--closed", "--poisson"],
        &["--think-time", "1s"],
        &["--seed", "1"],
        &["--requests", "x", "--method", "GET"],
        &["--requests", "x", "--expect-status", "200"],
        &["--find-max", "p99<1s", "--threshold", "p99<1s"],
        &["--ca", "x", "--insecure"],
    ];
    for line in lines {
        let line = [&["http://127.0.0.1:9/"], line].concat();
        assert!(parsed(&line).is_err(), "{line:?}");
    }
}

#[tokio::test]
async fn a_header_is_not_repeated_when_it_is_wrong() {
    for header in ["secret", ": secret"] {
        let error = error(&["http://127.0.0.1:9/", "--header", header]).await;
        assert!(error.is_usage() && !error.to_string().contains("secret"), "{error}");
    }
}

#[test]
fn arguments_need_their_units_and_names() {
    let args = parsed(&["http://[::1]:80/", "--expect-status", "200-299,404"]).unwrap();
    let expected = args.request.expect_status.unwrap();
    assert_eq!(expected.ranges, [200..=299, 404..=404]);
    assert_eq!(parsed(&["http://[::1]:80/", "--cores", "0,1"]).unwrap().client.cores, [0, 1]);
    for bad in [
        ["--duration", "10"],
        ["--rate", "NaN"],
        ["--rate", "0"],
        ["--connections", "0"],
        ["--threads", "0"],
        ["--cores", "x"],
        ["--expect-status", "299-200"],
        ["--expect-status", "20"],
        ["--expect-status", "200,"],
        ["--threshold", "p99"],
        ["--find-max", "p50<1s"],
        ["--precision", "good"],
    ] {
        assert!(parsed(&["http://127.0.0.1/", bad[0], bad[1]]).is_err(), "{bad:?}");
    }
}
