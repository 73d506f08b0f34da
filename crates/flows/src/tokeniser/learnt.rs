//! What a tokeniser learnt, for those who write it down in another form.

use super::categories::{Class, class_of};
use super::token_table::{median, place};
use super::{Feature, LOG1P_CLIP, SCALED_CLIP, Tokeniser};
use crate::TextColumn;
use crate::canonical::spellings;

/// How the values of a token follow from a feature, as [`Tokeniser`] says. Numbers are computed in f64 and kept as f32.
#[derive(Debug, Clone, PartialEq)]
pub enum Learnt<'t> {
    /// A number in the parts that are on, in this order.
    Parts {
        /// Training values, strictly ascending, and the quantile-normal value at each: linear between, constant beyond.
        quantile: Option<[&'t [f64]; 2]>,
        /// Of sign(x) ln(1 + |x|): mean, standard deviation, and where the result is clipped on both sides.
        log1p: Option<[f64; 3]>,
        /// Of piecewise-linear bins, strictly ascending; empty where there are none.
        edges: &'t [f64],
        /// Place among the bins of what is missing: how many lie below it.
        neutral: f32,
        /// Whether the last value says that the number is missing.
        indicator: bool,
    },
    /// A number as (x - mean) / std.
    Scaled {
        /// Mean, standard deviation, and where the result is clipped on both sides.
        affine: [f64; 3],
        /// Whether the last value says that the number is missing.
        indicator: bool,
    },
    /// A category.
    Categorical {
        /// The known ones, and one for all others.
        n_classes: usize,
        /// The class of every text that is known, other spellings included. All others are of the last class.
        classes: Vec<(String, usize)>,
        /// Mean and standard deviation of the class index, which stands for the class, and where the result is clipped on both sides.
        /// None where there is a value for each class.
        code: Option<[f64; 3]>,
    },
}

impl Tokeniser {
    /// What was learnt of the feature of a token.
    ///
    /// # Panics
    /// If the token is out of range.
    pub fn learnt(&self, token: usize) -> Learnt<'_> {
        match &self.features[token] {
            Feature::Parts { knots, normal, log1p, edges, missing } => Learnt::Parts {
                quantile: self.config.quantile.then_some([knots, normal]),
                log1p: self.config.log1p.then_some([log1p.mean, log1p.std, LOG1P_CLIP]),
                edges: if edges.len() < 2 { &[] } else { edges },
                neutral: if *missing { 0.0 } else { place(edges, median(knots, normal)) as f32 },
                indicator: *missing,
            },
            Feature::Scaled { mean, std, missing } => Learnt::Scaled { affine: [*mean, *std, SCALED_CLIP], indicator: *missing },
            Feature::Categorical { values, cut, code } => {
                let mut texts = TextColumn::default();
                values.iter().flat_map(|value| spellings(value)).for_each(|text| texts.push(&text));
                let classes = texts.vocabulary().iter().cloned().zip(class_of(values, cut, &texts));
                let known =
                    classes.filter_map(|(text, class)| if let Class::Known(class) = class { Some((text, class)) } else { None });
                let code = (!self.config.expands_classes()).then_some([code.mean, code.std, SCALED_CLIP]);
                Learnt::Categorical { n_classes: values.len() + 1, classes: known.collect(), code }
            }
        }
    }
}
