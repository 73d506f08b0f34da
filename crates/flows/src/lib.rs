//! Flow records: schema, readers, splits, tokeniser, synthetic generator.
#![forbid(unsafe_code)]
