//! `relay demo`: a real hub and real channels in a temporary directory, used by scripted sessions.

use std::fs;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::args::Args;
use super::program::Program;
use super::terminal::{first_line, out, paint};
use super::{Failure, Outcome, status};
use crate::datadir::DataDir;
use crate::token::Tokens;

/// How long any step may take.
const STEP_LIMIT: Duration = Duration::from_secs(10);
/// How long a viewer has to read a step.
const PAUSE: Duration = Duration::from_millis(1500);
/// The most columns that are printed of a line of a text.
const COLUMNS: usize = 100;

/// Runs `relay demo`.
pub fn demo(args: &Args) -> Outcome {
    let root = std::env::temp_dir().join(Tokens::new()?.id("relay-demo-")?);
    fs::DirBuilder::new().mode(0o700).create(&root)?;
    let stage = Stage { root, is_fast: args.has("fast"), is_verbose: args.has("verbose") };
    play(&stage)?;
    drop(stage);
    out("The demo is over. Its hub has stopped, and its directory is removed.\n")
}

/// The script.
fn play(stage: &Stage) -> Outcome {
    stage.narrate("Three sessions start: alice, bob and carol. The first one starts the hub.")?;
    let mut alice = Actor::start(stage, "alice")?;
    let mut bob = Actor::start(stage, "bob")?;
    let mut carol = Actor::start(stage, "carol")?;

    stage.narrate("\nalice asks bob. The tool returns at once; the answer arrives later.\n")?;
    alice.call("relay_ask", json!({"to": "bob", "question": "did the auth token shape change?"}))?;
    bob.answer("Yes: since Tuesday it has `sub` and no `user_id`.")?;
    alice.receive()?;

    stage.narrate("\nalice asks everyone. All answers come in one message, when the last is in.\n")?;
    alice.call("relay_broadcast", json!({"question": "what are you working on?"}))?;
    bob.answer("The token migration.")?;
    carol.answer("Reviewing bob's branch.")?;
    alice.receive()?;

    stage.narrate("\ncarol is renamed to reviewer. alice asks reviewer, which exits without an answer.\n")?;
    carol.call("relay_rename", json!({"name": "reviewer"}))?;
    alice.call("relay_ask", json!({"to": "reviewer", "question": "is the branch good to merge?"}))?;
    carol.receive()?;
    stage.narrate(&paint("1", " carol exits"))?;
    drop(carol);
    alice.receive()?;
    out("\n")
}

/// The temporary directory, the hub in it, and how the demo is shown.
struct Stage {
    root: PathBuf,
    is_fast: bool,
    is_verbose: bool,
}

impl Stage {
    /// Prints what happens next, after the time to read what is on the screen.
    fn narrate(&self, text: &str) -> Outcome {
        if !self.is_fast {
            thread::sleep(PAUSE);
        }
        out(&format!("{text}\n"))
    }

    /// Prints a JSON-RPC message, with `--verbose`.
    fn show_message(&self, name: &str, arrow: &str, message: &Value) {
        if self.is_verbose {
            let _ = out(&format!("{}\n", paint("2", &format!("      {name} {arrow} {message}")))); // the next step fails too
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Ok(dir) = DataDir::locate(Some(self.root.join("data").as_os_str())) {
            let _ = status::stop_hub(&dir); // a hub that does not stop exits once its directory is gone
        }
        let _ = fs::remove_dir_all(&self.root); // what can't be removed is in a temporary directory
    }
}

/// A scripted session: does to its channel what Claude Code would.
struct Actor<'a> {
    stage: &'a Stage,
    name: &'static str,
    channel: Program,
}

impl<'a> Actor<'a> {
    /// Starts a channel, as the plugin would, and does the MCP handshake.
    fn start(stage: &'a Stage, name: &'static str) -> Result<Actor<'a>, Failure> {
        let home = stage.root.join(name);
        fs::create_dir(&home)?;
        let channel = Program::start(
            Command::new(std::env::current_exe()?)
                .arg("channel")
                .env_clear()
                .env("PATH", std::env::var_os("PATH").unwrap_or_default())
                .env("HOME", &home)
                .env("RELAY_DATA_DIR", stage.root.join("data"))
                .env("RELAY_SESSION", name)
                .env("RELAY_PUSH", "channel")
                .env("RELAY_IDLE_EXIT_S", "10")
                .current_dir(&home)
                .stderr(Stdio::null()),
        )?;
        let mut actor = Actor { stage, name, channel };
        let client = json!({"name": "claude-code", "version": env!("CARGO_PKG_VERSION")});
        let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
        actor.request("initialize", hello)?;
        actor.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        // A channel starts before it has connected to the hub. The result of a tool shows that it is registered.
        actor.request("tools/call", json!({"name": "relay_peers", "arguments": {}}))?;
        Ok(actor)
    }

    fn send(&self, message: &Value) {
        let _ = writeln!(&*self.channel.stream, "{message}"); // an error also ends the lines, which are read next
        self.stage.show_message(self.name, "→", message);
    }

    /// The next message that is wanted. The script has no others but notifications about lists.
    fn take(&mut self, is_wanted: impl Fn(&Value) -> bool) -> Result<Value, Failure> {
        let found = self.channel.find(STEP_LIMIT, |line| {
            let message: Value = serde_json::from_slice(line).ok()?;
            self.stage.show_message(self.name, "←", &message);
            is_wanted(&message).then_some(message)
        });
        Ok(found.map_err(|e| format!("the channel of {}: {e}", self.name))?)
    }

    /// Sends a request and returns its result.
    fn request(&mut self, method: &str, params: Value) -> Result<Value, Failure> {
        self.send(&json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}));
        Ok(self.take(|message| message["id"] == 1)?["result"].take())
    }

    /// Calls a tool, as the model would.
    fn call(&mut self, tool: &str, arguments: Value) -> Outcome {
        let heading = paint("1", &format!("{:>6} calls {tool}", self.name));
        self.stage.narrate(&format!("{heading} {arguments}"))?;
        let result = self.request("tools/call", json!({"name": tool, "arguments": arguments}))?;
        print_indented(&result["content"][0]["text"])
    }

    /// Waits for a push, prints it, and returns its attributes.
    fn receive(&mut self) -> Result<Value, Failure> {
        let message = self.take(|message| message["method"] == "notifications/claude/channel")?;
        let meta = &message["params"]["meta"];
        let field = |key: &str| meta[key].as_str().unwrap_or("the relay");
        let heading = format!("{:>6} receives: {} from {}", self.name, field("kind"), field("from"));
        self.stage.narrate(&paint("1", &heading))?;
        print_indented(&message["params"]["content"])?;
        Ok(meta.clone())
    }

    /// Receives a question and answers it.
    fn answer(&mut self, answer: &str) -> Outcome {
        let meta = self.receive()?;
        self.call("relay_reply", json!({"ask_id": meta["ask_id"], "answer": answer}))
    }
}

fn print_indented(text: &Value) -> Outcome {
    let mut lines = text.as_str().unwrap_or_default().lines().filter(|line| !line.is_empty());
    lines.try_for_each(|line| out(&format!("         {}\n", first_line(line, COLUMNS))))
}

impl Drop for Actor<'_> {
    /// The channel exits with its standard input, as when Claude Code exits.
    fn drop(&mut self) {
        let _ = self.channel.stream.shutdown(std::net::Shutdown::Both); // it may be gone already
        let _ = self.channel.child.wait();
    }
}
