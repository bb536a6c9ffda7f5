//! Classes of characters by name, and their cases.

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, HirKind};

/// A class of these ranges, ends included.
pub(super) fn of(ranges: &[(char, char)]) -> ClassUnicode {
    ClassUnicode::new(ranges.iter().map(|&(from, to)| ClassUnicodeRange::new(from, to)))
}

/// Whether every character is in it.
pub(super) fn is_full(class: &ClassUnicode) -> bool {
    matches!(class.ranges(), [range] if range.start() == '\0' && range.end() == char::MAX)
}

/// `\d`, `\s`, `\w` and their opposites. ASCII alone, and `\s` without the vertical tab.
pub(super) fn perl(name: char) -> Option<(ClassUnicode, bool)> {
    let ranges: &[(char, char)] = match name.to_ascii_lowercase() {
        'd' => &[('0', '9')],
        's' => &[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')],
        'w' => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
        _ => return None,
    };
    Some((of(ranges), name.is_ascii_uppercase()))
}

/// What stands between `[:` and `:]`.
pub(super) fn posix(name: &str) -> Option<(ClassUnicode, bool)> {
    let (name, negated) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
    let ranges: &[(char, char)] = match name {
        "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
        "alpha" => &[('A', 'Z'), ('a', 'z')],
        "ascii" => &[('\0', '\x7f')],
        "blank" => &[('\t', '\t'), (' ', ' ')],
        "cntrl" => &[('\0', '\x1f'), ('\x7f', '\x7f')],
        "digit" => &[('0', '9')],
        "graph" => &[('!', '~')],
        "lower" => &[('a', 'z')],
        "print" => &[(' ', '~')],
        "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "space" => &[('\t', '\r'), (' ', ' ')],
        "upper" => &[('A', 'Z')],
        "word" => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
        "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
        _ => return None,
    };
    Some((of(ranges), negated))
}

/// What `\p{name}` is: `Any`, a general category by its short name, or a script.
pub(super) fn unicode(name: &str) -> Option<ClassUnicode> {
    if name == "Any" {
        return Some(of(&[('\0', char::MAX)]));
    }
    let plain = name.starts_with(|char: char| char.is_ascii_uppercase())
        && name.chars().all(|char| char.is_ascii_alphabetic() || char == '_');
    let kind = if name.len() <= 2 { "gc" } else { "sc" };
    let hir = plain.then(|| regex_syntax::parse(&format!("\\p{{{kind}={name}}}")).ok())??;
    match hir.into_kind() {
        HirKind::Class(Class::Unicode(class)) => Some(class),
        _ => None,
    }
}

/// With all cases of what is in it.
pub(super) fn folded(mut class: ClassUnicode) -> ClassUnicode {
    // It cannot fail: the tables of cases are compiled in.
    let _ = class.try_case_fold_simple();
    class
}

/// Adds a class or its opposite, in all cases if `fold` says so.
pub(super) fn add(to: &mut ClassUnicode, class: ClassUnicode, negated: bool, fold: bool) {
    let mut class = if fold { folded(class) } else { class };
    if negated {
        class.negate();
    }
    to.union(&class);
}
