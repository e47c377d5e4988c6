//! Keys of processes, and facts about processes: from `/proc` on Linux, from `ps` elsewhere (macOS). With `RELAY_NO_PROC=1` Linux
//! is treated as a system without `/proc`, for tests.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use crate::repository::{read, var};
use crate::threads::within;

/// How long `ps`, `stty` or `uname` may take.
const PS_TIMEOUT: Duration = Duration::from_secs(1);

/// The host name of this machine or container, fit for a file name. Read once, since without `/proc` it takes a child process.
pub static HOST: LazyLock<String> = LazyLock::new(|| {
    let host = match path("sys/kernel/hostname") {
        Some(path) => read(path),
        None => output(Command::new("uname").arg("-n")),
    };
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || *c == '-' || *c == '.';
    host.unwrap_or_default().chars().filter(is_plain).take(64).collect()
});

/// The identifier of the running kernel, which containers share with their host; the host name where there is none.
pub static BOOT: LazyLock<String> = LazyLock::new(|| {
    let boot = path("sys/kernel/random/boot_id").and_then(read);
    boot.map_or_else(|| HOST.clone(), |boot| boot.trim().to_owned())
});

/// The path of a file in `/proc`; `None` where there is no `/proc`.
pub fn path(below: impl AsRef<Path>) -> Option<PathBuf> {
    let is_hidden = env::var_os("RELAY_NO_PROC").is_some_and(|value| !value.is_empty());
    (cfg!(target_os = "linux") && !is_hidden).then(|| Path::new("/proc").join(below))
}

/// The command line of a process; empty if it is unknown. `ps` prints words, not arguments: an argument with a space becomes
/// two.
pub fn arguments(pid: u32) -> Vec<String> {
    match path(format!("{pid}/cmdline")) {
        Some(path) => {
            let line = fs::read(path).unwrap_or_default();
            String::from_utf8_lossy(&line).split('\0').map(str::to_owned).collect()
        }
        None => words(&ps("args=", &pid.to_string()).unwrap_or_default()),
    }
}

/// Whether `ps` does not list this process; `false` if `ps` does not work.
pub fn is_gone(pid: u32) -> bool {
    let own = std::process::id();
    let listed = ps("pid=", &format!("{own},{pid}")).unwrap_or_default();
    let is_listed = |pid: u32| words(&listed).contains(&pid.to_string());
    is_listed(own) && !is_listed(pid)
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// The terminal of a process, by its standard input where there is a `/proc`, else the controlling one.
pub fn terminal(pid: u32) -> Option<PathBuf> {
    let terminal = match path(format!("{pid}/fd/0")) {
        Some(stdin) => fs::read_link(stdin).ok()?,
        None => {
            let name = ps("tty=", &pid.to_string())?;
            Path::new("/dev").join(Some(name.trim()).filter(|name| !name.is_empty())?)
        }
    };
    let is_terminal = terminal.starts_with("/dev/pts") || terminal.to_str()?.starts_with("/dev/tty");
    (is_terminal && terminal.exists()).then_some(terminal)
}

/// Runs `stty` on a terminal and returns what it prints; `None` if that fails.
pub fn stty(terminal: impl AsRef<OsStr>, args: &[&str]) -> Option<String> {
    let of = if cfg!(target_os = "linux") { "-F" } else { "-f" };
    let run = run(Command::new("stty").arg(of).arg(terminal).args(args), PS_TIMEOUT).ok()?;
    run.status.success().then(|| String::from_utf8_lossy(&run.stdout).trim().to_owned())
}

/// The number of columns of a terminal.
pub fn columns(terminal: impl AsRef<OsStr>) -> Option<usize> {
    let size = stty(terminal, &["size"])?;
    size.split_whitespace().nth(1)?.parse().ok().filter(|columns| *columns > 0)
}

/// What `ps` prints about processes.
fn ps(format: &str, pids: &str) -> Option<String> {
    output(Command::new("ps").args(["-ww", "-o", format, "-p", pids]))
}

/// What a program prints; `None` if it could not be run or did not end in time.
fn output(command: &mut Command) -> Option<String> {
    let output = run(command, PS_TIMEOUT).ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program without input.
///
/// # Errors
/// It could not be started, or did not end within `limit` (`TimedOut`).
pub fn run(command: &mut Command, limit: Duration) -> io::Result<Output> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn()?;
    let pid = child.id().to_string();
    within(limit, move || child.wait_with_output()).inspect_err(|_| {
        let _ = Command::new("kill").args(["-9", &pid]).status(); // it may have ended just now
    })
}

/// The key that the hooks of a session share with its channel: that of the process `pid` that started both, or `RELAY_SESSION`
/// if that process starts several sessions.
pub fn key(pid: u32) -> String {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
    let name: String = var("RELAY_SESSION").unwrap_or_default().chars().filter(is_plain).take(64).collect();
    if name.is_empty() { process_key(pid) } else { format!("named-{name}") }
}

/// Whether the process of `key` may be running; `false` only if it is known to have ended.
fn is_alive(key: &str) -> bool {
    if path("").is_none() {
        return key.parse().map_or(true, |pid| !is_gone(pid));
    }
    let [_, pid, namespace] = key.rsplitn(3, '-').collect::<Vec<_>>()[..] else { return true };
    // A key of another namespace says nothing: its processes are not visible.
    let is_ours = process_key(std::process::id()).starts_with(&format!("{namespace}-"));
    !is_ours || pid.parse().is_ok_and(|pid| process_key(pid) == key)
}

/// Removes the files whose name begins with the key of a process that has ended, and those that are older than `longest`.
pub fn sweep(dir: &Path, longest: Duration) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let key = name.to_str().and_then(|name| name.split('.').next()).unwrap_or_default();
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
        if !is_alive(key) || age.is_some_and(|age| age >= longest) {
            let _ = fs::remove_file(entry.path()); // the next sweep tries again
        }
    }
}

