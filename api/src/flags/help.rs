//! The text of `--help`, from the table of flags.

use std::fmt::Write;

use super::{Flag, Kind};

/// Where the second column begins.
const INDENT: usize = 34;
const WIDTH_MAX: usize = 100;

/// `usage` is the first line; each flag follows by name, with its default.
pub fn help(usage: &str, flags: &[Flag]) -> String {
    let mut text = format!("Usage: {usage}\n\n");
    let mut sorted: Vec<&Flag> = flags.iter().collect();
    sorted.sort_by_key(|flag| flag.name);
    for flag in sorted {
        let form = match flag.kind {
            Kind::Bool => format!("--[no-]{}", flag.name),
            _ => format!("--{}=VALUE", flag.name),
        };
        let mut about = flag.help.trim().to_owned();
        if flag.idle {
            about.insert_str(0, "No effect: ");
        }
        if flag.required {
            about.push_str(" (required)");
        }
        if let Some(default) = flag.default {
            let _ = write!(about, " (default: {default})");
        }
        entry(&mut text, &form, &about);
    }
    entry(&mut text, "--help", "Prints this help.");
    text
}

fn entry(text: &mut String, form: &str, about: &str) {
    let mut line = format!("  {form:<width$}", width = INDENT - 2);
    if !line.ends_with("  ") {
        text.push_str(line.trim_end());
        text.push('\n');
        line = " ".repeat(INDENT);
    }
    for word in about.split_whitespace() {
        if line.len() + word.len() > WIDTH_MAX && line.len() > INDENT {
            text.push_str(line.trim_end());
            text.push('\n');
            line = " ".repeat(INDENT);
        }
        line.push_str(word);
        line.push(' ');
    }
    text.push_str(line.trim_end());
    text.push('\n');
}
