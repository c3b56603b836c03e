//! The built-in supervisor as it is: keeper and brain, processes of the real program. What it does for apps is tested
//! beside its code; here its own processes die, and nothing of that may be noticed.

mod brain_death;
mod keeper_death;
mod lines;
mod modes;
mod reload;
mod upgrade;

#[path = "../../../src/supervisor/tests/desk.rs"]
mod desk;
#[path = "../../../src/supervisor/tests/fixture.rs"]
mod fixture;

use std::{
    fs::OpenOptions,
    ops::{Deref, DerefMut},
    process::{Child, Command, Stdio},
};

use qbench::supervisor;
use rustix::process::{Pid, Signal, kill_process};

use self::{
    desk::{Desk, Folder, eventually, exists, kill},
    fixture::MARK,
    supervisor::{Identity, Request, Response, arguments, control_socket},
};

/// A supervisor of the real program.
struct Supervisor {
    desk: Desk,
    keeper: Child,
}

impl Supervisor {
    async fn new() -> Self {
        let folder = Folder::new();
        let log =
            OpenOptions::new().create(true).append(true).open(folder.path().join("supervisor.log")).unwrap();
        let keeper = Command::new(env!("CARGO_BIN_EXE_qbench"))
            .args(arguments(&folder.home()))
            .env(MARK, folder.path())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { desk: Desk::open(folder).await, keeper }
    }

    /// Who answers now. One whose predecessor was just killed may take a moment.
    async fn identity(&mut self) -> Identity {
        loop {
            match self.ask(Request::Identify).await {
                Ok(Response::Identity(identity)) => return identity,
                Ok(other) => panic!("{other:?}"),
                Err(_) => self.desk.client = self.desk.other().await,
            }
        }
    }

    async fn kill_brain(&mut self) {
        let before = self.identity().await;
        kill(before.brain);
        self.until_replaced(before).await;
    }

    /// The brain becomes the keeper, and starts another brain.
    async fn kill_keeper(&mut self) {
        let before = self.identity().await;
        kill(before.keeper);
        let after = self.until_replaced(before.clone()).await;
        assert_eq!(after.keeper, before.brain);
        // The first keeper is this process's child.
        let _ = self.keeper.try_wait();
    }

    async fn until_replaced(&mut self, before: Identity) -> Identity {
        loop {
            let now = self.identity().await;
            if now.brain != before.brain {
                return now;
            }
        }
    }

    /// Sends SIGTERM to the keeper.
    async fn terminate(&mut self) {
        let keeper = self.identity().await.keeper;
        kill_process(Pid::from_raw(keeper.cast_signed()).unwrap(), Signal::TERM).unwrap();
        self.until_gone(keeper).await;
    }

    /// Ends as asked for, and leaves nothing.
    async fn end(mut self) {
        let keeper = self.identity().await.keeper;
        self.done(Request::Shutdown).await;
        self.until_gone(keeper).await;
    }

    async fn until_gone(&mut self, keeper: u32) {
        let child = &mut self.keeper;
        eventually("the end of the keeper", || {
            let _ = child.try_wait();
            !exists(keeper)
        })
        .await;
        assert!(!control_socket(&self.desk.folder.home()).exists());
        let said = self.desk.folder.read("supervisor.log");
        assert_eq!(self.desk.folder.processes(), [0; 0], "{said}");
        // It warns of apps, and has nothing to say of itself.
        assert!(said.lines().all(|line| line.starts_with("app: ")), "{said}");
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // The folder, which is dropped after this, kills whatever else there is.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

impl Deref for Supervisor {
    type Target = Desk;

    fn deref(&self) -> &Desk {
        &self.desk
    }
}

impl DerefMut for Supervisor {
    fn deref_mut(&mut self) -> &mut Desk {
        &mut self.desk
    }
}
