use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{FeatureColumn, Flows, Schema};

/// Flows of the shape of UNSW-NB15, labelled; the same seed gives the same flows on every machine.
#[expect(clippy::missing_panics_doc, reason = "the schema ships")]
pub fn synthetic(n_rows: usize, seed: u64) -> Flows {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let schema = Schema::builtin("unsw-nb15").expect("it ships");
    let mut flows = Flows::empty(&Arc::new(schema), true, true);
    for row in 0..n_rows {
        let attack = rng.random_bool(0.55);
        flows.ids.push((row + 1).to_string());
        for column in &mut flows.features {
            match column {
                FeatureColumn::Numeric(values) => values.push(f64::from(rng.random_range(0..40_u8) + 10 * u8::from(attack))),
                FeatureColumn::Categorical(texts) => texts.push(["tcp", "udp"][usize::from(rng.random_bool(0.5))]),
            }
        }
        flows.labels.iter_mut().for_each(|labels| labels.push(attack.into()));
        flows.categories.iter_mut().for_each(|c| c.push(if attack { "Generic" } else { "Normal" }));
    }
    flows
}
