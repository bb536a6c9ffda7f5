//! What may come into the tree, asked of `cargo metadata`: bans, licences and sources as in deny.toml. The same three
//! questions as cargo-deny's, for machines that do not have it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace")
}

fn metadata() -> Value {
    // What we build for; packages for other systems were never downloaded.
    let platform = format!("--filter-platform={}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--offline", &platform])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn deny() -> toml::Table {
    std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml").parse().expect("TOML")
}

fn strings(table: &toml::Value, key: &str) -> BTreeSet<String> {
    table[key].as_array().expect("an array").iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

/// Packages of others, by name and version.
fn foreign(metadata: &Value) -> impl Iterator<Item = (String, &Value)> {
    let packages = metadata["packages"].as_array().expect("packages");
    packages.iter().filter(|package| package["source"].is_string()).map(|package| {
        (format!("{} {}", package["name"].as_str().unwrap(), package["version"].as_str().unwrap()), package)
    })
}

#[test]
fn every_package_has_a_licence_that_we_accept() {
    let (metadata, deny) = (metadata(), deny());
    let allowed = strings(&deny["licenses"], "allow");
    let mut refused = Vec::new();
    for (name, package) in foreign(&metadata) {
        let expression = package["license"].as_str().unwrap_or("no licence named");
        if !licence_allowed(expression, &allowed) {
            refused.push(format!("{name}: {expression}"));
        }
    }
    assert!(refused.is_empty(), "licences that deny.toml does not allow:\n{}", refused.join("\n"));
}

#[test]
fn every_package_comes_from_the_one_registry() {
    let (metadata, deny) = (metadata(), deny());
    let allowed = strings(&deny["sources"], "allow-registry");
    let elsewhere: Vec<String> = foreign(&metadata)
        .filter(|(_, package)| {
            let source = package["source"].as_str().unwrap();
            !allowed.iter().any(|registry| source == format!("registry+{registry}"))
        })
        .map(|(name, package)| format!("{name}: {}", package["source"]))
        .collect();
    assert!(elsewhere.is_empty(), "{}", elsewhere.join("\n"));
}

/// What is compiled for these packages: names and versions with their features.
fn compiled(packages: &[&str]) -> BTreeSet<(String, String)> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--edges=no-dev", "--prefix=none", "--no-dedupe", "--format={p}\t{f}"])
        .args(packages.iter().flat_map(|package| ["-p", package]))
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let pairs = text.lines().filter_map(|line| line.split_once('\t'));
    pairs.map(|(package, features)| (package.to_owned(), features.to_owned())).collect()
}

/// As `tools/build.sh` builds them, one after the other. What differs belongs into `tools/same-features/Cargo.toml`.
#[test]
fn what_masters_and_agents_share_is_compiled_once() {
    let masters = compiled(&["cli", "master-server", "replay-tools", "same-features"]);
    let agents = compiled(&["agent-server", "same-features"]);
    let shared: BTreeSet<&String> = masters.iter().map(|(package, _)| package).collect();
    let again: Vec<_> = agents.iter().filter(|one| shared.contains(&one.0) && !masters.contains(one)).collect();
    let [(event_log, _)] = again[..] else { panic!("compiled again for agents: {again:#?}") };
    assert!(event_log.starts_with("event-log "), "{event_log}");
}

#[test]
fn no_banned_package_and_no_wildcard_version() {
    let (metadata, deny) = (metadata(), deny());
    let banned: BTreeMap<&str, &str> = deny["bans"]["deny"]
        .as_array()
        .expect("an array")
        .iter()
        .map(|ban| (ban["name"].as_str().unwrap(), ban["reason"].as_str().expect("each ban has its reason")))
        .collect();
    for (name, package) in foreign(&metadata) {
        if let Some(reason) = banned.get(package["name"].as_str().unwrap()) {
            panic!("{name} is banned: {reason}");
        }
    }
    for package in metadata["packages"].as_array().unwrap().iter().filter(|package| package["source"].is_null()) {
        for dependency in package["dependencies"].as_array().unwrap() {
            let wild = dependency["req"] == "*" && dependency["path"].is_null();
            assert!(!wild, "{} wants any version of {}", package["name"], dependency["name"]);
        }
    }
}

