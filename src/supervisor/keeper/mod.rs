//! The keeper: a small process that outlives the brain, so that the death of the brain loses nothing.
//!
//! Theory of operation. The keeper ([`run`]) starts the brain with one end of a socket pair and waits. The brain
//! ([`Store`]) gives it a copy of every descriptor and a note of every fact that must survive, *before* they matter. When
//! the brain dies, the keeper reads what is still in the socket, starts another brain and replays everything to it. It
//! is the child subreaper, so the children of the dead brain become its own; it reports their exits.
//!
//! * **Durability.** A call of the store that returned `Ok` is in the keeper's queue, and the keeper empties the queue of
//!   a dead brain before it starts the next.
//! * **Exits.** Each has a serial. It is told once to each brain (within the replay, or as news after it) until a brain
//!   has *acknowledged* it, which it does after it has acted upon it; at most 4096 wait. The exits of the brain's own
//!   children are the brain's to wait for, while it lives. Orphans of unknown descent are reported too.
//! * **The keeper's death.** The brain has a mirror of what it gave. On [`News::Gone`] it turns itself into the keeper, by
//!   exec, so that its children stay children; the new keeper gets the mirror and starts a new brain. Children that the
//!   dead keeper had adopted go to init: their pidfds still tell that they ended, but not how (Linux 6.15 tells it by
//!   `PIDFD_GET_INFO`). What had not been replayed yet to a brain, and everything while there is none, dies with the
//!   keeper, which is why the OOM killer is asked to spare it.
//! * **Upgrade.** After [`Store::program`] and the brain's exit the next brain is of the new program; once that has its
//!   replay, the keeper executes the new program in place, its brain none the wiser. If it fails there, it has a brain
//!   that takes over. If three of the new brains fail before, the old program is back.
//! * **End.** [`Store::end`], then the brain's exit. Without it a brain that exits, with whatever status, is started
//!   again. SIGTERM, SIGINT and SIGHUP of the keeper are passed on as SIGTERM to the brain once it has its replay.
//!
//! What a brain does, in this order: [`Store::from_env`]; its handler of SIGTERM; [`Store::replay`];
//! [`Origin::restore_oom_score`], before it starts a child; then its work, with [`Store::receive`] until `None` whenever
//! the socket is readable. One that must not be started again, say because its configuration is wrong, calls
//! [`Store::end`] before it exits. It gives each app the soft limit of open files of [`Origin`] and none of
//! [`VARIABLES`].
//!
//! Deliberately absent: threads, a runtime, any knowledge of what the names and notes mean, and any killing: the keeper
//! sends no signal but that SIGTERM.

mod channel;
mod limits;
mod manifest;
mod outbound;
mod process;
mod shelf;
mod start;
mod store;
mod succession;
mod sys;
mod wire;

pub(super) use self::{
    manifest::inherited_manifest,
    process::{Start, run},
    start::own_program,
    store::{Error, News, Replay, Store},
    succession::Pace,
    wire::Exit,
};

/// Where the brain finds the number of its end of the socket.
pub(super) const FD_VARIABLE: &str = "QBENCH_KEEPER_FD";
/// Where a keeper finds the number of the manifest of the keeper it took over from.
pub(super) const MANIFEST_VARIABLE: &str = "QBENCH_KEEPER_MANIFEST";
/// What no child of the brain shall have in its environment.
pub(super) const VARIABLES: [&str; 2] = [FD_VARIABLE, MANIFEST_VARIABLE];
