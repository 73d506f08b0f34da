//! The training loop over any objective: which rows a step takes, the step itself, what is logged, watched and kept.
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
pub use train::Job;
