//! The supervisor on real processes, asked over its socket. Here it works within the test, without a keeper; what the
//! death of its processes does is tested on the real program, in `tests/it/supervisor`.

mod cluster;
mod crashes;
mod desk;
mod ending;
pub(super) mod fixture;
mod lifecycle;
mod output;
mod reload;
mod socket;
mod watching;

use std::ops::{Deref, DerefMut};

use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

use self::desk::{Desk, Folder, LIMIT};
use super::{self as supervisor, Request, SupervisorError, keeper::Replay, vault::Vault, work};

/// A supervisor that works within this test.
struct Running {
    desk: Desk,
    work: JoinHandle<Result<(), SupervisorError>>,
    shutdown: oneshot::Sender<()>,
}

impl Running {
    async fn new() -> Self {
        let folder = Folder::new();
        let home = folder.home();
        let (shutdown, told) = oneshot::channel::<()>();
        let work = tokio::spawn(async move {
            work(&home, Vault::none(), Replay::default(), async { drop(told.await) }).await.0.map(drop)
        });
        Self { desk: Desk::open(folder).await, work, shutdown }
    }

    /// Ends as asked for, and leaves nothing.
    async fn end(mut self) {
        self.desk.done(Request::Shutdown).await;
        timeout(LIMIT, self.work).await.unwrap().unwrap().unwrap();
        assert!(!supervisor::control_socket(&self.desk.folder.home()).exists());
        assert_eq!(self.desk.folder.processes(), [0; 0], "processes are left");
    }
}

impl Deref for Running {
    type Target = Desk;

    fn deref(&self) -> &Desk {
        &self.desk
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Desk {
        &mut self.desk
    }
}
