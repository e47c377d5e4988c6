//! What the binary is made of, held against `deny.toml`: the check that `cargo deny` does, but for its advisories, without
//! cargo-deny and without a network. The release workflow runs the real one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// What may be named in `Cargo.toml` as a dependency at run time.
const DIRECT: [&str; 8] =
    ["crossbeam-channel", "lexopt", "log", "serde", "serde_json", "signal-hook", "simplelog", "time"];
/// The most crates that the binary is made of, ours included; those that only run at compile time count.
const MOST: usize = 30;

fn root(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The strings of the list `key` in `deny.toml`.
fn list(key: &str) -> BTreeSet<String> {
    let text = root("deny.toml");
    let start = text.find(&format!("\n{key} = [")).unwrap_or_else(|| panic!("no {key} in deny.toml"));
    let end = start + text[start..].find(']').expect("a list ends");
    text[start..end].split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// What cargo knows of all packages that any of the systems in `deny.toml` builds.
fn metadata() -> Value {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--format-version", "1", "--locked", "--offline"]);
    for target in list("targets") {
        command.args(["--filter-platform", &target]);
    }
    let output = command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// All of them, those that only the tests need included.
fn packages() -> Vec<Value> {
    metadata()["packages"].as_array().expect("packages").clone()
}

/// Those that the binary is made of.
fn packages_of_the_binary() -> Vec<Value> {
    let metadata = metadata();
    let nodes = metadata["resolve"]["nodes"].as_array().expect("nodes");
    let mut left = vec![&metadata["resolve"]["root"]];
    let mut ids = BTreeSet::new();
    while let Some(id) = left.pop() {
        if ids.insert(id.as_str().expect("an id")) {
            let node = nodes.iter().find(|node| node["id"] == *id).expect("the node");
            let runs = |kind: &Value| kind["kind"].is_null();
            let all = node["deps"].as_array().expect("dependencies").iter();
            left.extend(
                all.filter(|dep| dep["dep_kinds"].as_array().is_some_and(|kinds| kinds.iter().any(runs)))
                    .map(|dep| &dep["pkg"]),
            );
        }
    }
    let packages = metadata["packages"].as_array().expect("packages").iter();
    packages.filter(|package| ids.contains(package["id"].as_str().expect("an id"))).cloned().collect()
}

fn name(package: &Value) -> &str {
    package["name"].as_str().expect("a name")
}

/// Whether the terms of an SPDX expression can be met with the allowed licences.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    fn any<'a>(
        words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>,
        allowed: &BTreeSet<String>,
    ) -> bool {
        let mut met = all(words, allowed);
        while words.next_if_eq(&"OR").is_some() {
            met |= all(words, allowed);
        }
        met
    }
    fn all<'a>(
        words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>,
        allowed: &BTreeSet<String>,
    ) -> bool {
        let mut met = true;
        loop {
            met &= match words.next() {
                Some("(") => {
                    let met = any(words, allowed);
                    assert_eq!(words.next(), Some(")"));
                    met
                }
                Some(licence) => allowed.contains(licence),
                None => false,
            };
            if words.next_if_eq(&"AND").is_none() {
                return met;
            }
        }
    }
    let met = any(&mut words, allowed);
    met && words.next().is_none()
}

#[test]
fn every_licence_is_allowed_and_there_to_be_copied() {
    let allowed = list("allow");
    for package in packages() {
        let licence = package["license"].as_str().unwrap_or("none");
        assert!(is_allowed(licence, &allowed), "{} has the licence {licence}", name(&package));
    }
    for package in packages_of_the_binary() {
        let dir =
            Path::new(package["manifest_path"].as_str().expect("a path")).parent().expect("a directory");
        let has_file = fs::read_dir(dir).expect("its directory").flatten().any(|entry| {
            let file = entry.file_name().to_string_lossy().to_uppercase();
            file.starts_with("LICENSE") || file.starts_with("COPYING")
        });
        assert!(has_file, "{} comes without its licence", name(&package));
    }
}

#[test]
fn licence_expressions_mean_what_they_say() {
    let allowed = BTreeSet::from(["MIT", "Unicode-3.0"].map(str::to_owned));
    for (expression, want) in [
        ("MIT", true),
        ("Apache-2.0", false),
        ("Unlicense OR MIT", true),
        ("Unlicense/MIT", true),
        ("MIT AND Apache-2.0", false),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("Apache-2.0 OR GPL-3.0 AND MIT", false),
        ("Apache-2.0 WITH LLVM-exception", false),
        ("", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), want, "{expression:?}");
    }
}

#[test]
fn every_crate_comes_from_the_registry_with_a_checksum() {
    let lock = root("Cargo.lock");
    let entries = lock.split("\n[[package]]\n").skip(1).filter(|e| !e.starts_with("name = \"claude-relay\""));
    let mut count = 0;
    for entry in entries {
        let line = |key: &str| entry.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        let source = line("source");
        assert!(
            source.starts_with("source = \"registry+") && source.ends_with("/crates.io-index\""),
            "{entry}"
        );
        assert_eq!(line("checksum").split('"').nth(1).map(str::len), Some(64), "{entry}");
        count += 1;
    }
    assert!(count > 5, "the lock file was understood");
}

#[test]
fn nothing_is_there_twice_and_all_of_it_is_known() {
    let packages = packages_of_the_binary();
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in &packages {
        versions.entry(name(package)).or_default().push(package["version"].as_str().expect("a version"));
    }
    assert!(versions.values().all(|versions| versions.len() == 1), "{versions:#?}");
    assert!(versions.len() <= MOST, "{} crates: {versions:#?}", versions.len());

    let ours = packages.iter().find(|package| name(package) == "claude-relay").expect("our own package");
    for dependency in ours["dependencies"].as_array().expect("dependencies") {
        assert_ne!(dependency["req"], "*", "{}", name(dependency));
        if dependency["kind"].is_null() {
            assert!(DIRECT.contains(&name(dependency)), "{} is not in the design", name(dependency));
        }
    }
}

#[test]
fn unsafe_code_is_forbidden() {
    assert!(root("src/main.rs").lines().any(|line| line == "#![forbid(unsafe_code)]"));
}
