//! What `scripts/package` makes: that it is whole, static and the same each time, and that Claude Code installs it and two
//! real sessions talk through it on a machine that has no Rust.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};
use support::client::{self, BEFORE_MESSAGING, NEWEST};
use support::home::{Home, run};
use support::launch::Launch;
use support::leftovers;
use support::model::{Model, Step, Turn};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const ASK: &str = "mcp__plugin_relay_relay__relay_ask";
const REPLY: &str = "mcp__plugin_relay_relay__relay_reply";

/// Packages into `out`, from another directory than the repository's.
fn package(out: &Path, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(Path::new(ROOT).join("scripts/package"))
        .arg("-o")
        .arg(out)
        .args(arguments)
        .current_dir(std::env::temp_dir())
        .env("CARGO_TARGET_DIR", target_dir())
        .stdin(Stdio::null())
        .output()
        .expect("scripts/package can be run");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

/// Where cargo builds, so that what was built once is there the next time.
fn target_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory").to_owned()
}

/// One package for all tests here: a release build takes a while. `RELAY_TEST_PACKAGE` names one that is there already.
/// `None`, with a message, where the compiler cannot build a static binary.
fn packaged() -> Option<&'static Path> {
    static PACKAGE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let package = PACKAGE.get_or_init(|| {
        if let Some(dir) = from_elsewhere() {
            return Some(dir);
        }
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("package");
        match package(&out, &[]) {
            Err(said) if said.contains("is not installed: rustup target add") => None,
            made => made.map(|()| Some(out)).expect("a package"),
        }
    });
    if package.is_none() {
        eprintln!("SKIPPED: no static binary can be built here (see scripts/musl-toolchain --help)");
    }
    package.as_deref()
}

fn from_elsewhere() -> Option<PathBuf> {
    std::env::var_os("RELAY_TEST_PACKAGE").map(PathBuf::from)
}

/// The name of this machine's folder in the plugin.
fn platform() -> String {
    let os = if cfg!(target_os = "macos") { "darwin" } else { std::env::consts::OS };
    format!("{os}-{}", std::env::consts::ARCH.replace("aarch64", "arm64"))
}

/// A directory of one test, removed when it ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name} {}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a directory");
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Every file and directory below `dir`: its path there, mode, time in seconds, and bytes.
fn tree(dir: &Path) -> Vec<(PathBuf, u32, u64, Vec<u8>)> {
    let mut all = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).expect("it is there");
        let bytes = if meta.is_dir() { Vec::new() } else { fs::read(&path).expect("a file") };
        if meta.is_dir() {
            left.extend(fs::read_dir(&path).expect("a directory").map(|e| e.expect("an entry").path()));
        }
        let time = meta.modified().expect("a time").duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let below = path.strip_prefix(dir).expect("below").to_owned();
        all.push((below, meta.permissions().mode() & 0o7777, time, bytes));
    }
    all.sort();
    all
}

#[test]
fn a_package_is_whole() {
    let Some(dir) = packaged() else { return };
    let json = |path: &str| -> Value {
        serde_json::from_slice(&fs::read(dir.join(path)).expect(path)).expect("JSON")
    };
    let source = json(".claude-plugin/marketplace.json")["plugins"][0]["source"].clone();
    assert_eq!(source, "./plugin");
    assert_eq!(json("plugin/.claude-plugin/plugin.json")["version"], env!("CARGO_PKG_VERSION"));
    let binary = format!("plugin/bin/{}/relay", platform());
    let modes: Vec<(String, u32)> = tree(dir)
        .iter()
        .filter(|(path, ..)| dir.join(path).is_file())
        .map(|(path, mode, ..)| (path.to_string_lossy().into_owned(), *mode))
        .collect();
    for (path, mode) in &modes {
        let runs = path == "plugin/bin/relay-launcher"
            || path.starts_with("plugin/bin/") && path.ends_with("/relay");
        assert_eq!(*mode, if runs { 0o755 } else { 0o644 }, "{path}");
    }
    for file in
        [&binary, "LICENSE", "README.md", "plugin/LICENSE", "plugin/hooks/hooks.json", "plugin/.mcp.json"]
    {
        assert!(modes.iter().any(|(path, _)| path == file), "{file} is missing");
    }
    let licences = fs::read_to_string(dir.join("plugin/THIRD-PARTY-LICENSES")).expect("the licences");
    let parts = ["rust-std", "musl", "llvm-libunwind"];
    for name in parts.iter().chain(&["serde_json-", "crossbeam-channel-", "signal-hook-", "libc-"]) {
        assert!(licences.contains(&format!("\n== {name}")), "no licence of {name}");
    }

    let sums = fs::read_to_string(dir.join("SHA256SUMS")).expect("the sums");
    let summed: Vec<&str> = sums.lines().map(|line| &line[66..]).collect();
    let mut files: Vec<&str> =
        modes.iter().map(|(path, _)| path.as_str()).filter(|p| *p != "SHA256SUMS").collect();
    files.sort_unstable();
    assert_eq!(summed, files);
    let check =
        if cfg!(target_os = "macos") { ["shasum", "-a256", "-c"] } else { ["sha256sum", "--strict", "-c"] };
    run(Command::new(check[0]).args(&check[1..]).arg("SHA256SUMS").current_dir(dir));
}

