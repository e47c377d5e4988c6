//! What an asker was shown, compared with what the asked session's model had.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::home::Home;
use super::model::{Request, ToolResult};
use super::stage::{Actor, Prompted, Stage, ask_line};
use super::watch::Watch;

impl Stage {
    /// Fails if the hub or `relay_peers` ever showed alice a question as seen that the session's model did not have: the first
    /// request after that moment must hold it, if none before it did. Returns the longest time in milliseconds that `seen`
    /// was ahead of the request.
    #[track_caller]
    pub fn seen_never_early(&self, watch: &Watch, name: &str, questions: &[(String, String)]) -> u64 {
        let requests: Vec<Request> =
            self.model.requests(name).into_iter().filter(|request| request.conversation).collect();
        let mut longest = 0;
        for (ask_id, question) in questions {
            let (event, listed) = (watch.seen_at(ask_id), self.listed_as_seen(ask_id));
            assert!(
                listed.is_none_or(|listed| event.is_some_and(|at| at <= listed)),
                "{ask_id} in relay_peers"
            );
            let Some(seen) = event else { continue };
            let first = requests.iter().find(|request| request.received(question).matches > 0);
            let first =
                first.unwrap_or_else(|| panic!("{ask_id} was seen, and {name} never got {question:?}"));
            let between = requests.iter().filter(|r| r.number < first.number && r.ts_ms > seen).count();
            let ahead = first.ts_ms.saturating_sub(seen);
            assert_eq!(between, 0, "{question:?} was seen {ahead} ms before {name} had it\n{}", watch.dump());
            longest = longest.max(ahead);
        }
        longest
    }

    /// When `relay_peers` at the latest told alice first that her ask is seen, in milliseconds since 1970.
    fn listed_as_seen(&self, ask_id: &str) -> Option<u64> {
        let tells = |request: &Request| {
            request.tool_results().iter().filter(|result| result.name.ends_with("relay_peers")).any(
                |result| {
                    let peers: Value = serde_json::from_str(&result.text).unwrap_or_default();
                    ask_line(&peers, ask_id)["state"] == "seen"
                },
            )
        };
        self.model.requests("alice").iter().find(|request| tells(request)).map(|request| request.ts_ms)
    }

    /// Lets time pass where nothing else tells that something did not happen.
    pub fn let_pass(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

impl<S: Prompted> Actor<'_, S> {
    /// Has the model ask a peer all of these questions in one message of tool calls, and returns the asks' ids.
    #[track_caller]
    pub fn ask_all(&mut self, to: &str, questions: &[String]) -> Vec<String> {
        let orders: Vec<String> = questions
            .iter()
            .map(|question| {
                format!("{} relay_ask {}", self.order("CALL"), json!({"to": to, "question": question}))
            })
            .collect();
        let last = orders.last().cloned().expect("a question");
        self.session.give(&orders.join("\n"));
        let results = |request: &Request| -> Vec<ToolResult> {
            let all = request.tool_results().into_iter();
            all.filter(|result| result.name.ends_with("relay_ask")).collect()
        };
        let request = self.stage.model.wait_for(&self.name, "the asks' results", |request| {
            !request.hears(&last)
                && request.received(&last).matches > 0
                && results(request).len() == questions.len()
        });
        let ids = results(&request).into_iter().map(|result| {
            let asked: Value =
                serde_json::from_str(&result.text).unwrap_or_else(|e| panic!("{e}: {result:?}"));
            asked["ask_id"].as_str().unwrap_or_else(|| panic!("{result:?}")).to_owned()
        });
        ids.collect()
    }
}

/// A `UserPromptSubmit` hook of bob's project, beside those of the relay.
pub struct PromptHook {
    open: PathBuf,
}

impl PromptHook {
    /// A hook that lets no prompt with `held` in it pass before [`PromptHook::open`].
    pub fn that_holds(home: &Home, held: &str) -> PromptHook {
        let open = home.path().join("tmp/hook-open");
        let wait = format!("while [ ! -e {} ]; do sleep 0.05; done", open.display());
        install(home, &format!("grep -q '{held}' && {wait}; exit 0"));
        PromptHook { open }
    }

    /// A hook that refuses each prompt for which this shell command succeeds; the command reads the hook's input.
    pub fn that_refuses(home: &Home, command: &str) {
        install(home, &format!("if {command}; then echo 'policy' >&2; exit 2; fi"));
    }

    pub fn open(&self) {
        std::fs::write(&self.open, "").expect("the hook's gate");
    }
}

fn install(home: &Home, script: &str) {
    let hook = json!({"type": "command", "command": script, "timeout": 60});
    let settings = json!({"hooks": {"UserPromptSubmit": [{"hooks": [hook]}]}});
    let dir = home.project("bob").join(".claude");
    std::fs::create_dir_all(&dir).expect("the project's settings directory");
    std::fs::write(dir.join("settings.json"), settings.to_string()).expect("the project's settings");
}
