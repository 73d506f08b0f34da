//! Which rows a step takes: a function of seed and step, so that a run can go on from any step.

use nids_kernels::Key;
use nids_nn::engine::Sample;
use rand::seq::SliceRandom;

use super::stream;

/// Epochs over `rows`, each in an order of its own.
#[derive(Debug)]
pub(super) struct Sampler {
    key: Key,
    rows: Vec<u32>,
    order: Vec<u32>,
    epoch: Option<u64>,
}

impl Sampler {
    /// # Panics
    /// If there are no rows.
    pub(super) fn new(seed: u64, rows: Vec<u32>) -> Self {
        assert!(!rows.is_empty(), "rows to draw from");
        Self { key: Key::new(seed).child(stream::SHUFFLE), order: rows.clone(), rows, epoch: None }
    }

    /// The samples of `step`, counted from 0: the next `batch_size` of the endless sequence of epochs.
    pub(super) fn batch(&mut self, step: u64, batch_size: usize, out: &mut Vec<Sample>) {
        out.clear();
        let n = self.rows.len() as u64;
        for key in 0..batch_size as u64 {
            let position = step * batch_size as u64 + key;
            if self.epoch != Some(position / n) {
                self.shuffle(position / n);
            }
            out.push(Sample { row: self.order[(position % n) as usize], key: key as u32 });
        }
    }

    fn shuffle(&mut self, epoch: u64) {
        self.order.copy_from_slice(&self.rows);
        self.order.shuffle(&mut self.key.child(epoch).stream(0, 0));
        self.epoch = Some(epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_takes_every_row_once_and_steps_can_be_taken_in_any_order() {
        let rows: Vec<u32> = (100..110).collect();
        let mut sampler = Sampler::new(5, rows.clone());
        let mut batch = Vec::new();
        let mut batches: Vec<Vec<Sample>> = Vec::new();
        for step in 0..10 {
            sampler.batch(step, 4, &mut batch);
            batches.push(batch.clone());
        }
        let drawn: Vec<u32> = batches.iter().flatten().map(|sample| sample.row).collect();
        for epoch in drawn.chunks(10) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, rows);
        }
        assert_ne!(drawn[..10], drawn[10..20]);
        let mut late = Sampler::new(5, rows);
        late.batch(7, 4, &mut batch);
        assert_eq!(batch, batches[7]);
    }
}
