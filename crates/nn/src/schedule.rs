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
    /// Half a wave up from `first` to lr, then one down to `last` (Smith & Topin 2018, as torch.optim.lr_scheduler.OneCycleLR with
    /// `anneal_strategy="cos"` and two phases has it): up until t = pct_start · steps - 1, down until the last step.
    OneCycle {
        /// The highest rate.
        lr: f64,
        /// Steps of both waves together; the last rate stays after them.
        steps: usize,
        /// The share of the steps on the way up.
        pct_start: f64,
        /// Rate of the first step.
        first: f64,
        /// Rate of the last step.
        last: f64,
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
            Self::OneCycle { lr, steps, pct_start, first, last } => {
                let t = t as f64;
                let (top, end) = (pct_start * steps as f64 - 1.0, steps as f64 - 1.0);
                if t < top {
                    half_wave(first, lr, t / top)
                } else if t < end {
                    half_wave(lr, last, (t - top) / (end - top))
                } else if top < end {
                    last
                } else {
                    lr // no way down
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    /// The table is made by the formulas of PyTorch's documentation and source (2.9, `OneCycleLR.get_lr`), in Python:
    ///
    /// ```python
    /// from math import cos, pi
    /// def one_cycle(t, total, peak, pct, div, final):
    ///     anneal = lambda start, end, share: end + (start - end) / 2 * (cos(pi * share) + 1)
    ///     first, up, end = peak / div, pct * total - 1, total - 1
    ///     return anneal(first, peak, t / up) if t <= up else anneal(peak, first / final, (t - up) / (end - up))
    /// print([one_cycle(t, 10, 1, .4, 25, 100) for t in range(10)])
    /// def cosine(t, peak, low, t_max): return low + (peak - low) * (1 + cos(pi * t / t_max)) / 2
    /// print([cosine(t, 2, .5, 4) for t in range(5)])
    /// ```
    #[test]
    fn rates_are_those_of_pytorch() {
        let one_cycle = Schedule::OneCycle { lr: 1.0, steps: 10, pct_start: 0.4, first: 1.0 / 25.0, last: 1.0 / 25.0 / 100.0 };
        let cosine = Schedule::Cosine { lr: 2.0, warmup: NONE, t_max: 4.0, eta_min: 0.5 };
        let one_cycle_rates =
            [0.04, 0.28, 0.76, 1.0, 0.933_039_496_811_46, 0.7501, 0.5002, 0.2503, 0.067_360_503_188_538, 0.0004];
        let cosine_rates = [2.0, 1.780_330_085_889_9, 1.25, 0.719_669_914_110_09, 0.5];
        for (schedule, rates) in [(one_cycle, &one_cycle_rates[..]), (cosine, &cosine_rates)] {
            for (t, want) in rates.iter().enumerate() {
                assert!((schedule.lr(t) - want).abs() < 1e-12, "{schedule:?}, step {t}: {}, not {want}", schedule.lr(t));
            }
        }
    }

    #[test]
    fn a_cycle_has_its_first_its_highest_and_its_last_rate() {
        let rates = |steps: usize, pct_start: f64| -> Vec<f64> {
            let schedule = Schedule::OneCycle { lr: 1.0, steps, pct_start, first: 0.25, last: 0.025 };
            (0..steps + 2).map(|t| schedule.lr(t)).collect()
        };
        for (found, want) in [
            (rates(10, 0.2), [0.25, 1.0].as_slice()),
            (rates(1, 0.3), &[0.025, 0.025]),                        // the last step comes first
            (rates(4, 0.25), &[1.0]),                                // nothing on the way up
            (rates(4, 1.0), &[0.25, 0.4375, 0.8125, 1.0, 1.0, 1.0]), // nothing on the way down
        ] {
            for (t, want) in want.iter().enumerate() {
                assert!((found[t] - want).abs() < 1e-12, "{found:?}, not {want:?}");
            }
        }
        assert!(rates(10, 0.2)[9..].iter().all(|rate| (rate - 0.025).abs() < 1e-12));
    }

    prop_compose! {
        fn schedules()(
            kind in 0..4, top in 1e-6..1.0_f64, low in 0.0..1.0_f64, start in 0.0..1.0_f64, steps in 1..400_usize,
            warmup in 0.0..=1.0_f64, share in 0.001..=1.0_f64, t_0 in 1..50_usize, t_mult in 1..4_usize,
            div_factor in 1.0..50.0_f64, final_div_factor in 1.0..1e5_f64,
        ) -> (Schedule, usize, [f64; 2], f64) {
            let warmup = Warmup { steps: (warmup * steps as f64).round() as usize, start: start * top };
            let (lr, eta_min) = (top, low * top);
            let rise = (lr - warmup.start) / warmup.steps.max(1) as f64;
            // a half wave is steepest in the middle: π/2 of its height over its length
            let wave = |height: f64, length: f64| if length > 0.0 { PI / 2.0 * height / length } else { f64::INFINITY };
            let low = if warmup.steps > 0 { eta_min.min(warmup.start) } else { eta_min };
            match kind {
                0 => (Schedule::Constant { lr, warmup }, steps, [if warmup.steps > 0 { warmup.start } else { lr }, lr], rise),
                1 => {
                    let t_max = share * steps.saturating_sub(warmup.steps + 1) as f64;
                    // less than a step from top to bottom is a jump
                    let slope = if t_max < 1.0 { lr - eta_min } else { wave(lr - eta_min, t_max) };
                    (Schedule::Cosine { lr, warmup, t_max, eta_min }, steps, [low, lr], rise.max(slope))
                }
                2 => (Schedule::CosineRestarts { lr, warmup, t_0, t_mult, eta_min }, steps, [low, lr], f64::INFINITY),
                _ => {
                    let (first, up) = (lr / div_factor, share * steps as f64 - 1.0);
                    let last = first / final_div_factor;
                    let schedule = Schedule::OneCycle { lr, steps, pct_start: share, first, last };
                    let slope = if up < 1.0 || (steps as f64 - 1.0) - up < 1.0 { f64::INFINITY } else {
                        wave(lr - first, up).max(wave(lr - last, steps as f64 - 1.0 - up))
                    };
                    (schedule, steps, [last, lr], slope)
                }
            }
        }
    }

    proptest! {
        #[test]
        fn rates_are_finite_within_their_bounds_and_continuous((schedule, steps, [low, high], slope) in schedules()) {
            let rates: Vec<f64> = (0..steps + 3).map(|t| schedule.lr(t)).collect();
            for (t, &rate) in rates.iter().enumerate() {
                prop_assert!(rate.is_finite() && (low * (1.0 - 1e-12)..=high * (1.0 + 1e-12)).contains(&rate), "{rate} at step {t}");
            }
            for (t, pair) in rates.windows(2).enumerate() {
                let jump = (pair[1] - pair[0]).abs();
                prop_assert!(jump <= slope * (1.0 + 1e-9) + 1e-12 * high, "{jump} after step {t}, at most {slope}");
            }
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
