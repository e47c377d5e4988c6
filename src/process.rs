//! Processes: keys that name them, and what the system tells about them: `/proc` on Linux, `ps` where there is no `/proc` (macOS). With
//! `RELAY_NO_PROC=1` Linux goes the way without `/proc` as well, so that tests can take it.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::repository::read;
use crate::threads::{SMALL, spawn};

/// The most that is read of what `ps` prints, in bytes.
const MAX_OUTPUT: u64 = 1 << 20;
/// How long `ps` or `stty` may take.
const PS_TIMEOUT: Duration = Duration::from_secs(1);

/// The path of a file in `/proc`; `None` where there is no `/proc`.
pub fn path(below: impl AsRef<Path>) -> Option<PathBuf> {
    let is_hidden = env::var_os("RELAY_NO_PROC").is_some_and(|value| !value.is_empty());
    (cfg!(target_os = "linux") && !is_hidden).then(|| Path::new("/proc").join(below))
}

/// What a file in `/proc` says, for one that says a single thing; empty where there is none.
pub fn line(below: &str) -> String {
    let text = path(below).and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    text.trim().to_owned()
}

/// The command line of a process; empty where it cannot be found out. `ps` tells words, not arguments: one with a space in
/// it becomes two.
pub fn arguments(pid: u32) -> Vec<String> {
    match path(format!("{pid}/cmdline")) {
        Some(path) => {
            let line = fs::read(path).unwrap_or_default();
            String::from_utf8_lossy(&line).split('\0').map(str::to_owned).collect()
        }
        None => words(&ps(&["-ww", "-o", "args=", "-p", &pid.to_string()]).unwrap_or_default()),
    }
}

