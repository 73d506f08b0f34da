//! Dropout and stochastic depth with the masks of the original, replayed.

use nids_models::Block;
use nids_nn::{GivenMasks, Mode, PreNormResidual, Real};

use crate::Golden;
use crate::compare::Kind;
use crate::file::{File, swap};
use crate::models::{Model, Run, check_rows};

pub(crate) fn check<R: Real>(golden: &Golden) {
    let file = golden.file::<R>("dropout");
    let settings = &golden.settings_of_models()["dropout"];
    check_rows(&file, settings);
    let model = Model::new(&settings["config"]);
    let blocks = model.classifier.encoder().blocks();
    check_rates(&file, blocks, "");
    let start = file.parameters::<R>(&model.table, "param.");
    file.compare(Kind::ModelOutput, "eval.logits", &model.pass(&file, &start, Mode::Eval).logits);

    // a reading of the original in which some norms are updated twice a step
    file.leave_out("literal.");
    let dropout = settings["config"]["dropout_p"].as_f64().expect("`dropout_p`");
    let weight_decay = settings["adam"]["weight_decay"].as_f64().expect("`weight_decay`");
    let run = Run { model: &model, file: &file, settings, history: "standard", weight_decay, clip: None };
    run.train(
        &start,
        |step, params| {
            check_kept(&file, step);
            let masks = given(&file, blocks, &format!("step{step}."), dropout, file.get("x").shape[0]);
            let pass = model.pass(&file, params, Mode::Replay(&masks));
            if step == 0 {
                file.compare(Kind::ModelOutput, "step0.logits", &pass.logits);
                file.compare(Kind::ModelOutput, "step0.loss", &[pass.loss]);
                file.compare(Kind::ModelGradient, "step0.dpatches", &pass.dpatches);
                file.compare_parameters(Kind::ModelGradient, &model.table, "step0.grad.", &pass.grads);
            }
            pass
        },
        // with dropout after the bias its gradient is not 0, so no parameter is excused
        |step, params| run.compare_updated(&format!("standard.wd{weight_decay}.noclip.step{step}."), false, step, &start, params),
    );
    file.finish::<R>();
}

/// That what is kept follows from the numbers drawn.
fn check_kept(file: &File, step: usize) {
    let [keep, rand] = ["keep", "rand"].map(|name| file.get(&format!("step{step}.{name}")));
    for (i, ((keep, rand), drop_prob)) in keep.data.iter().zip(&rand.data).zip(&file.get("drop_prob").data).enumerate() {
        if (*keep > 0.5) != (rand >= drop_prob) {
            file.wrong(format!("`step{step}.keep`[{i}] does not follow from `rand` and `drop_prob`"));
        }
    }
}

/// Every residual branch, token then channel of block 0, of block 1, and so on.
fn branches(blocks: &[Block]) -> impl Iterator<Item = (String, &PreNormResidual)> {
    blocks.iter().enumerate().flat_map(|(i, block)| {
        let names = ["token", "channel"].map(|name| format!("blocks.{i}.{name}_mixing"));
        names.into_iter().zip(block.branches())
    })
}

/// That stochastic depth grows with depth as in `{prefix}drop_prob`.
pub(crate) fn check_rates(file: &File, blocks: &[Block], prefix: &str) {
    let ours: Vec<f64> = branches(blocks).map(|(_, branch)| branch.drop_path()).collect();
    file.compare(Kind::LayerOutput, &format!("{prefix}drop_prob"), &ours);
}

/// The masks of a pass over `b` samples: `{prefix}keep`, of a branch or of each of its samples, and, where dropout has a
/// probability `p`, `{prefix}mask.*`. The files have 1 for kept, samples first.
pub(crate) fn given<R: Real>(file: &File, blocks: &[Block], prefix: &str, p: f64, b: usize) -> GivenMasks<R> {
    let mut masks = GivenMasks::default();
    let keep = file.find(&format!("{prefix}keep"));
    for (i, (name, branch)) in branches(blocks).enumerate() {
        let kept: Vec<bool> = match keep {
            Some(keep) => {
                let of_branch = keep.data.len() / (2 * blocks.len());
                (0..b).map(|sample| keep.data[i * of_branch + sample % of_branch] > 0.5).collect()
            }
            None => vec![true; b],
        };
        if p > 0.0 {
            for (site, dropout) in branch.mixing().sites().into_iter().zip(["dropout1", "dropout2"]) {
                let stored = file.get(&format!("{prefix}mask.{name}.{dropout}"));
                let [_, rows, cols] = stored.shape[..] else { panic!("a mask has three axes") };
                let of_kept = stored.data.chunks_exact(rows * cols).zip(&kept).filter(|(_, kept)| **kept);
                let of_kept: Vec<R> = of_kept.flat_map(|(mask, _)| mask).map(|kept| R::from_f64(kept / (1.0 - p))).collect();
                let b = kept.iter().filter(|kept| **kept).count();
                let multipliers = if name.ends_with("token_mixing") {
                    // transposed there: [B, D, units] -> [units, B, D]
                    let units_before_channels = of_kept.chunks_exact(rows * cols).flat_map(|mask| swap([rows, cols, 1], mask));
                    swap([b, cols, rows], &units_before_channels.collect::<Vec<R>>())
                } else {
                    swap([b, rows, cols], &of_kept)
                };
                masks.dropout.insert(site, multipliers);
            }
        }
        masks.drop_path.insert(branch.site(), kept);
    }
    masks
}
