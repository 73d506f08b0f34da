//! Parameters averaged over the steps of a run.

use nids_kernels::{Buffer, Real};

/// The exponential moving average of a network's parameters: often a better network than the last step's, and the teacher of
/// Tarvainen & Valpola (2017).
///
/// average = d·average + (1 - d)·params, where update t, counted from 0, has d = min(decay, (1 + t) / (10 + t)), as TensorFlow
/// ramps it: a constant d would keep much of where the run started for its first 1 / (1 - decay) updates.
#[derive(Clone, Debug)]
pub struct Ema<R: Real> {
    decay: f64,
    average: Buffer<R>,
    t: u64,
}

impl<R: Real> Ema<R> {
    /// Starts at `params`.
    pub fn new(params: &Buffer<R>, decay: f64) -> Self {
        Self { decay, average: params.clone(), t: 0 }
    }

    /// Forgets what it saw, and starts at `params`.
    ///
    /// # Panics
    /// If there are not as many as there were.
    pub fn restart(&mut self, params: &[R]) {
        self.average.copy_from_slice(params);
        self.t = 0;
    }

    /// Takes in the parameters after a step.
    ///
    /// # Panics
    /// If there are not as many as there were.
    pub fn update(&mut self, params: &[R]) {
        assert_eq!(params.len(), self.average.len());
        let t = self.t as f64;
        let rate = R::from_f64(1.0 - self.decay.min((1.0 + t) / (10.0 + t)));
        self.t += 1;
        for (average, &param) in self.average.iter_mut().zip(params) {
            *average += rate * (param - *average);
        }
    }

    /// The average.
    pub fn params(&self) -> &[R] {
        &self.average
    }

    /// The average as a buffer.
    pub fn average(&self) -> &Buffer<R> {
        &self.average
    }

    /// How often it was updated: with the average, what a checkpoint keeps.
    pub fn updates(&self) -> u64 {
        self.t
    }

    /// Goes on from a kept state.
    ///
    /// # Panics
    /// If there are not as many parameters as there were.
    pub fn set_state(&mut self, average: &[R], updates: u64) {
        self.average.copy_from_slice(average);
        self.t = updates;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_is_the_weighted_sum_of_what_it_saw() {
        // every weight written out: (1 - d_t) of what update t saw, times the d of all later ones
        for decay in [0.0, 0.3, 0.998] {
            let value = |step: usize| (step as f64 * 0.7).sin();
            let mut ema = Ema::new(&buffer(value(0)), decay);
            for n in 1..40 {
                ema.update(&buffer(value(n)));
                let d = |t: usize| f64::min(decay, (1 + t) as f64 / (10 + t) as f64);
                let later = |from: usize| (from..n).map(d).product::<f64>();
                let seen = (0..n).map(|t| (1.0 - d(t)) * later(t + 1) * value(t + 1));
                let wanted = later(0) * value(0) + seen.sum::<f64>();
                assert!(
                    (ema.params()[0] - wanted).abs() < 1e-12,
                    "decay {decay}, {n} updates: {}, not {wanted}",
                    ema.params()[0]
                );
            }
        }
    }

    fn buffer(value: f64) -> Buffer<f64> {
        let mut buffer = Buffer::zeros(1);
        buffer[0] = value;
        buffer
    }
}
