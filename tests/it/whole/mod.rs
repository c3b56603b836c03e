//! On the real Docker Engine and the real PM2.

mod docker_runtime;
mod ecosystem;
mod environment;
mod leftovers;
mod main_job;
mod parity;
mod pm2_runtime;

use std::path::Path;

use crate::support::{copy_tree, has_runtime};

/// The Node workload, ready in a folder; `None` when a runtime it is wanted on is not here.
fn qse_on(runtimes: &[&str]) -> Option<tempfile::TempDir> {
    if !runtimes.iter().all(|runtime| has_runtime(runtime)) {
        return None;
    }
    let folder = crate::support::folder();
    copy_tree(&Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/qse"), folder.path());
    Some(folder)
}
