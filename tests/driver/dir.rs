//! A data directory of its own for each test, with whatever runs in it.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use serde_json::Value;

use super::{Channel, KILLED, Launch, Raw, relay_path, signal, until};

/// See [`DataDir::start_hook`].
pub struct Hook(Child);

impl Hook {
    pub fn run(mut self, input: &Value) -> Output {
        let mut stdin = self.0.stdin.take().expect("a pipe");
        std::io::Write::write_all(&mut stdin, input.to_string().as_bytes()).expect("a reader");
        drop(stdin);
        self.0.wait_with_output().expect("an end")
    }
}

/// See [`DataDir::waiter`]. Killed on drop.
pub struct Waiter(Child);

impl Waiter {
    /// What it has woken the session with.
    pub fn mark_busy(mut self) -> String {
        let mut text = String::new();
        self.0.stderr.take().expect("a pipe").read_to_string(&mut text).expect("text");
        assert_eq!(self.0.wait().expect("an end").code(), Some(2), "{text}");
        text
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended
        let _ = self.0.wait();
    }
}

/// At its end the hub is stopped, and that no process is left is part of every test.
pub struct DataDir {
    /// What is removed in the end.
    root: PathBuf,
    path: PathBuf,
    /// For everything that is started here.
    env: Vec<(String, String)>,
}

impl DataDir {
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// With these environment variables for all processes.
    pub fn with(env: &[(&str, &str)]) -> Self {
        Self::below("data", env)
    }

    /// The data directory at `path` below the test's own directory; it is not made.
    pub fn below(path: &str, env: &[(&str, &str)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("relay-it-{}-{next}", std::process::id()));
        let _ = fs::remove_dir_all(&root); // of a process with the same number, long ago
        for dir in ["home", "projects"] {
            fs::create_dir_all(root.join(dir)).expect("a temporary directory");
        }
        let root = fs::canonicalize(root).expect("its path");
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        DataDir { path: root.join(path), root, env }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The test's own directory, around the data directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn socket(&self) -> PathBuf {
        self.path.join("hub.sock")
    }

    /// What containers mount and SSH forwards.
    pub fn peers_socket(&self) -> PathBuf {
        self.path.join("peers/peers.sock")
    }

    /// A directory for a session to work in.
    pub fn project(&self, name: &str) -> PathBuf {
        let dir = self.root.join("projects").join(name);
        fs::create_dir_all(&dir).expect("a project");
        dir
    }

    /// Where the stderr of a session's channel goes.
    pub fn stderr_of(&self, session: &str) -> PathBuf {
        self.root.join("projects").join(format!("{session}.stderr"))
    }