#[test]
fn a_packaged_binary_needs_nothing_and_tells_nothing() {
    let Some(package) = packaged() else { return };
    let binary = package.join(format!("plugin/bin/{}/relay", platform()));
    let version = run(Command::new(&binary).arg("--version").env_clear());
    assert_eq!(version.trim(), concat!("relay ", env!("CARGO_PKG_VERSION")));
    let bytes = fs::read(&binary).expect("the binary");
    let tells = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(!tells(ROOT), "the binary tells where it was built");
    if let Some(home) = std::env::var("HOME").ok().filter(|home| home.len() > 1) {
        assert!(!tells(&format!("{home}/")), "the binary tells who built it");
    }
    if bytes.starts_with(b"\x7fELF") {
        let number = |at: usize, size: usize| {
            bytes[at..at + size].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
        };
        // The program headers of a 64-bit ELF file. One of type 3 would name a loader.
        let (headers, size, count) = (number(0x20, 8), number(0x36, 2), number(0x38, 2));
        assert!((0..count).all(|n| number(headers + n * size, 4) != 3), "the binary wants a loader");
    }
}

#[test]
fn packaging_again_gives_the_same_and_spares_what_is_not_a_package() {
    let scratch = Scratch::new("package again");
    let out = scratch.0.join("out");
    if from_elsewhere().is_none()
        && let Some(first) = packaged()
    {
        package(&out, &[]).expect("a package");
        assert!(tree(&out) == tree(first), "two packages of one tree differ");
    }
    // A binary from elsewhere takes its place beside nothing else, and replaces the whole package.
    let other = scratch.0.join("a binary");
    fs::write(&other, "#!/bin/sh\n").expect("a file");
    let darwin = format!("darwin-arm64={}", other.display());
    package(&out, &["-b", &darwin]).expect("a package");
    assert!(out.join("plugin/bin/darwin-arm64/relay").is_file());
    assert!(!out.join("plugin/bin").join(platform()).join("relay").exists() || platform() == "darwin-arm64");

    let precious = scratch.0.join("precious");
    fs::create_dir(&precious).expect("a directory");
    fs::write(precious.join("thesis"), "").expect("a file");
    assert!(package(&precious, &["-b", &darwin]).expect_err("refused").contains("something else"));
    assert!(precious.join("thesis").exists());
    let strange = format!("plan9-mips={}", other.display());
    assert!(package(&out, &["-b", &strange]).expect_err("refused").contains("plan9-mips"));
    assert!(package(&out, &["-x"]).expect_err("refused").contains("Usage"));
    // glibc's licence asks for more than a package has; what a release is called must be what it is.
    let glibc = package(&out, &["-t", "x86_64-unknown-linux-gnu"]).expect_err("refused");
    assert!(glibc.contains("LGPL"), "{glibc}");
    let version = package(&out, &["-v", "9.9.9", "-b", &darwin]).expect_err("refused");
    assert!(version.contains(env!("CARGO_PKG_VERSION")) && version.contains("9.9.9"), "{version}");
    package(&out, &["-v", env!("CARGO_PKG_VERSION"), "-b", &darwin]).expect("a package");
}

