//! `relay demo`: a real hub and real channels in a temporary directory, and scripted sessions that use them.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};
use serde_json::{Value, json};

use crate::cli::Args;
use crate::datadir::DataDir;
use crate::look;
use crate::shell::Outcome;
use crate::term::{err, out, paint};
use crate::token::Tokens;

/// How long anything here may take.
const LIMIT: Duration = Duration::from_secs(10);

/// How much of a line is shown, in characters.
const SHOWN: usize = 100;
/// The same for the wire.
const WIRE: usize = 400;

/// `relay demo`.
pub fn demo(args: &Args) -> Outcome {
    let stage = Stage::set().map_err(|e| format!("no temporary directory: {e}"));
    match stage.and_then(|stage| play(&stage, args.has("verbose"))) {
        Ok(()) => tell("That was all. The hub has left, and nothing is left behind."),
        Err(why) => {
            err(&format!("relay demo: {why}\n"));
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(text: &str) {
    out(&format!("{text}\n"));
}

/// What happens.
fn play(stage: &Stage, verbose: bool) -> Result<(), String> {
    let start = |name| Actor::start(stage, name, verbose);
    tell("Three sessions start in three directories. The first one starts the hub.\n");
    let mut alice = start("alice")?;
    let mut bob = start("bob")?;
    let mut carol = start("carol")?;
    for name in ["bob", "carol"] {
        alice.sees(name)?;
    }
    alice.call("relay_peers", json!({}))?;

    tell("\nalice asks bob. The tool returns at once; the answer comes by itself.\n");
    alice.call("relay_ask", json!({"to": "bob", "question": "did the auth token shape change?"}))?;
    bob.answer("Yes: since Tuesday it has `sub` and no `user_id`.")?;
    alice.hear("reply")?;

    tell("\nalice asks everyone.\n");
    alice.call("relay_broadcast", json!({"question": "what are you working on?"}))?;
    bob.answer("The token migration.")?;
    alice.hear("reply")?;
    carol.answer("Reviewing bob's branch.")?;
    alice.hear("reply")?;
    alice.hear("summary")?;

    tell("\ncarol takes another name, is asked by it, and leaves without an answer. alice is told.\n");
    carol.call("relay_rename", json!({"name": "reviewer"}))?;
    alice.call("relay_ask", json!({"to": "reviewer", "question": "is the branch good to merge?"}))?;
    carol.hear("ask")?;
    carol.leave();
    alice.hear("failed")?;
    tell("");
    Ok(())
}

/// The temporary directory, and the hub in it.
struct Stage {
    root: PathBuf,
}

impl Stage {
    fn set() -> std::io::Result<Stage> {
        let root = std::env::temp_dir().join(Tokens::new()?.id("relay-demo-")?);
        fs::DirBuilder::new().mode(0o700).create(&root)?;
        Ok(Stage { root })
    }

    fn data(&self) -> PathBuf {
        self.root.join("data")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Ok(dir) = DataDir::locate(Some(self.data().as_os_str())) {
            let _ = look::stop_hub(&dir); // one that does not stop leaves when its directory is gone
        }
        let _ = fs::remove_dir_all(&self.root); // what can't be removed is in a temporary directory
    }
}

/// A scripted session: what Claude Code would be to its channel.
struct Actor {
    name: &'static str,
    child: Child,
    /// `None` once it has left.
    stdin: Option<ChildStdin>,
    said: Receiver<Value>,
    /// What was pushed and not heard yet.
    pushed: VecDeque<Value>,
    next_id: u64,
    verbose: bool,
}

impl Actor {
    /// Starts a channel and does the handshake.
    fn start(stage: &Stage, name: &'static str, verbose: bool) -> Result<Actor, String> {
        let failed = |e: std::io::Error| format!("cannot start a channel: {e}");
        let home = stage.root.join(name);
        fs::create_dir(&home).map_err(failed)?;
        let mut child = channel(&home, &stage.data(), name).map_err(failed)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a channel has no pipes".to_owned());
        };
        let (say, said) = unbounded();
        thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.filter_map(|l| serde_json::from_str(&l).ok()).try_for_each(|value: Value| say.send(value))
        });
        let (stdin, pushed) = (Some(stdin), VecDeque::new());
        let mut actor = Actor { name, child, stdin, said, pushed, next_id: 0, verbose };
        let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": {"name": "relay demo", "version": env!("CARGO_PKG_VERSION")}});
        actor.request("initialize", hello)?;
        actor.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))?;
        Ok(actor)
    }

    fn say(&mut self, message: &Value) -> Result<(), String> {
        self.show("→", message);
        let line = format!("{message}\n");
        let gone = || format!("the channel of {} is gone", self.name);
        self.stdin.as_mut().ok_or_else(gone)?.write_all(line.as_bytes()).map_err(|_| gone())
    }

    fn next(&mut self) -> Result<Value, String> {
        let message = self
            .said
            .recv_timeout(LIMIT)
            .map_err(|_| format!("the channel of {} says nothing", self.name))?;
        self.show("←", &message);
        Ok(message)
    }

    /// The wire, for `--verbose`.
    fn show(&self, way: &str, message: &Value) {
        if self.verbose {
            let line: String = message.to_string().chars().take(WIRE).collect();
            tell(&paint("2", &format!("      {} {way} {line}", self.name)));
        }
    }

    fn request(&mut self, method: &str, params: Value) -> Result<Value, String> {
        self.next_id += 1;
        let id = self.next_id;
        self.say(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))?;
        loop {
            let message = self.next()?;
            if message["id"] == id {
                return Ok(message);
            }
            self.pushed.push_back(message);
        }
    }

    /// Uses a tool, as the model would.
    fn call(&mut self, tool: &str, arguments: Value) -> Result<(), String> {
        let shown = format!("{} {arguments}", paint("1", &format!("{:>6} uses {tool}", self.name)));
        tell(&shown);
        let answer = self.request("tools/call", json!({"name": tool, "arguments": arguments}))?;
        let result = &answer["result"];
        let text = result["content"][0]["text"].as_str().unwrap_or_default();
        text.lines().for_each(quote);
        match result["isError"] == true || result.is_null() {
            true => Err(format!("{tool} failed: {answer}")),
            false => Ok(()),
        }
    }

    /// Until this session can ask that one: a channel starts at once, and looks for its hub afterwards.
    fn sees(&mut self, name: &str) -> Result<(), String> {
        let until = Instant::now() + LIMIT;
        while Instant::now() < until {
            let answer = self.request("tools/call", json!({"name": "relay_peers", "arguments": {}}))?;
            let peers =
                answer["result"]["structuredContent"]["peers"].as_array().cloned().unwrap_or_default();
            if peers.iter().any(|peer| peer["name"] == name) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err(format!("{name} could not register"))
    }

    /// Waits for a push of this kind, as Claude Code would show it to the model.
    fn hear(&mut self, kind: &str) -> Result<Value, String> {
        loop {
            let message = match self.pushed.pop_front() {
                Some(message) => message,
                None => self.next()?,
            };
            let params = &message["params"];
            if message["method"] != "notifications/claude/channel" {
                continue;
            }
            let (meta, text) = (&params["meta"], params["content"].as_str().unwrap_or_default());
            let part = |key: &str| meta[key].as_str().unwrap_or_default();
            let from = if kind == "summary" { "" } else { &format!(" from {}", part("from")) };
            let id = [part("ask_id"), part("broadcast_id")].concat();
            tell(&format!(
                "{} ({id})",
                paint("1", &format!("{:>6} hears: {}{from}", self.name, part("kind")))
            ));
            text.lines().take(1).for_each(quote);
            if meta["kind"] != kind {
                return Err(format!("{} expected a {kind}: {params}", self.name));
            }
            return Ok(meta.clone());
        }
    }

    /// Hears a question and answers it.
    fn answer(&mut self, answer: &str) -> Result<(), String> {
        let meta = self.hear("ask")?;
        self.call("relay_reply", json!({"ask_id": meta["ask_id"], "answer": answer}))
    }

    /// Closes the channel's stdin, as Claude Code does when it ends.
    fn leave(&mut self) {
        tell(&paint("1", &format!("{:>6} leaves", self.name)));
        self.stdin = None;
        let _ = self.child.wait(); // it ends with its stdin
    }
}

/// A line of what the relay said, cut to fit.
fn quote(line: &str) {
    let short: String = line.chars().take(SHOWN).collect();
    tell(&format!("         {short}{}", if short.len() < line.len() { "…" } else { "" }));
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.stdin = None;
        let until = Instant::now() + LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= until {
                let _ = self.child.kill(); // then the next wait ends
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// `relay channel` for a session of this name, as the plugin would start it.
fn channel(home: &Path, data: &Path, name: &str) -> std::io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .arg("channel")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs([("HOME", home), ("CLAUDE_PROJECT_DIR", home), ("RELAY_DATA_DIR", data)])
        .envs([("RELAY_SESSION", name), ("RELAY_PUSH", "channel"), ("RELAY_IDLE_EXIT_S", "10")])
        .current_dir(home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}
