//! What was measured: rows, as a table for people and as JSON for programs.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde::Serialize;

use crate::Fallible;

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    name: &'static str,
    params: String,
    value: f64,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_value: Option<f64>,
    /// `value` ÷ `peer_value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
}

impl Row {
    pub(crate) fn new(name: &'static str, params: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name, params: params.into(), value: round(value), unit, peer: None, peer_value: None, ratio: None }
    }

    /// With what a peer did in the same run.
    pub(crate) fn beside(mut self, peer: &str, value: f64) -> Self {
        self.peer = Some(peer.to_owned());
        self.ratio = Some(round(self.value / value));
        self.peer_value = Some(round(value));
        self
    }
}

/// The rows of a run, and what could not be measured.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Empty: all.
    only: Vec<String>,
    rows: Vec<Row>,
    missing: Vec<String>,
}

impl Report {
    pub(crate) fn new(only: Vec<String>) -> Self {
        Self { only, ..Self::default() }
    }

    /// Whether any of these rows is wanted.
    pub(crate) fn wants(&self, names: &[&str]) -> bool {
        self.only.is_empty() || names.iter().any(|name| self.only.iter().any(|only| only == name))
    }

    /// Measures, unless none of `names` is wanted. A measurement that fails or panics leaves its rows absent.
    pub(crate) fn measure(&mut self, names: &[&str], what: &str, measure: impl FnOnce() -> Fallible<Vec<Row>>) {
        if !self.wants(names) {
            return;
        }
        eprintln!("bench: {what}");
        let problem = match attempt(measure) {
            Ok(rows) => {
                let wanted: Vec<Row> = rows.into_iter().filter(|row| self.wants(&[row.name])).collect();
                wanted.iter().for_each(|row| eprintln!("bench: {}", line(row)));
                self.rows.extend(wanted);
                return;
            }
            Err(error) => error.to_string(),
        };
        let problem = problem.lines().next().unwrap_or_default();
        self.missing.push(format!("{} ({what}): {problem}", names.join(", ")));
        eprintln!("bench: not measured: {} ({what}): {problem}", names.join(", "));
    }

    /// True if every wanted row was measured.
    pub(crate) fn complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// Prints the table to stdout and what is missing to stderr, and writes the JSON.
    pub(crate) fn finish(&self, output: &Path) -> io::Result<()> {
        let cells: Vec<[String; 5]> = self.rows.iter().map(cells).collect();
        let head = ["name", "params", "value", "peer", "ratio"].map(str::to_owned);
        let widths: Vec<usize> = (0..5)
            .map(|column| cells.iter().chain([&head]).map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        for row in [&head].into_iter().chain(&cells) {
            let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            println!("{}", padded.collect::<Vec<_>>().join("  ").trim_end());
        }
        for missing in &self.missing {
            eprintln!("bench: not measured: {missing}");
        }
        // One row a line, so that a diff of two runs can be read.
        let lines: Vec<String> = self.rows.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        fs::write(output, format!("[\n{}\n]\n", lines.join(",\n")))
    }
}

/// Does it; a panic is an error like any other.
pub(crate) fn attempt<T>(action: impl FnOnce() -> Fallible<T>) -> Fallible<T> {
    catch_unwind(AssertUnwindSafe(action)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(text.unwrap_or_else(|| "it panicked".to_owned()).into())
    })
}

fn cells(row: &Row) -> [String; 5] {
    let peer = row.peer.as_ref().zip(row.peer_value).map(|(peer, value)| format!("{value} ({peer})"));
    [
        row.name.to_owned(),
        row.params.clone(),
        format!("{} {}", row.value, row.unit),
        peer.unwrap_or_default(),
        row.ratio.map(|ratio| ratio.to_string()).unwrap_or_default(),
    ]
}

fn line(row: &Row) -> String {
    cells(row).into_iter().filter(|cell| !cell.is_empty()).collect::<Vec<_>>().join(" · ")
}

/// Three significant digits below 100, whole numbers above: more would pretend.
fn round(value: f64) -> f64 {
    if value.abs() >= 100.0 {
        return value.round();
    }
    let scale = if value.abs() >= 10.0 {
        10.0
    } else if value.abs() >= 1.0 {
        100.0
    } else {
        1000.0
    };
    (value * scale).round() / scale
}