/// Directories with nothing of ours and no Rust.
fn bare_path() -> String {
    let dirs = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"];
    let has = |dir: &str, program: &str| Path::new(dir).join(program).exists();
    let path: Vec<&str> =
        dirs.into_iter().filter(|dir| !["cargo", "rustc", "relay"].iter().any(|p| has(dir, p))).collect();
    assert!(path.iter().any(|dir| has(dir, "uname")), "this test needs a PATH without Rust");
    path.join(":")
}

/// Installs from `marketplace` as the README says, and lets two sessions talk. The binary that runs lies below `within`.
fn install_and_talk(claude: &Path, home: &Home, marketplace: &str, within: &Path) {
    let path = bare_path();
    let plugin = |arguments: &[&str]| {
        run(home.command(claude).env("PATH", &path).arg("plugin").args(arguments));
    };
    plugin(&["marketplace", "add", marketplace]);
    plugin(&["install", "relay@claude-relay"]);

    let model = Model::start();
    model.script("alice", |turn| match turn.number {
        0 => Step::tool(ASK, json!({"to": "bob", "question": "which port?"})),
        _ => Step::say("noted"),
    });
    model.script("bob", |turn| match ask_id(turn) {
        Some(ask_id) => Step::tool(REPLY, json!({"ask_id": ask_id, "answer": "it is 4711"})),
        None => Step::say("well"),
    });
    let launch = |name| {
        let mut session = Launch::new(claude, home, &model, name)
            .env("PATH", &path)
            .env("RELAY_IDLE_EXIT_S", "0.5")
            .piped();
        session.wait_for_server("plugin:relay:relay");
        session
    };
    let mut bob = launch("bob");
    bob.prompt("hello"); // 2.1.197 starts what waits for messages with the first turn
    bob.wait_for_turns(1);
    let mut alice = launch("alice");
    alice.prompt("ask bob for the port");
    model.wait_for("alice", "bob's answer", |request| request.hears("it is 4711"));

    let ours = leftovers::processes_with(home.marker());
    for part in ["channel", "hub"] {
        let all: Vec<_> = ours.iter().filter(|process| process.is("relay", part)).collect();
        assert!(!all.is_empty(), "no {part} among {ours:#?}");
        for process in all {
            let exe = fs::read_link(format!("/proc/{}/exe", process.pid)).expect("it runs");
            assert!(exe.starts_with(within), "{} is not the packaged binary", exe.display());
        }
    }
    drop((alice, bob)); // which may have a waiter still, and take their time to end by themselves
    leftovers::wait_until_none(home.marker());
}

/// The identifier of a question that is new to the session.
fn ask_id(turn: &Turn) -> Option<String> {
    let text = turn.fresh_text();
    let id = text.split("kind=ask").nth(1)?.split("ask_id=").nth(1)?;
    Some(id.trim_start_matches('"').chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect())
}

#[test]
fn sessions_talk_where_the_package_was_installed() {
    let (Some(claude), Some(package)) = (client::claude(NEWEST), packaged()) else { return };
    let dir = package.canonicalize().expect("it is there");
    run(Home::new().command(&claude).args(["plugin", "validate", "--strict"]).arg(&dir));
    install_and_talk(&claude, &Home::new(), dir.to_str().expect("UTF-8"), &dir);
}

/// The release branch: Claude Code clones it and copies the plugin to its cache. Git leads the address to a directory.
#[test]
fn sessions_talk_where_the_release_branch_was_installed() {
    const ADDRESS: &str = "https://relay.invalid/claude-relay.git";
    let Some(package) = packaged() else { return };
    for claude in [NEWEST, BEFORE_MESSAGING].into_iter().filter_map(client::claude) {
        let home = Home::new();
        let branch = home.path().join("release");
        run(Command::new("cp").arg("-R").arg(package).arg(&branch));
        let git = |arguments: &[&str]| {
            run(home.command("git").args(arguments).current_dir(&branch));
        };
        git(&["init", "--quiet", "--initial-branch=release"]);
        git(&["add", "--all"]);
        git(&["-c", "user.name=Test", "-c", "user.email=test@example.invalid", "commit", "-qm", "Release"]);
        let directory = format!("url.file://{}.insteadOf", branch.display());
        git(&["config", "--global", &directory, ADDRESS]);
        let cache = home.path().join(".claude/plugins/cache");
        install_and_talk(&claude, &home, &format!("{ADDRESS}#release"), &cache);
    }
}
