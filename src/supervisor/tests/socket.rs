//! Clients that do not keep to the rules, and those who come too late.

use std::{fs, future::ready, os::unix::fs::PermissionsExt as _, path::PathBuf};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::timeout,
};

use super::{
    Running,
    desk::{Folder, LIMIT},
    fixture::sleeper,
    supervisor::{SupervisorError, control_socket},
};
use crate::supervisor::{keeper::Replay, vault::Vault, work};

async fn stream(running: &Running) -> BufReader<UnixStream> {
    BufReader::new(UnixStream::connect(socket(running)).await.unwrap())
}

fn socket(running: &Running) -> PathBuf {
    control_socket(&running.folder.home())
}

async fn answer(stream: &mut BufReader<UnixStream>) -> String {
    let mut answer = String::new();
    timeout(LIMIT, stream.read_line(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn garbage_is_answered_and_harms_nobody() {
    let mut running = Running::new().await;
    let spec = sleeper(running.path());
    running.run(vec![spec]).await;
    let mut stream = stream(&running).await;
    let garbage: [&[u8]; 8] = [
        b"\n",
        b"\xff\xfe\n",
        b"{}\n",
        b"\"dance\"\n",
        b"{\"scale\":{\"app\":\"a\",\"instances\":1,\"b\":1}}\n",
        b"{\"scale\":{\"app\":\"a\",\"instances\":-1}}\n",
        b"{\"stop\":{\"id\":99999999999}}\n",
        b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\n",
    ];
    for garbage in garbage {
        stream.get_mut().write_all(garbage).await.unwrap();
        let answer = answer(&mut stream).await;
        assert!(answer.starts_with("{\"answer\":{\"failed\":\"not a request"), "{answer}");
    }
    // Nothing of it is left to be read as part of the next.
    stream.get_mut().write_all(b"\"status\"\n").await.unwrap();
    let told = answer(&mut stream).await;
    assert!(told.starts_with("{\"answer\":{\"status\":["), "{told}");
    running.end().await;
}

#[tokio::test]
async fn a_line_without_an_end_is_refused_at_its_bound() {
    let running = Running::new().await;
    let mut stream = stream(&running).await;
    let (mut read, mut write) = tokio::io::split(stream.get_mut());
    let writing = async {
        // It may be refused, and the connection ended, before all is written.
        let _ = write.write_all(&vec![b'x'; (4 << 20) + 1]).await;
    };
    let reading = async {
        let mut text = String::new();
        let _ = BufReader::new(&mut read).read_line(&mut text).await;
        text
    };
    let (told, ()) = timeout(LIMIT, async { tokio::join!(reading, writing) }).await.unwrap();
    assert!(told.contains("longer than 4194304 bytes"), "{told}");
    running.end().await;
}

#[tokio::test]
async fn half_a_line_and_a_client_that_hangs_keep_nobody_waiting() {
    let mut running = Running::new().await;
    let mut hanging = Vec::new();
    for _ in 0..100 {
        let mut stream = stream(&running).await;
        stream.get_mut().write_all(b"{\"stop\":").await.unwrap();
        hanging.push(stream);
    }
    assert_eq!(running.status().await, []);
    // Some go away in the middle of it; one finishes what it began.
    let mut last = hanging.pop().unwrap();
    drop(hanging);
    last.get_mut().write_all(b"\"all\"}\n").await.unwrap();
    assert_eq!(answer(&mut last).await, "{\"answer\":\"done\"}\n");
    running.end().await;
}

#[tokio::test]
async fn ten_thousand_requests_of_one_client_keep_no_other_waiting() {
    const REQUESTS: usize = 10_000;
    let mut running = Running::new().await;
    let spec = sleeper(running.path());
    let before = running.run(vec![spec]).await;
    let stream = stream(&running).await.into_inner();
    let (read, mut write) = stream.into_split();
    let writing = tokio::spawn(async move {
        write.write_all("\"status\"\n".repeat(REQUESTS).as_bytes()).await.unwrap();
        write
    });
    // Nobody reads the answers yet.
    for _ in 0..20 {
        assert_eq!(running.pids().await, super::desk::pids(&before));
    }
    let mut answers = BufReader::new(read).lines();
    for _ in 0..REQUESTS {
        let line = timeout(LIMIT, answers.next_line()).await.unwrap().unwrap().unwrap();
        assert!(line.starts_with("{\"answer\":{\"status\":["), "{line}");
    }
    writing.await.unwrap();
    running.end().await;
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_is_told_what_it_missed() {
    use super::supervisor::{Event, Request, Select};
    let mut running = Running::new().await;
    let mut spec = sleeper(running.path());
    spec.instances = 20;
    running.run(vec![spec]).await;
    let mut subscriber = running.subscriber().await;
    for _ in 0..60 {
        running.done(Request::Restart(Select::All)).await;
    }
    let missed = |event| matches!(event, Event::Missed(_)).then_some(());
    super::desk::event(&mut subscriber, missed).await;
    running.end().await;
}

#[tokio::test]
async fn the_folder_and_the_socket_are_for_this_user_only() {
    let running = Running::new().await;
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(running.folder.home()), 0o700);
    assert_eq!(mode(socket(&running)), 0o600);
    running.end().await;
}

#[tokio::test]
async fn a_second_supervisor_is_refused_and_a_dead_ones_socket_replaced() {
    let running = Running::new().await;
    let again = work(&running.folder.home(), Vault::none(), Replay::default(), std::future::pending()).await;
    assert!(matches!(again.0, Err(SupervisorError::AlreadyRunning { .. })));
    running.end().await;

    let folder = Folder::new();
    fs::create_dir(folder.home()).unwrap();
    let socket = control_socket(&folder.home());
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    work(&folder.home(), Vault::none(), Replay::default(), ready(())).await.0.map(drop).unwrap();
    assert!(!socket.exists());
}
