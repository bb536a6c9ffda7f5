//! Alternatives that begin alike share their beginning, and alternatives of one character are a class: `abc|abd` is
//! `ab[cd]`. It makes programs smaller, and so decides what is too large.

use super::parse::concat;
use super::{Node, Place, Written, class};
use regex_syntax::hir::ClassUnicode;

/// The alternation of `branches`, which are two or more.
pub(super) fn alternate(branches: Vec<Node>) -> Node {
    let mut flat = Vec::with_capacity(branches.len());
    for branch in branches {
        match branch {
            Node::Alternate(inner) => flat.extend(inner),
            branch => flat.push(branch),
        }
    }
    either(factor(flat))
}

fn either(mut nodes: Vec<Node>) -> Node {
    match nodes.len() {
        0 => Node::Never,
        1 => nodes.remove(0),
        _ => Node::Alternate(nodes),
    }
}

fn items(node: &Node) -> &[Node] {
    match node {
        Node::Concat(nodes) => nodes,
        node => std::slice::from_ref(node),
    }
}

fn factor(nodes: Vec<Node>) -> Vec<Node> {
    let nodes = share(nodes, literals);
    let nodes = share(nodes, first_piece);
    merge(nodes)
}

/// How many leading items two alternatives share.
type Shared = fn(&[Node], &[Node]) -> usize;

/// Texts: all leading literals of one kind of case.
fn literals(a: &[Node], b: &[Node]) -> usize {
    let kind = |node: &Node| match node {
        Node::Literal { fold, .. } => Some(*fold),
        _ => None,
    };
    let Some(first) = a.first().and_then(kind) else { return 0 };
    a.iter().zip(b).take_while(|(a, b)| a == b && kind(a) == Some(first)).count()
}

/// One piece that takes up the same text however it is reached.
fn first_piece(a: &[Node], b: &[Node]) -> usize {
    let one = |node: &Node| matches!(node, Node::Literal { .. } | Node::Class(_) | Node::AnyChar | Node::AnyByte);
    let simple = match a.first() {
        Some(Node::Place(_) | Node::Class(_) | Node::AnyChar | Node::AnyByte) => true,
        Some(Node::Repeat { node, min, max, written: Written::Counted, .. }) => *max == Some(*min) && one(node),
        _ => false,
    };
    usize::from(simple && a.first() == b.first())
}

/// Runs of alternatives that share a beginning become one.
fn share(nodes: Vec<Node>, shared: Shared) -> Vec<Node> {
    let mut out = Vec::with_capacity(nodes.len());
    let mut start = 0;
    while start < nodes.len() {
        let first = items(&nodes[start]);
        let (mut end, mut prefix) = (start + 1, first.len());
        while end < nodes.len() {
            let same = shared(&first[..prefix], items(&nodes[end]));
            if same == 0 {
                break;
            }
            (prefix, end) = (same, end + 1);
        }
        if end == start + 1 {
            out.push(nodes[start].clone());
        } else {
            let tails = nodes[start..end].iter().map(|node| concat(items(node)[prefix..].to_vec())).collect();
            let mut whole = first[..prefix].to_vec();
            whole.push(either(factor(tails)));
            out.push(concat(whole));
        }
        start = end;
    }
    out
}

/// Runs of single characters and classes become a class.
fn merge(nodes: Vec<Node>) -> Vec<Node> {
    let mut out: Vec<Node> = Vec::with_capacity(nodes.len());
    let mut run: Vec<Node> = vec![];
    let end = |run: &mut Vec<Node>, out: &mut Vec<Node>| {
        if run.len() < 2 {
            out.append(run);
            return;
        }
        let mut sum = ClassUnicode::empty();
        for node in run.drain(..) {
            match node {
                Node::Class(class) => sum.union(&class),
                Node::Literal { char, fold } => class::add(&mut sum, class::of(&[(char, char)]), false, fold),
                _ => {}
            }
        }
        out.push(if class::is_full(&sum) { Node::AnyChar } else { Node::Class(sum) });
    };
    for node in nodes {
        if matches!(node, Node::Class(_) | Node::Literal { .. }) {
            run.push(node);
        } else {
            end(&mut run, &mut out);
            out.push(node);
        }
    }
    end(&mut run, &mut out);
    out
}

/// Whether it is the place where a text begins.
pub(super) fn is_begin(node: &Node) -> bool {
    *node == Node::Place(Place::BeginText)
}
