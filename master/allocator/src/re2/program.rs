//! How large RE2's program of an expression is: its machine over bytes, built and laid out as RE2 does, but only counted.
//!
//! Agrees with RE2 instruction for instruction on expressions as people write them. Not followed: a class that mixes
//! in halves of surrogate pairs, `\C*`, and anchors that are repeated.

use std::collections::BTreeMap;

use regex_syntax::hir::ClassUnicode;

use super::factor::is_begin;
use super::{Node, Place, Written, class};

/// What RE2 keeps for a program before its first instruction, and for each, bytes.
const PROGRAM_BYTES: u64 = 416;
const INSTRUCTION_BYTES: u64 = 8;
/// Instructions that RE2 can number.
const INSTRUCTIONS_MAX: u64 = 1 << 24;
/// How deep RE2 looks for an anchor.
const ANCHOR_DEPTH: u32 = 4;

/// Instructions of the finished program, or None if it does not fit into `mem_bytes`.
pub(super) fn size(node: &Node, mem_bytes: u64) -> Option<u64> {
    let room = (mem_bytes.saturating_mul(2) / 3).saturating_sub(PROGRAM_BYTES) / INSTRUCTION_BYTES;
    // Number 0 fails, and is there without being asked.
    let mut machine = Machine { code: vec![Code::Fail], room: room.min(INSTRUCTIONS_MAX), ..Machine::default() };
    let node = after_prefix(node);
    let (node, anchored) = strip(&node, Place::BeginText, ANCHOR_DEPTH);
    let (node, _) = strip(&node, Place::EndText, ANCHOR_DEPTH);
    let whole = machine.node(&node)?;
    let end = machine.add(Code::Match)?;
    let start = machine.cat(whole, Part { begin: end, holes: vec![] });
    let mut unanchored = start.begin;
    if !anchored {
        let any = machine.byte(0, 255, false)?;
        let any = machine.star(any, false)?;
        unanchored = machine.cat(any, start.clone()).begin;
    }
    if start.begin == 0 && unanchored == 0 {
        return Some(1);
    }
    Some(Layout::of(&machine.code, unanchored, start.begin).size())
}

/// RE2 compares a text after `^` by itself and compiles what is left.
fn after_prefix(node: &Node) -> Node {
    let Node::Concat(nodes) = node else { return node.clone() };
    let anchors = nodes.iter().take_while(|node| is_begin(node)).count();
    let fold = match nodes.get(anchors) {
        Some(Node::Literal { fold, .. }) if anchors > 0 => *fold,
        _ => return node.clone(),
    };
    let text = |node: &&Node| matches!(node, Node::Literal { fold: other, .. } if *other == fold);
    let prefix = nodes[anchors..].iter().take_while(text).count();
    super::parse::concat(nodes[anchors + prefix..].to_vec())
}

