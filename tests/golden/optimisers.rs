//! Steps of every optimiser with given gradients.

use nids_nn::optim::{AdamConfig, AdamWConfig, Decay, Optimiser, OptimiserConfig, clip, grad_norm};
use nids_nn::{Init, ParamTable, Real};
use serde_json::Value;

use crate::Golden;
use crate::compare::Kind;

pub(crate) fn check<R: Real>(golden: &Golden) {
    let file = golden.file::<R>("optimisers");
    let numbers = |value: &Value| value.as_f64().expect("a number");
    let rates: Vec<f64> = file.settings["rates"].as_array().expect("`rates`").iter().map(numbers).collect();
    let lr_scales = file.settings["lr_scales"].as_object().expect("`lr_scales`");
    let lr_scale = |name: &str| numbers(lr_scales.iter().find(|(prefix, _)| name.starts_with(*prefix)).expect("a group").1);

    let mut table = ParamTable::default();
    for name in ["a.weight", "a.bias", "b.weight"] {
        let shape = &file.get(&format!("start.{name}")).shape;
        let init = if shape.len() > 1 { Init::KaimingUniform { fan_in: shape[1] } } else { Init::Zeros };
        table.root().param(name, shape, init);
    }
    for (case, settings) in file.settings["optimisers"].as_object().expect("`optimisers`") {
        let mut optimiser = Optimiser::new(&table, config(settings), decay(settings), lr_scale);
        let mut params = file.parameters::<R>(&table, "start.");
        for (step, &lr) in rates.iter().enumerate() {
            let grads = file.parameters::<R>(&table, &format!("grad.{step}."));
            let grad_scale = clip(grad_norm(&grads), settings["max_norm"].as_f64());
            optimiser.step(lr, grad_scale, &mut params, &grads);
            file.compare_parameters(Kind::Updated, &table, &format!("{case}.{step}."), &params);
        }
    }
    file.finish::<R>();
}

fn config(settings: &Value) -> OptimiserConfig {
    let number = |key: &str| settings[key].as_f64().unwrap_or_else(|| panic!("`{key}` of an optimiser is no number"));
    let [beta1, beta2, eps, weight_decay] = ["beta1", "beta2", "eps", "weight_decay"].map(number);
    match settings["kind"].as_str() {
        Some("adam") => OptimiserConfig::Adam(AdamConfig { beta1, beta2, eps, weight_decay }),
        Some("adamw") => OptimiserConfig::AdamW(AdamWConfig { beta1, beta2, eps, weight_decay }),
        other => panic!("an optimiser of kind {other:?}"),
    }
}

fn decay(settings: &Value) -> Decay {
    if settings["decay"] == "matrices" { Decay::Matrices } else { Decay::All }
}
