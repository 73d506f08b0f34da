//! Streams of random numbers: children of the seed's key, one for each use.

/// Masks and initial weights of pretraining.
pub const PRETRAIN: u64 = 1;
/// Masks and initial weights of fine-tuning.
pub const FINETUNE: u64 = 2;
/// Noise on latents.
pub const LATENT_NOISE: u64 = 3;
/// The order of rows in an epoch.
pub const SHUFFLE: u64 = 4;
/// Members of an ensemble.
pub const MEMBERS: u64 = 6;
/// The order of rows without labels.
pub const UNLABELLED_SHUFFLE: u64 = 8;
/// Seeds of k-means.
pub const QUERY: u64 = 9;
/// Candidates of a sweep.
pub const SWEEP: u64 = 10;
/// Trees of heads.
pub const HEADS: u64 = 11;
