//! Optimisers: one walk over the parameter table.

use std::ops::Range;

use nids_kernels::{AdamStep, Buffer, Real, adam, adamw, clip_scale, sum_of_squares};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use crate::{Param, ParamTable};

/// Settings of AdamW.
#[derive(Clone, Copy, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    #[default(0.9)]
    pub beta1: f64,
    /// Decay of the second moment.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    #[default(0.999)]
    pub beta2: f64,
    /// Added to the root of the second moment.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[default(1e-8)]
    pub eps: f64,
    /// Decoupled weight decay.
    #[schemars(extend("minimum" = 0))]
    #[default(0.01)]
    pub weight_decay: f64,
}

/// Settings of Adam.
#[derive(Clone, Copy, Debug, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdamConfig {
    /// Decay of the first moment.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    #[default(0.9)]
    pub beta1: f64,
    /// Decay of the second moment.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    #[default(0.99)]
    pub beta2: f64,
    /// Added to the root of the second moment.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[default(1e-8)]
    pub eps: f64,
    /// L2 penalty, added to the gradient.
    #[schemars(extend("minimum" = 0))]
    #[default(0.0)]
    pub weight_decay: f64,
}

/// How gradients become updates ([`nids_kernels::adamw`], [`nids_kernels::adam`]). The default is AdamW.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OptimiserConfig {
    /// AdamW as PyTorch has it; weight decay spares biases and norms.
    AdamW(AdamWConfig),
    /// Adam with L2 decay on every parameter; eps is not bias-corrected.
    Adam(AdamConfig),
}

impl Default for OptimiserConfig {
    fn default() -> Self {
        Self::AdamW(AdamWConfig::default())
    }
}

/// What weight decay applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// Matrices: not biases, norms, registers and mask tokens.
    Matrices,
    /// Every parameter.
    All,
}

/// Neighbouring parameters that are updated alike.
#[derive(Clone, Debug)]
struct Group {
    range: Range<usize>,
    lr_scale: f64,
    decays: bool,
}

/// An optimiser and its moments.
#[derive(Clone, Debug)]
pub struct Optimiser<R: Real> {
    config: OptimiserConfig,
    groups: Vec<Group>,
    m: Buffer<R>,
    v: Buffer<R>,
    t: u64,
}

impl<R: Real> Optimiser<R> {
    /// `lr_scale` gives the factor on the learning rate of a parameter by name; 0 freezes it.
    pub fn new(table: &ParamTable, config: OptimiserConfig, decay: Decay, lr_scale: impl Fn(&str) -> f64) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        for (i, spec) in table.specs().iter().enumerate() {
            let end = table.specs().get(i + 1).map_or(table.buffer_len(), |next| next.param.offset());
            let decays = decay == Decay::All || spec.decays();
            let lr_scale = lr_scale(&spec.name);
            match groups.last_mut() {
                Some(last) if last.decays == decays && last.lr_scale.to_bits() == lr_scale.to_bits() => last.range.end = end,
                _ => groups.push(Group { range: spec.param.offset()..end, lr_scale, decays }),
            }
        }
        Self { config, groups, m: table.zeros(), v: table.zeros(), t: 0 }
    }

    /// One update of `params` with learning rate `lr` and gradient `grad_scale · grads`.
    ///
    /// # Panics
    /// If the buffers are not of the table's length.
    pub fn step(&mut self, lr: f64, grad_scale: f64, params: &mut [R], grads: &[R]) {
        assert!(params.len() == self.m.len() && grads.len() == self.m.len());
        let (update, m, v) = self.begin(lr, grad_scale);
        update.apply(0, params, grads, m, v);
    }

    /// Counts a step, whose update may then be applied to the buffers piece by piece; the moments.
    pub(crate) fn begin(&mut self, lr: f64, grad_scale: f64) -> (Update<'_>, &mut [R], &mut [R]) {
        self.t += 1;
        let t = i32::try_from(self.t).unwrap_or(i32::MAX);
        let update = Update { config: self.config, groups: &self.groups, lr, grad_scale, t };
        (update, &mut self.m, &mut self.v)
    }

    /// What AdamW's decay alone makes of a weight of `param` in a step with learning rate `lr`: the factor on it, to the bit.
    /// 1 for other algorithms, whose decay is part of the gradient.
    pub fn shrink(&self, lr: f64, param: Param) -> R {
        let OptimiserConfig::AdamW(config) = self.config else { return R::one() };
        let group = &self.groups[self.groups.partition_point(|group| group.range.end <= param.offset())];
        let weight_decay = if group.decays { config.weight_decay } else { 0.0 };
        R::one() - R::from_f64(lr * group.lr_scale) * R::from_f64(weight_decay)
    }

    /// First and second moments and the number of steps taken: what a checkpoint keeps.
    pub fn moments(&self) -> (&Buffer<R>, &Buffer<R>, u64) {
        (&self.m, &self.v, self.t)
    }

    /// Goes on from a kept state.
    ///
    /// # Panics
    /// If the moments are not of the table's length.
    pub fn set_state(&mut self, m: &[R], v: &[R], t: u64) {
        self.m.copy_from_slice(m);
        self.v.copy_from_slice(v);
        self.t = t;
    }
}

