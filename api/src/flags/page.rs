//! A page about the flags of a program, from its tables.

use super::Flag;
use std::fmt::Write;

/// What of Mesos's a program does not take.
pub struct Untaken<'a> {
    /// Must not be given.
    pub refused: &'a [&'a str],
    /// With any other value than this one.
    pub only: &'a [(&'a str, &'a str)],
}

/// Markdown: every flag of `program` by name, and what is refused.
pub fn page(program: &str, flags: &[Flag], untaken: &Untaken<'_>) -> String {
    let mut page = format!(
        "# Flags of `{program}`\n\nMade of the code, and compared with it by a test. `--name=value`, or the variable `MESETA_NAME` or `MESOS_NAME`; what is true or false is `--name` \
         or `--no-name`. *No effect*: taken, with a warning if it says something else than what is so.\n\n\
         | flag | unless given | |\n|---|---|---|\n"
    );
    let mut sorted: Vec<&Flag> = flags.iter().collect();
    sorted.sort_by_key(|flag| flag.name);
    for flag in sorted {
        let given = match flag.default {
            _ if flag.required => "must be given".to_owned(),
            Some(value) => code(value),
            None => String::new(),
        };
        let idle = if flag.idle { "*No effect:* " } else { "" };
        let about = cell(flag.help.trim());
        let also: Vec<String> = flag.aliases.iter().map(|alias| code(&format!("--{alias}"))).collect();
        let also = if also.is_empty() { String::new() } else { format!(" Older: {}.", also.join(", ")) };
        let variable = flag.variable.map(|name| format!(" Variable: {}.", code(name))).unwrap_or_default();
        let _ = writeln!(page, "| {} | {given} | {idle}{about}{also}{variable} |", code(flag.name));
    }
    if !untaken.refused.is_empty() {
        let names: Vec<String> = untaken.refused.iter().map(|name| code(name)).collect();
        let _ = write!(page, "\n## Refused\n\nFlags of Mesos that this release does not have: {}.\n", names.join(", "));
    }
    if !untaken.only.is_empty() {
        page.push_str("\n## One value alone\n\n| flag | is |\n|---|---|\n");
        for (name, value) in untaken.only {
            let _ = writeln!(page, "| {} | {} |", code(name), code(value));
        }
    }
    page
}

/// In a cell of a table, where a bar would end it.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

fn code(text: &str) -> String {
    if text.is_empty() { "empty".to_owned() } else { format!("`{}`", text.replace('|', "\\|")) }
}
