//! Clusters of real Node processes. `QBENCH_NODES` lists the binaries of the versions to try, separated by colons;
//! without it, the `node` of the PATH is tried. `QBENCH_RELOADS` is how often both workers are replaced under load.

mod clients;
mod deaths;
mod driver;
mod places;
mod protocol;
mod reloads;
mod shim;
