//! `meseta-agent`
fn main() {}