/// A key for the process `pid`: on Linux with the kernel's boot, the namespace and the start time, so that a later process or
/// one in another container or on another machine has another key; elsewhere the number alone. Consists of letters, digits
/// and `-`, so it is a valid file name.
pub fn process_key(pid: u32) -> String {
    let Some(proc) = path("") else { return pid.to_string() };
    let start = stat(pid, 22).unwrap_or_else(|| "0".to_owned());
    let namespace = fs::metadata(proc.join("self/ns/pid")).map_or(0, |m| m.ino());
    format!("{}-{namespace}-{pid}-{start}", BOOT.split('-').next().unwrap_or_default())
}

/// A field of `/proc/<pid>/stat`, by its number in proc(5), 3 or higher.
fn stat(pid: u32, number: usize) -> Option<String> {
    field(&read(path(format!("{pid}/stat"))?)?, number)
}

/// Field 2, the command's name, may contain any characters.
fn field(stat: &str, number: usize) -> Option<String> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(number - 3).map(str::to_owned)
}

/// Whether the process `pid` is stopped, by a signal or a debugger. Only Linux tells.
pub fn is_stopped(pid: u32) -> bool {
    stat(pid, 3).is_some_and(|state| state.eq_ignore_ascii_case("t"))
}

/// The parent of a process.
pub fn parent_of(pid: u32) -> Option<u32> {
    let parent = if path("").is_some() { stat(pid, 4) } else { ps("ppid=", &pid.to_string()) };
    parent?.trim().parse().ok()
}

/// The age of our process in milliseconds, to about 10 ms. `None` except on Linux.
pub fn own_age() -> Option<u64> {
    const TICK: u64 = 10; // the unit of /proc, independent of the kernel's tick
    let up: f64 = read(path("uptime")?)?.split_whitespace().next()?.parse().ok()?;
    let start: u64 = stat(std::process::id(), 22)?.parse().ok()?;
    Some(((up * 1000.0) as u64).saturating_sub(start * TICK))
}

/// Whether the process `pid` is a `claude -p` with stream-json input.
pub fn streams_input(pid: u32) -> bool {
    arguments(pid).join(" ").replace('=', " ").contains("--input-format stream-json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_key_is_stable_and_a_valid_file_name() {
        let key = process_key(std::process::id());
        assert_eq!(key, process_key(std::process::id()));
        assert!(key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{key}");
        assert!(key.split('-').any(|part| part == std::process::id().to_string()));
        assert_ne!(key, process_key(u32::MAX));
        assert!(own_age().is_none_or(|age| age < 3_600_000), "no test runs for an hour");
    }

    #[test]
    fn fields_are_found_for_any_command_name() {
        let fields: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        for name in ["claude", "a) S 1 2 (b", ")", "x\ny"] {
            let stat = format!("77 ({name}) S {}", fields.join(" "));
            assert_eq!(field(&stat, 22).as_deref(), Some("22"));
        }
        assert_eq!(field("77 (claude) S 1 2", 22), None);
        assert_eq!(field("", 3), None);
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

    #[test]
    fn ps_tells_what_proc_tells() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("a process");
        let pid = child.id();
        // For a moment after it was started it has no command line yet.
        let known = std::iter::repeat_with(|| arguments(pid)).find(|args| args.len() > 1).expect("endless");
        let printed = ps("args=", &pid.to_string());
        assert!(!is_gone(pid));
        child.kill().expect("killed");
        child.wait().expect("ended");
        assert_eq!(words(&printed.expect("ps is here")), ["sleep", "1000"]);
        assert_eq!(known[..2], ["sleep", "1000"]);
        assert!(is_gone(pid) && !is_gone(std::process::id()));
    }
}
