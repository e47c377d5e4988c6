//! Linux namespaces, as container engines use them, by `unshare`.

#![allow(dead_code, reason = "each test binary uses its part of this")]

use std::fs;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

/// The options of `unshare` that work here, for a process that needs these namespaces: as root, or as the root of a user
/// namespace.
fn unshare(namespaces: &'static str) -> Option<String> {
    ["", "--user --map-root-user "].into_iter().find_map(|user| {
        let options = format!("{user}{namespaces}");
        let mut command = Command::new("unshare");
        command.args(options.split_whitespace()).args(["sh", "-c", "hostname probe"]);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success()).then_some(options)
    })
}

/// Lines of a shell script that go on under another host name; `None`, and says so, where that can't be had.
pub fn renaming(name: &str) -> Option<String> {
    static OPTIONS: LazyLock<Option<String>> = LazyLock::new(|| unshare("--uts"));
    match &*OPTIONS {
        Some(options) => Some(format!(
            "[ -n \"$RENAMED\" ] || RENAMED=1 exec unshare {options} /bin/sh -c 'hostname {name}; exec \"$0\" channel' \"$0\""
        )),
        None => {
            eprintln!("SKIPPED: no namespaces can be had, so `host` is not tested");
            None
        }
    }
}

/// The options for what a container has: processes, mounts and a host name of its own.
pub fn container() -> Option<&'static str> {
    static OPTIONS: LazyLock<Option<String>> =
        LazyLock::new(|| unshare("--pid --fork --kill-child --mount --uts"));
    OPTIONS.as_deref()
}

/// The children of a process, with their names.
pub fn children(parent: u32) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("these tests need /proc").flatten() {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((head, rest)) = stat.rsplit_once(')') else { continue };
        let (pid, name) = head.split_once(" (").unwrap_or_default();
        if rest.split_whitespace().nth(1) == Some(&parent.to_string())
            && let Ok(pid) = pid.parse()
        {
            found.push((pid, name.to_owned()));
        }
    }
    found
}
