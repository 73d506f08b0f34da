//! Arrays in, numbers out: how good probabilities are, what a linear probe finds, which rows stand for the others, what a column says of
//! the label, whether it has drifted.
//!
//! **Invariant:** nothing here opens a file.
#![forbid(unsafe_code)]

pub mod adaptation;
pub mod anomaly;
pub mod calibration;
pub mod drift;
pub mod kmeans;
mod logistic;
pub mod metrics;
pub mod operating;
pub mod probe;
pub mod redundancy;
pub mod separation;

/// Numbers that cannot be judged: scores that are not finite, a matrix that cannot be solved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
