//! A real channel, and this program as the Claude Code that started it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::process::Dir;

pub struct Channel {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    line: String,
    calls: u64,
}

impl Channel {
    /// A session's channel that has registered under that name.
    pub fn start(dir: &Dir, name: &str) -> Channel {
        let mut channel = Channel::spawn(Channel::command(dir.relay("channel"), dir, name));
        channel.initialize();
        channel.call("relay_peers", json!({}));
        channel
    }

    /// What starts it, in a project of that name.
    pub fn command(mut command: Command, dir: &Dir, name: &str) -> Command {
        let project = dir.path().join("projects").join(name);
        std::fs::create_dir_all(&project).expect("a directory");
        command.env("CLAUDE_PROJECT_DIR", project).env("RELAY_SESSION", name);
        command
    }

    pub fn spawn(mut command: Command) -> Channel {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a channel");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        Channel { child, stdin, stdout, line: String::new(), calls: 0 }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn initialize(&mut self) {
        self.write(INITIALIZE);
        self.read();
    }

    pub fn write(&mut self, line: &str) {
        self.stdin.as_mut().expect("open").write_all(line.as_bytes()).expect("the channel reads");
    }

    /// The next line, unread.
    pub fn read(&mut self) -> &str {
        self.line.clear();
        let n = self.stdout.read_line(&mut self.line).expect("UTF-8");
        assert!(n > 0, "the channel ended");
        &self.line
    }

    /// The line of a tool call.
    pub fn call_line(&mut self, tool: &str, arguments: Value) -> String {
        self.calls += 1;
        let params = json!({"name": tool, "arguments": arguments});
        let line = json!({"jsonrpc": "2.0", "id": self.calls, "method": "tools/call", "params": params});
        format!("{line}\n")
    }

    /// Calls a tool and waits for its result, which must not be an error.
    pub fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let line = self.call_line(tool, arguments);
        self.write(&line);
        loop {
            let message: Value = serde_json::from_str(self.read()).expect("JSON");
            if !message["id"].is_null() {
                assert!(message["result"]["isError"] != true, "{message}");
                return message["result"]["structuredContent"].clone();
            }
        }
    }

    /// Ends it as Claude Code does: stdin is closed.
    pub fn end(mut self) {
        self.stdin = None;
        let _ = self.child.wait();
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub const INITIALIZE: &str = "{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"initialize\",\"params\":{\"protocolVersion\":\
    \"2025-11-25\",\"capabilities\":{},\"clientInfo\":{\"name\":\"claude-code\",\"version\":\"2.1.330\"}}}\n";
