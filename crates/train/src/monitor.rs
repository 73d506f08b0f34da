//! The vanishing-gradient monitor: linear layers that no longer move while the loss stands still.

use std::collections::{BTreeMap, VecDeque};

use nids_kernels::Buffer;
use nids_nn::optim::Optimiser;
use nids_nn::{Param, ParamTable};
use serde::{Deserialize, Serialize};

use crate::plan::Limits;
use crate::step::StepReport;
use nids_config::Stage;
use nids_store::log::MonitorLine;

/// The loss is flat if it has not fallen by this share of itself.
const FLAT: f64 = 0.01;
/// The most layers that a warning names.
const SHOWN: usize = 4;

/// Watches the weights of linear layers at every `monitor_every`-th step. The other steps cost one addition.
#[derive(Debug)]
pub(crate) struct Monitor {
    stage: Stage,
    /// The member that is watched, if there are several independent ones.
    member: Option<usize>,
    limits: Limits,
    layers: Vec<Layer>,
    /// Every parameter before the observed step.
    before: Buffer<f32>,
    /// Sum and number of the losses since the last observation.
    window: (f64, u64),
    /// Mean loss before each of the last `patience + 1` observations.
    losses: VecDeque<f64>,
}

#[derive(Debug)]
struct Layer {
    name: String,
    weight: Param,
    lr_scale: f64,
    /// Consecutive observations at which the layer did not move.
    still: u64,
    is_reported: bool,
}

/// The state of a monitor, for a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MonitorState {
    window: (f64, u64),
    losses: Vec<f64>,
    /// By layer: consecutive observations at which it did not move, and whether this was reported.
    still: BTreeMap<String, (u64, bool)>,
}

/// What the monitor found at a step.
pub(crate) struct Observation<'m> {
    pub(crate) line: MonitorLine<'m>,
    /// A warning that names the layers that no longer learn and were not reported before.
    pub(crate) warning: Option<String>,
}

impl Monitor {
    /// Watches the linear layers of `table` that are not frozen.
    pub(crate) fn new(
        table: &ParamTable,
        stage: Stage,
        member: Option<usize>,
        limits: Limits,
        lr_scale: impl Fn(&str) -> f64,
    ) -> Self {
        let linear = table.specs().iter().filter(|spec| spec.decays());
        let layers = linear.filter_map(|spec| {
            let (name, lr_scale) = (spec.name.strip_suffix(".weight")?.to_owned(), lr_scale(&spec.name));
            (lr_scale > 0.0).then_some(Layer { name, weight: spec.param, lr_scale, still: 0, is_reported: false })
        });
        let losses = VecDeque::with_capacity(limits.patience as usize + 1);
        Self { stage, member, limits, layers: layers.collect(), before: table.zeros(), window: (0.0, 0), losses }
    }

    pub(crate) fn state(&self) -> MonitorState {
        let entry = |layer: &Layer| (layer.name.clone(), (layer.still, layer.is_reported));
        let still = self.layers.iter().map(entry).collect();
        MonitorState { window: self.window, losses: self.losses.iter().copied().collect(), still }
    }

    pub(crate) fn restore(&mut self, state: &MonitorState) {
        self.window = state.window;
        self.losses = state.losses.iter().copied().collect();
        for layer in &mut self.layers {
            (layer.still, layer.is_reported) = state.still.get(&layer.name).copied().unwrap_or_default();
        }
    }

    /// Must be called before step `step`, counted from 1.
    pub(crate) fn before(&mut self, step: u64, params: &[f32]) {
        if step.is_multiple_of(self.limits.monitor_every) {
            self.before.copy_from_slice(params);
        }
    }

    /// Must be called after that step.
    pub(crate) fn after(
        &mut self,
        step: u64,
        report: &StepReport,
        params: &[f32],
        optimiser: &Optimiser<f32>,
    ) -> Option<Observation<'_>> {
        self.window.0 += report.loss;
        self.window.1 += 1;
        if !step.is_multiple_of(self.limits.monitor_every) {
            return None;
        }
        let patience = self.limits.patience;
        if self.losses.len() as u64 > patience {
            self.losses.pop_front();
        }
        self.losses.push_back(self.window.0 / self.window.1 as f64);
        self.window = (0.0, 0);
        let is_flat = is_flat(&self.losses);
        let mut max_update = BTreeMap::new();
        let mut vanished = Vec::new();
        for layer in &mut self.layers {
            let shrink = optimiser.shrink(report.lr, layer.weight);
            let (mut moved, mut learned) = (0.0_f32, 0.0_f32);
            for (after, before) in layer.weight.of(params).iter().zip(layer.weight.of::<f32>(&self.before)) {
                moved = moved.max((after - before).abs());
                learned = learned.max((after - before * shrink).abs());
            }
            max_update.insert(layer.name.as_str(), moved);
            let lr = report.lr * layer.lr_scale;
            if lr > 0.0 {
                let is_still = f64::from(learned) < self.limits.threshold * lr;
                layer.still = if is_still { layer.still + 1 } else { 0 };
                layer.is_reported &= is_still;
            }
            if is_flat && layer.still >= patience && !layer.is_reported {
                layer.is_reported = true;
                vanished.push(layer.name.as_str());
            }
        }
        let warning = (!vanished.is_empty()).then(|| {
            let member_label = self.member.map_or_else(String::new, |member| format!(" member {member},"));
            warning(self.stage, &member_label, &self.limits, step, &vanished)
        });
        Some(Observation { line: MonitorLine { step, member: self.member, max_update }, warning })
    }
}

