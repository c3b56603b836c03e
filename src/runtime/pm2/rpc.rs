//! Calls to the PM2 daemon over its own socket, which cost a hundredth of its command line.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

use super::{
    RUNTIME,
    amp::{self, Argument, FrameError},
};
use crate::runtime::RuntimeError;

/// Each call has a connection of its own, so one identifier serves them all.
const CALL_ID: &str = "1";
/// What an error shows of an answer at most.
const MESSAGE_CHARS: usize = 300;

/// The daemon that listens on one socket.
#[derive(Clone, Debug)]
pub(super) struct Rpc {
    socket: PathBuf,
}

impl Rpc {
    pub(super) fn at(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Calls a method and returns its first result, `null` when it has none.
    pub(super) async fn call(
        &self,
        method: &str,
        argument: Value,
        limit: Duration,
    ) -> Result<Value, RuntimeError> {
        within(method, limit, async {
            let mut stream = self.send(method, argument).await?;
            let mut received = Vec::new();
            loop {
                if let Some((arguments, length)) = amp::decode(&received).map_err(not_understood)? {
                    if let Some(answer) = answer_in(arguments) {
                        return result_of(answer);
                    }
                    received.drain(..length);
                } else if stream.read_buf(&mut received).await.map_err(|e| unreachable(method, e))? == 0 {
                    return Err(unreachable(method, io::ErrorKind::UnexpectedEof.into()));
                }
            }
        })
        .await
    }

    /// Calls a method that never answers.
    pub(super) async fn tell(&self, method: &str, limit: Duration) -> Result<(), RuntimeError> {
        within(method, limit, async { self.send(method, json!({})).await.map(drop) }).await
    }

    /// Calls a method that ends the daemon, and returns once it has closed the connection.
    pub(super) async fn call_to_end(&self, method: &str, limit: Duration) -> Result<(), RuntimeError> {
        within(method, limit, async {
            let mut stream = self.send(method, json!({})).await?;
            let mut ignored = Vec::new();
            // An error is an end, too: the daemon is gone.
            while let Ok(1..) = stream.read_buf(&mut ignored).await {
                ignored.clear();
            }
            Ok(())
        })
        .await
    }

    async fn send(&self, method: &str, argument: Value) -> Result<UnixStream, RuntimeError> {
        let request = json!({"type": "call", "method": method, "args": [argument]});
        let frame = amp::encode(&[Argument::Json(request), Argument::Text(CALL_ID.to_owned())])
            .map_err(not_understood)?;
        let failed = |e| unreachable(method, e);
        let mut stream = UnixStream::connect(&self.socket).await.map_err(failed)?;
        stream.write_all(&frame).await.map_err(failed)?;
        Ok(stream)
    }
}

async fn within<T>(
    method: &str,
    limit: Duration,
    call: impl Future<Output = Result<T, RuntimeError>>,
) -> Result<T, RuntimeError> {
    timeout(limit, call)
        .await
        .unwrap_or_else(|_| Err(RuntimeError::TimedOut { what: format!("the PM2 daemon's {method}"), limit }))
}

/// The body of the answer, when these are the arguments of one to our call.
fn answer_in(arguments: Vec<Argument>) -> Option<Value> {
    let mut arguments = arguments.into_iter();
    match (arguments.next(), arguments.next()) {
        (Some(Argument::Json(body)), Some(Argument::Text(id))) if id == CALL_ID => Some(body),
        _ => None,
    }
}

fn result_of(mut answer: Value) -> Result<Value, RuntimeError> {
    if let Some(error) = answer.get("error") {
        // The stack beside it is of no use to the user.
        let text = error.as_str().map_or_else(|| "an error without a message".to_owned(), str::to_owned);
        return Err(answered(text.chars().take(MESSAGE_CHARS).collect()));
    }
    let results = answer.get_mut("args").and_then(Value::as_array_mut);
    Ok(results.and_then(|results| results.first_mut()).map_or(Value::Null, Value::take))
}

/// The daemon said something else than was expected.
pub(super) fn answered(message: String) -> RuntimeError {
    RuntimeError::Answer { runtime: RUNTIME, message }
}

fn not_understood(error: FrameError) -> RuntimeError {
    answered(error.to_string())
}

fn unreachable(method: &str, source: io::Error) -> RuntimeError {
    RuntimeError::System { action: format!("ask the PM2 daemon for {method}"), source }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    /// A daemon that answers the first call with these frames, a few bytes at a time.
    fn daemon(dir: &Path, frames: Vec<Vec<Argument>>) -> Rpc {
        let socket = dir.join("rpc.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while amp::decode(&request).unwrap().is_none() {
                stream.read_buf(&mut request).await.unwrap();
            }
            for chunk in
                frames.iter().flat_map(|frame| amp::encode(frame).unwrap()).collect::<Vec<_>>().chunks(3)
            {
                stream.write_all(chunk).await.unwrap();
            }
        });
        Rpc::at(&socket)
    }

    fn answer(body: Value, id: &str) -> Vec<Argument> {
        vec![Argument::Json(body), Argument::Text(id.to_owned())]
    }

    #[tokio::test]
    async fn the_answer_to_our_call_is_found_among_others() {
        let dir = tempfile::tempdir().unwrap();
        let frames = vec![
            answer(json!({"args": ["other"]}), "99"),
            answer(json!({"args": [{"msg": "pong"}]}), CALL_ID),
        ];
        let rpc = daemon(dir.path(), frames);
        assert_eq!(rpc.call("ping", json!({}), LIMIT).await.unwrap(), json!({"msg": "pong"}));
    }

    #[tokio::test]
    async fn an_error_carries_its_message_without_the_stack() {
        let dir = tempfile::tempdir().unwrap();
        let rpc =
            daemon(dir.path(), vec![answer(json!({"error": "no such id", "stack": "at secret"}), CALL_ID)]);
        let error = rpc.call("deleteProcessId", json!(3), LIMIT).await.unwrap_err();
        assert_eq!(error.to_string(), "pm2 answered: no such id");
    }

    #[tokio::test]
    async fn a_daemon_that_hangs_up_or_is_absent_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let rpc = daemon(dir.path(), vec![]);
        assert!(matches!(rpc.call("ping", json!({}), LIMIT).await, Err(RuntimeError::System { .. })));
        let nobody = Rpc::at(&dir.path().join("none.sock"));
        assert!(matches!(nobody.call("ping", json!({}), LIMIT).await, Err(RuntimeError::System { .. })));
    }

    #[tokio::test]
    async fn a_daemon_that_never_answers_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("rpc.sock");
        let _deaf = UnixListener::bind(&socket).unwrap();
        let ended = Rpc::at(&socket).call("ping", json!({}), Duration::from_millis(50)).await;
        assert!(matches!(ended, Err(RuntimeError::TimedOut { .. })));
    }
}