    /// `relay` with `args`, in a clean environment that leads here.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(relay_path());
        command.args(args);
        self.surround(&mut command);
        command
    }

    /// Another program, in the same environment.
    pub fn command_of(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        self.surround(&mut command);
        command
    }

    pub(super) fn surround(&self, command: &mut Command) {
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).env("HOME", self.root.join("home"));
        command.env("RELAY_DATA_DIR", &self.path).current_dir(&self.root);
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
    }

    /// A channel whose session works in a project of this name. See [`Launch`].
    pub fn launch(&self, session: &str) -> Launch<'_> {
        Launch::new(self, session)
    }

    /// A channel that is registered, under the name of its session if that is free.
    pub fn channel(&self, session: &str) -> Channel {
        let channel = self.launch(session).start();
        channel.initialize();
        channel.call("relay_peers", Value::Null).ok();
        channel
    }

    /// Several of them.
    pub fn channels<const N: usize>(&self, sessions: [&str; N]) -> [Channel; N] {
        let started = sessions.map(|s| self.launch(s).start());
        for channel in &started {
            channel.initialize();
            channel.call("relay_peers", Value::Null).ok();
        }
        started
    }

    /// Starts a hub and returns when it listens.
    pub fn start_hub(&self) {
        let output = self.command(&["hub", "--detach"]).output().expect("relay hub");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs the hook of a session with this input, as Claude Code does.
    pub fn hook(&self, session: &str, input: &Value) -> Output {
        self.start_hook(session).run(input)
    }

    /// The same, which is late: it has been started and has not been told of what.
    pub fn start_hook(&self, session: &str) -> Hook {
        let mut command = self.command(&["hook"]);
        command.env("RELAY_SESSION", session).stdin(Stdio::piped()).stdout(Stdio::piped());
        Hook(command.stderr(Stdio::piped()).spawn().expect("relay hook"))
    }

    /// Writes a session's transcript with these lines, and gives its path.
    pub fn transcript(&self, lines: &[&Value]) -> PathBuf {
        let path = self.root.join("transcript.jsonl");
        fs::write(&path, lines.iter().map(|line| format!("{line}\n")).collect::<String>())
            .expect("a transcript");
        path
    }

    /// Starts the waiter of a session in a terminal, as Claude Code does after the hook of the same event.
    pub fn waiter(&self, session: &str, input: &Value) -> Waiter {
        let mut command = self.command(&["hook", "--wait"]);
        command.env("RELAY_SESSION", session).env("CLAUDE_CODE_ENTRYPOINT", "cli");
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a waiter");
        let mut stdin = child.stdin.take().expect("a pipe");
        std::io::Write::write_all(&mut stdin, input.to_string().as_bytes()).expect("a reader");
        Waiter(child)
    }

    /// A connection to the hub that has been welcomed.
    pub fn raw(&self) -> Raw {
        let mut raw = Raw::connect(self);
        raw.hello();
        raw
    }

    /// A registered peer that is its own reader.
    pub fn peer(&self, name: &str) -> Raw {
        let mut raw = self.raw();
        raw.register(name);
        raw
    }

    /// The hubs that run here.
    pub fn hubs(&self) -> Vec<u32> {
        let is_hub = |args: &[Vec<u8>]| {
            args.get(1).is_some_and(|a| a == b"hub") && !args.iter().any(|a| a == b"--detach")
        };
        self.processes().into_iter().filter(|(_, args)| is_hub(args)).map(|(pid, _)| pid).collect()
    }

    /// The process that was the last to become the hub, if it lives: see `hub.lock`.
    pub fn hub_in_lock(&self) -> Option<u32> {
        let lock = fs::read_to_string(self.path.join("hub.lock")).ok()?;
        lock.lines().next()?.parse().ok().filter(|pid| super::is_running(*pid))
    }

    /// The one hub, once there is exactly one.
    pub fn hub(&self) -> u32 {
        until("one hub", || match self.hubs()[..] {
            [one] => Some(one),
            _ => None,
        })
    }

    /// Kills the hub, and returns when it is gone.
    pub fn kill_hub(&self) -> u32 {
        let hub = self.hub();
        signal(hub, "KILL");
        until("the hub's death", || (!super::is_running(hub)).then_some(()));
        hub
    }

    /// Processes of ours with this data directory, in their arguments or their environment.
    fn processes(&self) -> Vec<(u32, Vec<Vec<u8>>)> {
        let split = |text: Vec<u8>| -> Vec<Vec<u8>> { text.split(|b| *b == 0).map(<[u8]>::to_vec).collect() };
        let ours = self.path.as_os_str().as_bytes().to_vec();
        let variable = [b"RELAY_DATA_DIR=", &ours[..]].concat();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("these tests need /proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
            let args = split(fs::read(entry.path().join("cmdline")).unwrap_or_default());
            let program = args.first().map(|a| Path::new(OsStr::from_bytes(a)));
            if program.and_then(Path::file_name) != Path::new(relay_path()).file_name() {
                continue;
            }
            let env = split(fs::read(entry.path().join("environ")).unwrap_or_default());
            if args.contains(&ours) || env.contains(&variable) {
                found.push((pid, args));
            }
        }
        found
    }

    /// The log's lines with this event, by whomever.
    pub fn logged(&self, event: &str) -> Vec<Value> {
        self.log().into_iter().filter(|line| line["event"] == event).collect()
    }

    /// The whole log; every line is a JSON object, but for one in the middle of which a process was killed.
    pub fn log(&self) -> Vec<Value> {
        let entries = fs::read_dir(self.path.join("logs")).into_iter().flatten().flatten();
        let text: String = entries.filter_map(|e| fs::read_to_string(e.path()).ok()).collect();
        let lines: Vec<serde_json::Result<Value>> = text.lines().map(serde_json::from_str).collect();
        let torn = lines.iter().filter(|line| line.is_err()).count();
        assert!(torn <= KILLED.load(Ordering::Relaxed), "{torn} log lines are no JSON");
        lines.into_iter().flatten().collect()
    }

    /// SIGTERM to the hub, and waits for its end. A channel starts another.
    pub fn stop_hub(&self) -> u32 {
        let hub = self.hub();
        signal(hub, "TERM");
        until("the hub's end", || (!super::is_running(hub)).then_some(()));
        hub
    }

    /// Stops the hubs and waits until no process is left.
    pub fn stop(&self) {
        until("the end of every process", || {
            // Again and again, for one may be about to start.
            self.hubs().into_iter().for_each(|hub| signal(hub, "TERM"));
            self.processes().is_empty().then_some(())
        });
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the log of {}:", self.path.display());
            self.log().iter().rev().take(40).rev().for_each(|line| eprintln!("  {line}"));
            self.processes().iter().for_each(|(pid, _)| signal(*pid, "KILL"));
        } else {
            self.stop();
        }
        let _ = fs::remove_dir_all(&self.root); // what cannot be removed is in the temporary directory
    }
}
