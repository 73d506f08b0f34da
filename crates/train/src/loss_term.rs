//! Parts of a loss, for the log.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A part of a step's loss, as the shards find it: kept for each shard in the place of its first sample and summed in that
/// order, so that no thread has a say in it.
#[derive(Debug)]
pub struct LossTerm(Vec<AtomicU64>);

impl LossTerm {
    /// For steps of so many samples, keyed by their places.
    pub fn new(n_samples: usize) -> Self {
        Self((0..n_samples).map(|_| AtomicU64::default()).collect())
    }

    /// Forgets the last step.
    pub fn begin(&self) {
        self.0.iter().for_each(|share| share.store(0, Relaxed));
    }

    /// The share of the shard that starts with the sample `key`.
    pub fn set(&self, key: u32, share: f64) {
        self.0[key as usize].store(share.to_bits(), Relaxed);
    }

    /// The part itself.
    pub fn sum(&self) -> f64 {
        self.0.iter().map(|share| f64::from_bits(share.load(Relaxed))).sum()
    }
}

/// A number that changes from step to step and is the same for all shards of one.
#[derive(Debug, Default)]
pub struct Subset(AtomicU64);

impl Subset {
    /// For the step that begins.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }

    /// What was set last.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }
}
