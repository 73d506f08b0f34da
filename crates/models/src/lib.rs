//! The MLP-Mixer, the masked and the variational autoencoder over feature tokens: layers put
//! together, one file each, to be read beside the paper. Nothing here knows a data set or a stage.
#![forbid(unsafe_code)]
#![allow(
    clippy::needless_pass_by_value,
    reason = "tensors and caches are moved in, so that they are used once and may be overwritten"
)]
#![allow(clippy::missing_panics_doc, reason = "every layer asserts the shapes that its first line states")]

mod classifier;
mod heads;
mod mae;
mod masking;
mod mean_teacher;
mod mixer;
mod replaced;
mod vae;

pub use classifier::{Classifier, ClassifierCache, MembersConfig};
pub use heads::Target;
pub use mae::{Mae, MaeConfig, MaeEncoder, NumberTarget};
pub use masking::{DrawnRatio, MaskRatio, Masked, random_masking};
pub use mean_teacher::{Student, StudentLoss};
pub use mixer::{Block, Encoder, EncoderCache, Input, MAX_DEPTH, MixerConfig};
pub use replaced::{Replaced, ReplacedConfig};
pub use vae::{Elbo, Posterior, Vae, VaeConfig, VaeLatent};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
