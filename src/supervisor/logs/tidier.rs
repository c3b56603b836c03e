//! Runs [`tidy`] in the background: one thread of the lowest priority, which exists while there is work and a little
//! longer, since one rotation seldom comes alone.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};

use rustix::process::setpriority_process;

use super::{Rotate, rotation::tidy};

const LOWEST_PRIORITY: i32 = 19;
/// How long the thread waits for more.
const LINGER: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Work {
    /// Each file once at most.
    waiting: VecDeque<(PathBuf, Rotate)>,
    running: bool,
}

#[derive(Default)]
struct Shared {
    work: Mutex<Work>,
    more: Condvar,
    stop: AtomicBool,
}

#[derive(Default)]
pub(super) struct Tidier {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Tidier {
    /// Has the rotated files of a log seen to.
    pub(super) fn add(&mut self, path: PathBuf, rotate: Rotate) {
        let mut work = self.shared.work.lock().unwrap_or_else(PoisonError::into_inner);
        work.waiting.retain(|(waiting, _)| *waiting != path);
        work.waiting.push_back((path, rotate));
        if work.running {
            self.shared.more.notify_one();
            return;
        }
        let shared = Arc::clone(&self.shared);
        if let Ok(thread) = Builder::new().name("log-gzip".to_owned()).spawn(move || run(&shared)) {
            // A thread that ran before has nothing left to do but to return.
            self.thread = Some(thread);
            work.running = true;
        }
    }

    /// Gives up what is not done; the next start finds it.
    pub(super) fn stop(&mut self) {
        {
            // Under the lock, so that it is not about to wait without having seen this.
            let _work = self.shared.work.lock();
            self.shared.stop.store(true, Ordering::Relaxed);
        }
        self.shared.more.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared) {
    // Of this thread only; where it is refused, compression competes like anything else.
    let _ = setpriority_process(None, LOWEST_PRIORITY);
    loop {
        let next = {
            let work = shared.work.lock().unwrap_or_else(PoisonError::into_inner);
            let idle = |work: &mut Work| work.waiting.is_empty() && !shared.stop.load(Ordering::Relaxed);
            let waited = shared.more.wait_timeout_while(work, LINGER, idle);
            let (mut work, _) = waited.unwrap_or_else(PoisonError::into_inner);
            let next = work.waiting.pop_front().filter(|_| !shared.stop.load(Ordering::Relaxed));
            work.running = next.is_some();
            next
        };
        let Some((path, rotate)) = next else { return };
        // A full disk is the usual reason to fail; the next rotation or start tries again.
        let _ = tidy(&path, &rotate, &shared.stop);
    }
}
