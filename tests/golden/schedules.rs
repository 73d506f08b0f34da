//! Learning rates by step or epoch.

use nids_nn::schedule::{Schedule, Warmup};
use serde_json::Value;

use crate::Golden;

pub(crate) fn check(golden: &Golden) {
    let file = golden.file::<f64>("schedules");
    for (name, settings) in file.settings["schedules"].as_object().expect("`schedules` in the settings") {
        let schedule = schedule(name, settings);
        // what the optimiser really used is a slip of the original: it forgets to set the rate in the warm-up of restarts
        file.leave_out(&format!("{name}.lr_in_use"));
        let intended = format!("{name}.lr_intended");
        for (epoch, want) in file.get(&intended).data.iter().enumerate() {
            let lr = schedule.lr(epoch);
            let error = (lr - want).abs();
            if error > 1e-12 * want.abs() || error.is_nan() {
                file.wrong(format!("`{intended}`[{epoch}] is {lr:e}, not {want:e}"));
            }
        }
    }
    file.finish::<f64>();
}

fn schedule(name: &str, settings: &Value) -> Schedule {
    let number = |key: &str| settings[key].as_f64().unwrap_or_else(|| panic!("`{name}.{key}` is no number"));
    let whole = |key: &str| number(key) as usize;
    let (lr, eta_min) = (number("lr"), number("eta_min"));
    let warmup = Warmup { steps: whole("warmup_epochs"), start: number("warmup_start_lr") };
    match settings["kind"].as_str() {
        Some("constant") => Schedule::Constant { lr, warmup },
        Some("cosine") => Schedule::Cosine { lr, warmup, t_max: number("T_max"), eta_min },
        Some("restarts") => Schedule::CosineRestarts { lr, warmup, t_0: whole("T_0"), t_mult: whole("T_mult"), eta_min },
        Some("one_cycle") => Schedule::OneCycle {
            lr,
            steps: whole("steps"),
            pct_start: number("pct_start"),
            first: lr / number("div_factor"),
            last: lr / number("div_factor") / number("final_div_factor"),
        },
        other => panic!("`{name}` is a schedule of kind {other:?}"),
    }
}
