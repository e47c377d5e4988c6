//! What the tests of the shell commands share: a home of their own, the built `relay` in it, and processes that end with
//! the test. Waits are for events; [`LONG`] only bounds them.

#![allow(dead_code, reason = "each test file uses its part")]

#[allow(clippy::duplicate_mod, reason = "shell_e2e.rs includes it through two modules")]
#[path = "../binary/mod.rs"]
mod binary;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub use binary::relay_path;

pub const LONG: Duration = Duration::from_secs(30);

/// A home with a data directory; at its end its hub is stopped and it is removed.
pub struct Home {
    pub path: PathBuf,
}

impl Home {
    pub fn new() -> Home {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let n = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("relay-shell-{}-{n}", std::process::id()));
        for dir in ["work", "tmp", "bin"] {
            fs::create_dir_all(path.join(dir)).expect("a home");
        }
        Home { path }
    }

    pub fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// A command in this home, with nothing of the caller's environment but PATH.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env_clear()
            .env("PATH", format!("{}:{path}", self.path.join("bin").display()))
            .env("HOME", &self.path)
            .env("TMPDIR", self.path.join("tmp"))
            .env("USER", "tester")
            .env("TERM", "xterm")
            .env("RELAY_DATA_DIR", self.data())
            .current_dir(self.path.join("work"));
        command
    }

    pub fn relay(&self, args: &[&str]) -> Command {
        let mut command = self.command(relay_path());
        command.args(args);
        command
    }

    /// Runs a command to its end, with nothing on stdin.
    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.relay(args).stdin(Stdio::null()).output().expect("relay runs"))
    }

    /// Runs a command to its end with this on stdin.
    pub fn feed(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut proc = self.start(args);
        proc.write(input);
        proc.stdin = None;
        let status = proc.wait();
        Ran { code: status.code(), out: proc.out.text(), err: proc.err.text() }
    }

    /// Starts a command whose stdin stays open.
    pub fn start(&self, args: &[&str]) -> Proc {
        Proc::start(&mut self.relay(args))
    }

    /// Starts a command on a terminal. `None`, with a note, where there is no `script` to make one.
    pub fn on_terminal(&self, args: &[&str]) -> Option<Proc> {
        self.on_terminal_with("TERM", "xterm", args)
    }

    /// One that knows no escape sequences.
    pub fn on_dumb_terminal(&self, args: &[&str]) -> Option<Proc> {
        self.on_terminal_with("TERM", "dumb", args)
    }

    /// With a variable of the environment.
    pub fn on_terminal_with(&self, variable: &str, value: &str, args: &[&str]) -> Option<Proc> {
        let quoted: Vec<String> = std::iter::once(relay_path())
            .chain(args.iter().copied())
            .map(|a| format!("'{}'", a.replace('\'', "'\\''")))
            .collect();
        let line = quoted.join(" ");
        let mut command = self.command("script");
        command.env("TERM", "xterm").env(variable, value);
        if cfg!(target_os = "linux") {
            command.args(["-qefc", &line, "/dev/null"]);
        } else {
            command.args(["-q", "/dev/null", "sh", "-c", &line]);
        }
        if Command::new("script").arg("--version").output().is_err() {
            eprintln!("SKIPPED: there is no `script`, so nothing is tested on a terminal");
            return None;
        }
        Some(Proc::start(&mut command))
    }

    /// `relay join NAME` that has joined.
    pub fn join(&self, name: &str) -> Proc {
        let proc = self.start(&["join", name]);
        proc.err.until(&format!("You are {name}"));
        proc
    }

    /// A channel that is registered. Its Claude Code process is the test.
    pub fn channel(&self, session: &str) -> Proc {
        let mut channel = Proc::start(self.relay(&["channel"]).env("RELAY_SESSION", session));
        let client = json!({"name": "claude-code", "version": "1"});
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
        channel
            .line(&json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}).to_string());
        channel.out.until("\"id\":1");
        let params = json!({"name": "relay_peers", "arguments": {}});
        channel
            .line(&json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}).to_string());
        channel.out.until("\"id\":2");
        channel
    }

    pub fn json(&self, args: &[&str]) -> Value {
        self.run(args).json()
    }

    pub fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.path.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("the directory");
        fs::write(&path, text).expect("a file");
        path
    }

    /// A program in this home's `bin`, which is first on PATH.
    pub fn program(&self, name: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.write(&format!("bin/{name}"), script);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("executable");
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path.join(path)).unwrap_or_default()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let stopped = self.run(&["stop"]);
        let _ = fs::remove_dir_all(&self.path);
        if !thread::panicking() {
            assert_eq!(stopped.code, Some(0), "the hub stops: {}", stopped.err);
        }
    }
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    fn of(output: Output) -> Ran {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("one JSON value ({e}): {self:?}"))
    }
}

