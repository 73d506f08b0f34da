//! How a watcher is: for a person who reads stderr, and for Prometheus.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use nids_detect::watch::{Change, Drift};
use nids_store::progress::grouped;

use super::alert::Model;
use super::record::Record;
use super::state::WatchCounts;

/// What was seen since the last heartbeat.
pub(super) struct Health {
    began: Instant,
    flows: u64,
    /// Seconds between the end of the flow that was read last and when it was read.
    late: Option<f64>,
    /// How often a disk took nothing.
    pub(super) waits: u64,
    model: Option<Model>,
}

impl Health {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), flows: 0, late: None, waits: 0, model: None }
    }

    pub(super) fn set_model(&mut self, model: &Model) {
        self.model = Some(model.clone());
    }

    pub(super) fn is_due(&self, every: Duration) -> bool {
        !every.is_zero() && self.began.elapsed() >= every
    }

    /// Begins to count again.
    pub(super) fn begin(&mut self) {
        (self.began, self.flows) = (Instant::now(), 0);
    }

    pub(super) fn add(&mut self, flows: u64) {
        self.flows += flows;
    }

    /// Takes note of the last flow of a batch.
    pub(super) fn saw(&mut self, record: &Record, read_at: f64) {
        let end = record.end.or_else(|| Some(record.start? + record.duration.unwrap_or(0.0)));
        self.late = end.map(|end| (read_at - end).max(0.0));
    }

    fn rate(&self) -> f64 {
        self.flows as f64 / self.began.elapsed().as_secs_f64().max(1e-3)
    }

    /// A line for a person.
    pub(super) fn line(&self, counts: &WatchCounts, behind: u64, drift: Option<&Drift>) -> String {
        let WatchCounts { flows, alerts, rejected, passed, .. } = counts;
        let late = self.late.map_or_else(String::new, |seconds| format!(" and {seconds:.1} s"));
        let trust = |drift: &Drift| if drift.warnings.is_empty() { "" } else { "; verdicts should not be trusted" };
        let drift = drift.map_or_else(String::new, |drift| format!("; {}{}", drift.line(), trust(drift)));
        format!(
            "watch: {} flows/s, {} in all; {} bytes{late} behind; {alerts} alerts, {rejected} rejected, {passed} passed over{drift}",
            grouped(self.rate()),
            grouped(*flows as f64),
            grouped(behind as f64)
        )
    }

    /// The text file that Prometheus' node_exporter reads.
    pub(super) fn prometheus(&self, counts: &WatchCounts, behind: u64, drift: Option<&Drift>, now: f64) -> String {
        let mut text = String::new();
        let mut add = |name: &str, kind: &str, help: &str, value: String| {
            // a text can always be written to
            let _ = writeln!(text, "# HELP nids_mixer_{name} {help}\n# TYPE nids_mixer_{name} {kind}\nnids_mixer_{name} {value}");
        };
        for (name, help, n) in [
            ("lines_total", "Lines read.", counts.lines),
            ("flows_total", "Flows judged.", counts.flows),
            ("alerts_total", "Flows with an alert.", counts.alerts),
            ("rejected_total", "Lines that cannot be read.", counts.rejected),
            ("passed_total", "Lines that the schema passes over.", counts.passed),
            ("events_total", "What happened to the files: rotations, cuts, rests that are lost.", counts.events),
            ("write_waits_total", "How often a disk took nothing since the start.", self.waits),
        ] {
            add(name, "counter", help, n.to_string());
        }
        add("lag_bytes", "gauge", "Bytes of the files that were not read.", behind.to_string());
        if let Some(late) = self.late {
            add("lag_seconds", "gauge", "Seconds from the end of the last flow to when it was read.", format!("{late:.3}"));
        }
        add("heartbeat_timestamp_seconds", "gauge", "When this was written.", format!("{now:.3}"));
        if let Some(drift) = drift {
            let moved = drift.features.iter().filter(|feature| feature.change == Change::Moved).count();
            add("drift_features_moved", "gauge", "Features that have moved since training.", moved.to_string());
            add(
                "drift_warnings",
                "gauge",
                "Why verdicts should not be trusted: how many reasons.",
                drift.warnings.len().to_string(),
            );
        }
        if let Some(model) = &self.model {
            add("threshold", "gauge", "From which score on a flow is an alert.", model.threshold.to_string());
            let help = "# HELP nids_mixer_model_info The model that judges.\n# TYPE nids_mixer_model_info gauge";
            let _ = writeln!(text, "{help}\nnids_mixer_model_info{{version=\"{}\"}} 1", model.version);
        }
        text
    }
}
