//! `meseta completions SHELL` and `meseta man [COMMAND]`: written from the table of commands, so that they know them all.

use std::fmt::Write as _;

use api::flags::{Flag, Kind};

use crate::Command;
use crate::error::Error;

pub(crate) const COMPLETIONS_ABOUT: &str = "Prints what a shell completes: bash, zsh or fish. In bash:
source <(meseta completions bash).";
pub(crate) const MAN_ABOUT: &str =
    "Prints a page of the manual: of all commands, or of one. meseta man drain | man -l -";

/// What a shell reads to complete words of `meseta`.
///
/// # Errors
/// One sentence if it is no shell that is known.
pub(crate) fn completions(words: &[String], commands: &[Command]) -> Result<String, Error> {
    match words {
        [shell] if shell == "bash" => Ok(bash(commands)),
        [shell] if shell == "zsh" => {
            Ok(format!("#compdef meseta\nautoload -U +X bashcompinit && bashcompinit\n{}", bash(commands)))
        }
        [shell] if shell == "fish" => Ok(fish(commands)),
        _ => Err(Error::Usage("which shell? meseta completions bash, zsh or fish".to_owned())),
    }
}

fn written(flag: &Flag) -> String {
    if flag.kind == Kind::Bool { format!("--{}", flag.name) } else { format!("--{}=", flag.name) }
}

fn bash(commands: &[Command]) -> String {
    let names: Vec<&str> = commands.iter().map(|command| command.name).collect();
    let names = format!("{} help", names.join(" "));
    let mut cases = String::new();
    for command in commands {
        let flags: Vec<String> = command.all_flags().iter().map(written).collect();
        let _ = writeln!(cases, "    {}) words='{}' ;;", command.name, flags.join(" "));
    }
    format!(
        "_meseta() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} words=
  COMPREPLY=()
  if [ \"$COMP_CWORD\" = 1 ] || {{ [ \"$COMP_CWORD\" = 2 ] && [ \"${{COMP_WORDS[1]}}\" = help ]; }}; then
    COMPREPLY=($(compgen -W '{names}' -- \"$word\"))
    return
  fi
  case \"${{COMP_WORDS[1]}}\" in
{cases}  esac
  case \"$word\" in
    -*) COMPREPLY=($(compgen -W \"$words\" -- \"$word\")) ;;
    *) COMPREPLY=($(compgen -f -- \"$word\")) ;;
  esac
  case \"${{COMPREPLY[0]}}\" in *=) compopt -o nospace 2>/dev/null ;; esac
}}
complete -F _meseta meseta
"
    )
}

/// In single quotes.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn fish(commands: &[Command]) -> String {
    let mut all = String::from("complete -c meseta -f\n");
    for command in commands {
        let Command { name, about, .. } = command;
        let _ = writeln!(
            all,
            "complete -c meseta -n __fish_use_subcommand -a {name} -d {}",
            quoted(first_line(about).trim_end_matches('.'))
        );
        for flag in command.all_flags() {
            let takes = if flag.kind == Kind::Bool { "" } else { " -r" };
            let _ = writeln!(
                all,
                "complete -c meseta -n '__fish_seen_subcommand_from {name}' -l {}{takes} -d {}",
                flag.name,
                quoted(first_line(flag.help))
            );
        }
    }
    all
}

/// A page of the manual, in roff.
///
/// # Errors
/// One sentence if there is no such command.
pub(crate) fn man(words: &[String], help: &str) -> Result<String, Error> {
    let (title, text) = match words {
        [] => ("MESETA".to_owned(), help.to_owned()),
        [name] => {
            let command = crate::find(name)?;
            (format!("MESETA-{}", name.to_uppercase()), crate::help_of(command))
        }
        _ => return Err(Error::Usage("one command, or none: meseta man [COMMAND]".to_owned())),
    };
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!(".TH {title} 1 \"\" \"meseta {version}\" \"Meseta\"\n.SH {title}\n.nf\n");
    for line in text.lines() {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        // A line that begins with a point or a quote would be an order.
        let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
        let _ = writeln!(page, "{guard}{line}");
    }
    page.push_str(".fi\n");
    Ok(page)
}
