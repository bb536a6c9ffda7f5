//! Running the program.

#![allow(dead_code, unreachable_pub, reason = "each test uses what it needs")]

pub(crate) mod cluster;
pub(crate) mod master;

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

/// What the program answers to `words`.
pub(crate) fn run(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_meseta-log")).args(words).output().expect("the program starts")
}

/// What it writes; it must succeed.
pub(crate) fn text(words: &[&str]) -> String {
    let output = run(words);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

/// Its JSON objects; it must succeed.
pub(crate) fn json(words: &[&str]) -> Vec<Value> {
    let mut words = words.to_vec();
    words.push("--json");
    objects(&text(&words))
}

/// One object a line.
pub(crate) fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// What it says when it fails, and its exit code.
pub(crate) fn failure(words: &[&str]) -> (String, i32) {
    let output = run(words);
    (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code().expect("an exit code"))
}

/// A path as the command line has it.
pub(crate) fn at(dir: &Path) -> &str {
    dir.to_str().expect("a path of text")
}
