//! What counts as equal.

use nids_nn::Real;
use serde_json::Value;

/// What is compared; each kind has its tolerance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    LayerOutput,
    LayerGradient,
    /// Of a layer that cancels by design.
    CancellingOutput,
    CancellingGradient,
    /// Activations, logits and losses.
    ModelOutput,
    /// Of a reference that was itself computed in f32.
    RoughOutput,
    ModelGradient,
    /// Parameters after steps of the optimiser.
    Updated,
}

/// How far from the reference a number may be.
#[derive(Clone, Debug)]
pub(crate) enum Tolerances {
    /// The reference was computed in the precision in which it is compared, so that both sides round.
    ///
    /// A tensor is compared on the scale of its largest magnitude, since each element is a sum of terms about that large, and
    /// where it belongs to a group, such as all gradients of a network, at least on that of a hundredth of the group's largest:
    /// some gradients are 0 but for the rounding of what cancels in them. In f64 1e-12, some thousand roundings; the deepest
    /// network here has some hundred. In f32, where a rounding is 6e-8 and GELU is good to 2.5e-7: 1e-5 for outputs, 3e-5 for
    /// gradients, which go through the network twice, 1e-6 for six steps of an optimiser.
    Ours,
    /// The reference was computed in f64 and rounded to f32. For f32 as settings.json words them, and those of the README where
    /// it does not.
    Predecessor { layers: [String; 3], models: [String; 3] },
}

impl Tolerances {
    pub(crate) fn of_predecessor(settings: &Value) -> Self {
        let text = |group: &str, name: &str| settings["tolerances"][group][name].as_str().unwrap_or_default().to_owned();
        Self::Predecessor {
            layers: ["outputs", "grads", "layernorm_smallvar"].map(|name| text("layers", name)),
            models: ["logits_loss_acts", "grads", "after_adam"].map(|name| text("models", name)),
        }
    }

    /// How far a value may be from `want`, an element of a tensor whose largest magnitude is `max`, in a group whose largest is
    /// `max_of_group`.
    pub(crate) fn of<R: Real>(&self, kind: Kind, want: f64, max: f64, max_of_group: f64) -> f64 {
        let Self::Predecessor { layers: [outputs, grads, cancelling], models: [acts, model_grads, updated] } = self else {
            let relative = match kind {
                _ if is_f64::<R>() => 1e-12,
                Kind::LayerOutput | Kind::ModelOutput | Kind::CancellingOutput | Kind::RoughOutput => 1e-5,
                Kind::LayerGradient | Kind::ModelGradient | Kind::CancellingGradient => 3e-5,
                Kind::Updated => 1e-6,
            };
            return relative * max.max(0.01 * max_of_group);
        };
        if is_f64::<R>() && kind != Kind::RoughOutput {
            // rounded to f32 (6e-8 of itself) for storage
            return 1e-7 * want.abs() + 1e-8 * max + 1e-12;
        }
        match kind {
            Kind::LayerOutput => after(outputs, "atol", 5e-6) + after(outputs, "rtol", 1e-5) * want.abs(),
            Kind::LayerGradient => (after(grads, "atol", 1e-6) * max).max(after(grads, "at least", 1e-5)),
            Kind::CancellingOutput => after(cancelling, "outputs atol", 2e-4),
            Kind::CancellingGradient => after(cancelling, "grads atol", 1e-5) * max,
            Kind::ModelOutput | Kind::RoughOutput => after(acts, "atol", 1e-5) + after(acts, "rtol", 1e-5) * want.abs(),
            Kind::ModelGradient => after(model_grads, "atol", 2e-6) + after(model_grads, "+", 1e-5) * max,
            Kind::Updated => after(updated, "atol", 5e-5),
        }
    }
}

pub(crate) fn is_f64<R: Real>() -> bool {
    R::epsilon().to_f64() < 1e-12
}

/// The number that follows `key` in `text`.
fn after(text: &str, key: &str, otherwise: f64) -> f64 {
    let number = text.split_once(key).map(|(_, rest)| rest.trim_start());
    let number = number.map(|rest| &rest[..rest.find(|c: char| !c.is_ascii_digit() && !".e-".contains(c)).unwrap_or(rest.len())]);
    number.and_then(|number| number.parse().ok()).unwrap_or(otherwise)
}