/// Whether a process with this number was gone when this was first asked, by `ps`. One that cannot be found out is not.
pub fn was_gone(pid: u32) -> bool {
    static RUNNING: LazyLock<BTreeSet<u32>> =
        LazyLock::new(|| numbers(&ps(&["-A", "-o", "pid="]).unwrap_or_default()));
    !RUNNING.is_empty() && !RUNNING.contains(&pid)
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn numbers(list: &str) -> BTreeSet<u32> {
    list.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// The terminal of a process, by its standard input where there is a `/proc`, else the controlling one.
pub fn terminal(pid: u32) -> Option<PathBuf> {
    let terminal = match path(format!("{pid}/fd/0")) {
        Some(stdin) => fs::read_link(stdin).ok()?,
        None => {
            let name = ps(&["-o", "tty=", "-p", &pid.to_string()])?;
            Path::new("/dev").join(Some(name.trim()).filter(|name| !name.is_empty())?)
        }
    };
    let is_terminal = terminal.starts_with("/dev/pts") || terminal.to_str()?.starts_with("/dev/tty");
    (is_terminal && terminal.exists()).then_some(terminal)
}

/// The number of columns of a terminal.
pub fn columns(terminal: &Path) -> Option<usize> {
    let stdin = fs::File::open(terminal).ok()?; // ours already, or that of a process whose session we are not in
    let size = output(Command::new("stty").arg("size").stdin(stdin))?;
    size.split_whitespace().nth(1)?.parse().ok().filter(|columns| *columns > 0)
}

/// What `ps` prints; `None` if it could not be run or did not end in time.
fn ps(args: &[&str]) -> Option<String> {
    output(Command::new("ps").args(args).stdin(Stdio::null()))
}

/// What a command prints; `None` if it could not be run or did not end in time.
fn output(command: &mut Command) -> Option<String> {
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let output = child.stdout.take()?;
    let (done, text) = bounded(1);
    let read = move || {
        let mut text = Vec::new();
        let read = output.take(MAX_OUTPUT).read_to_end(&mut text).map(|_| text);
        let _ = done.send(read); // nobody waits any more if it took too long
    };
    let reader = spawn("ps", SMALL, read);
    let text = reader.ok().and_then(|_| text.recv_timeout(PS_TIMEOUT).ok());
    let _ = child.kill(); // it has ended, or is not waited for
    let _ = child.wait();
    text?.ok().map(|text| String::from_utf8_lossy(&text).into_owned())
}

/// What ties the hooks of a session to its channel: the process `pid` that started both, or `RELAY_SESSION` where it starts
/// several sessions.
pub fn key(pid: u32) -> String {
    let named = std::env::var("RELAY_SESSION").unwrap_or_default();
    let named: String = named.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(64).collect();
    match named.is_empty() {
        true => process_key(pid),
        false => format!("named-{named}"),
    }
}

/// Whether the process of `key` may be running; `false` only if it is known to have ended.
pub fn is_alive(key: &str) -> bool {
    let mut parts = key.rsplitn(3, '-');
    let (start, pid) = (parts.next(), parts.next().and_then(|p| p.parse().ok()));
    match (start, pid, parts.next()) {
        (Some(start), Some(pid), Some(namespace)) if start.parse::<u64>().is_ok() => {
            let now = process_key(pid);
            // The process id belongs to another namespace, whose processes are not visible.
            now == key || !process_key(std::process::id()).starts_with(&format!("{namespace}-"))
        }
        // Just a number: of a system like ours if ours has no more to tell either.
        _ => path("").is_some() || key.parse().map_or(true, |pid| !was_gone(pid)),
    }
}

/// A key for the process `pid`: on Linux with its namespace and start time, so that a later process or one in another
/// container has another key; elsewhere the number alone. Consists of `0-9` and `-`, so it is a valid file name.
pub fn process_key(pid: u32) -> String {
    let Some(proc) = path("") else { return pid.to_string() };
    let stat = read(proc.join(format!("{pid}/stat")));
    let start = stat.as_deref().and_then(start_time).unwrap_or(0);
    let namespace = fs::metadata(proc.join("self/ns/pid")).map_or(0, |m| m.ino());
    format!("{namespace}-{pid}-{start}")
}

/// Field 22 of `/proc/<pid>/stat`, in clock ticks since boot. Field 2, the command's name, may contain any characters.
fn start_time(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(22 - 3)?.parse().ok()
}

/// Whether the process `pid` is stopped, by a signal or a debugger. Only Linux tells.
pub fn is_stopped(pid: u32) -> bool {
    let stat = read(format!("/proc/{pid}/stat"));
    let state = stat.as_deref().and_then(|stat| stat.rsplit_once(')')?.1.trim_start().chars().next());
    matches!(state, Some('T' | 't'))
}

/// The age of our process in milliseconds, to about 10 ms. `None` except on Linux.
pub fn own_age() -> Option<u64> {
    const TICK: u64 = 10; // the unit of /proc, independent of the kernel's tick
    let up: f64 = read(path("uptime")?)?.split_whitespace().next()?.parse().ok()?;
    let start = start_time(&read(path("self/stat")?)?)?;
    Some(((up * 1000.0) as u64).saturating_sub(start * TICK))
}

/// Whether the process `pid` is a `claude -p` with stream-json input.
pub fn streams_input(pid: u32) -> bool {
    let args = arguments(pid);
    let follows = args.windows(2).any(|w| w[0] == "--input-format" && w[1] == "stream-json");
    follows || args.iter().any(|a| a == "--input-format=stream-json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_key_is_stable_and_a_valid_file_name() {
        let key = process_key(std::process::id());
        assert_eq!(key, process_key(std::process::id()));
        assert!(key.bytes().all(|b| b.is_ascii_digit() || b == b'-'), "{key}");
        assert!(key.split('-').any(|part| part == std::process::id().to_string()));
        assert_ne!(key, process_key(u32::MAX));
        assert!(own_age().is_none_or(|age| age < 3_600_000), "no test runs for an hour");
    }

    #[test]
    fn start_time_is_found_for_any_command_name() {
        let fields: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        for name in ["claude", "a) S 1 2 (b", ")", "x\ny"] {
            assert_eq!(start_time(&format!("77 ({name}) S {}", fields.join(" "))), Some(22));
        }
        assert_eq!(start_time("77 (claude) S 1 2"), None);
        assert_eq!(start_time(""), None);
    }

    /// Recorded from `ps -ww -o args= -p PID`.
    #[test]
    fn arguments_are_the_words_that_ps_prints() {
        for (printed, expected) in [
            (
                "claude --dangerously-load-development-channels plugin:relay@claude-relay\n",
                vec!["claude", "--dangerously-load-development-channels", "plugin:relay@claude-relay"],
            ),
            (
                "node /usr/local/bin/claude -p  --name two words\n",
                vec!["node", "/usr/local/bin/claude", "-p", "--name", "two", "words"],
            ),
            ("(zsh)\n", vec!["(zsh)"]),
            ("", vec![]),
        ] {
            assert_eq!(words(printed), expected);
        }
    }

    /// Recorded from `ps -A -o pid=`, which pads the numbers.
    #[test]
    fn process_numbers_are_read_as_ps_pads_them() {
        assert_eq!(numbers("    1\n   97\n12345\n"), BTreeSet::from([1, 97, 12345]));
        assert_eq!(numbers("  PID\n    7\n-3\n4294967296\n"), BTreeSet::from([7]));
        assert!(numbers("").is_empty());
    }

    #[test]
    fn ps_tells_what_proc_tells() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("a process");
        let pid = child.id();
        // For a moment after it was started it has no command line yet.
        let known = std::iter::repeat_with(|| arguments(pid)).find(|args| args.len() > 1).expect("endless");
        let printed = ps(&["-ww", "-o", "args=", "-p", &pid.to_string()]);
        let running = ps(&["-A", "-o", "pid="]);
        child.kill().expect("killed");
        child.wait().expect("ended");
        assert_eq!(words(&printed.expect("ps is here")), ["sleep", "1000"]);
        assert_eq!(known[..2], ["sleep", "1000"]);
        let running = numbers(&running.expect("ps is here"));
        assert!(running.contains(&pid) && running.contains(&std::process::id()));
        assert!(!was_gone(std::process::id()) && was_gone(u32::MAX));
    }
}
