//! The program as a user meets it: from a command line to verdicts, or to an error that helps.

mod anomaly;
mod any_file;
mod audit;
mod bad_data;
mod batch;
mod bench;
mod categories;
mod command_line;
mod console;
mod damage;
mod data_sets;
mod distil;
mod drift;
mod ensembles;
mod export;
mod few_labels;
mod job;
mod memory;
mod moved;
mod operating;
mod outputs;
mod parts;
mod reasons;
mod report;
mod resume;
mod same_bytes;
mod schemas;
mod sweep;
mod training;
mod tutorial;
#[cfg(unix)]
mod watch;
