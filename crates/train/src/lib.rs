//! The training loop over any objective: plan, sampler, step, log, monitor and the state of a checkpoint.
//!
//! **Invariant:** nothing here knows flows or YAML. A step is a function of seed and step number.
#![forbid(unsafe_code)]

mod monitor;
mod nonfinite;
mod plan;
mod sampler;
mod state;
mod step;
pub mod stream;
mod train;

pub use nonfinite::NonfiniteKind;
pub use plan::TrainPlan;
pub use sampler::Sampler;
pub use state::member_in_training;
pub use step::{Outcome, StepReport, StepRunner, arithmetic};
pub use train::{Fetch, Job};
