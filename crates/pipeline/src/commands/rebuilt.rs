//! How much of a hidden feature a run's masked autoencoder tells from the others.

use nids_config::Config;
use nids_detect::Autoencoder;
use nids_flows::{Flows, TokenKind, TokenTable, Tokeniser, all_rows};
use nids_report::Rebuilt;
use nids_store::Result;
use nids_store::run::Run;

/// Rows that are looked at, at most.
const ROWS: usize = 128;

/// Each feature that is not always the same, the best told first; none where the classifier stands on no masked autoencoder. `config` is
/// that of the classifier.
pub(super) fn rebuilt(run: &Run, config: &Config, flows: &Flows) -> Result<Vec<Rebuilt>> {
    let Some(autoencoder) = Autoencoder::beneath(run, config)? else { return Ok(Vec::new()) };
    let tokeniser = autoencoder.tokeniser();
    let step = flows.len().div_ceil(ROWS).max(1);
    let rows: Vec<u32> = (0..flows.len() as u32).step_by(step).collect();
    let encoded = tokeniser.tokenise_with_targets(&flows.select(&rows))?;
    let n = encoded.n_tokens();
    let losses = autoencoder.hidden_losses(&encoded, &all_rows(encoded.n_rows()), 1);
    let loss = |token: usize| -> f64 {
        let present = (0..encoded.n_rows()).filter(|&row| !encoded.target(row, token).is_nan());
        present.map(|row| f64::from(losses[row * n + token])).sum()
    };
    let mut found: Vec<Rebuilt> = (0..n)
        .filter_map(|token| {
            let guess = loss_of_one_guess(tokeniser, &encoded, token);
            let feature = tokeniser.tokens()[token].feature.clone();
            (guess > 0.0).then(|| Rebuilt { feature, share: 1.0 - loss(token) / guess })
        })
        .collect();
    found.sort_by(|a, b| b.share.total_cmp(&a.share).then_with(|| a.feature.cmp(&b.feature)));
    Ok(found)
}

/// The least loss that one answer for all rows has: the variance of numbers, the entropy of classes, times the rows where the feature
/// is not missing.
fn loss_of_one_guess(tokeniser: &Tokeniser, encoded: &TokenTable, token: usize) -> f64 {
    let targets = (0..encoded.n_rows()).map(|row| f64::from(encoded.target(row, token)));
    let mut targets: Vec<f64> = targets.filter(|target| !target.is_nan()).collect();
    let n = targets.len() as f64;
    let is_number = tokeniser.tokens()[token].kind == TokenKind::Numeric && tokeniser.target_classes(token).is_none();
    if is_number {
        let mean = targets.iter().sum::<f64>() / n;
        return targets.iter().map(|target| (target - mean).powi(2)).sum();
    }
    targets.sort_by(f64::total_cmp);
    let classes = targets.chunk_by(|a, b| a.to_bits() == b.to_bits()).map(|class| class.len() as f64);
    classes.map(|count| -count * (count / n).ln()).sum()
}

#[cfg(test)]
mod tests {
    use nids_flows::{ReadOptions, Schema, read};
    use nids_store::progress::Silent;

    use super::*;
    use crate::stages::{finetune, pretrain};
    use crate::testing::Folder;

    const SCHEMA: &str = "name: copies\ncolumns:\n  - { name: one, kind: numeric }\n  - { name: again, kind: numeric }\n  \
                          - { name: other, kind: numeric }\n  - { name: same, kind: numeric }\n  - { name: word, kind: categorical }\n  \
                          - { name: label, kind: label }\n";

    const SETTINGS: &[&str] = &[
        "name=x",
        "data.schema=DIR/copies.yaml",
        "data.train=DIR/train.csv",
        "tokeniser.bins=4",
        "model.dim=16",
        "model.depth=2",
        "engine.threads=1",
        "pretrain.steps=400",
        "pretrain.batch_size=64",
        "pretrain.lr=0.01",
        "finetune.from=pretrained",
        "finetune.steps=1",
    ];

    #[test]
    fn a_copy_is_told_and_what_has_nothing_to_do_with_the_others_is_not() {
        let folder = Folder::new();
        folder.write("copies.yaml", SCHEMA);
        let row = |i: u64| {
            let [one, other] = [i * 7919 % 997, i * i * 31 % 1009];
            format!("{one},{one},{other},5,{},{}\n", if one < 498 { "low" } else { "high" }, i % 2)
        };
        folder.write("train.csv", "one,again,other,same,word,label\n".to_owned() + &(0..600).map(row).collect::<String>());
        let run = folder.run("run");
        for target in ["value", "bins"] {
            let target = format!("pretrain.objective.mae.target={target}");
            let config = folder.config(&[SETTINGS, &[&target]]);
            pretrain(&config, &run, &mut Silent).unwrap();
            finetune(&config, &run, &mut Silent).unwrap();
            let schema = Schema::load(&folder.path("copies.yaml")).unwrap();
            let flows = read(&folder.path("train.csv"), &schema, &ReadOptions::labelled()).unwrap();
            let found = rebuilt(&run, &config, &flows).unwrap();
            let share = |name: &str| found.iter().find(|of| of.feature == name).map(|of| of.share);
            for told in ["one", "again", "word"] {
                assert!(share(told) > Some(0.7), "{target}: {found:?}");
            }
            assert!(share("other") < Some(0.3) && share("same").is_none() && found.len() == 4, "{target}: {found:?}");
            assert!(found.is_sorted_by(|a, b| a.share >= b.share));
            let scratch = folder.config(&[SETTINGS, &[&target, "finetune.from=scratch"]]);
            assert!(rebuilt(&run, &scratch, &flows).unwrap().is_empty());
        }
    }
}
