//! Optimisers: one walk over the parameter table.

use std::ops::Range;

use nids_kernels::{AdamStep, Buffer, Real, adam, adamw, clip_scale, sum_of_squares};

use crate::ParamTable;

/// Settings shared by Adam and AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// L2 for Adam (on every parameter), decoupled decay for AdamW (on matrices).
    pub weight_decay: f64,
}

/// How gradients become updates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Algorithm {
    /// Adam with L2 decay; eps is not bias-corrected ([`nids_kernels::adam`]).
    Adam(AdamConfig),
    /// AdamW as PyTorch has it ([`nids_kernels::adamw`]).
    AdamW(AdamConfig),
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
    algorithm: Algorithm,
    groups: Vec<Group>,
    m: Buffer<R>,
    v: Buffer<R>,
    t: u64,
}

impl<R: Real> Optimiser<R> {
    /// `lr_scale` gives the factor on the learning rate of a parameter by name; 0 freezes it.
    pub fn new(table: &ParamTable, algorithm: Algorithm, lr_scale: impl Fn(&str) -> f64) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        for (i, spec) in table.specs().iter().enumerate() {
            let end = table.specs().get(i + 1).map_or(table.buffer_len(), |next| next.param.offset());
            let decays = matches!(algorithm, Algorithm::Adam(_)) || spec.decays();
            let lr_scale = lr_scale(&spec.name);
            match groups.last_mut() {
                Some(last) if last.decays == decays && last.lr_scale.to_bits() == lr_scale.to_bits() => last.range.end = end,
                _ => groups.push(Group { range: spec.param.offset()..end, lr_scale, decays }),
            }
        }
        Self { algorithm, groups, m: table.zeros(), v: table.zeros(), t: 0 }
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
        let update = Update { algorithm: self.algorithm, groups: &self.groups, lr, grad_scale, t };
        (update, &mut self.m, &mut self.v)
    }

    /// First and second moments and the number of steps taken: what a checkpoint keeps.
    pub fn state(&self) -> (&[R], &[R], u64) {
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
    algorithm: Algorithm,
    groups: &'o [Group],
    lr: f64,
    grad_scale: f64,
    t: i32,
}

impl Update<'_> {
    /// Updates the pieces of the buffers that start at `offset`; every number on its own, so that pieces may be of any size.
    pub(crate) fn apply<R: Real>(&self, offset: usize, params: &mut [R], grads: &[R], m: &mut [R], v: &mut [R]) {
        let (Algorithm::Adam(config) | Algorithm::AdamW(config)) = self.algorithm;
        let kernel = if matches!(self.algorithm, Algorithm::Adam(_)) { adam } else { adamw };
        let end = offset + params.len();
        let first = self.groups.partition_point(|group| group.range.end <= offset);
        for Group { range, lr_scale, decays } in self.groups[first..].iter().take_while(|group| group.range.start < end) {
            let real = R::from_f64;
            let step = AdamStep {
                grad_scale: real(self.grad_scale),
                lr: real(self.lr * lr_scale),
                beta1: real(config.beta1),
                beta2: real(config.beta2),
                eps: real(config.eps),
                weight_decay: real(if *decays { config.weight_decay } else { 0.0 }),
                bias1: real(1.0 - config.beta1.powi(self.t)),
                bias2: real(1.0 - config.beta2.powi(self.t)),
            };
            let piece = range.start.max(offset) - offset..range.end.min(end) - offset;
            let (params, grads) = (&mut params[piece.clone()], &grads[piece.clone()]);
            kernel(step, params, grads, &mut m[piece.clone()], &mut v[piece]);
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
