//! `relay demo`: a real hub and real channels in a temporary directory, and scripted sessions that use them.

use std::fs;
use std::io::{Result, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::args::Args;
use super::terminal::{out, paint};
use super::{Outcome, ended, first_line, status};
use crate::datadir::DataDir;
use crate::lines::Lines;
use crate::token::Tokens;

/// How long anything here may take.
const LIMIT: Duration = Duration::from_secs(10);

/// `relay demo`.
pub fn demo(args: &Args) -> Outcome {
    let played = Stage::set().and_then(|stage| play(&stage, args.has("verbose")));
    if played.is_ok() {
        tell("That was all. The hub has left, and nothing is left behind.");
    }
    ended("demo", played.map_err(|e| e.to_string()))
}

fn tell(text: &str) {
    out(&format!("{text}\n"));
}

fn wrong<T>(why: String) -> Result<T> {
    Err(std::io::Error::other(why))
}

/// What happens.
fn play(stage: &Stage, verbose: bool) -> Result<()> {
    tell("Three sessions start in three directories. The first one starts the hub.\n");
    let mut alice = Actor::start(stage, "alice", verbose)?;
    let mut bob = Actor::start(stage, "bob", verbose)?;
    let mut carol = Actor::start(stage, "carol", verbose)?;
    alice.call("relay_peers", json!({}))?;

    tell("\nalice asks bob. The tool returns at once; the answer comes by itself.\n");
    alice.call("relay_ask", json!({"to": "bob", "question": "did the auth token shape change?"}))?;
    bob.answer("Yes: since Tuesday it has `sub` and no `user_id`.")?;
    alice.hear("reply")?;

    tell("\nalice asks everyone. All answers come in one message, when the last is in.\n");
    alice.call("relay_broadcast", json!({"question": "what are you working on?"}))?;
    bob.answer("The token migration.")?;
    carol.answer("Reviewing bob's branch.")?;
    alice.hear("summary")?;

    tell("\ncarol takes another name, is asked by it, and leaves without an answer. alice is told.\n");
    carol.call("relay_rename", json!({"name": "reviewer"}))?;
    alice.call("relay_ask", json!({"to": "reviewer", "question": "is the branch good to merge?"}))?;
    carol.hear("ask")?;
    tell(&paint("1", " carol leaves"));
    drop(carol);
    alice.hear("failed")?;
    tell("");
    Ok(())
}

/// The temporary directory, and the hub in it.
struct Stage(PathBuf);

impl Stage {
    fn set() -> Result<Stage> {
        let root = std::env::temp_dir().join(Tokens::new()?.id("relay-demo-")?);
        fs::DirBuilder::new().mode(0o700).create(&root)?;
        Ok(Stage(root))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Ok(dir) = DataDir::locate(Some(self.0.join("data").as_os_str())) {
            let _ = status::stop_hub(&dir); // one that does not stop leaves when its directory is gone
        }
        let _ = fs::remove_dir_all(&self.0); // what can't be removed is in a temporary directory
    }
}

/// A scripted session: what Claude Code would be to its channel.
struct Actor {
    name: &'static str,
    child: Child,
    /// The channel's stdin and stdout.
    stream: Arc<UnixStream>,
    lines: Lines,
    /// What was pushed and not heard yet, the last first.
    pushed: Vec<Value>,
    verbose: bool,
}

impl Actor {
    /// Starts a channel, as the plugin would, and does the handshake.
    fn start(stage: &Stage, name: &'static str, verbose: bool) -> Result<Actor> {
        let home = stage.0.join(name);
        fs::create_dir(&home)?;
        let (stream, theirs) = UnixStream::pair()?;
        let stdin = OwnedFd::from(theirs);
        let child = Command::new(std::env::current_exe()?)
            .arg("channel")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &home)
            .env("CLAUDE_PROJECT_DIR", &home)
            .env("RELAY_DATA_DIR", stage.0.join("data"))
            .env("RELAY_SESSION", name)
            .env("RELAY_PUSH", "channel")
            .env("RELAY_IDLE_EXIT_S", "10")
            .current_dir(&home)
            .stdout(stdin.try_clone()?)
            .stdin(stdin)
            .stderr(Stdio::null())
            .spawn()?;
        let stream = Arc::new(stream);
        let lines = Lines::new(stream.clone());
        let mut actor = Actor { name, child, stream, lines, pushed: Vec::new(), verbose };
        let client = json!({"name": "claude-code", "version": env!("CARGO_PKG_VERSION")});
        let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
        actor.request("initialize", hello)?;
        actor.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))?;
        // A channel starts at once, and looks for its hub afterwards; a tool's answer says that it is there.
        actor.request("tools/call", json!({"name": "relay_peers", "arguments": {}}))?;
        Ok(actor)
    }

    fn say(&self, message: &Value) -> Result<()> {
        let line = format!("{message}\n");
        self.show("→", &line);
        (&*self.stream).write_all(line.as_bytes())
    }

    fn next(&mut self) -> Result<Value> {
        let Some(line) = self.lines.next(Some(Instant::now() + LIMIT))? else {
            return wrong(format!("the channel of {} is gone", self.name));
        };
        let line = String::from_utf8_lossy(line).into_owned();
        self.show("←", &line);
        Ok(serde_json::from_slice(line.as_bytes())?)
    }

    /// The wire, for `--verbose`.
    fn show(&self, way: &str, line: &str) {
        if self.verbose {
            tell(&paint("2", &format!("      {} {way} {}", self.name, first_line(line, 400))));
        }
    }

    /// What a request of Claude Code brings.
    fn request(&mut self, method: &str, params: Value) -> Result<Value> {
        self.say(&json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))?;
        loop {
            let message = self.next()?;
            if message["id"] == 1 {
                return Ok(message["result"].clone());
            }
            self.pushed.insert(0, message);
        }
    }

    /// Uses a tool, as the model would.
    fn call(&mut self, tool: &str, arguments: Value) -> Result<()> {
        tell(&format!("{} {arguments}", paint("1", &format!("{:>6} uses {tool}", self.name))));
        let result = self.request("tools/call", json!({"name": tool, "arguments": arguments}))?;
        result["content"][0]["text"].as_str().unwrap_or_default().lines().for_each(quote);
        match result["isError"] == true || result.is_null() {
            true => wrong(format!("{tool} failed: {result}")),
            false => Ok(()),
        }
    }

    /// Waits for a push of this kind, as Claude Code would show it to the model.
    fn hear(&mut self, kind: &str) -> Result<Value> {
        let message = match self.pushed.pop() {
            Some(message) => message,
            None => self.next()?,
        };
        if message["method"] != "notifications/claude/channel" {
            return self.hear(kind);
        }
        let (meta, text) = (&message["params"]["meta"], &message["params"]["content"]);
        let part = |key: &str| meta[key].as_str().unwrap_or_default();
        let from = if kind == "summary" { "" } else { &format!(" from {}", part("from")) };
        let heard = format!("{:>6} hears: {}{from}", self.name, part("kind"));
        tell(&format!("{} ({}{})", paint("1", &heard), part("ask_id"), part("broadcast_id")));
        text.as_str().and_then(|text| text.lines().next()).into_iter().for_each(quote);
        match part("kind") == kind {
            true => Ok(meta.clone()),
            false => wrong(format!("{} expected a {kind}: {message}", self.name)),
        }
    }

    /// Hears a question and answers it.
    fn answer(&mut self, answer: &str) -> Result<()> {
        let meta = self.hear("ask")?;
        self.call("relay_reply", json!({"ask_id": meta["ask_id"], "answer": answer}))
    }
}

/// A line of what the relay said, cut to fit.
fn quote(text: &str) {
    tell(&format!("         {}", first_line(text, 100)));
}

impl Drop for Actor {
    /// The channel ends with its stdin, as when Claude Code ends.
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both); // it may be gone already
        let _ = self.child.wait();
    }
}
