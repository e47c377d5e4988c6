//! A real session as a child process that speaks stream-json: prompts go in, everything it does comes out.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::journal::{Journal, deadline};
use super::launch::Launch;

/// A running `claude -p`. Killed on drop.
pub struct Session {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    output: Arc<Journal<Value>>,
    errors: Arc<Journal<String>>,
    questions: usize,
}

impl Session {
    #[track_caller]
    pub fn start(launch: Launch<'_>) -> Session {
        let mut command = launch.home.command(&launch.claude);
        command
            .args(["-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose"])
            .args(launch.arguments())
            .env_clear()
            .envs(launch.environment())
            .current_dir(&launch.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{}: {e}", launch.claude.display()));
        let stdin = child.stdin.take();
        let output = Arc::new(Journal::default());
        let errors = Arc::new(Journal::default());
        collect(child.stdout.take().expect("a pipe"), &output, |line| {
            serde_json::from_str(&line).unwrap_or_else(|_| json!({"type": "not JSON", "line": line}))
        });
        collect(child.stderr.take().expect("a pipe"), &errors, |line| line);
        Session { name: launch.name, child, stdin, output, errors, questions: 0 }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives the session a prompt, as its user.
    #[track_caller]
    pub fn prompt(&mut self, text: &str) {
        self.send(&json!({"type": "user", "message": {"role": "user", "content": text}}));
    }

    /// Writes one line to the session's stdin.
    #[track_caller]
    pub fn send(&mut self, line: &Value) {
        let stdin = self.stdin.as_mut().expect("stdin is still open");
        if let Err(e) = writeln!(stdin, "{line}").and_then(|()| stdin.flush()) {
            panic!("session {:?} takes no input: {e}\n{}", self.name, self.dump());
        }
    }

    /// Closes stdin: the session ends by itself when it has nothing left to do.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Ends the session as its user would, and waits for it.
    #[track_caller]
    pub fn end(mut self) -> ExitStatus {
        self.close_stdin();
        self.wait_for_exit()
    }

    /// Blocks until the process has ended. Stdin should be closed, or a signal sent, before.
    #[track_caller]
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        let end = Instant::now() + deadline();
        loop {
            // The standard library has no wait with a deadline.
            match self.child.try_wait().expect("our own child can be waited for") {
                Some(status) => return status,
                None if Instant::now() > end => {
                    panic!(
                        "session {:?} did not end within {} s\n{}",
                        self.name,
                        deadline().as_secs(),
                        self.dump()
                    )
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Kills the process with SIGKILL, as a crash would, and reaps it.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Everything the session has written to stdout so far, a JSON value a line.
    pub fn output(&self) -> Vec<Value> {
        self.output.entries()
    }

    /// What the session has written to stderr so far.
    pub fn errors(&self) -> String {
        self.errors.entries().join("\n")
    }

    /// Blocks until the session has written a line, earlier or later, that satisfies the predicate.
    #[track_caller]
    pub fn wait_for(&self, what: &str, predicate: impl Fn(&Value) -> bool) -> Value {
        match self.output.wait(|lines| lines.iter().find(|line| predicate(line)).cloned()) {
            Ok(line) => line,
            Err(missed) => panic!("session {:?} did not show {what}: {missed}\n{}", self.name, self.dump()),
        }
    }

    /// Blocks until the session is connected to the MCP server (`plugin:relay:relay`), which it is asked without taking
    /// a turn: before its first prompt a session says nothing by itself.
    #[track_caller]
    pub fn wait_for_server(&mut self, server: &str) {
        let end = Instant::now() + deadline();
        loop {
            let answer = self.control("mcp_status");
            let servers = answer["mcpServers"].as_array().map_or(&[][..], Vec::as_slice);
            let status = servers.iter().find(|s| s["name"] == server).and_then(|s| s["status"].as_str());
            match status {
                Some("connected") => return,
                Some("pending") | None if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(50))
                }
                status => panic!(
                    "session {:?}: {server:?} is {status:?}, not connected\n{}",
                    self.name,
                    self.dump()
                ),
            }
        }
    }

    /// Asks the client itself something (a `control_request` of that subtype) and returns the answer.
    #[track_caller]
    pub fn control(&mut self, subtype: &str) -> Value {
        self.questions += 1;
        let id = format!("test-{}", self.questions);
        self.send(&json!({"type": "control_request", "request_id": id, "request": {"subtype": subtype}}));
        let answer = self.wait_for(&format!("the answer to {subtype}"), |line| {
            line["type"] == "control_response" && line["response"]["request_id"] == *id
        });
        answer["response"]["response"].clone()
    }

    /// Blocks until the assistant has said something with this text in it.
    #[track_caller]
    pub fn wait_for_text(&self, needle: &str) -> Value {
        self.wait_for(&format!("the assistant's {needle:?}"), |line| {
            line["type"] == "assistant" && super::model::text_of(&line["message"]["content"]).contains(needle)
        })
    }

    /// Blocks until `count` turns have ended, counted from the session's start, and returns the last one's result.
    #[track_caller]
    pub fn wait_for_turns(&self, count: usize) -> Value {
        assert!(count > 0, "wait for at least one turn");
        let ended =
            self.output.wait(|lines| lines.iter().filter(|l| l["type"] == "result").nth(count - 1).cloned());
        match ended {
            Ok(line) => line,
            Err(missed) => {
                panic!("session {:?} did not end {count} turns: {missed}\n{}", self.name, self.dump())
            }
        }
    }

    /// All lines so far and how the process fares, for the reader of a failed test.
    pub fn dump(&self) -> String {
        let mut dump = format!("--- session {:?}, pid {}: stdout\n", self.name, self.child.id());
        for line in self.output() {
            let _ = writeln!(dump, "{line}");
        }
        let _ = writeln!(dump, "--- stderr\n{}", self.errors());
        dump
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Appends every line that comes to the journal, and closes it at the end. The thread is left to itself: a child of the
/// session's may hold the pipe open for longer than the session lives.
fn collect<T: Clone + Send + 'static>(
    pipe: impl Read + Send + 'static,
    into: &Arc<Journal<T>>,
    entry: impl Fn(String) -> T + Send + 'static,
) {
    let journal = Arc::clone(into);
    std::thread::spawn(move || {
        let mut lines = BufReader::new(pipe).split(b'\n');
        while let Some(Ok(line)) = lines.next() {
            journal.push(entry(String::from_utf8_lossy(&line).into_owned()));
        }
        journal.close();
    });
}
