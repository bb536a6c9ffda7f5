//! Regular expressions in RE2's syntax, with RE2's refusals and RE2's measure of size; matching is the work of `regex`.
//!
//! Frameworks write their constraints for RE2. Its grammar and `regex`'s are alike but not the same: `\d` is ASCII here
//! and Unicode there, `(?m)`, `\C`, `\Q`, `[a&&b]`, `a{,3}` and more mean something else or nothing. So the text is read by
//! RE2's rules into a tree, and `regex` is given what that tree means, spelled out.

mod class;
mod factor;
mod parse;
mod program;

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::hir::ClassUnicode;

/// What one expression may cost, as the flags `--offer_constraints_re2_max_mem` and `..._max_program_size` say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory of RE2 for one expression, bytes: two thirds of it bound the program.
    pub mem_bytes_max: u64,
    /// Instructions of the finished program.
    pub program_size_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { mem_bytes_max: 4096, program_size_max: 100 }
    }
}

/// A parsed expression.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    /// Matches the empty text.
    Empty,
    /// Matches nothing at all.
    Never,
    /// One character; `fold` = its other ASCII case too.
    Literal {
        char: char,
        fold: bool,
    },
    /// One character of a class that is neither empty nor full.
    Class(ClassUnicode),
    /// Any character at all.
    AnyChar,
    /// Any byte, `\C`.
    AnyByte,
    /// A place between characters.
    Place(Place),
    Concat(Vec<Node>),
    Alternate(Vec<Node>),
    /// `max` None = without end. `written` tells `x*` from `x{0,}`.
    Repeat {
        node: Box<Node>,
        min: u32,
        max: Option<u32>,
        greedy: bool,
        written: Written,
    },
    Capture(Box<Node>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Star,
    Plus,
    Quest,
    Counted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    BeginText,
    EndText,
    BeginLine,
    EndLine,
    WordBoundary,
    NoWordBoundary,
}

/// What RE2 says when a program does not fit into memory.
const TOO_LARGE: &str = "pattern too large - compile failed";

/// Reads and measures `text`. Err is the sentence that frameworks know.
pub(crate) fn compile(text: &str, limits: Limits) -> Result<Regex, String> {
    let bad = |why: &str| format!("Failed to construct regex from pattern '{text}': {why}");
    let node = parse::parse(text).map_err(|error| bad(&error))?;
    let too_large = || bad(TOO_LARGE);
    let size = program::size(&node, limits.mem_bytes_max).ok_or_else(too_large)?;
    if size > limits.program_size_max {
        return Err(format!(
            "Regex '{text}' is too complex: program size of {size} is larger than maximum of {} allowed",
            limits.program_size_max
        ));
    }
    let mut whole = String::from(r"\A(?:");
    write(&node, &mut whole);
    whole.push_str(r")\z");
    // What our limits let through is far below those of `regex`, unless the flags were raised without measure.
    let nests_max = 4 * parse::DEPTH_MAX as u32;
    RegexBuilder::new(&whole).nest_limit(nests_max).build().map_err(|_| too_large())
}