/// One step of an optimiser.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Update<'o> {
    config: OptimiserConfig,
    groups: &'o [Group],
    lr: f64,
    grad_scale: f64,
    t: i32,
}

impl Update<'_> {
    /// Updates the pieces of the buffers that start at `offset`; every number on its own, so that pieces may be of any size.
    pub(crate) fn apply<R: Real>(&self, offset: usize, params: &mut [R], grads: &[R], m: &mut [R], v: &mut [R]) {
        let end = offset + params.len();
        let first = self.groups.partition_point(|group| group.range.end <= offset);
        for group in self.groups[first..].iter().take_while(|group| group.range.start < end) {
            let piece = group.range.start.max(offset) - offset..group.range.end.min(end) - offset;
            let (params, grads) = (&mut params[piece.clone()], &grads[piece.clone()]);
            let (m, v) = (&mut m[piece.clone()], &mut v[piece]);
            match self.config {
                OptimiserConfig::AdamW(AdamWConfig { beta1, beta2, eps, weight_decay }) => {
                    adamw(self.adam_step([beta1, beta2, eps, weight_decay], group), params, grads, m, v);
                }
                OptimiserConfig::Adam(AdamConfig { beta1, beta2, eps, weight_decay }) => {
                    adam(self.adam_step([beta1, beta2, eps, weight_decay], group), params, grads, m, v);
                }
            }
        }
    }

    fn adam_step<R: Real>(&self, [beta1, beta2, eps, weight_decay]: [f64; 4], group: &Group) -> AdamStep<R> {
        let real = R::from_f64;
        AdamStep {
            grad_scale: real(self.grad_scale),
            lr: real(self.lr * group.lr_scale),
            beta1: real(beta1),
            beta2: real(beta2),
            eps: real(eps),
            weight_decay: real(if group.decays { weight_decay } else { 0.0 }),
            bias1: real(1.0 - beta1.powi(self.t)),
            bias2: real(1.0 - beta2.powi(self.t)),
        }
    }
}

/// The Euclidean norm of a gradient.
pub fn grad_norm<R: Real>(grads: &[R]) -> f64 {
    sum_of_squares(grads).sqrt()
}

