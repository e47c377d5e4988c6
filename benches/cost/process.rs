//! The processes that are measured: where the binary is, hubs, and what the kernel says of them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The binary that is measured.
pub fn relay() -> PathBuf {
    std::env::var_os("RELAY_BENCH_BIN").map_or_else(|| env!("CARGO_BIN_EXE_relay").into(), PathBuf::from)
}

/// A data directory of its own, removed with everything in it.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Dir {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("relay-bench-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a directory");
        Dir(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn socket(&self) -> PathBuf {
        self.0.join("hub.sock")
    }

    /// A command of the relay that uses this directory, in a clean environment.
    pub fn relay(&self, argument: &str) -> Command {
        self.command(&relay(), argument)
    }

    pub fn command(&self, program: &Path, argument: &str) -> Command {
        let mut command = Command::new(program);
        command.arg(argument).env_clear().env("RELAY_DATA_DIR", &self.0).env("HOME", &self.0);
        command.env("PATH", "/usr/bin:/bin").env("RELAY_BIN", relay());
        command.env("RELAY_ASKS_PER_MIN", "0").env("RELAY_IDLE_EXIT_S", "1").env("RELAY_PUSH", "channel");
        command
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A hub in the foreground.
pub struct Hub {
    child: Child,
    pub dir: Dir,
}

impl Hub {
    pub fn start() -> Hub {
        Hub::start_with(&[])
    }

    pub fn start_with(env: &[(&str, &str)]) -> Hub {
        Hub::start_in(Dir::new(), env)
    }

    /// Starts it in a directory, where another may have left its journal.
    pub fn start_in(dir: Dir, env: &[(&str, &str)]) -> Hub {
        let mut command = dir.relay("hub");
        command.arg("--announce").env("RELAY_IDLE_EXIT_S", "3600").envs(env.iter().copied());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a hub");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe"))
            .read_line(&mut line)
            .expect("it says that it listens");
        Hub { child, dir }
    }

    /// SIGKILL. The directory stays.
    pub fn kill(mut self) -> Dir {
        let _ = self.child.kill();
        let _ = self.child.wait();
        std::mem::replace(&mut self.dir, Dir::new())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn connect(&self) -> UnixStream {
        UnixStream::connect(self.dir.socket()).expect("the hub listens")
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until nothing listens in the directory any more: its hub has left.
pub fn wait_for_no_hub(dir: &Dir) {
    let until = Instant::now() + Duration::from_secs(20);
    while UnixStream::connect(dir.socket()).is_ok() {
        assert!(Instant::now() < until, "the hub does not leave");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a process has of the machine's memory, in bytes.
#[derive(Clone, Copy, Default)]
pub struct Memory {
    pub private_dirty: u64,
    pub pss: u64,
    pub rss: u64,
}

pub fn memory(pid: u32) -> Memory {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the process runs, on Linux");
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or("0");
        line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    Memory { private_dirty: field("Private_Dirty:"), pss: field("Pss:"), rss: field("Rss:") }
}

/// What a process has used of the processors so far, and how often one of its threads was put on one.
#[derive(Clone, Copy, Default)]
pub struct Work {
    pub cpu: Duration,
    pub wakeups: u64,
}

pub fn work(pid: u32) -> Work {
    let mut sum = Work::default();
    for task in fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs, on Linux").flatten() {
        // A thread may just have ended.
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let schedstat = read("schedstat");
        sum.cpu +=
            Duration::from_nanos(schedstat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0));
        let status = read("status");
        let switches = status.lines().filter(|l| l.contains("voluntary_ctxt_switches:"));
        sum.wakeups += switches.filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).sum::<u64>();
    }
    sum
}

pub fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}
