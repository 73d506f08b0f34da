//! Heads: small learners that are fitted at once, on what is not trained.

use ndarray::Axis;
use nids_config::{Config, Head};
use nids_detect::{Basis, Committee, feature_values};
use nids_flows::TokenTable;
use nids_heads::{Boosting, BoostingConfig, ExtraTrees, ExtraTreesConfig, KernelConfig, KernelMachine, LogisticRegression};
use nids_kernels::Key;
use nids_nn::engine::Engine;
use nids_store::progress::{Event, Progress};
use nids_store::{Error, Result};
use nids_train::stream;

use crate::data::Labelled;

/// Rows that a kernel machine is fitted on, at most: its time grows with the third power.
const KERNEL_ROWS: usize = 4000;
/// Labels up to which trees are small.
const FEW: usize = 2000;

/// Principal components that heads see: with 100 labels, twice as many cost a point of accuracy; with 2,000, fewer do.
fn n_components(n_labels: usize) -> usize {
    match n_labels {
        0..400 => 50,
        400..1500 => 100,
        _ => 256,
    }
}

/// What heads are fitted on.
pub(crate) struct Fitting<'d> {
    pub(crate) config: &'d Config,
    pub(crate) labelled: &'d Labelled,
    pub(crate) encoded: &'d TokenTable,
    /// Training rows whose labels are used.
    pub(crate) rows: &'d [u32],
}

impl Fitting<'_> {
    /// Fits the config's heads. Components are found on training rows, whose labels nobody looks at for that.
    pub(crate) fn fit(&self, engine: &Engine<f32>, basis: Option<&Basis>, progress: &mut dyn Progress) -> Result<Committee> {
        let Self { config, labelled, encoded, rows } = *self;
        let labels = labelled.labels();
        let target: Vec<f64> = rows.iter().map(|&row| f64::from(labels[row as usize])).collect();
        let pos_weight = config.finetune.loss.pos_weight;
        let weight: Vec<f64> = target.iter().map(|&target| if target > 0.5 { pos_weight } else { 1.0 }).collect();
        let mut committee = Committee::default();
        let mut components = None;
        if let Some(basis) = basis {
            let pca = basis.pca(encoded, &labelled.split.train, n_components(rows.len()));
            let pca = pca.map_err(|error| refuse("principal components", &error))?;
            progress.go_on()?;
            components = Some(basis.components(&pca, encoded, rows));
            committee.pca = Some(pca);
        }
        let features = feature_values(encoded, rows);
        let on_components = || components.as_ref().expect("the config was checked: heads on components have a basis");
        for &head in config.finetune.heads() {
            progress.go_on()?;
            match head {
                Head::Logistic => {
                    let fitted = LogisticRegression::fit(on_components(), &target, Some(&weight), 1.0);
                    committee.logistic = Some(fitted.map_err(|error| refuse("logistic", &error))?);
                }
                Head::KernelMachine => {
                    let some: Vec<usize> = (0..rows.len()).step_by(rows.len().div_ceil(KERNEL_ROWS)).collect();
                    if some.len() < rows.len() {
                        let (some, rows) = (some.len(), rows.len());
                        progress.event(Event::Message(&format!("`kernel_machine` is fitted on {some} of {rows} labelled rows")));
                    }
                    let pick = |values: &[f64]| some.iter().map(|&i| values[i]).collect::<Vec<f64>>();
                    let x = on_components().select(Axis(0), &some);
                    let kernel = KernelConfig { gamma: 0.5 / x.ncols() as f64, ..KernelConfig::default() };
                    let fitted = KernelMachine::fit(&x, &pick(&target), Some(&pick(&weight)), kernel);
                    committee.kernel_machine = Some(fitted.map_err(|error| refuse("kernel_machine", &error))?);
                }
                Head::ExtraTrees => {
                    let key = Key::new(config.finetune_seed()).child(stream::HEADS);
                    let fit = || ExtraTrees::fit(&features, &target, Some(&weight), ExtraTreesConfig::default(), key);
                    committee.extra_trees = Some(engine.join(fit, || ()).0.map_err(|error| refuse("extra_trees", &error))?);
                }
                Head::Boosting => {
                    let config = if rows.len() <= FEW {
                        BoostingConfig { n_trees: 200, lr: 0.05, max_leaves: 15, min_leaf: 5, ..BoostingConfig::default() }
                    } else {
                        BoostingConfig { n_trees: 400, lr: 0.05, max_leaves: 63, ..BoostingConfig::default() }
                    };
                    let fit = || Boosting::fit(&features, &target, Some(&weight), config);
                    committee.boosting = Some(engine.join(fit, || ()).0.map_err(|error| refuse("boosting", &error))?);
                }
            }
        }
        Ok(committee)
    }
}

fn refuse(head: &str, error: &nids_heads::Error) -> Error {
    Error::Numerics(format!("`finetune.heads`: {head}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nids_config::Stage;
    use nids_store::progress::Silent;
    use safetensors::SafeTensors;

    use crate::stages::resume_tests::run_stage;
    use crate::testing::Folder;

    #[test]
    fn more_labels_are_given_more_components() {
        let folder = Folder::new();
        for (labels, wanted) in [("399", 50), ("400", 100), ("1500", 256)] {
            let labels = format!("finetune.labels={labels}");
            let rows = ["name=x", "data.synthetic.rows=2500", "tokeniser.bins=8", "engine.threads=1"];
            let config = folder.config(&[&rows, &["finetune.from=features", "finetune.heads=[logistic]", &labels]]);
            run_stage(Stage::Finetune, &config, &folder.run(&labels), &mut Silent).unwrap();
            let bytes = fs::read(folder.path(&labels).join("model.safetensors")).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            assert_eq!(file.tensor("heads.logistic.weight").unwrap().shape(), [wanted], "{labels}");
        }
    }
}
