//! The hub as its socket shows it: everything that happens, and what it holds.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::journal::{Journal, deadline};

/// A connection that watches. The hub sends it an event for everything that happens from its start on.
pub struct Watch {
    events: Arc<Journal<Value>>,
    stream: UnixStream,
}

impl Watch {
    /// Blocks until there is a hub for that data directory.
    #[track_caller]
    pub fn start(data: &Path) -> Watch {
        let (mut lines, stream, _) = ask(data, "watch");
        let events = Arc::new(Journal::default());
        let journal = Arc::clone(&events);
        std::thread::spawn(move || {
            while let Some(line) = read(&mut lines) {
                journal.push(line["event"].clone());
            }
            journal.close();
        });
        Watch { events, stream }
    }

    /// What the hub says of itself, e.g. `undelivered`.
    #[track_caller]
    pub fn status(data: &Path) -> Value {
        let (.., answer) = ask(data, "status");
        answer["status"].clone()
    }

    /// Everything so far.
    pub fn events(&self) -> Vec<Value> {
        self.events.entries()
    }

    /// Blocks until something like it has happened, earlier or later.
    #[track_caller]
    pub fn wait_for(&self, what: &str, predicate: impl Fn(&Value) -> bool) -> Value {
        match self.events.wait(|events| events.iter().find(|event| predicate(event)).cloned()) {
            Ok(event) => event,
            Err(missed) => panic!("the hub did not tell of {what}: {missed}\n{}", self.dump()),
        }
    }

    /// Blocks until an ask (not its answer) has got so far, by that path.
    #[track_caller]
    pub fn wait_for_ask(&self, ask_id: &str, state: &str, path: &str) {
        self.wait_for(&format!("{ask_id}, {state} by {path}"), |event| {
            is_state(event, "ask", ask_id) && event["state"] == state && event["path"] == path
        });
    }

    /// How a text got on: `state` or `state by path`, in order.
    pub fn course(&self, kind: &str, ask_id: &str) -> Vec<String> {
        let course = self.events().into_iter().filter(|event| is_state(event, kind, ask_id));
        course
            .map(|event| {
                let state = event["state"].as_str().unwrap_or("?").to_owned();
                event["path"].as_str().map_or(state.clone(), |path| format!("{state} by {path}"))
            })
            .collect()
    }

    /// When an ask was first called seen, in milliseconds since 1970.
    pub fn seen_at(&self, ask_id: &str) -> Option<u64> {
        let events = self.events();
        let seen = events.iter().find(|event| is_state(event, "ask", ask_id) && event["state"] == "seen");
        seen.and_then(|event| event["ts_ms"].as_u64())
    }

    /// How often an ask has ended: by a reply, or by a failure.
    pub fn ends(&self, ask_id: &str) -> usize {
        let is_end = |event: &&Value| event["event"] == "reply" || event["event"] == "failed";
        self.events().iter().filter(|event| event["ask_id"] == ask_id).filter(is_end).count()
    }

    /// Fails unless the text was pushed by that path alone, and seen.
    #[track_caller]
    pub fn only_by(&self, path: &str, kind: &str, ask_id: &str) {
        let course = self.course(kind, ask_id);
        let seen = course.last().is_some_and(|step| *step == format!("seen by {path}"));
        let alone =
            course.iter().all(|step| !step.contains(" by ") || step.ends_with(&format!(" by {path}")));
        assert!(seen && alone, "{kind} {ask_id}: {course:?}\n{}", self.dump());
    }

    /// Everything so far, a line each.
    pub fn dump(&self) -> String {
        self.events().iter().map(|event| format!("{event}\n")).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stream.shutdown(std::net::Shutdown::Both).ok();
    }
}

fn is_state(event: &Value, kind: &str, ask_id: &str) -> bool {
    event["event"] == "state" && event["kind"] == kind && event["ask_id"] == ask_id
}

/// Connects, makes one request and returns its answer. Tries again with the next hub where one is about to leave.
#[track_caller]
fn ask(data: &Path, kind: &str) -> (BufReader<UnixStream>, UnixStream, Value) {
    let socket = data.join("hub.sock");
    let end = Instant::now() + deadline();
    loop {
        if let Ok(stream) = UnixStream::connect(&socket) {
            let mut lines = BufReader::new(stream.try_clone().expect("a second handle"));
            let sent = send(&stream, &json!({"hello": {"v": 2}})) && send(&stream, &json!({kind: {"id": 1}}));
            let received = std::iter::from_fn(|| read(&mut lines)).find(|line| line["welcome"].is_null());
            if let Some(message) = received.filter(|_| sent) {
                let answer = message["ok"]["answer"].clone();
                assert!(!answer.is_null(), "{message}");
                return (lines, stream, answer);
            }
        }
        assert!(Instant::now() < end, "no hub at {} within {} s", socket.display(), deadline().as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn send(mut stream: &UnixStream, line: &Value) -> bool {
    stream.write_all(format!("{line}\n").as_bytes()).is_ok()
}

fn read(lines: &mut BufReader<UnixStream>) -> Option<Value> {
    let mut line = String::new();
    match lines.read_line(&mut line) {
        Ok(n) if n > 0 => serde_json::from_str(&line).ok(),
        _ => None,
    }
}