/// Without the anchor at its beginning or end, and whether there was one.
fn strip(node: &Node, place: Place, depth: u32) -> (Node, bool) {
    if depth == 0 {
        return (node.clone(), false);
    }
    match node {
        Node::Place(it) if *it == place => (Node::Empty, true),
        Node::Capture(inner) => {
            let (inner, found) = strip(inner, place, depth - 1);
            (Node::Capture(Box::new(inner)), found)
        }
        Node::Concat(nodes) => {
            let at = if place == Place::BeginText { 0 } else { nodes.len() - 1 };
            let (one, found) = strip(&nodes[at], place, depth - 1);
            let mut nodes = nodes.clone();
            nodes[at] = one;
            (Node::Concat(nodes), found)
        }
        node => (node.clone(), false),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    Fail,
    Match,
    Nop {
        out: usize,
    },
    /// A capture's mark or a place between bytes.
    Mark {
        out: usize,
    },
    Alt {
        out: usize,
        other: usize,
    },
    Byte {
        low: u8,
        high: u8,
        fold: bool,
        out: usize,
    },
}

/// A piece of a machine. `begin` 0 = it never matches.
#[derive(Debug, Clone, Default)]
struct Part {
    begin: usize,
    /// Where it goes on is not known yet: an instruction, and whether its other way out is meant.
    holes: Vec<(usize, bool)>,
}

/// A range of bytes with what follows: an end that several characters of a class may share.
type Tail = (u8, u8, bool, usize);

#[derive(Default)]
struct Machine {
    code: Vec<Code>,
    /// Instructions that fit.
    room: u64,
    /// Of the class at hand: ends that are shared, its tree, its ways out.
    shared: BTreeMap<Tail, usize>,
    root: usize,
    holes: Vec<(usize, bool)>,
}

impl Machine {
    fn add(&mut self, code: Code) -> Option<usize> {
        let id = self.code.len();
        (id < usize::try_from(self.room).ok()?).then(|| self.code.push(code))?;
        Some(id)
    }

    fn patch(&mut self, holes: &[(usize, bool)], to: usize) {
        for &(id, second) in holes {
            match &mut self.code[id] {
                Code::Alt { other, .. } if second => *other = to,
                Code::Nop { out } | Code::Mark { out } | Code::Byte { out, .. } | Code::Alt { out, .. } => *out = to,
                Code::Fail | Code::Match => {}
            }
        }
    }

    fn one(&mut self, code: Code) -> Option<Part> {
        let id = self.add(code)?;
        Some(Part { begin: id, holes: vec![(id, false)] })
    }

    fn byte(&mut self, low: u8, high: u8, fold: bool) -> Option<Part> {
        self.one(Code::Byte { low, high, fold, out: 0 })
    }

    fn cat(&mut self, a: Part, b: Part) -> Part {
        if a.begin == 0 || b.begin == 0 {
            return Part::default();
        }
        self.patch(&a.holes, b.begin);
        let nothing = a.holes == [(a.begin, false)] && matches!(self.code[a.begin], Code::Nop { .. });
        if nothing { b } else { Part { begin: a.begin, holes: b.holes } }
    }

    fn alt(&mut self, a: Part, b: Part) -> Option<Part> {
        if a.begin == 0 || b.begin == 0 {
            return Some(if a.begin == 0 { b } else { a });
        }
        let begin = self.add(Code::Alt { out: a.begin, other: b.begin })?;
        Some(Part { begin, holes: [a.holes, b.holes].concat() })
    }

    /// A choice between `a` and what comes after.
    fn choice(&mut self, begin: usize, greedy: bool) -> Option<(usize, (usize, bool))> {
        let (out, other) = if greedy { (begin, 0) } else { (0, begin) };
        let id = self.add(Code::Alt { out, other })?;
        Some((id, (id, greedy)))
    }

    fn star(&mut self, a: Part, greedy: bool) -> Option<Part> {
        let (id, hole) = self.choice(a.begin, greedy)?;
        self.patch(&a.holes, id);
        Some(Part { begin: id, holes: vec![hole] })
    }

    fn plus(&mut self, a: Part, greedy: bool) -> Option<Part> {
        let begin = a.begin;
        Some(Part { begin, ..self.star(a, greedy)? })
    }

    fn quest(&mut self, a: Part, greedy: bool) -> Option<Part> {
        if a.begin == 0 {
            return self.one(Code::Nop { out: 0 });
        }
        let (begin, hole) = self.choice(a.begin, greedy)?;
        Some(Part { begin, holes: [vec![hole], a.holes].concat() })
    }

    fn node(&mut self, node: &Node) -> Option<Part> {
        match node {
            Node::Never => Some(Part::default()),
            node if is_empty(node) => self.one(Code::Nop { out: 0 }),
            Node::Empty => self.one(Code::Nop { out: 0 }),
            Node::Literal { char, fold } => {
                let mut bytes = [0; 4];
                let mut part: Option<Part> = None;
                for byte in char.encode_utf8(&mut bytes).bytes() {
                    let next = self.byte(byte, byte, *fold)?;
                    part = Some(match part {
                        None => next,
                        Some(part) => self.cat(part, next),
                    });
                }
                part
            }
            Node::Class(class) => self.class(class),
            Node::AnyChar => self.class(&class::of(&[('\0', char::MAX)])),
            Node::AnyByte => self.byte(0, 255, false),
            Node::Place(_) => self.one(Code::Mark { out: 0 }),
            Node::Concat(nodes) => self.concat(&coalesced(nodes)),
            Node::Alternate(nodes) => {
                let mut sum = Part::default();
                for node in nodes {
                    let next = self.node(node)?;
                    sum = self.alt(sum, next)?;
                }
                Some(sum)
            }
            Node::Repeat { node, min, max, greedy, .. } => self.repeat(node, *min, *max, *greedy),
            Node::Capture(node) => {
                let part = self.node(node)?;
                if part.begin == 0 {
                    return Some(part);
                }
                let open = self.add(Code::Mark { out: part.begin })?;
                let close = self.add(Code::Mark { out: 0 })?;
                self.patch(&part.holes, close);
                Some(Part { begin: open, holes: vec![(close, false)] })
            }
        }
    }

    fn concat(&mut self, nodes: &[Node]) -> Option<Part> {
        let mut sum: Option<Part> = None;
        for node in nodes {
            let next = self.node(node)?;
            sum = Some(match sum {
                None => next,
                Some(sum) => self.cat(sum, next),
            });
        }
        sum
    }

    /// `x{2,}` is `xx+`, and `x{2,4}` is `xx(x(x)?)?`.
    fn repeat(&mut self, node: &Node, min: u32, max: Option<u32>, greedy: bool) -> Option<Part> {
        let mut sum: Option<Part> = None;
        let whole = if max.is_none() { min.saturating_sub(1) } else { min };
        for _ in 0..whole {
            let next = self.node(node)?;
            sum = Some(match sum {
                None => next,
                Some(sum) => self.cat(sum, next),
            });
        }
        let mut rest: Option<Part> = None;
        match max {
            None => {
                let part = self.node(node)?;
                rest = if min == 0 { self.star(part, greedy) } else { self.plus(part, greedy) };
                rest.as_ref()?;
            }
            Some(max) => {
                for _ in min..max {
                    let mut part = self.node(node)?;
                    if let Some(rest) = rest {
                        part = self.cat(part, rest);
                    }
                    rest = Some(self.quest(part, greedy)?);
                }
            }
        }
        match (sum, rest) {
            (Some(sum), Some(rest)) => Some(self.cat(sum, rest)),
            (sum, rest) => sum.or(rest),
        }
    }

    fn class(&mut self, class: &ClassUnicode) -> Option<Part> {
        self.shared.clear();
        (self.root, self.holes) = (0, vec![]);
        let ranges: Vec<(u32, u32)> =
            class.ranges().iter().map(|range| (range.start().into(), range.end().into())).collect();
        let (upper, lower) = (65..=90u32, 97..=122u32);
        let has = |code: u32| ranges.iter().any(|&(from, to)| from <= code && code <= to);
        let folds = upper.clone().all(|code| has(code) == has(code + 32));
        for &(from, to) in &ranges {
            // In a class of both cases small letters stand for both.
            if folds && upper.contains(&from) && upper.contains(&to) {
                continue;
            }
            let neither = to < 65 || from > 122 || (from > 90 && to < *lower.start());
            let fold = folds && !neither && !(from <= 65 && to >= 122);
            self.range(from, to, fold)?;
        }
        Some(Part { begin: self.root, holes: std::mem::take(&mut self.holes) })
    }

    /// Splits a range of characters until each piece is a range of bytes at each place.
    fn range(&mut self, from: u32, to: u32, fold: bool) -> Option<()> {
        if from > to {
            return Some(());
        }
        if (from, to) == (0x80, u32::from(char::MAX)) {
            return self.all_beyond_ascii();
        }
        for max in [0x7f, 0x7ff, 0xffff] {
            if from <= max && max < to {
                self.range(from, max, fold)?;
                return self.range(max + 1, to, fold);
            }
        }
        if to < 0x80 {
            let id = self.tail(from as u8, to as u8, fold, 0)?;
            return self.insert(id);
        }
        for places in 1..4 {
            let low = (1u32 << (6 * places)) - 1;
            if from & !low != to & !low {
                if from & low != 0 {
                    self.range(from, from | low, fold)?;
                    return self.range((from | low) + 1, to, fold);
                }
                if to & low != low {
                    self.range(from, (to & !low) - 1, fold)?;
                    return self.range(to & !low, to, fold);
                }
            }
        }
        let (first, last) = (bytes(from), bytes(to));
        let mut id = 0;
        for at in (0..first.len()).rev() {
            let (low, high) = (first[at], last[at]);
            let shared = at == first.len() - 1 || (low < high && at != 0);
            id = if shared { self.shared_tail(low, high, id)? } else { self.tail(low, high, false, id)? };
        }
        self.insert(id)
    }

    /// The one large range that `.` and `[^a]` end with, with ends shared.
    fn all_beyond_ascii(&mut self) -> Option<()> {
        let mut id = 0;
        for (low, high) in [(0xc2, 0xdf), (0xe0, 0xef), (0xf0, 0xf4)] {
            id = self.tail(0x80, 0xbf, false, id)?;
            let lead = self.tail(low, high, false, id)?;
            self.insert(lead)?;
        }
        Some(())
    }

    fn tail(&mut self, low: u8, high: u8, fold: bool, out: usize) -> Option<usize> {
        let id = self.add(Code::Byte { low, high, fold, out })?;
        if out == 0 {
            self.holes.push((id, false));
        }
        Some(id)
    }

    fn shared_tail(&mut self, low: u8, high: u8, out: usize) -> Option<usize> {
        if let Some(id) = self.shared.get(&(low, high, false, out)) {
            return Some(*id);
        }
        let id = self.tail(low, high, false, out)?;
        self.shared.insert((low, high, false, out), id);
        Some(id)
    }

    fn insert(&mut self, id: usize) -> Option<()> {
        self.root = if self.root == 0 { id } else { self.insert_below(self.root, id)? };
        Some(())
    }

    /// Characters that begin with the same bytes share them.
    fn insert_below(&mut self, root: usize, id: usize) -> Option<usize> {
        let key = |code: Code| match code {
            Code::Byte { low, high, fold, .. } => Some((low, high, fold)),
            _ => None,
        };
        let last = match self.code[root] {
            Code::Alt { other, .. } => other,
            _ => root,
        };
        if key(self.code[last]) != key(self.code[id]) {
            return self.add(Code::Alt { out: root, other: id });
        }
        let is_shared = |machine: &Self, id: usize| match machine.code[id] {
            Code::Byte { low, high, fold, out } => machine.shared.contains_key(&(low, high, fold, out)),
            _ => false,
        };
        let (mut at, mut root) = (last, root);
        if is_shared(self, at) {
            at = self.add(self.code[at])?;
            match &mut self.code[root] {
                Code::Alt { other, .. } => *other = at,
                _ => root = at,
            }
        }
        let Code::Byte { out: tail, .. } = self.code[id] else { return None };
        if !is_shared(self, id) && id + 1 == self.code.len() {
            self.code.pop();
            self.holes.retain(|hole| hole.0 != id);
        }
        let Code::Byte { out: next, .. } = self.code[at] else { return None };
        let below = self.insert_below(next, tail)?;
        if let Code::Byte { out, .. } = &mut self.code[at] {
            *out = below;
        }
        Some(root)
    }
}

/// The bytes of UTF-8, of halves of surrogate pairs too.
fn bytes(code: u32) -> Vec<u8> {
    let rest = |shift: u32| 0x80 | ((code >> shift) & 0x3f) as u8;
    match code {
        0..0x80 => vec![code as u8],
        0x80..0x800 => vec![0xc0 | (code >> 6) as u8, rest(0)],
        0x800..0x1_0000 => vec![0xe0 | (code >> 12) as u8, rest(6), rest(0)],
        _ => vec![0xf0 | (code >> 18) as u8, rest(12), rest(6), rest(0)],
    }
}

/// However often nothing is said, it is nothing.
fn is_empty(node: &Node) -> bool {
    match node {
        Node::Empty => true,
        Node::Repeat { max: Some(0), .. } => true,
        Node::Repeat { node, .. } => is_empty(node),
        _ => false,
    }
}

/// `a*a+a` is `a{2,}`.
fn coalesced(nodes: &[Node]) -> Vec<Node> {
    let one = |node: &Node| matches!(node, Node::Literal { .. } | Node::Class(_) | Node::AnyChar | Node::AnyByte);
    let mut out: Vec<Node> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let (what, least, most, lazy) = match node {
            Node::Repeat { node, min, max, greedy, .. } => (&**node, *min, *max, Some(!greedy)),
            node => (node, 1, Some(1), None),
        };
        match out.last_mut() {
            Some(Node::Repeat { node, min, max, greedy, written })
                if one(node) && **node == *what && lazy.is_none_or(|lazy| lazy != *greedy) =>
            {
                *min += least;
                *max = max.zip(most).map(|(max, most)| max + most);
                *written = Written::Counted;
            }
            _ => out.push(node.clone()),
        }
    }
    out
}