/// What a tree means, in the syntax of `regex`. How often, not how greedily: only whole texts are matched.
fn write(node: &Node, out: &mut String) {
    let character = |char: char| format!("\\x{{{:x}}}", u32::from(char));
    match node {
        Node::Empty => out.push_str("(?:)"),
        Node::Never => out.push_str(r"[^\x{0}-\x{10ffff}]"),
        Node::Literal { char, fold: false } => out.push_str(&character(*char)),
        Node::Literal { char, fold: true } => {
            out.push_str(&format!("[{}{}]", character(*char), character(char.to_ascii_uppercase())));
        }
        Node::Class(class) => {
            out.push('[');
            for range in class.ranges() {
                out.push_str(&format!("{}-{}", character(range.start()), character(range.end())));
            }
            out.push(']');
        }
        Node::AnyChar => out.push_str("(?s:.)"),
        Node::AnyByte => out.push_str("(?s-u:.)"),
        Node::Place(place) => out.push_str(match place {
            Place::BeginText => r"\A",
            Place::EndText => r"\z",
            Place::BeginLine => "(?m:^)",
            Place::EndLine => "(?m:$)",
            Place::WordBoundary => r"(?-u:\b)",
            Place::NoWordBoundary => r"(?-u:\B)",
        }),
        Node::Concat(nodes) => nodes.iter().for_each(|node| write(node, out)),
        Node::Alternate(nodes) => {
            out.push_str("(?:");
            for (index, node) in nodes.iter().enumerate() {
                if index > 0 {
                    out.push('|');
                }
                write(node, out);
            }
            out.push(')');
        }
        Node::Repeat { node, min, max, .. } => {
            out.push_str("(?:");
            write(node, out);
            out.push(')');
            let max = max.map_or(String::new(), |max| max.to_string());
            out.push_str(&format!("{{{min},{max}}}"));
        }
        Node::Capture(node) => {
            out.push_str("(?:");
            write(node, out);
            out.push(')');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> String {
        compile(text, Limits::default()).map_or_else(|why| why, |_| "ok".to_owned())
    }

    fn matches(pattern: &str, text: &str) -> bool {
        compile(pattern, Limits::default()).unwrap_or_else(|why| panic!("{why}")).is_match(text.as_bytes())
    }

    #[test]
    fn what_is_refused_is_refused_in_the_words_of_re2() {
        for (text, why) in [
            ("[", "missing ]: ["),
            ("r[", "missing ]: ["),
            ("[a-d", "missing ]: [a-d"),
            ("(", "missing ): ("),
            ("a)b", "unexpected ): a)b"),
            ("*", "no argument for repetition operator: *"),
            ("(|*)", "no argument for repetition operator: *"),
            ("a**", "bad repetition operator: **"),
            ("a+*?", "bad repetition operator: +*?"),
            ("a{2}{3}", "bad repetition operator: {2}{3}"),
            (r"(r)\1", r"invalid escape sequence: \1"),
            (r"\Z", r"invalid escape sequence: \Z"),
            (r"\q", r"invalid escape sequence: \q"),
            ("a\\", r"trailing \"),
            ("[z-a]", "invalid character class range: z-a"),
            (r"\p{Nosuch}", r"invalid character class range: \p{Nosuch}"),
            ("[[:word2:]]", "invalid character class range: [:word2:]"),
            ("a{2,1}", "invalid repetition size: {2,1}"),
            ("a{1001}", "invalid repetition size: {1001}"),
            ("((a{1,100}){1,100}){1,100}", "invalid repetition size: {1,100}"),
            ("(?<a>b)", "invalid perl operator: (?<"),
            ("(?=a)", "invalid perl operator: (?="),
            ("(?P<a-b>c)", "invalid named capture group: (?P<a-b>"),
            ("(a+){500}", "pattern too large - compile failed"),
        ] {
            assert_eq!(answer(text), format!("Failed to construct regex from pattern '{text}': {why}"));
        }
        let why = "Regex '(a+){50}' is too complex: program size of 204 is larger than maximum of 100 allowed";
        assert_eq!(answer("(a+){50}"), why);
        assert_eq!(answer("(a+){10}"), "ok");
    }

    #[test]
    fn the_whole_text_must_match_as_re2_reads_it() {
        for (pattern, yes, no) in [
            ("[a-d]+", "abcd", "bcde"),
            ("r", "r", "r1"),
            (r"\d", "7", "\u{663}"),
            (r"\w+", "a_9", "é"),
            ("a{,3}", "a{,3}", "aa"),
            ("[a&&b]", "&", "c"),
            (r"\Qa.b\E+", "a.bb", "axb"),
            ("(?i)straße", "STRAßE", "STRASSE"),
            ("(?i:a)b", "Ab", "AB"),
            (".", "é", "\n"),
            ("(?s).", "\n", "ab"),
            (r"\C\C", "é", "e"),
            (r"\x{e9}|\x41|\101", "A", "B"),
            ("(?m)^a$\\n^b$", "a\nb", "ab"),
            ("^a$", "a", "a\n"),
            (r"\ba\b", "a", "b"),
            ("[]a]", "]", "b"),
            ("[^[:alpha:]]", "1", "a"),
            (r"[\p{Greek}]", "λ", "l"),
        ] {
            // Classes of Unicode are large: those are only matched.
            let limits = Limits { mem_bytes_max: 1 << 20, program_size_max: 10_000 };
            let regex = compile(pattern, limits).unwrap_or_else(|why| panic!("{why}"));
            assert!(regex.is_match(yes.as_bytes()), "{pattern} takes {yes:?}");
            assert!(!regex.is_match(no.as_bytes()), "{pattern} does not take {no:?}");
        }
        assert!(matches("", ""));
    }
}
