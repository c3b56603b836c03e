//! Tests on real processes. The apps are this very binary in another role, so nothing has to be installed.

mod limits;
mod plain;
mod reload;
pub(super) mod roles;
mod stage;
mod takeover;
mod transparent;
mod wrapped;
