//! How prost names in Rust what the schema names in protobuf.

use heck::{ToSnakeCase, ToUpperCamelCase};

pub(crate) fn ident(name: &str) -> String {
    match name {
        "as" | "break" | "const" | "continue" | "else" | "enum" | "false" | "fn" | "for" | "if" | "impl" | "in"
        | "let" | "loop" | "match" | "mod" | "move" | "mut" | "pub" | "ref" | "return" | "static" | "struct"
        | "trait" | "true" | "type" | "unsafe" | "use" | "where" | "while" | "dyn" | "abstract" | "become" | "box"
        | "do" | "final" | "macro" | "override" | "priv" | "typeof" | "unsized" | "virtual" | "yield" | "async"
        | "await" | "try" | "gen" => format!("r#{name}"),
        "_" | "super" | "self" | "Self" | "extern" | "crate" => format!("{name}_"),
        _ => name.to_owned(),
    }
}

pub(crate) fn snake(name: &str) -> String {
    ident(&name.to_snake_case())
}

pub(crate) fn camel(name: &str) -> String {
    ident(&name.to_upper_camel_case())
}

/// The Rust module of what is declared inside `package` and then inside the messages `parents`.
pub(crate) fn module(package: &str, parents: &[&str]) -> String {
    let mut path = String::from("crate::schema");
    for part in package.split('.').chain(parents.iter().copied()) {
        path.push_str("::");
        path.push_str(&snake(part));
    }
    path
}
