//! The rows of a step. They are a function of seed and step, so a run can go on from any step.

use nids_kernels::Key;
use nids_nn::engine::Sample;
use rand::seq::SliceRandom;

use crate::stream;

/// Draws the rows of each step, in epochs over the rows of a stage and, if there are any, over rows without labels.
#[derive(Debug)]
pub struct Sampler {
    rows: Epochs,
    /// Epochs over rows without labels, and the number of these rows per step.
    unlabelled: Option<(Epochs, usize)>,
}

impl Sampler {
    /// Epochs over `rows`, shuffled by `seed`.
    ///
    /// # Panics
    /// If there are no rows.
    pub fn new(seed: u64, rows: Vec<u32>) -> Self {
        Self { rows: Epochs::new(Key::new(seed).child(stream::SHUFFLE), rows), unlabelled: None }
    }

    /// The same sampler with `batch_size` of the `unlabelled` rows after the rows of each step.
    ///
    /// # Panics
    /// If there are no rows.
    #[must_use]
    pub fn beside(self, seed: u64, unlabelled: Vec<u32>, batch_size: usize) -> Self {
        let unlabelled = Epochs::new(Key::new(seed).child(stream::UNLABELLED_SHUFFLE), unlabelled);
        Self { unlabelled: Some((unlabelled, batch_size)), ..self }
    }

    /// Fills `out` with the samples of `step`, counted from 0: the next `batch_size` of the endless sequence of epochs, then the rows
    /// without labels.
    pub fn batch(&mut self, step: u64, batch_size: usize, out: &mut Vec<Sample>) {
        out.clear();
        self.rows.append(step, batch_size, out);
        if let Some((unlabelled, batch_size)) = &mut self.unlabelled {
            unlabelled.append(step, *batch_size, out);
        }
    }
}

/// Epochs over `rows`, each in another order.
#[derive(Debug)]
struct Epochs {
    key: Key,
    rows: Vec<u32>,
    order: Vec<u32>,
    epoch: Option<u64>,
}

impl Epochs {
    fn new(key: Key, rows: Vec<u32>) -> Self {
        assert!(!rows.is_empty(), "rows to draw from");
        Self { key, order: rows.clone(), rows, epoch: None }
    }

    /// Appends the samples of `step`. A sample's key is its place in the step.
    fn append(&mut self, step: u64, batch_size: usize, out: &mut Vec<Sample>) {
        let n = self.rows.len() as u64;
        for i in 0..batch_size as u64 {
            let position = step * batch_size as u64 + i;
            if self.epoch != Some(position / n) {
                self.shuffle(position / n);
            }
            out.push(Sample { row: self.order[(position % n) as usize], key: out.len() as u32 });
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

    #[test]
    fn rows_without_labels_follow_and_change_nothing() {
        let rows: Vec<u32> = (0..5).collect();
        let mut alone = Sampler::new(5, rows.clone());
        let mut beside = Sampler::new(5, rows).beside(5, (100..107).collect(), 3);
        let (mut batch, mut mixed) = (Vec::new(), Vec::new());
        let mut unlabelled = Vec::new();
        for step in 0..7 {
            alone.batch(step, 4, &mut batch);
            beside.batch(step, 4, &mut mixed);
            assert_eq!((mixed.len(), &mixed[..4]), (7, &batch[..]));
            assert!(mixed.iter().zip(0..).all(|(sample, key)| sample.key == key));
            unlabelled.extend(mixed[4..].iter().map(|sample| sample.row));
        }
        for epoch in unlabelled.chunks_mut(7) {
            epoch.sort_unstable();
            assert!(epoch.iter().copied().eq(100..107), "{epoch:?}");
        }
    }
}
