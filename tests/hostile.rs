//! Attacks on real processes: what `SECURITY.md` promises is tested here by the names that it gives.

mod driver;

#[path = "hostile/crowd.rs"]
mod crowd;
#[path = "hostile/files.rs"]
mod files;
#[path = "hostile/forms.rs"]
mod forms;
#[path = "hostile/identity.rs"]
mod identity;
#[path = "hostile/limits.rs"]
mod limits;
#[path = "hostile/session.rs"]
mod session;
#[path = "hostile/wire.rs"]
mod wire;

use std::io::Write;

use driver::{DataDir, Raw};
use serde_json::{Value, json};

/// Two peers talk as if nothing were going on: an ask, its push, the reply, its push.
fn all_is_well(dir: &DataDir) {
    let (mut ann, mut ben) = (dir.raw(), dir.raw());
    let (ann_name, ben_name) = (ann.register(&unique("ann")), ben.register(&unique("ben")));
    talk(&mut ann, &mut ben, &ben_name, &unique("ask_wl"));
    ann.call(json!({"type": "rename", "name": format!("{ann_name} done"), "exact": false})).expect("renamed");
    for mut peer in [ann, ben] {
        peer.say(&json!({"type": "bye"}));
        peer.hear_end();
    }
}

/// `from` asks `to`, who answers.
fn talk(from: &mut Raw, to: &mut Raw, to_name: &str, ask_id: &str) {
    let id = from.begin(Raw::ask_as(ask_id, to_name, "still there?"));
    while to.take_push()["text"] != "still there?" {} // others may be asking it as well
    assert_eq!(from.end(id).expect("asked")["to"], to_name);
    let id = to.begin(json!({"type": "reply", "ask_id": ask_id, "text": "yes"}));
    let push = from.take_push();
    assert_eq!((&push["kind"], &push["text"]), (&json!("reply"), &json!("yes")));
    to.end(id).expect("replied");
}

fn unique(prefix: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{prefix}{:06}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The memory that a process has in use, in MiB.
fn memory_of(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("its memory");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kib / 1024
}

/// Writes as much as is taken.
fn pour(raw: &Raw, bytes: &[u8]) -> bool {
    raw.stream().write_all(bytes).is_ok()
}

/// The log has a line with this event and code.
fn is_logged(dir: &DataDir, event: &str, code: &str) -> bool {
    dir.logged(event).iter().any(|line| line["code"] == code)
}

/// A question of this many bytes.
fn text_of(bytes: usize) -> String {
    "x".repeat(bytes)
}

/// The first line of every connection, as it is on the wire.
fn hello() -> Value {
    json!({"hello": {"v": 2}})
}

/// Each test that `SECURITY.md` names is there.
#[test]
fn every_claim_names_a_test() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read =
        |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let claims = read("SECURITY.md");
    let files = ["wire", "crowd", "forms", "identity", "limits", "session", "files"]
        .map(|f| format!("tests/hostile/{f}.rs"));
    let all: String = files
        .iter()
        .map(String::as_str)
        .chain([
            "tests/fencing.rs",
            "tests/integration/texts.rs",
            "tests/integration/person.rs",
            "src/props.rs",
            "src/logging.rs",
            "src/hub/router/delivery.rs",
            "src/hub/router/props.rs",
        ])
        .chain(["tests/containers.rs", "tests/ssh_link.rs"])
        .map(read)
        .collect();
    let names = claims.split('`').skip(1).step_by(2).filter(|name| name.matches('_').count() >= 2);
    let names: Vec<&str> = names
        .filter(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit()))
        .collect();
    assert!(names.len() > 30);
    for name in names {
        assert!(all.contains(&format!("fn {name}(")), "there is no test {name}");
    }
}
