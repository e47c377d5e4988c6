//! The relay among real sessions: a home with the plugin in it, sessions that do as they are told, and what the hub says.
//!
//! The scripted model of every session here does two things. It follows the orders in its user's prompts ([`Actor::call`],
//! [`Actor::hold`]), and it answers what peers ask it as [`Stage::answers`] says. It takes for a question only what stands
//! under a header of ours at the start of a line, so a test whose question is answered has seen the header where it belongs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::home::Home;
use super::journal::deadline;
use super::launch::{Launch, RELAY_TOOLS};
use super::leftovers::{self, Process};
use super::model::{Gate, Model, Request, Step, Turn};
use super::session::Session;
use super::terminal::Terminal;
use super::watch::Watch;

pub use super::actor::{Actor, Prompted};

/// The MCP server of the installed plugin, as the client calls it.
pub const SERVER: &str = "plugin:relay:relay";

/// How the client names the plugin's tools.
const PLUGIN: &str = "mcp__plugin_relay_relay__";

/// What a session's model does when it is asked: `None` says nothing.
type Manners = Arc<dyn Fn(&Ask) -> Option<String> + Send + Sync>;

/// A question of a peer as the model met it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub ask_id: String,
    pub from: String,
    /// The whole line that our header is.
    pub header: String,
}

/// What the scripts look at and the test may change meanwhile.
#[derive(Default)]
pub(super) struct Plot {
    manners: Mutex<BTreeMap<String, Manners>>,
    pub(super) gates: Mutex<BTreeMap<String, Gate>>,
    /// By session: the words after which an ask's id stands, and the answer to it.
    reminded: Mutex<BTreeMap<String, (String, String)>>,
    /// By session: the words at which its model waits for the gate.
    held: Mutex<BTreeMap<String, (String, Gate)>>,
    /// The sessions whose model is overloaded.
    overloaded: Mutex<BTreeSet<String>>,
}

/// See the module.
pub struct Stage {
    pub claude: std::path::PathBuf,
    pub home: Home,
    pub model: Model,
    pub(super) plot: Arc<Plot>,
    tools: &'static str,
    environment: BTreeMap<String, String>,
}

impl Stage {
    /// With the plugin installed, as its user would install it.
    #[track_caller]
    pub fn new(claude: &Path) -> Stage {
        let stage = Stage::before_installation(claude);
        stage.home.install_plugin(claude, Path::new(env!("CARGO_MANIFEST_DIR")));
        stage
    }

    /// Without the plugin, which the test installs later.
    #[track_caller]
    pub fn before_installation(claude: &Path) -> Stage {
        Stage::with_tools(claude, PLUGIN)
    }

    /// With the relay as a bare MCP server, `claude mcp add relay -- relay channel`: it has no hooks.
    #[track_caller]
    pub fn bare(claude: &Path) -> Stage {
        let stage = Stage::with_tools(claude, "mcp__relay__");
        let add = ["mcp", "add", "--scope", "user", "relay", "--", super::relay_path(), "channel"];
        super::home::run(stage.home.command(claude).args(add));
        stage
    }

    fn with_tools(claude: &Path, tools: &'static str) -> Stage {
        Stage {
            claude: claude.to_owned(),
            home: Home::new(),
            model: Model::start(),
            plot: Arc::default(),
            tools,
            // A hub leaves soon after its last session, so that a test sees that nothing is left.
            environment: [("RELAY_BIN", super::relay_path()), ("RELAY_IDLE_EXIT_S", "0.5")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        }
    }

    /// Sets an environment variable for every session that is launched from now on.
    pub fn env(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    /// A session about to be launched, with its script: see the module.
    pub fn launch(&self, name: &str) -> Launch<'_> {
        let plot = Arc::clone(&self.plot);
        let tools = self.tools;
        self.model.script(name, move |turn| plot.next(turn, tools));
        let launch = Launch::new(&self.claude, &self.home, &self.model, name);
        let launch = launch
            .allow(&format!("{},Bash", if self.tools == PLUGIN { RELAY_TOOLS } else { "mcp__relay__*" }));
        self.environment.iter().fold(launch, |launch, (name, value)| launch.env(name, value))
    }

    /// A session in a pipe that has its relay.
    #[track_caller]
    pub fn piped(&self, name: &str) -> Actor<'_, Session> {
        self.act(self.launch(name).piped(), name)
    }

