//! A trained run as a library: what programs embed that give verdicts on flows.
//!
//! **Invariant:** nothing here trains or writes a run folder.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use nids_detect::Detector;
//! use nids_flows::{ReadOptions, read};
//! use nids_store::Run;
//!
//! let detector = Detector::open(&Run::open("runs/unsw-nb15".as_ref())?)?;
//! let flows = read("flows.csv".as_ref(), detector.schema(), &ReadOptions::default())?;
//! for (id, verdict) in flows.ids().iter().zip(detector.score(&flows)?) {
//!     println!("{id}: {:.6}{}", verdict.probability, if verdict.is_attack { ", attack" } else { "" });
//! }
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

pub mod anomaly;
mod autoencoder;
pub mod background;
mod batches;
mod classifier;
mod committee;
mod detector;
pub mod engine;
mod head_tensors;
mod model;
mod network;
pub mod operation;
pub mod profile;
pub mod read;
pub mod reasons;
mod session;
pub mod verdicts;
pub mod watch;
mod weights_file;

use nids_config::Stage;

pub use autoencoder::Autoencoder;
pub use batches::{Judge, ReadSummary, batch_rows, each_batch};
pub use classifier::{Network, wants_classes};
pub use committee::{Basis, Committee, feature_values, log_odds};
#[doc(hidden)]
pub use detector::parameters;
pub use detector::{Detector, Scored, Verdict};
pub use model::Model;
pub use network::{LatentEncoder, features, mixer, targets};
pub use session::{LatentSession, Session};
pub use weights_file::{WeightsFile, model_bytes};

/// What to do about an artefact of `stage` that cannot be used.
pub fn again(stage: Stage) -> String {
    format!("run `nids-mixer {stage}` again")
}

/// So many of the rows at equal distances, if there are more.
pub fn at_equal_distances(rows: &[u32], most: usize) -> Vec<u32> {
    let n = rows.len().min(most);
    (0..n).map(|place| rows[place * rows.len() / n]).collect()
}