/// What a process has written so far.
#[derive(Clone)]
pub struct Text(Arc<(Mutex<(String, bool)>, Condvar)>);

impl Text {
    fn read(from: impl Read + Send + 'static) -> Text {
        let text = Text(Arc::default());
        let shared = text.clone();
        thread::spawn(move || {
            let mut from = from;
            let mut buffer = [0; 4096];
            let mut bytes = Vec::new();
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                bytes.extend_from_slice(&buffer[..n]);
                let (state, changed) = &*shared.0;
                state.lock().expect("a lock").0 = String::from_utf8_lossy(&bytes).into_owned();
                changed.notify_all();
            }
            let (state, changed) = &*shared.0;
            state.lock().expect("a lock").1 = true;
            changed.notify_all();
        });
        text
    }

    /// Waits until `what` has been written.
    pub fn until(&self, what: &str) -> String {
        self.until_match(what, |text| text.contains(what))
    }

    pub fn until_match(&self, what: &str, matches: impl Fn(&str) -> bool) -> String {
        let (state, changed) = &*self.0;
        let until = Instant::now() + LONG;
        let mut state = state.lock().expect("a lock");
        while !matches(&state.0) {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero() && !state.1, "no {what:?} in {:?}", state.0);
            state = changed.wait_timeout(state, left).expect("a lock").0;
        }
        state.0.clone()
    }

    pub fn text_so_far(&self) -> String {
        self.0.0.lock().expect("a lock").0.clone()
    }

    /// Everything, once nothing more can come.
    pub fn text(&self) -> String {
        let (state, changed) = &*self.0;
        let state = state.lock().expect("a lock");
        changed.wait_timeout_while(state, LONG, |s| !s.1).expect("a lock").0.0.clone()
    }
}

/// A process that ends with the test.
pub struct Proc {
    pub child: Child,
    pub stdin: Option<ChildStdin>,
    pub out: Text,
    pub err: Text,
}

impl Proc {
    pub fn start(command: &mut Command) -> Proc {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.process_group(0).spawn().expect("it starts");
        let out = Text::read(child.stdout.take().expect("stdout"));
        let err = Text::read(child.stderr.take().expect("stderr"));
        let stdin = child.stdin.take();
        Proc { child, stdin, out, err }
    }

    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        stdin.write_all(bytes.as_ref()).and_then(|()| stdin.flush()).expect("it reads");
    }

    pub fn line(&mut self, line: &str) {
        self.write(format!("{line}\n"));
    }

    pub fn signal(&self, signal: &str) {
        kill(signal, self.child.id());
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + LONG;
        loop {
            match self.child.try_wait().expect("its status") {
                Some(status) => return status,
                None if Instant::now() > until => {
                    panic!("it does not end: {:?} {:?}", self.out.0.0, self.err.0.0)
                }
                None => thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    pub fn code(&mut self) -> Option<i32> {
        self.wait().code()
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn kill(signal: &str, pid: u32) {
    let done = Command::new("kill").args([signal, &pid.to_string()]).status().expect("kill runs");
    assert!(done.success(), "kill {signal} {pid}");
}

/// The keys of a JSON object, sorted.
pub fn keys(value: &Value) -> Vec<&str> {
    value.as_object().map(|o| o.keys().map(String::as_str).collect()).unwrap_or_default()
}

pub fn exists(path: impl AsRef<Path>) -> bool {
    path.as_ref().symlink_metadata().is_ok()
}

/// What the terminal shows at the end of this output: it interprets erasing and ignores the cursor and the bell.
pub fn shown(raw: &str) -> String {
    let mut lines = vec![String::new()];
    let mut rest = raw.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\n' => lines.push(String::new()),
            '\u{1b}' if rest.next_if_eq(&'[').is_some() => {
                let mut sequence = String::new();
                for c in rest.by_ref() {
                    sequence.push(c);
                    if ('@'..='~').contains(&c) {
                        break;
                    }
                }
                if sequence == "K" {
                    lines.last_mut().expect("a line").clear(); // we only ever erase from the line's start
                }
            }
            '\r' | '\u{7}' => {}
            c => lines.last_mut().expect("a line").push(c),
        }
    }
    lines.join("\n")
}
