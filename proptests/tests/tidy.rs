//! Small promises about the source that no compiler holds.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace")
}

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder").filter_map(Result::ok) {
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, into);
        } else if name.ends_with(".rs") {
            into.push(path);
        }
    }
}

fn every_source(check: impl Fn(&Path, &str) -> Option<String>) {
    let (mut files, mut found) = (Vec::new(), String::new());
    sources(&root(), &mut files);
    assert!(files.len() > 50, "this is not the workspace");
    for file in files {
        let text = fs::read_to_string(&file).expect("UTF-8");
        if let Some(problem) = check(&file, &text) {
            found.push_str(&format!("{}: {problem}\n", file.strip_prefix(root()).unwrap_or(&file).display()));
        }
    }
    assert!(found.is_empty(), "{found}");
}

#[test]
fn nothing_is_left_to_do_by_panicking() {
    // Spelled so that this file does not find itself.
    let macros = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("));
    every_source(|_, text| macros.iter().find(|word| text.contains(*word)).cloned());
}

#[test]
fn tests_are_not_ignored() {
    let word = format!("#[{}", "ignore");
    every_source(|_, text| text.contains(&word).then(|| word.clone()));
}

/// A new event that `fold` does not name must not compile.
#[test]
fn folds_have_no_arm_for_the_rest() {
    every_source(|path, text| {
        let in_core = path.starts_with(root().join("master/core")) || path.starts_with(root().join("agent/core"));
        let fold = in_core && path.ends_with("fold.rs");
        (fold && text.lines().any(|line| line.trim_start().starts_with("_ =>"))).then(|| "an arm `_ =>`".to_owned())
    });
}

/// `unsafe` stands in few modules, each with its reasons.
#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    every_source(|_, text| {
        let lines: Vec<&str> = text.lines().collect();
        let block = format!("{} {{", "unsafe");
        let bare = lines.iter().enumerate().find(|(number, line)| {
            let code = line.split("//").next().unwrap_or_default();
            code.contains(&block)
                && !lines[number.saturating_sub(6)..=*number].iter().any(|line| line.contains("SAFETY"))
        });
        bare.map(|(number, _)| format!("line {}", number + 1))
    });
}
