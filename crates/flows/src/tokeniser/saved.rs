use serde::{Deserialize, Serialize};

use super::fit::MAX_KNOTS;
use super::target_bins::TargetBins;
use super::{Affine, Feature, NORMAL_CLIP, Normalisation, Tokeniser, TokeniserConfig};
use crate::{ColumnKind, Error, MAX_MAGNITUDE, Result, Schema};

const FORMAT: &str = "nids-mixer/tokeniser";
const VERSION: u32 = 1;
/// A hundred features take some 6 MB; a file near this limit is not a tokeniser.
const MAX_BYTES: usize = 16 << 20;
/// The most memory that a value takes, since vectors grow by doubling. The worst case is an empty
/// text, which costs three bytes in the file.
const VALUE_BYTES: usize = 48;
/// The largest magnitude of a number: a first bin may begin this far below its first value, and
/// means are rounded.
const LIMIT: f64 = 4.0 * MAX_MAGNITUDE;

/// `tokeniser.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved<S, C, F, B> {
    format: String,
    version: u32,
    schema: S,
    config: C,
    /// In the order of the schema's features.
    features: F,
    /// In the same order.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    target_bins: Option<B>,
}

impl Tokeniser {
    /// The tokeniser as JSON. Reading it back gives the same tokeniser to the bit.
    #[expect(clippy::missing_panics_doc, reason = "numbers are finite and keys are texts")]
    pub fn to_json(&self) -> String {
        let saved = Saved {
            format: FORMAT.to_owned(),
            version: VERSION,
            schema: &self.schema,
            config: &self.config,
            features: &self.features,
            target_bins: self.target_bins.as_ref(),
        };
        serde_json::to_string(&saved).expect("numbers are finite and keys are texts")
    }

    /// Reads what [`Tokeniser::to_json`] wrote. Nothing in the text is trusted.
    pub fn from_json(text: &str) -> Result<Self> {
        if text.len() > MAX_BYTES {
            return Err(Error::tokeniser(format!("{} bytes of JSON; at most {MAX_BYTES}", text.len())));
        }
        // numbers are written with up to 17 digits: more values than this are none that were learnt
        let n_values = text.bytes().filter(|&byte| byte == b',').count();
        if n_values * VALUE_BYTES > 2 * text.len() + (48 << 20) {
            return Err(Error::tokeniser(format!("{n_values} values in {} bytes of JSON; fit it again", text.len())));
        }
        let not_json = |e: serde_json::Error| Error::tokeniser(format!("not a tokeniser file: {e}"));
        let saved: Saved<Schema, TokeniserConfig, Vec<Feature>, Vec<Option<TargetBins>>> =
            serde_json::from_str(text).map_err(not_json)?;
        let Saved { format, version, schema, config, features, target_bins } = saved;
        if format != FORMAT || version != VERSION {
            return Err(Error::tokeniser(format!(
                "format `{format}` version {version}; this program reads `{FORMAT}` version {VERSION}; fit it again"
            )));
        }
        config.check()?;
        let n_wanted = schema.features().count();
        if features.len() != n_wanted {
            return Err(Error::tokeniser(format!("{} features, but its schema has {n_wanted}", features.len())));
        }
        for (column, feature) in schema.features().zip(&features) {
            check(feature, column.kind, &config)
                .map_err(|message| Error::tokeniser(format!("feature `{}`: {message}; fit it again", column.name)))?;
        }
        if let Some(bins) = &target_bins {
            if bins.len() != n_wanted {
                return Err(Error::tokeniser(format!("{} `target_bins`, but its schema has {n_wanted} features", bins.len())));
            }
            for (column, bins) in schema.features().zip(bins) {
                let is_as_learnt = bins.is_some() == (column.kind == ColumnKind::Numeric);
                let kind = || "`target_bins` are of numeric features".to_owned();
                let checked = if is_as_learnt { Ok(()) } else { Err(kind()) };
                checked
                    .and_then(|()| bins.as_ref().map_or(Ok(()), |bins| bins.check(config.bins, LIMIT)))
                    .map_err(|message| Error::tokeniser(format!("feature `{}`: {message}; fit it again", column.name)))?;
            }
        }
        Ok(Tokeniser { target_bins, ..Tokeniser::new(schema, config, features) })
    }
}

fn check(feature: &Feature, kind: ColumnKind, config: &TokeniserConfig) -> std::result::Result<(), String> {
    let has_parts = config.normalisation == Normalisation::Features;
    match feature {
        Feature::Parts { knots, normal, log1p, edges, missing: _ } if kind == ColumnKind::Numeric && has_parts => {
            ascending("knots", knots, 1..=MAX_KNOTS)?;
            if normal.len() != knots.len() {
                return Err(format!("{} values of `normal` for {} `knots`", normal.len(), knots.len()));
            }
            if !normal.iter().all(|z| z.abs() <= NORMAL_CLIP) || !normal.is_sorted() {
                return Err(format!("`normal` does not ascend between ±{NORMAL_CLIP}"));
            }
            ascending("edges", edges, if config.bins == 0 { 0..=0 } else { 2..=config.bins + 1 })?;
            scale(log1p)
        }
        Feature::Scaled { mean, std, missing: _ } if kind == ColumnKind::Numeric && !has_parts => {
            scale(&Affine { mean: *mean, std: *std })
        }
        Feature::Categorical { values, code, cut } if kind == ColumnKind::Categorical => {
            let most = config.max_categories.most();
            if values.len() > most {
                return Err(format!("{} values; its config says at most {most}", values.len()));
            }
            if !cut.is_bounded() {
                return Err(format!("{} values of `cut`: more than are remembered", cut.values.len()));
            }
            let mut sorted: Vec<&String> = values.iter().chain(&cut.values).collect();
            sorted.sort_unstable();
            match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
                Some(pair) => Err(format!("value {:?} stands there twice", pair[0])),
                None => scale(code),
            }
        }
        _ => Err("its kind is not that of the schema and config".to_owned()),
    }
}

fn ascending(name: &str, values: &[f64], lengths: std::ops::RangeInclusive<usize>) -> std::result::Result<(), String> {
    if !lengths.contains(&values.len()) {
        return Err(format!("{} values of `{name}`; wanted {} to {}", values.len(), lengths.start(), lengths.end()));
    }
    let in_range = values.iter().all(|x| x.abs() <= LIMIT);
    if !in_range || !values.is_sorted_by(|a, b| a < b) {
        return Err(format!("`{name}` does not ascend, or is out of range"));
    }
    Ok(())
}

fn scale(affine: &Affine) -> std::result::Result<(), String> {
    let Affine { mean, std } = *affine;
    if mean.abs() <= LIMIT && std.is_normal() && std > 0.0 && std <= LIMIT {
        return Ok(());
    }
    Err(format!("mean {mean} and std {std} are no scale"))
}
