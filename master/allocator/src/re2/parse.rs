//! RE2's grammar, as it is without options: Perl's, and UTF-8.

use super::{Node, Place, Written, class, factor};
use regex_syntax::hir::ClassUnicode;

/// The most that one repetition, and all around it together, may repeat.
const REPEAT_MAX: u32 = 1000;

/// Parentheses in parentheses.
pub(super) const DEPTH_MAX: usize = 1000;

/// What `(?ims-U)` changes.
#[derive(Debug, Clone, Copy, Default)]
struct Flags {
    fold: bool,
    lines: bool,
    dot_nl: bool,
    lazy: bool,
}

/// A parenthesis that is open, and what was read before it.
struct Open {
    capture: bool,
    flags: Flags,
    items: Vec<Node>,
    branches: Vec<Node>,
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    flags: Flags,
    open: Vec<Open>,
    /// The concatenation that is being read.
    items: Vec<Node>,
    /// The alternatives before it.
    branches: Vec<Node>,
    names: Vec<&'a str>,
}

/// Reads an expression. Err is RE2's sentence.
pub(super) fn parse(text: &str) -> Result<Node, String> {
    let flags = Flags::default();
    let mut parser = Parser { text, at: 0, flags, open: vec![], items: vec![], branches: vec![], names: vec![] };
    parser.run()?;
    if parser.open.is_empty() { Ok(parser.close()) } else { Err(format!("missing ): {text}")) }
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let char = self.peek()?;
        self.at += char.len_utf8();
        Some(char)
    }

    fn take(&mut self, prefix: &str) -> bool {
        let found = self.rest().starts_with(prefix);
        self.at += if found { prefix.len() } else { 0 };
        found
    }

    fn since(&self, from: usize) -> &'a str {
        &self.text[from..self.at]
    }

    fn run(&mut self) -> Result<(), String> {
        // Where the repetition began that has just been read: they do not stack.
        let mut last_repeat = None;
        while let Some(char) = self.peek() {
            if self.open.len() > DEPTH_MAX {
                return Err(super::TOO_LARGE.to_owned());
            }
            let from = self.at;
            let mut repeat = None;
            match char {
                '*' | '+' | '?' => {
                    self.next();
                    let (min, max, written) = match char {
                        '*' => (0, None, Written::Star),
                        '+' => (1, None, Written::Plus),
                        _ => (0, Some(1), Written::Quest),
                    };
                    self.repeat(from, last_repeat, min, max, written)?;
                    repeat = Some(from);
                }
                '{' => match self.counts() {
                    Some((min, max)) => {
                        self.repeat(from, last_repeat, min, max, Written::Counted)?;
                        repeat = Some(from);
                    }
                    None => {
                        self.next();
                        self.literal('{');
                    }
                },
                '(' if self.rest().starts_with("(?") => self.perl_group()?,
                '(' => {
                    self.next();
                    self.enter(true);
                }
                '|' => {
                    self.next();
                    let branch = concat(std::mem::take(&mut self.items));
                    self.branches.push(branch);
                }
                ')' => {
                    let node = self.close();
                    let open = self.open.pop().ok_or_else(|| format!("unexpected ): {}", self.text))?;
                    self.next();
                    (self.flags, self.items, self.branches) = (open.flags, open.items, open.branches);
                    self.items.push(if open.capture { Node::Capture(Box::new(node)) } else { node });
                }
                '^' => {
                    self.next();
                    self.place(if self.flags.lines { Place::BeginLine } else { Place::BeginText });
                }
                '$' => {
                    self.next();
                    self.place(if self.flags.lines { Place::EndLine } else { Place::EndText });
                }
                '.' => {
                    self.next();
                    let any = if self.flags.dot_nl {
                        Node::AnyChar
                    } else {
                        Node::Class(class::of(&[('\0', '\t'), ('\x0b', char::MAX)]))
                    };
                    self.items.push(any);
                }
                '[' => {
                    let class = self.class()?;
                    self.items.push(single(class));
                }
                '\\' => self.escape()?,
                _ => {
                    self.next();
                    self.literal(char);
                }
            }
            last_repeat = repeat.map(|from| last_repeat.unwrap_or(from));
        }
        Ok(())
    }

    /// Ends the alternation that is being read.
    fn close(&mut self) -> Node {
        let last = concat(std::mem::take(&mut self.items));
        let mut branches = std::mem::take(&mut self.branches);
        if branches.is_empty() {
            return last;
        }
        branches.push(last);
        factor::alternate(branches)
    }

    fn enter(&mut self, capture: bool) {
        let (items, branches) = (std::mem::take(&mut self.items), std::mem::take(&mut self.branches));
        self.open.push(Open { capture, flags: self.flags, items, branches });
    }

    fn place(&mut self, place: Place) {
        self.items.push(Node::Place(place));
    }

    fn literal(&mut self, char: char) {
        let node = if self.flags.fold {
            single(class::folded(class::of(&[(char, char)])))
        } else {
            Node::Literal { char, fold: false }
        };
        self.items.push(node);
    }

    /// `{2}`, `{2,}` or `{2,3}`; anything else stands for itself.
    fn counts(&mut self) -> Option<(u32, Option<u32>)> {
        let (inside, _) = self.rest().strip_prefix('{')?.split_once('}')?;
        let number = |text: &str| {
            let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
            // So large that it is refused, and no longer counted, beyond nine digits.
            text.parse().ok().filter(|_| plain && text.len() <= 9)
        };
        let (min, max) = match inside.split_once(',') {
            None => (number(inside)?, Some(number(inside)?)),
            Some((min, "")) => (number(min)?, None),
            Some((min, max)) => (number(min)?, Some(number(max)?)),
        };
        self.at += inside.len() + 2;
        Some((min, max))
    }

    fn repeat(
        &mut self,
        from: usize,
        last: Option<usize>,
        min: u32,
        max: Option<u32>,
        written: Written,
    ) -> Result<(), String> {
        let greedy = self.take("?") == self.flags.lazy;
        if let Some(last) = last {
            return Err(format!("bad repetition operator: {}", self.since(last)));
        }
        let written_so = self.since(from);
        let size = || format!("invalid repetition size: {written_so}");
        if max.is_some_and(|max| max < min) || min > REPEAT_MAX || max.is_some_and(|max| max > REPEAT_MAX) {
            return Err(size());
        }
        let missing = || format!("no argument for repetition operator: {written_so}");
        let node = self.items.pop().ok_or_else(missing)?;
        let node = match node {
            // `(?:x*)+` and the like are `x*`; said twice is said once.
            Node::Repeat { node, written: inner, greedy: same, .. }
                if written != Written::Counted && inner != Written::Counted && same == greedy =>
            {
                let (min, max, written) = if inner == written { (min, max, written) } else { (0, None, Written::Star) };
                Node::Repeat { node, min, max, greedy, written }
            }
            node => Node::Repeat { node: Box::new(node), min, max, greedy, written },
        };
        if (min >= 2 || max.is_some_and(|max| max >= 2)) && left(&node, REPEAT_MAX) == 0 {
            return Err(size());
        }
        self.items.push(node);
        Ok(())
    }

    /// `(?flags)`, `(?flags:` or `(?P<name>`.
    fn perl_group(&mut self) -> Result<(), String> {
        let from = self.at;
        self.at += 2;
        if self.take("P<") {
            let bad = |what: &str| Err(format!("invalid named capture group: {what}"));
            let Some((name, _)) = self.rest().split_once('>') else { return bad(&self.text[from..]) };
            self.at += name.len() + 1;
            let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if !plain {
                return bad(self.since(from));
            }
            self.names.push(name);
            self.enter(true);
            return Ok(());
        }
        let bad = |parser: &Self| Err(format!("invalid perl operator: {}", parser.since(from)));
        let (mut flags, mut negated, mut seen) = (self.flags, false, false);
        loop {
            let Some(char) = self.next() else { return bad(self) };
            match char {
                'i' => flags.fold = !negated,
                'm' => flags.lines = !negated,
                's' => flags.dot_nl = !negated,
                'U' => flags.lazy = !negated,
                '-' if !negated => {
                    (negated, seen) = (true, false);
                    continue;
                }
                ':' | ')' if negated && !seen => return bad(self),
                ':' => {
                    self.enter(false);
                    break;
                }
                ')' => break,
                _ => return bad(self),
            }
            seen = true;
        }
        self.flags = flags;
        Ok(())
    }

    fn escape(&mut self) -> Result<(), String> {
        let from = self.at;
        match self.rest().chars().nth(1) {
            Some('b') => self.place(Place::WordBoundary),
            Some('B') => self.place(Place::NoWordBoundary),
            Some('A') => self.place(Place::BeginText),
            Some('z') => self.place(Place::EndText),
            Some('C') => self.items.push(Node::AnyByte),
            Some('Q') => {
                self.at += 2;
                while !self.rest().is_empty() && !self.take(r"\E") {
                    if let Some(char) = self.next() {
                        self.literal(char);
                    }
                }
                return Ok(());
            }
            _ => {
                let mut class = ClassUnicode::empty();
                if self.named_class(&mut class)? {
                    self.items.push(single(class));
                } else {
                    let char = self.escaped_char()?;
                    self.literal(char);
                }
                return Ok(());
            }
        }
        self.at = from + 2;
        Ok(())
    }

    /// `\d`, `\p{..}` and so on, added to `to`. False = it is none.
    fn named_class(&mut self, to: &mut ClassUnicode) -> Result<bool, String> {
        let from = self.at;
        let Some(name) = self.rest().strip_prefix('\\').and_then(|rest| rest.chars().next()) else { return Ok(false) };
        if let Some((class, negated)) = class::perl(name) {
            self.at += 2;
            class::add(to, class, negated, self.flags.fold);
            return Ok(true);
        }
        if !matches!(name, 'p' | 'P') {
            return Ok(false);
        }
        self.at += 2;
        let bad = |what: &str| Err(format!("invalid character class range: {what}"));
        let first = self.at;
        let mut group = match self.next() {
            None => return bad(self.since(from)),
            Some('{') => match self.rest().split_once('}') {
                None => return bad(&self.text[from..]),
                Some((group, _)) => {
                    self.at += group.len() + 1;
                    group
                }
            },
            Some(_) => self.since(first),
        };
        let mut negated = name == 'P';
        if let Some(opposite) = group.strip_prefix('^') {
            (group, negated) = (opposite, !negated);
        }
        let Some(class) = class::unicode(group) else { return bad(self.since(from)) };
        class::add(to, class, negated, self.flags.fold);
        Ok(true)
    }

    /// The character that an escape stands for.
    fn escaped_char(&mut self) -> Result<char, String> {
        let from = self.at;
        self.next();
        let Some(char) = self.next() else { return Err(r"trailing \".to_owned()) };
        let bad = |parser: &Self| format!("invalid escape sequence: {}", parser.since(from));
        let octal = |char: Option<char>| char.filter(|char| ('0'..='7').contains(char));
        match char {
            // One digit alone would be a reference back.
            '1'..='7' if octal(self.peek()).is_none() => Err(bad(self)),
            '0'..='7' => {
                let mut code = u32::from(char) - 48;
                for _ in 0..2 {
                    let Some(digit) = octal(self.peek()) else { break };
                    self.next();
                    code = code * 8 + u32::from(digit) - 48;
                }
                char::from_u32(code).ok_or_else(|| bad(self))
            }
            'x' => {
                let Some(first) = self.next() else { return Err(bad(self)) };
                if first == '{' {
                    let mut code = None;
                    loop {
                        match self.next() {
                            Some('}') => break,
                            Some(digit) if digit.is_ascii_hexdigit() => {
                                let sum = code.unwrap_or(0) * 16 + digit.to_digit(16).unwrap_or(0);
                                if sum > u32::from(char::MAX) {
                                    return Err(bad(self));
                                }
                                code = Some(sum);
                            }
                            _ => return Err(bad(self)),
                        }
                    }
                    // Halves of surrogate pairs are no characters here.
                    return code.and_then(char::from_u32).ok_or_else(|| bad(self));
                }
                let Some(second) = self.next() else { return Err(bad(self)) };
                let digits = first.to_digit(16).zip(second.to_digit(16));
                digits.and_then(|(high, low)| char::from_u32(high * 16 + low)).ok_or_else(|| bad(self))
            }
            'n' => Ok('\n'),
            'r' => Ok('\r'),
            't' => Ok('\t'),
            'a' => Ok('\x07'),
            'f' => Ok('\x0c'),
            'v' => Ok('\x0b'),
            char if char.is_ascii() && !char.is_ascii_alphanumeric() => Ok(char),
            _ => Err(bad(self)),
        }
    }

    fn class(&mut self) -> Result<ClassUnicode, String> {
        let whole = self.rest();
        let missing = || format!("missing ]: {whole}");
        self.next();
        let negated = self.take("^");
        let mut class = ClassUnicode::empty();
        let mut first = true;
        while first || self.peek() != Some(']') {
            if self.rest().is_empty() {
                return Err(missing());
            }
            first = false;
            if let Some((name, _)) = self.rest().strip_prefix("[:").and_then(|rest| rest.split_once(":]")) {
                let from = self.at;
                self.at += name.len() + 4;
                let bad = || format!("invalid character class range: {}", self.since(from));
                let (posix, negated) = class::posix(name).ok_or_else(bad)?;
                class::add(&mut class, posix, negated, self.flags.fold);
                continue;
            }
            if self.named_class(&mut class)? {
                continue;
            }
            let from = self.at;
            let begin = self.class_char().ok_or_else(missing)??;
            let rest = self.rest();
            let mut end = begin;
            if rest.len() >= 2 && rest.starts_with('-') && !rest.starts_with("-]") {
                self.next();
                end = self.class_char().ok_or_else(missing)??;
                if end < begin {
                    return Err(format!("invalid character class range: {}", self.since(from)));
                }
            }
            class::add(&mut class, class::of(&[(begin, end)]), false, self.flags.fold);
        }
        self.next();
        if negated {
            class.negate();
        }
        Ok(class)
    }

    fn class_char(&mut self) -> Option<Result<char, String>> {
        if self.peek()? == '\\' { Some(self.escaped_char()) } else { self.next().map(Ok) }
    }
}

/// What a class is: often something simpler.
fn single(class: ClassUnicode) -> Node {
    let ranges: Vec<(char, char)> = class.ranges().iter().map(|range| (range.start(), range.end())).collect();
    match ranges[..] {
        [] => Node::Never,
        [(char, end)] if char == end => Node::Literal { char, fold: false },
        [(upper, a), (lower, b)]
            if upper == a && lower == b && upper.is_ascii_uppercase() && lower == upper.to_ascii_lowercase() =>
        {
            Node::Literal { char: lower, fold: true }
        }
        _ if class::is_full(&class) => Node::AnyChar,
        _ => Node::Class(class),
    }
}

/// A concatenation without concatenations in it.
pub(super) fn concat(items: Vec<Node>) -> Node {
    let mut flat = Vec::with_capacity(items.len());
    for item in items {
        match item {
            Node::Concat(inner) => flat.extend(inner),
            item => flat.push(item),
        }
    }
    match flat.len() {
        0 => Node::Empty,
        1 => flat.remove(0),
        _ => Node::Concat(flat),
    }
}

/// What is left of `budget` after the repetitions along the most repeated path.
fn left(node: &Node, budget: u32) -> u32 {
    match node {
        Node::Repeat { node, min, max, written: Written::Counted, .. } => {
            left(node, budget / max.unwrap_or(*min).max(1))
        }
        Node::Repeat { node, .. } | Node::Capture(node) => left(node, budget),
        Node::Concat(nodes) | Node::Alternate(nodes) => {
            nodes.iter().map(|node| left(node, budget)).min().unwrap_or(budget)
        }
        _ => budget,
    }
}
