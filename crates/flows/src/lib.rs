//! Flow records: schema, readers, duplicate-safe splits, classes, feature tokeniser, synthetic generator.
//!
//! ```
//! use nids_flows::{Tokeniser, TokeniserConfig, split, synthetic};
//!
//! let flows = synthetic(500, 7);
//! let split = split(&flows, 0.2, 1)?;
//! let tokeniser = Tokeniser::fit(&flows, &split.train, &TokeniserConfig::default())?;
//! let encoded = tokeniser.tokenise(&flows)?;
//! let mut token = vec![0.0; tokeniser.tokens()[0].width];
//! encoded.expand(split.val[0] as usize, 0, &mut token);
//! # Ok::<(), nids_flows::Error>(())
//! ```
#![forbid(unsafe_code)]

mod canonical;
mod classes;
mod error;
mod flows;
mod known_rows;
mod labels;
mod last_seen;
mod missing;
mod nearest;
mod proposal;
mod reader;
mod sample;
mod schema;
mod split;
mod synthetic;
mod tokeniser;

pub use classes::Classes;
pub use error::{At, Error, Result};
pub use flows::{FeatureColumn, Flows, TextColumn, write_csv};
pub use known_rows::{KnownRows, row_keys};
pub use labels::{Any, AttackWords, LabelWords};
pub use missing::MISSING;
pub use nearest::nearest;
pub use proposal::{Proposal, ProposalOptions, propose, yaml_scalar};
pub use reader::{
    FlowReader, Ids, Labels, Lines, MAX_MAGNITUDE, NO_LABEL, OnBadRow, Part, ReadOptions, Reject, Share, Written, data_files,
    is_stdin, numbers, read, some_of, written, zeek_unescaped,
};
pub use sample::{RowSample, some_rows};
pub use schema::{CellRules, Column, ColumnKind, Encoding, Infinite, Schema};
pub use split::{Split, Splitter, all_rows, draw_labelled, equal_rows, split};
pub use synthetic::{SyntheticWriter, synthetic, write_synthetic};
pub use tokeniser::{
    Cut, Learnt, MaxCategories, Normalisation, TokenKind, TokenSpec, TokenTable, Tokeniser, TokeniserConfig, TokeniserFit,
    global_max,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
