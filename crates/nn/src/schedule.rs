//! Learning rates as functions of the step (or epoch) `t`, counted from 0.

use std::f64::consts::PI;

/// A linear rise from `start` towards `lr`: step t < steps gives start + (t + 1) / steps · (lr - start).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warmup {
    /// Steps of the rise; 0 for none.
    pub steps: usize,
    /// Rate before the first step.
    pub start: f64,
}

impl Warmup {
    /// The rate within warm-up, or how many steps ago it ended.
    fn at(self, t: usize, lr: f64) -> Result<f64, usize> {
        match t.checked_sub(self.steps) {
            None => Ok(self.start + (t + 1) as f64 / self.steps as f64 * (lr - self.start)),
            Some(since) => Err(since),
        }
    }
}

/// A learning rate over a run. After warm-up, with k the steps since its end:
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    /// lr
    Constant {
        /// Base rate.
        lr: f64,
        /// Rise to it.
        warmup: Warmup,
    },
    /// eta_min + (lr - eta_min) / 2 · (1 + cos(π k / t_max)) for k <= t_max, then eta_min (Loshchilov & Hutter 2017).
    Cosine {
        /// Base rate.
        lr: f64,
        /// Rise to it.
        warmup: Warmup,
        /// Length of the half wave, in steps.
        t_max: f64,
        /// Last rate.
        eta_min: f64,
    },
    /// The cosine again and again, cycle i lasting t_0 · t_mult^i steps and starting at lr (SGDR, same paper).
    CosineRestarts {
        /// Base rate.
        lr: f64,
        /// Rise to it.
        warmup: Warmup,
        /// Steps of the first cycle, at least 1.
        t_0: usize,
        /// Growth of the cycles, at least 1.
        t_mult: usize,
        /// Rate that each cycle falls towards.
        eta_min: f64,
    },
}

impl Schedule {
    /// The rate of step `t`.
    pub fn lr(&self, t: usize) -> f64 {
        let half_wave = |lr: f64, eta_min: f64, share: f64| eta_min + (lr - eta_min) / 2.0 * (1.0 + (PI * share).cos());
        match *self {
            Self::Constant { lr, warmup } => warmup.at(t, lr).unwrap_or(lr),
            Self::Cosine { lr, warmup, t_max, eta_min } => match warmup.at(t, lr) {
                Ok(lr) => lr,
                Err(k) if k as f64 <= t_max && t_max > 0.0 => half_wave(lr, eta_min, k as f64 / t_max),
                Err(_) => eta_min,
            },
            Self::CosineRestarts { lr, warmup, t_0, t_mult, eta_min } => match warmup.at(t, lr) {
                Ok(lr) => lr,
                Err(mut k) => {
                    // whole numbers, so that a boundary is never missed by rounding a logarithm
                    let mut length = t_0.max(1);
                    if t_mult <= 1 {
                        k %= length;
                    }
                    while k >= length {
                        k -= length;
                        length = length.saturating_mul(t_mult);
                    }
                    half_wave(lr, eta_min, k as f64 / length as f64)
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Warmup = Warmup { steps: 0, start: 0.0 };

    #[test]
    fn warmup_reaches_the_rate_at_its_last_step() {
        let schedule = Schedule::Constant { lr: 0.4, warmup: Warmup { steps: 4, start: 0.0 } };
        let rates: Vec<f64> = (0..6).map(|t| schedule.lr(t)).collect();
        for (rate, want) in rates.iter().zip([0.1, 0.2, 0.3, 0.4, 0.4, 0.4]) {
            assert!((rate - want).abs() < 1e-15);
        }
    }

    #[test]
    fn every_cycle_starts_at_the_full_rate() {
        for (t_0, t_mult) in [(1, 1), (1, 3), (2, 2), (5, 10), (7, 1)] {
            let schedule = Schedule::CosineRestarts { lr: 1.0, warmup: NONE, t_0, t_mult, eta_min: 0.0 };
            let (mut start, mut length) = (0, t_0);
            while start < 100_000 {
                assert!((schedule.lr(start) - 1.0).abs() < 1e-15, "start {start} of t_0 {t_0}, t_mult {t_mult}");
                if length > 1 {
                    assert!(schedule.lr(start + length - 1) < 1.0);
                }
                start += length;
                length *= t_mult;
            }
        }
    }
}
