//! Dropout and stochastic depth with the masks of the original, replayed.

use nids_models::Classifier;
use nids_nn::{GivenMasks, Mode, PreNormResidual, Real};

use crate::Golden;
use crate::compare::Kind;
use crate::file::{File, swap};
use crate::models::{Model, Run, check_rows};

pub(crate) fn check<R: Real>(golden: &Golden) {
    let file = golden.file("dropout");
    let settings = &golden.settings["models"]["dropout"];
    check_rows(&file, settings);
    let model = Model::new(&settings["config"]);
    check_drop_prob(&file, &model.classifier);
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
            let masks = given(&file, &model.classifier, step, dropout);
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

/// Every residual branch, token then channel of block 0, of block 1, and so on.
fn branches(classifier: &Classifier) -> impl Iterator<Item = (String, &PreNormResidual)> {
    let blocks = classifier.encoder().blocks().iter().enumerate();
    blocks.flat_map(|(i, block)| {
        let names = ["token", "channel"].map(|name| format!("blocks.{i}.{name}_mixing"));
        names.into_iter().zip(block.branches())
    })
}

/// That stochastic depth grows with depth as in the original.
fn check_drop_prob(file: &File, classifier: &Classifier) {
    let ours: Vec<f64> = branches(classifier).map(|(_, branch)| branch.drop_path()).collect();
    file.compare(Kind::LayerOutput, "drop_prob", &ours);
}

/// The masks of a step; the folder has 1 for kept, samples first.
fn given<R: Real>(file: &File, classifier: &Classifier, step: usize, p: f64) -> GivenMasks<R> {
    let mut masks = GivenMasks::default();
    let drop_prob = &file.get("drop_prob").data;
    let (keep, rand) = (file.get(&format!("step{step}.keep")), file.get(&format!("step{step}.rand")));
    for (i, (name, branch)) in branches(classifier).enumerate() {
        let kept = keep.data[i] > 0.5;
        if kept != (rand.data[i] >= drop_prob[i]) {
            file.wrong(format!("`step{step}.keep`[{i}] does not follow from `rand` and `drop_prob`"));
        }
        masks.drop_path.insert(branch.site(), vec![kept; file.get("x").shape[0]]);
        for (site, dropout) in branch.mixing().sites().into_iter().zip(["dropout1", "dropout2"]) {
            let stored = file.get(&format!("step{step}.mask.{name}.{dropout}"));
            let [b, rows, cols] = stored.shape[..] else { panic!("a mask has three axes") };
            let multipliers: Vec<R> = stored.data.iter().map(|kept| R::from_f64(kept / (1.0 - p))).collect();
            let multipliers = if name.ends_with("token_mixing") {
                // transposed there: [B, D, units] -> [units, B, D]
                let units_before_channels =
                    multipliers.chunks_exact(rows * cols).flat_map(|sample| swap([rows, cols, 1], sample));
                swap([b, cols, rows], &units_before_channels.collect::<Vec<R>>())
            } else {
                swap([b, rows, cols], &multipliers)
            };
            masks.dropout.insert(site, multipliers);
        }
    }
    masks
}
