//! `meseta-containerizer-check PROGRAM [RULE...]`: whether a program is an external containerizer as the agent needs it, rule by rule.

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.as_slice() {
        [word] if word == "--version" => {
            println!("meseta-containerizer-check {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        [path, rules @ ..] if !path.starts_with('-') => {
            let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
            match containers::conformance::check(path, &rules, |line| println!("{line}")) {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => ExitCode::FAILURE,
                Err(sentence) => {
                    eprintln!("meseta-containerizer-check: {sentence}");
                    ExitCode::FAILURE
                }
            }
        }
        _ => {
            eprintln!(
                "Usage: meseta-containerizer-check /PATH/OF/PROGRAM [RULE...]: one line for each rule that it keeps or breaks"
            );
            ExitCode::FAILURE
        }
    }
}