/// What the design names, by who may name it: the arrows between packages are held by Cargo, and by this.
#[test]
fn only_the_log_names_its_engines() {
    let metadata = metadata();
    let engines = ["rocksdb", "openraft", "bincode"];
    for package in metadata["packages"].as_array().unwrap().iter().filter(|package| package["source"].is_null()) {
        let name = package["name"].as_str().unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let dependency = dependency["name"].as_str().unwrap();
            assert!(!engines.contains(&dependency) || name == "event-log", "{name} depends on {dependency}");
        }
    }
}

/// Containers are launched by whoever knows why: they know no log, no masters and no HTTP.
#[test]
fn containers_know_nothing_of_the_cluster() {
    let metadata = metadata();
    let strangers = ["event-log", "agent-core", "agent-server", "master-core", "master-server", "api-http", "hyper"];
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        if !["containers", "images", "supervisor"].contains(&name) || !package["source"].is_null() {
            continue;
        }
        for dependency in package["dependencies"].as_array().unwrap().iter().filter(|found| found["kind"].is_null()) {
            let dependency = dependency["name"].as_str().unwrap();
            // What a container is and why it ended are said in the schema's words.
            let is_known = name != "supervisor" && dependency == "api";
            assert!(is_known || !strangers.contains(&dependency), "{name} depends on {dependency}");
            let is_large = ["tokio", "api"].contains(&dependency);
            assert!(name != "supervisor" || !is_large, "a supervisor is small, and has no runtime");
        }
    }
}

/// And the cores know no runtime, no HTTP and no disk.
#[test]
fn the_cores_are_pure() {
    let metadata = metadata();
    let world = ["tokio", "hyper", "rocksdb", "hyper-util", "nix", "api-http"];
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        if !["api", "auth", "allocator", "master-core", "agent-core"].contains(&name) || !package["source"].is_null() {
            continue;
        }
        for dependency in package["dependencies"].as_array().unwrap().iter().filter(|found| found["kind"].is_null()) {
            let dependency = dependency["name"].as_str().unwrap();
            assert!(!world.contains(&dependency), "{name} depends on {dependency}");
        }
    }
}

#[test]
fn licence_expressions_are_understood() {
    let allowed: BTreeSet<String> = ["MIT", "Apache-2.0 WITH LLVM-exception", "Unicode-3.0"].map(String::from).into();
    assert!(licence_allowed("MIT OR GPL-3.0", &allowed));
    assert!(licence_allowed("GPL-3.0/MIT", &allowed));
    assert!(licence_allowed("(GPL-3.0 OR MIT) AND Unicode-3.0", &allowed));
    assert!(licence_allowed("Apache-2.0 WITH LLVM-exception OR GPL-3.0", &allowed));
    assert!(!licence_allowed("MIT AND GPL-3.0", &allowed));
    assert!(!licence_allowed("(MIT OR Unicode-3.0) AND GPL-3.0", &allowed));
    assert!(!licence_allowed("GPL-3.0", &allowed));
}

/// Whether an SPDX expression can be met by the licences allowed.
fn licence_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let met = any(&mut words, allowed);
    met && words.peek().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

/// `a OR b`, where `a` and `b` may be `c AND d`.
fn any(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut met = all(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        met |= all(words, allowed);
    }
    met
}

fn all(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut met = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    let Some(word) = words.next() else { return false };
    if word == "(" {
        let met = any(words, allowed);
        return words.next() == Some(")") && met;
    }
    // `MPL-2.0+`: that version or a later one.
    let mut licence = word.trim_end_matches('+').to_owned();
    if words.next_if_eq(&"WITH").is_some() {
        licence = format!("{licence} WITH {}", words.next().unwrap_or_default());
    }
    allowed.contains(&licence)
}
