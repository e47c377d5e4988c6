//! Processes that outlive the session that started them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::journal::deadline;

/// A process that runs now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// The program's name: the last part of its path.
    pub program: String,
    pub arguments: Vec<String>,
}

impl Process {
    /// True of the process that this command line describes, e.g. `is("relay", "hub")`.
    pub fn is(&self, program: &str, first_argument: &str) -> bool {
        self.program == program && self.arguments.first().is_some_and(|argument| argument == first_argument)
    }

    fn new(pid: u32, command_line: &[u8]) -> Process {
        let text = String::from_utf8_lossy(command_line);
        let mut words = text.trim_end_matches('\0').split('\0').map(str::to_owned);
        let program = words.next().unwrap_or_default();
        let program = program.rsplit('/').next().unwrap_or_default().to_owned();
        Process { pid, program, arguments: words.collect() }
    }
}

/// The processes that have the marker (a home, a data directory) in their command line or in the environment that they
/// were started with, in the order of their pids. Zombies don't count, as they run no more, nor does the harness's tmux.
pub fn processes_with(marker: &str) -> Vec<Process> {
    assert!(Path::new("/proc/self/environ").exists(), "leftovers are found by way of Linux's /proc");
    let mut found: Vec<Process> = std::fs::read_dir("/proc")
        .expect("/proc can be read")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id())
        .filter_map(|pid: u32| {
            // Whatever ends while we look is not there.
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let marked = contains(&command, marker) || contains(&environment, marker);
            marked.then(|| Process::new(pid, &command))
        })
        .filter(|process| !process.program.starts_with("tmux"))
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// True while the process runs: it exists and is no zombie.
pub fn runs(pid: u32) -> bool {
    assert!(Path::new("/proc/self/stat").exists(), "processes are looked up in Linux's /proc");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses and may have some of its own.
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// Blocks until no process with the marker runs any more.
#[track_caller]
pub fn wait_until_none(marker: &str) {
    wait_until_none_of(marker, "any process", |_| true);
}

/// Blocks until no process with the marker that satisfies the predicate runs any more.
#[track_caller]
pub fn wait_until_none_of(marker: &str, what: &str, predicate: impl Fn(&Process) -> bool) {
    let end = Instant::now() + deadline();
    loop {
        let left: Vec<Process> = processes_with(marker).into_iter().filter(&predicate).collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "still there after {} s, of {what}: {left:#?}", deadline().as_secs());
        // A process that isn't our child ends without an event for us.
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Blocks until a process with the marker satisfies the predicate.
#[track_caller]
pub fn wait_until_some(marker: &str, what: &str, predicate: impl Fn(&Process) -> bool) -> Process {
    let end = Instant::now() + deadline();
    loop {
        let running = processes_with(marker);
        if let Some(process) = running.iter().find(|process| predicate(process)) {
            return process.clone();
        }
        assert!(Instant::now() < end, "no {what} within {} s, only: {running:#?}", deadline().as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends a signal (`TERM`, `KILL`, `STOP`) to a process that a test started, directly or through a session.
pub fn signal(pid: u32, signal: &str) {
    let mut kill = Command::new("kill");
    kill.args(["-s", signal, &pid.to_string()]).stderr(Stdio::null());
    kill.status().expect("there is a kill command");
}

/// Processes that are stopped, in this order. They go on, in the opposite order, when this is dropped.
pub struct Stopped(Vec<u32>);

impl Stopped {
    pub fn new(pids: &[u32]) -> Stopped {
        pids.iter().for_each(|pid| signal(*pid, "STOP"));
        Stopped(pids.to_vec())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.iter().rev().for_each(|pid| signal(*pid, "CONT"));
    }
}

/// Kills every process with the marker.
pub(super) fn kill_all(marker: &str) {
    if Path::new("/proc/self/environ").exists() {
        for process in processes_with(marker) {
            signal(process.pid, "KILL");
        }
    }
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    assert!(!needle.is_empty(), "an empty marker is everywhere");
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}