/// What [`Optimiser::step`] scales a gradient of Euclidean norm `norm` by, so that it is at most `max_norm`.
pub fn clip(norm: f64, max_norm: Option<f64>) -> f64 {
    max_norm.map_or(1.0, |max_norm| clip_scale(norm, max_norm))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Init;

    /// A matrix and a bias that start at 1 and 2, under a frozen one.
    fn table() -> (ParamTable, [Param; 3]) {
        let mut table = ParamTable::default();
        let mut scope = table.root();
        let weight = scope.at("a").param("weight", &[2, 1], Init::KaimingUniform { fan_in: 1 });
        let bias = scope.at("a").param("bias", &[1], Init::Zeros);
        let frozen = scope.at("b").param("weight", &[1, 1], Init::KaimingUniform { fan_in: 1 });
        (table, [weight, bias, frozen])
    }

    /// The numbers of weight and bias after each of three steps at rate 0.1 with gradients 1, 0.5 and -1 for all.
    fn steps(config: OptimiserConfig, decay: Decay) -> Vec<[f64; 2]> {
        let (table, [weight, bias, frozen]) = table();
        let mut params = table.zeros::<f64>();
        weight.of_mut(&mut params).fill(1.0);
        bias.of_mut(&mut params).fill(2.0);
        frozen.of_mut(&mut params).fill(3.0);
        let mut optimiser = Optimiser::new(&table, config, decay, |name| if name.starts_with("b.") { 0.0 } else { 1.0 });
        let mut after = Vec::new();
        for gradient in [1.0, 0.5, -1.0] {
            let mut grads = table.zeros::<f64>();
            grads.fill(gradient);
            optimiser.step(0.1, 1.0, &mut params, &grads);
            after.push([weight.of(&params)[1], bias.of(&params)[0]]);
            assert!((frozen.of(&params)[0] - 3.0).abs() < f64::EPSILON);
        }
        after
    }

    /// The recurrences of Kingma & Ba (2015) and Loshchilov & Hutter (2019) for one number, written out. The correction of a
    /// moment for its start at 0 divides by 1 - β^t, t counted from 1; eps is large enough to show what it is added to.
    #[test]
    fn moments_are_corrected_for_their_start_at_zero() {
        let (lr, beta1, beta2, eps, weight_decay) = (0.1, 0.9, 0.99, 1e-2, 0.5);
        let adamw = OptimiserConfig::AdamW(AdamWConfig { beta1, beta2, eps, weight_decay });
        let adam = OptimiserConfig::Adam(AdamConfig { beta1, beta2, eps, weight_decay });
        for (config, is_decoupled) in [(adamw, true), (adam, false)] {
            let found = steps(config, Decay::All);
            for (param, start) in [(0, 1.0), (1, 2.0)] {
                let (mut p, mut m, mut v) = (start, 0.0, 0.0);
                for ((t, gradient), found) in (1..).zip([1.0, 0.5, -1.0]).zip(&found) {
                    let g = if is_decoupled { gradient } else { gradient + weight_decay * p };
                    m = beta1 * m + (1.0 - beta1) * g;
                    v = beta2 * v + (1.0 - beta2) * g * g;
                    let (bias1, bias2) = (1.0 - beta1.powi(t), 1.0 - f64::powi(beta2, t));
                    p -= if is_decoupled {
                        lr * weight_decay * p + lr * (m / bias1) / ((v / bias2).sqrt() + eps)
                    } else {
                        lr * bias2.sqrt() / bias1 * m / (v.sqrt() + eps)
                    };
                    assert!((found[param] - p).abs() < 1e-12, "{config:?}, step {t}: {}, not {p}", found[param]);
                }
            }
        }
    }

    #[test]
    fn decay_spares_biases_unless_told_otherwise() {
        let adamw = |decay, weight_decay| {
            steps(OptimiserConfig::AdamW(AdamWConfig { beta2: 0.99, weight_decay, ..AdamWConfig::default() }), decay)[0]
        };
        let [plain, matrices, all] = [adamw(Decay::Matrices, 0.0), adamw(Decay::Matrices, 0.5), adamw(Decay::All, 0.5)];
        // 5 % of 1 and of 2
        for (found, want) in [(matrices, [plain[0] - 0.05, plain[1]]), (all, [plain[0] - 0.05, plain[1] - 0.1])] {
            assert!((found[0] - want[0]).abs() < 1e-12 && (found[1] - want[1]).abs() < 1e-12, "{found:?}, not {want:?}");
        }
    }

    #[test]
    fn what_decay_alone_does_is_known_to_the_bit() {
        let (table, params) = table();
        let config = OptimiserConfig::AdamW(AdamWConfig { weight_decay: 0.05, ..AdamWConfig::default() });
        let lr_scale = |name: &str| if name.starts_with("b.") { 0.3 } else { 1.0 };
        let mut optimiser = Optimiser::<f32>::new(&table, config, Decay::Matrices, lr_scale);
        let before = table.init::<f32>(1);
        let mut after = before.clone();
        optimiser.step(3e-3, 1.0, &mut after, &table.zeros());
        for param in params {
            let shrink = optimiser.shrink(3e-3, param);
            for (after, before) in param.of(&after).iter().zip(param.of::<f32>(&before)) {
                assert_eq!(after.to_bits(), (before * shrink).to_bits());
            }
        }
    }
}
