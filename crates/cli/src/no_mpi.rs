//! In place of `mpi.rs` in a build without the feature `mpi`: there is no world of several processes.

use std::sync::Arc;

use nids_nn::peers::Peers;
use nids_store::{Error, Result};

use crate::processes::Launch;

pub(crate) enum World {}

impl World {
    pub(crate) fn join(launch: Launch) -> Result<Self> {
        Err(Error::Usage(format!(
            "{} processes were started, but this build has no MPI, so each would do the whole work: start one, or build with \
             `make mpi`",
            launch.size
        )))
    }

    pub(crate) fn peers(&self) -> Arc<dyn Peers> {
        match *self {}
    }

    pub(crate) fn leave(self) {
        match self {}
    }

    pub(crate) fn abort(&self, _code: u8) -> ! {
        match *self {}
    }
}
