//! The other end of the control socket.

use std::{collections::VecDeque, io, path::Path, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::timeout,
};

use super::{
    SupervisorError,
    control::{Event, Line, Request, Response},
};

/// The longest answer: the status of a thousand instances is some 300 KB.
const ANSWER_MAX_BYTES: u64 = 4 << 20;
/// Events kept while an answer is awaited; the oldest go first.
const EVENTS_KEPT: usize = 1024;

/// A connection to a supervisor.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    events: VecDeque<Event>,
    /// An answer is still owed to an earlier call, so the next one could not be told from it.
    out_of_step: bool,
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(path: &Path) -> Result<Self, SupervisorError> {
        let stream = UnixStream::connect(path).await.map_err(|source| SupervisorError::File {
            action: "connect to",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self { stream: BufReader::new(stream), events: VecDeque::new(), out_of_step: false })
    }

    /// Asks and awaits the answer. After a time-out the connection is of no use any more.
    ///
    /// # Errors
    /// [`SupervisorError::Refused`] with the supervisor's reason, [`SupervisorError::TimedOut`] without an answer
    /// within `limit`, and whatever goes wrong with the connection.
    pub async fn call(&mut self, request: &Request, limit: Duration) -> Result<Response, SupervisorError> {
        if self.out_of_step {
            return Err(SupervisorError::Closed);
        }
        self.out_of_step = true;
        let answer = timeout(limit, self.exchange(request)).await;
        let response = answer.map_err(|_| SupervisorError::TimedOut { limit })??;
        self.out_of_step = false;
        match response {
            Response::Failed(reason) => Err(SupervisorError::Refused(reason)),
            response => Ok(response),
        }
    }

    /// The next event, after [`Request::Subscribe`]. When the future is dropped before it completes, the connection
    /// is of no use any more.
    ///
    /// # Errors
    /// [`SupervisorError::Closed`] when the supervisor has ended, and whatever goes wrong with the connection.
    pub async fn event(&mut self) -> Result<Event, SupervisorError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(event);
        }
        if self.out_of_step {
            return Err(SupervisorError::Closed);
        }
        self.out_of_step = true;
        let line = self.line().await?;
        self.out_of_step = false;
        match line {
            Line::Event(event) => Ok(event),
            Line::Answer(_) => Err(SupervisorError::Garbled("an answer to nothing".to_owned())),
        }
    }

    async fn exchange(&mut self, request: &Request) -> Result<Response, SupervisorError> {
        let mut text = serde_json::to_vec(request).map_err(|e| SupervisorError::Garbled(e.to_string()))?;
        text.push(b'\n');
        self.stream.get_mut().write_all(&text).await.map_err(lost)?;
        loop {
            match self.line().await? {
                Line::Answer(response) => return Ok(response),
                Line::Event(event) => {
                    if self.events.len() == EVENTS_KEPT {
                        self.events.pop_front();
                    }
                    self.events.push_back(event);
                }
            }
        }
    }

    async fn line(&mut self) -> Result<Line, SupervisorError> {
        let mut line = Vec::new();
        (&mut self.stream).take(ANSWER_MAX_BYTES).read_until(b'\n', &mut line).await.map_err(lost)?;
        if line.is_empty() {
            return Err(SupervisorError::Closed);
        }
        serde_json::from_slice(&line).map_err(|e| SupervisorError::Garbled(e.to_string()))
    }
}

fn lost(source: io::Error) -> SupervisorError {
    match source.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => SupervisorError::Closed,
        _ => SupervisorError::System { action: "talk to the supervisor", source },
    }
}