/// The machine as lists: what can be reached without a byte stands together once, and others lead to it.
struct Layout<'a> {
    code: &'a [Code],
    /// Where lists begin, in the order they were found.
    roots: Vec<usize>,
    is_root: Vec<bool>,
    /// From where an instruction is reached without a byte.
    before: BTreeMap<usize, Vec<usize>>,
}

impl<'a> Layout<'a> {
    fn of(code: &'a [Code], unanchored: usize, start: usize) -> Self {
        let mut layout = Self { code, roots: vec![], is_root: vec![false; code.len()], before: BTreeMap::new() };
        [0, unanchored, start].into_iter().for_each(|id| layout.root(id));
        let mut seen = vec![false; code.len()];
        let mut todo = vec![unanchored];
        while let Some(id) = todo.pop() {
            if std::mem::replace(&mut seen[id], true) {
                continue;
            }
            match code[id] {
                Code::Alt { out, other } => {
                    for next in [out, other] {
                        layout.before.entry(next).or_default().push(id);
                    }
                    todo.extend([other, out]);
                }
                Code::Byte { out, .. } | Code::Mark { out } => {
                    layout.root(out);
                    todo.push(out);
                }
                Code::Nop { out } => todo.push(out),
                Code::Fail | Code::Match => {}
            }
        }
        let mut sorted = layout.roots.clone();
        sorted.sort_unstable();
        for root in sorted.into_iter().skip(1).rev().filter(|root| *root != unanchored && *root != start) {
            layout.mark_entered_from_elsewhere(root);
        }
        layout
    }

