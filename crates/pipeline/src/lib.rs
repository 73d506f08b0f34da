//! Stages, typed config, run folders and artefacts.
#![forbid(unsafe_code)]
