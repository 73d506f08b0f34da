//! The training loop over any objective: which rows a step takes, the step itself, what is logged, watched and kept.
//!
//! **Invariant:** nothing here knows flows or YAML. A step is a function of seed and step number.
#![forbid(unsafe_code)]

mod monitor;
mod nonfinite;
mod part;
mod plan;
mod sampler;
mod state;
mod step;
pub mod stream;
mod train;

pub use nonfinite::What;
pub use part::{OfStep, Part};
pub use plan::Plan;
pub use sampler::Sampler;
pub use state::member_in_training;
pub use step::{Outcome, Taken, Trainer, arithmetic};
pub use train::Job;