    fn root(&mut self, id: usize) {
        if !std::mem::replace(&mut self.is_root[id], true) {
            self.roots.push(id);
        }
    }

    /// What can be reached from `root` without a byte, up to other roots, which are named too.
    fn reach(&self, root: usize) -> Vec<usize> {
        let mut seen = std::collections::BTreeSet::new();
        let (mut all, mut todo) = (vec![], vec![root]);
        while let Some(id) = todo.pop() {
            if !seen.insert(id) {
                continue;
            }
            all.push(id);
            if id != root && self.is_root[id] {
                continue;
            }
            match self.code[id] {
                Code::Alt { out, other } => todo.extend([other, out]),
                Code::Nop { out } => todo.push(out),
                Code::Fail | Code::Match | Code::Byte { .. } | Code::Mark { .. } => {}
            }
        }
        all
    }

    fn mark_entered_from_elsewhere(&mut self, root: usize) {
        let reached = self.reach(root);
        let known: std::collections::BTreeSet<usize> = reached.iter().copied().collect();
        for id in reached {
            if self.before.get(&id).is_some_and(|before| before.iter().any(|from| !known.contains(from))) {
                self.root(id);
            }
        }
    }

    fn size(&self) -> u64 {
        let emitted = |root: usize, id: &usize| {
            (*id != root && self.is_root[*id]) || !matches!(self.code[*id], Code::Alt { .. } | Code::Nop { .. })
        };
        self.roots.iter().map(|&root| self.reach(root).iter().filter(|id| emitted(root, id)).count() as u64).sum()
    }
}
