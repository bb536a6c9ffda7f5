//! `facts FILE.jsonl ...`: asks every fact and prints a JSON object a line: `id`, `result` (hold, wrong or cannot), `why`.
//! The exit code is 0 unless a file cannot be read.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() {
        eprintln!("usage: facts FILE.jsonl ...");
        return ExitCode::FAILURE;
    }
    // What panics is told in its line.
    std::panic::set_hook(Box::new(|_| {}));
    let mut code = ExitCode::SUCCESS;
    let mut out = std::io::stdout().lock();
    for file in files {
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) => {
                eprintln!("{file}: {error}");
                code = ExitCode::FAILURE;
                continue;
            }
        };
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let (fact, outcome) = facts::judge_line(line);
            // Whoever reads may have gone.
            if writeln!(out, "{}", outcome.line(&fact)).is_err() {
                return code;
            }
        }
    }
    code
}