    /// The session of that name, as an actor, when it has its relay.
    #[track_caller]
    pub fn act(&self, mut session: Session, name: &str) -> Actor<'_, Session> {
        session.wait_for_server(if self.tools == PLUGIN { SERVER } else { "relay" });
        Actor::new(name, self, session)
    }

    /// The session of that name, as an actor, when it takes prompts.
    #[track_caller]
    pub fn act_in_terminal(&self, terminal: Terminal, name: &str) -> Actor<'_, Terminal> {
        terminal.wait_until_ready();
        Actor::new(name, self, terminal)
    }

    /// From now on the session answers every question so. Before that it says nothing to them.
    pub fn answers(&self, name: &str, answer: &str) {
        let answer = answer.to_owned();
        self.manners(name, move |_| Some(answer.clone()));
    }

    /// From now on the session does so when it is asked.
    pub fn manners(&self, name: &str, manners: impl Fn(&Ask) -> Option<String> + Send + Sync + 'static) {
        lock(&self.plot.manners).insert(name.to_owned(), Arc::new(manners));
    }

    /// From now on the session answers the ask whose id follows these words.
    pub fn when_reminded(&self, name: &str, words: &str, answer: &str) {
        lock(&self.plot.reminded).insert(name.to_owned(), (words.to_owned(), answer.to_owned()));
    }

    /// From now on the session's model waits at the gate when it is told these words.
    pub fn hold_at(&self, name: &str, words: &str) -> Gate {
        let gate = Gate::new();
        lock(&self.plot.held).insert(name.to_owned(), (words.to_owned(), gate.clone()));
        gate
    }

    /// From now on every request of the session fails, as of a server that is overloaded, or succeeds again.
    pub fn overload(&self, name: &str, is_overloaded: bool) {
        let mut overloaded = lock(&self.plot.overloaded);
        match is_overloaded {
            true => overloaded.insert(name.to_owned()),
            false => overloaded.remove(name),
        };
    }

    /// Blocks until the session's model has met a question with this text in it.
    #[track_caller]
    pub fn wait_for_ask(&self, name: &str, text: &str) -> Ask {
        let request = self
            .model
            .wait_for(name, &format!("the question {text:?}"), |r| r.hears(text) && !asks_in(r).is_empty());
        asks_in(&request).pop().expect("just seen")
    }

    /// A connection to the hub that is told everything that happens from now on. Blocks until there is a hub.
    #[track_caller]
    pub fn watch(&self) -> Watch {
        Watch::start(&self.home.plugin_data())
    }

    /// Blocks until the hub has nothing on its way: what is not in a conversation by now won't come.
    #[track_caller]
    pub fn wait_until_delivered(&self) {
        let end = Instant::now() + deadline();
        loop {
            let status = Watch::status(&self.home.plugin_data());
            if status["undelivered"] == 0 {
                return;
            }
            assert!(
                Instant::now() < end,
                "still on its way after {} s: {status}\n{}",
                deadline().as_secs(),
                self.home.relay_log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills the hub with SIGKILL, as a crash would, and blocks until there is another.
    #[track_caller]
    pub fn kill_hub(&self) {
        let data = self.home.plugin_data();
        let pid = Watch::status(&data)["pid"].as_u64().expect("the hub's process");
        leftovers::signal(u32::try_from(pid).expect("a process"), "KILL");
        wait_until("another hub is there", || Watch::status(&data)["pid"] != pid);
    }

    /// The waiters that run now.
    pub fn waiters(&self) -> Vec<Process> {
        leftovers::processes_with(self.home.marker()).into_iter().filter(is_waiter).collect()
    }

    /// Blocks until so many waiters run.
    #[track_caller]
    pub fn wait_for_waiters(&self, count: usize) {
        let end = Instant::now() + deadline();
        loop {
            let waiters = self.waiters();
            if waiters.len() == count {
                return;
            }
            assert!(
                Instant::now() < end,
                "not {count} waiters within {} s: {waiters:#?}",
                deadline().as_secs()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Blocks until all that ran here has ended, the hub included: sessions should have been ended before.
    #[track_caller]
    pub fn finish(self) {
        leftovers::wait_until_none(self.home.marker());
    }
}

/// True of `relay hook --wait`, also before its launcher has become it.
pub fn is_waiter(process: &Process) -> bool {
    process.arguments.iter().any(|argument| argument == "--wait")
}

impl Plot {
    fn next(&self, turn: &Turn, tools: &str) -> Step {
        if lock(&self.overloaded).contains(&turn.session) {
            return Step::Overloaded;
        }
        let text = turn.fresh_text();
        let mut calls = Vec::new();
        let held = lock(&self.held).get(&turn.session).cloned();
        let mut gate = held.filter(|(words, _)| text.contains(words)).map(|(_, gate)| gate);
        for line in text.lines() {
            if let Some((tool, input)) = order(line, "CALL-") {
                let input = serde_json::from_str(input).unwrap_or_else(|e| panic!("{line}: {e}"));
                let tool =
                    if tool.starts_with("relay_") { format!("{tools}{tool}") } else { tool.to_owned() };
                calls.push((tool, input));
            }
            if let Some((key, _)) = order(line, "HOLD-") {
                gate = lock(&self.gates).get(key).cloned();
            }
        }
        let reminded = lock(&self.reminded).get(&turn.session).cloned();
        if let Some((words, answer)) = reminded
            && let Some((_, rest)) = text.split_once(&words)
        {
            let ask_id: String =
                rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            calls.push((format!("{tools}relay_reply"), json!({"ask_id": ask_id, "answer": answer})));
        }
        let manners = lock(&self.manners).get(&turn.session).cloned();
        for ask in asks_in(turn) {
            if let Some(answer) = manners.as_ref().and_then(|manners| manners(&ask)) {
                calls.push((format!("{tools}relay_reply"), json!({"ask_id": ask.ask_id, "answer": answer})));
            }
        }
        let step = if calls.is_empty() { Step::say("noted") } else { Step::Tools(calls) };
        match gate {
            Some(gate) => step.after(&gate),
            None => step,
        }
    }
}

/// `CALL-7 first rest`: the first word after the order's number, and the rest.
fn order<'a>(line: &'a str, verb: &str) -> Option<(&'a str, &'a str)> {
    let (number, order) = line.trim().strip_prefix(verb)?.split_once(' ')?;
    number.parse::<usize>().ok()?;
    Some(order.split_once(' ').unwrap_or((order, "")))
}

/// The questions under our headers in what is new to the model.
pub fn asks_in(request: &Request) -> Vec<Ask> {
    headers_in(request, "ask")
        .into_iter()
        .map(|header| Ask {
            ask_id: field(&header, "ask_id").expect("an ask has its id"),
            from: field(&header, "from").expect("an ask has its asker"),
            header,
        })
        .collect()
}

/// The lines of what is new to the model that are headers of ours of that kind. A line can be one in the middle of a text
/// that is not ours, but not what a peer's text pretends: that is quoted.
pub fn headers_in(request: &Request, kind: &str) -> Vec<String> {
    let text = request.fresh_text();
    text.lines()
        .filter(|line| line.starts_with("[relay ") || line.starts_with("<channel "))
        .filter(|line| field(line, "kind").as_deref() == Some(kind))
        .map(str::to_owned)
        .collect()
}

/// A field of a header.
pub fn field(header: &str, name: &str) -> Option<String> {
    let (_, rest) = header.split_once(&format!(" {name}="))?;
    Some(match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?.to_owned(),
        None => rest.split([' ', ']', '>']).next()?.to_owned(),
    })
}

/// The line of an open ask in what `relay_peers` says; null if it is not there.
pub fn ask_line(peers: &Value, ask_id: &str) -> Value {
    line(&peers["asks"], "ask_id", ask_id)
}

/// The line of a peer in what `relay_peers` says; null if it is not there.
pub fn peer_line(peers: &Value, name: &str) -> Value {
    line(&peers["peers"], "name", name)
}

fn line(lines: &Value, key: &str, value: &str) -> Value {
    let lines = lines.as_array().map_or(&[][..], Vec::as_slice);
    lines.iter().find(|line| line[key] == value).cloned().unwrap_or(Value::Null)
}

/// Blocks until it is so; for what has no event.
#[track_caller]
pub fn wait_until(what: &str, so: impl Fn() -> bool) {
    let end = Instant::now() + deadline();
    while !so() {
        assert!(Instant::now() < end, "not within {} s: {what}", deadline().as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