/// Whether the last mean loss is no more than [`FLAT`] below the first.
fn is_flat(losses: &VecDeque<f64>) -> bool {
    match (losses.front(), losses.back()) {
        (Some(first), Some(last)) if losses.len() > 1 => *last > first - FLAT * first.abs(),
        _ => false,
    }
}

fn warning(stage: Stage, member_label: &str, limits: &Limits, step: u64, vanished: &[&str]) -> String {
    let names: Vec<String> = vanished.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    let more = match vanished.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "{stage}{member_label} step {step}: the gradient vanishes in {}{more}: weights moved by less than {:e} of the learning rate at {} \
         observations in a row, and the loss is flat: lower `model.depth`, take `model.activation: gelu`, raise `{stage}.lr`, or set `{stage}.monitor: off`",
        names.join(", "),
        limits.threshold,
        limits.patience,
    )
}

#[cfg(test)]
mod tests {
    use nids_nn::Init;
    use nids_nn::optim::{AdamWConfig, Decay, OptimiserConfig};

    use super::*;

    fn limits() -> Limits {
        Limits { monitor_every: 2, patience: 3, ..Limits::default() }
    }

    /// The steps at which a warning came, with its layers, in a run of 20 steps of AdamW in which layer `a` has a gradient up to
    /// step `a_until`, `b` always, and `frozen` is frozen.
    fn warnings(a_until: u64, loss: impl Fn(u64) -> f64) -> Vec<String> {
        warnings_where(|step| step <= a_until, loss)
    }

    fn warnings_where(a_learns: impl Fn(u64) -> bool, loss: impl Fn(u64) -> f64) -> Vec<String> {
        let mut table = ParamTable::default();
        let mut weight = |name: &str| table.root().at(name).param("weight", &[3, 2], Init::KaimingUniform { fan_in: 2 });
        let [a, b, frozen] = ["a", "b", "frozen"].map(&mut weight);
        table.root().at("registers").param("weight", &[3, 2], Init::Normal { std: 1.0 });
        let lr_scale = |name: &str| if name.starts_with("frozen") { 0.0 } else { 0.5 };
        let mut monitor = Monitor::new(&table, Stage::Pretrain, None, limits(), lr_scale);
        // without memory of earlier gradients, a gradient that vanishes shows at once
        let config = OptimiserConfig::AdamW(AdamWConfig { beta1: 0.0, beta2: 0.0, eps: 1e-8, weight_decay: 0.1 });
        let mut optimiser = Optimiser::<f32>::new(&table, config, Decay::Matrices, lr_scale);
        let (mut params, lr) = (table.init::<f32>(1), 1e-3);
        let mut found = Vec::new();
        for step in 1..=20 {
            let mut grads = table.zeros::<f32>();
            a.of_mut(&mut grads).fill(if a_learns(step) { 1e-3 } else { 0.0 });
            b.of_mut(&mut grads)[4] = -1e-3;
            frozen.of_mut(&mut grads).fill(1.0);
            monitor.before(step, &params);
            optimiser.step(lr, 1.0, &mut params, &grads);
            let report = StepReport { loss: loss(step), lr, grad_norm: 1.0 };
            let observation = monitor.after(step, &report, &params, &optimiser);
            assert_eq!(observation.is_some(), step % 2 == 0, "step {step}");
            if let Some(Observation { line: MonitorLine { max_update, .. }, warning }) = observation {
                assert_eq!(
                    max_update.keys().copied().collect::<Vec<_>>(),
                    ["a", "b"],
                    "frozen layers and registers are not watched"
                );
                // a step of 5e-4, plus the decay of a weight below 1
                assert!((4e-4..6e-4).contains(&max_update["b"]), "{max_update:?}");
                found.extend(warning.map(|warning| format!("{step}: {warning}")));
            }
        }
        found
    }

    #[test]
    fn a_layer_without_a_gradient_is_named_once_the_loss_is_flat() {
        let found = warnings(6, |_| 2.0);
        insta::assert_snapshot!(found.join("\n"), @"12: pretrain step 12: the gradient vanishes in `a`: weights moved by less than 1e-4 of the learning rate at 3 observations in a row, and the loss is flat: lower `model.depth`, take `model.activation: gelu`, raise `pretrain.lr`, or set `pretrain.monitor: off`");
        // the loss falls by 5 % per observation up to step 13, and is flat after three observations without a fall
        let found = warnings(6, |step| 0.975_f64.powf(step.min(13) as f64));
        assert!(found.len() == 1 && found[0].starts_with("20: "), "{found:?}");
    }

    #[test]
    fn what_moves_or_learns_is_left_alone() {
        assert!(warnings(20, |_| 2.0).is_empty());
        assert!(warnings(0, |step| 0.975_f64.powf(step as f64)).is_empty());
        // the layer is still at every other observation, never at three in a row
        assert!(warnings_where(|step| step % 4 == 0, |_| 2.0).is_empty());
    }

    #[test]
    fn a_loss_is_flat_where_it_has_not_fallen_by_a_hundredth() {
        for (losses, want) in [
            (&[][..], false),
            (&[1.0], false),
            (&[1.0, 1.0], true),
            (&[1.0, 0.5, 0.995], true),
            (&[1.0, 0.98], false),
            (&[1.0, 2.0], true),
            (&[-1.0, -1.02], false),
        ] {
            assert_eq!(is_flat(&losses.iter().copied().collect()), want, "{losses:?}");
        }
    }
}
