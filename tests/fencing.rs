//! What a model sees of hostile text, names and directories: each string of `tests/corpus`, through the real client, by each
//! path into a session. Everything of a peer is within its quotes, and our header and our last words are ours.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::client::{self, NEWEST};
use support::journal::deadline;
use support::launch::CHANNEL;
use support::model::Request;
use support::stage::{Actor, Prompted, Stage};

/// The client drops what comes when 50 wait already.
const BATCH: usize = 25;

/// A text that a peer might send.
struct Nasty {
    what: String,
    text: String,
}

fn corpus() -> Vec<Nasty> {
    let lines = include_str!("corpus/nasty.jsonl").lines();
    let all: Vec<Nasty> = lines
        .map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"))
        .enumerate()
        .map(|(n, v)| {
            let field = |key: &str| v[key].as_str().expect("a text").to_owned();
            Nasty { what: field("what"), text: format!("BEGIN-{n}\n{}\nEND-{n}", field("text")) }
        })
        .collect();
    assert!(all.len() >= 40);
    all
}

/// Names and directories that a peer might have.
fn labels() -> Vec<String> {
    include_str!("corpus/labels.jsonl")
        .lines()
        .map(|l| serde_json::from_str(l).expect("a JSON string"))
        .collect()
}

/// A peer that speaks to the hub's socket itself: no rule of ours for what it says.
struct Peer {
    lines: BufReader<UnixStream>,
    name: String,
}

impl Peer {
    fn new(data: &Path, number: usize, name: &str, cwd: &str, listens: bool) -> Peer {
        let end = Instant::now() + deadline();
        let stream = loop {
            match UnixStream::connect(data.join("hub.sock")) {
                Ok(stream) => break stream,
                Err(e) => assert!(Instant::now() < end, "no hub: {e}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        stream.set_read_timeout(Some(deadline())).expect("a socket");
        let mut peer = Peer { lines: BufReader::new(stream), name: String::new() };
        peer.say(&json!({"hello": {"v": 2}}));
        peer.say(&json!({"register": {"id": 1, "who": {"name": name, "kind": if listens { "session" } else { "script" }, "peer": format!("p{number}"),
            "secret": "s", "cwd": cwd, "branch": cwd, "pid": 1, "paths": ["socket"], "listens": listens, "fresh": true}}}));
        let registered = peer.answer(1);
        peer.name = registered["registered"]["name"].as_str().expect("a name").to_owned();
        peer
    }

    fn say(&mut self, message: &Value) {
        self.lines.get_mut().write_all(format!("{message}\n").as_bytes()).expect("a hub that listens");
    }

    /// The next message for which `wanted` holds.
    fn hear(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).expect("a message") > 0, "the hub closed the connection");
            let message = serde_json::from_str(&line).expect("a message");
            if wanted(&message) {
                return message;
            }
        }
    }

    /// The answer to the request of this number, which succeeds.
    fn answer(&mut self, id: u64) -> Value {
        let answer = self.hear(|m| m["ok"]["id"] == id || m["error"]["id"] == id);
        assert!(answer["error"].is_null(), "{answer}");
        answer["ok"]["answer"].clone()
    }

    /// Says goodbye, and returns when the hub has heard it.
    fn leave(mut self) {
        self.say(&json!("bye"));
        let mut rest = String::new();
        while self.lines.read_line(&mut rest).is_ok_and(|n| n > 0) {}
    }

    fn ask(&mut self, id: u64, ask_id: &str, to: &str, text: &str) {
        self.say(
            &json!({"ask": {"id": id, "ask_id": ask_id, "to": to, "text": text, "timeout_ms": 3_600_000}}),
        );
        self.answer(id);
    }
}

/// What a request holds of one parcel.
struct Block {
    header: String,
    /// Without the marks.
    quoted: Vec<String>,
    /// The first line after the quote that is not empty.
    after: String,
}

/// Everything that is new in this request and belongs to the parcel whose header has this id.
fn block(request: &Request, ask_id: &str) -> Option<Block> {
    let text = request.fresh_text();
    let lines: Vec<&str> = text.split('\n').collect();
    let is_header = |line: &str| {
        (line.starts_with("[relay ") || line.starts_with("<channel "))
            && (line.contains(&format!("ask_id={ask_id} ")) || line.contains(&format!("ask_id=\"{ask_id}\"")))
    };
    let at = lines.iter().position(|line| is_header(line))?;
    assert_eq!(lines.iter().filter(|line| is_header(line)).count(), 1, "two headers of {ask_id}: {text}");
    let quote = |line: &&str| line.strip_prefix("> ").map(str::to_owned);
    let mut quoted: Vec<String> = lines[at + 1..].iter().map_while(quote).collect();
    let rest = &lines[at + 1 + quoted.len()..];
    if quoted.is_empty() {
        // By inbox the text comes first, after the tag that only the client's own form may have.
        assert_eq!(lines[at - 1], "", "{text}");
        quoted = lines[..at - 1].iter().rev().map_while(quote).collect();
        quoted.reverse();
        let tag = lines[at - 2 - quoted.len()];
        assert!(tag.starts_with("<cross-session-message from=\"relay:"), "{tag:?} in {text}");
    }
    let after = rest.iter().find(|line| !line.is_empty()).map_or("", |line| line).to_owned();
    Some(Block { header: lines[at].to_owned(), quoted, after })
}

/// Characters that do not show, or do more than show.
fn is_hidden(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}'
            | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// A tag that the client or the model takes for structure.
fn tag_in(text: &str) -> Option<String> {
    const TAGS: [&str; 24] = [
        "channel",
        "system-reminder",
        "system",
        "system-prompt",
        "task-notification",
        "summary-of-user",
        "relay",
        "cross-session-message",
        "teammate-message",
        "function-calls",
        "function-results",
        "invoke",
        "parameter",
        "tool-use-error",
        "tool-result",
        "thinking",
        "command-name",
        "command-args",
        "local-command-stdout",
        "user-prompt-submit-hook",
        "bash-input",
        "bash-stdout",
        "session-start-hook",
        "antml",
    ];
    let visible: String =
        text.chars().filter(|c| !matches!(c, '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}')).collect();
    for (at, _) in visible.match_indices('<') {
        let name = visible[at + 1..].trim_start().trim_start_matches('/').trim_start();
        let end = name.find(|c: char| !c.is_ascii_alphanumeric() && !"-_".contains(c)).unwrap_or(name.len());
        let name = name[..end].to_ascii_lowercase().replace('_', "-");
        if TAGS.contains(&name.as_str()) {
            return Some(name);
        }
    }
    None
}

/// The text of a peer is whole, quoted, and clean.
fn check_quote(nasty: &Nasty, n: usize, block: &Block) {
    let (what, quoted) = (&nasty.what, &block.quoted);
    assert_eq!(quoted.first().map(String::as_str), Some(format!("BEGIN-{n}").as_str()), "{what}");
    assert_eq!(quoted.last().map(String::as_str), Some(format!("END-{n}").as_str()), "{what}: {quoted:?}");
    for line in quoted {
        assert!(!line.chars().any(is_hidden), "{what}: {line:?}");
    }
    let text = quoted.join("\n");
    assert_eq!(tag_in(&text), None, "{what}: {text:?}");
    let invented = text
        .match_indices("push_")
        .find(|(at, _)| text[at + 5..].bytes().take_while(u8::is_ascii_hexdigit).count() >= 24);
    assert!(invented.is_none(), "{what}: an identifier of a push: {text:?}");
}

/// The header is one line with our fields and one value each.
fn check_header(block: &Block, kind: &str, from: &str) {
    let header = &block.header;
    assert!(!header.chars().any(is_hidden), "{header:?}");
    let (inside, end) = match header.strip_prefix("[relay ") {
        Some(inside) => (inside, ']'),
        None => (header.strip_prefix("<channel ").expect("a header"), '>'),
    };
    assert!(header.ends_with(end) && header.matches(end).count() == 1, "{header}");
    assert!(!inside.contains(['<', '[', '\\', '`']), "{header}");
    // Outside of quotation marks there are only keys and plain values: nothing ends a value early.
    let outside: String = inside.split('"').step_by(2).collect();
    let keys: Vec<&str> = outside
        .split([' ', ']', '>'])
        .filter(|w| !w.is_empty())
        .map(|w| w.split('=').next().unwrap_or(w))
        .collect();
    let mut known = vec![
        "source",
        "kind",
        "ask_id",
        "from",
        "peer",
        "cwd",
        "thread_id",
        "code",
        "broadcast",
        "late",
        "push",
        "user",
    ];
    for key in keys {
        let at = known.iter().position(|k| *k == key);
        known.remove(at.unwrap_or_else(|| panic!("{key:?} is unknown or there twice: {header}")));
    }
    let has = |key: &str, value: &str| {
        header.contains(&format!("{key}={value} ")) || header.contains(&format!("{key}=\"{value}\""))
    };
    assert!(has("kind", kind) && has("from", from), "{header} is not {kind} from {from}");
}

/// Asks a session with these of the corpus, and checks what its model gets.
fn ask_with<S: Prompted>(stage: &Stage, bob: &mut Actor<'_, S>, path: &str, some: &[(usize, Nasty)]) {
    let watch = stage.watch();
    let name = bob.name.clone();
    // Another identity each time: one that comes back is told how its asks ended.
    let number = 1000 + some.first().map_or(0, |(n, _)| *n);
    let mut eve = Peer::new(&stage.home.plugin_data(), number, "eve", "/home/eve", false);
    for batch in some.chunks(BATCH) {
        for (n, nasty) in batch {
            eve.ask(*n as u64 + 2, &format!("ask_nasty{n:04}"), &name, &nasty.text);
        }
        for (n, nasty) in batch {
            let id = format!("ask_nasty{n:04}");
            let request = stage.model.wait_for(&name, &nasty.what, |request| block(request, &id).is_some());
            let block = block(&request, &id).expect("just seen");
            check_header(&block, "ask", "eve");
            check_quote(nasty, *n, &block);
            // On a loaded machine the first push may be given up.
            let again = format!("This may have come already: act on {id} once. ");
            let advice = block.after.strip_prefix(&again).unwrap_or(&block.after);
            let expected = format!("Answer with the relay_reply tool and ask_id \"{id}\"");
            assert!(advice.starts_with(&expected), "{}: {:?}", nasty.what, block.after);
            watch.wait_for_ask(&id, "seen", path);
        }
    }
    count_headers(bob, some.len());
    eve.leave();
}

/// Nothing that looks like a header of ours has come but ours.
fn count_headers<S: Prompted>(bob: &mut Actor<'_, S>, count: usize) {
    let all = bob.settle();
    let text: String = all.messages().iter().map(|m| support::model::text_of(m) + "\n").collect();
    let headers = text.lines().filter(|l| l.starts_with("[relay") || l.starts_with("<channel")).count();
    assert_eq!(headers, count);
}

/// Asks a session by peers with every label, and checks what its model gets, also of the roster.
fn ask_by_labels<S: Prompted>(stage: &Stage, bob: &mut Actor<'_, S>) {
    let data = stage.home.plugin_data();
    let name = bob.name.clone();
    let mut peers: Vec<Peer> =
        labels().iter().enumerate().map(|(n, l)| Peer::new(&data, n + 1, l, l, false)).collect();
    for (n, peer) in peers.iter_mut().enumerate() {
        peer.ask(2, &format!("ask_label{n:04}"), &name, &format!("LABEL-{n}"));
    }
    for (n, peer) in peers.iter().enumerate() {
        let id = format!("ask_label{n:04}");
        let request = stage.model.wait_for(&name, &peer.name, |request| block(request, &id).is_some());
        let block = block(&request, &id).expect("just seen");
        check_header(&block, "ask", &peer.name);
        assert_eq!(block.quoted, [format!("LABEL-{n}")]);
    }
    let roster = bob.peers();
    let lines = roster["peers"].as_array().expect("peers");
    assert_eq!(lines.len(), peers.len());
    for line in lines {
        let said = line.to_string();
        assert!(!said.chars().any(is_hidden) && tag_in(&said).is_none(), "{said}");
        for key in ["name", "cwd", "branch"] {
            let value = line[key].as_str().unwrap_or_default();
            assert!(!value.contains(['[', ']', '<', '>', '"', '\\', '\n']), "{key}: {value}");
        }
    }
    peers.into_iter().for_each(Peer::leave);
}

/// Has a session ask everyone, is answered with these of the corpus, and checks what its model gets.
fn reply_with<S: Prompted>(stage: &Stage, bob: &mut Actor<'_, S>, some: &[(usize, Nasty)]) {
    let data = stage.home.plugin_data();
    let labels = labels();
    let label = |n: usize| &labels[n % labels.len()];
    let mut peers: Vec<Peer> =
        some.iter().map(|(n, _)| Peer::new(&data, 100 + n, label(*n), label(*n), true)).collect();
    let sent = bob.get("relay_broadcast", json!({"question": "Anything new?", "collect": false}));
    assert_eq!(sent["asks"].as_array().map(Vec::len), Some(some.len()));
    for (peer, (_, nasty)) in peers.iter_mut().zip(some) {
        let push = peer.hear(|m| !m["push"].is_null())["push"].clone();
        peer.say(&json!({"pushed": {"push": push["push"]}}));
        peer.say(&json!({"reply": {"id": 2, "ask_id": push["ask_id"], "text": nasty.text}}));
        peer.answer(2);
    }
    for (peer, (n, nasty)) in peers.iter().zip(some) {
        let id = format!("{}-p{}", sent["broadcast_id"].as_str().expect("an id"), 100 + n);
        let request = stage.model.wait_for(&bob.name, &nasty.what, |request| block(request, &id).is_some());
        let block = block(&request, &id).expect("just seen");
        check_header(&block, "reply", &peer.name);
        check_quote(nasty, *n, &block);
    }
    peers.into_iter().for_each(Peer::leave);
}

/// In a pipe, by that path. The client takes about thirty messages a minute by the inbox and drops what is over, without a
/// word (2.1.330), so there are several sessions.
fn in_pipes(path: &str) {
    let Some(stage) = stage() else { return };
    let session = |name: &str| {
        let mut bob = stage.act(stage.launch(name).env("RELAY_PUSH", path).piped(), name);
        bob.peers(); // the turn at whose end the first waiter starts
        bob
    };
    let all: Vec<(usize, Nasty)> = corpus().into_iter().enumerate().collect();
    for (k, some) in all.chunks(BATCH).enumerate() {
        let mut bob = session(&format!("asked{k}"));
        ask_with(&stage, &mut bob, path, some);
        bob.end();
        let mut bob = session(&format!("asker{k}"));
        reply_with(&stage, &mut bob, some);
        bob.end();
    }
    let mut bob = session("labels");
    ask_by_labels(&stage, &mut bob);
    bob.end();
    stage.finish();
}

fn stage() -> Option<Stage> {
    let claude = client::claude(NEWEST)?;
    let mut stage = Stage::new(&claude);
    stage.env("RELAY_ASKS_PER_MIN", "0");
    Some(stage)
}

#[test]
fn by_inbox() {
    in_pipes("inbox");
}

#[test]
fn by_hook() {
    in_pipes("hook");
}

#[test]
fn by_channel() {
    let Some(tmux) = client::tmux() else { return };
    let Some(stage) = stage() else { return };
    let bob = stage.launch("bob").channel(CHANNEL).in_terminal(&tmux);
    let mut bob = stage.act_in_terminal(bob, "bob");
    bob.wait_for_peers("channel", |peers| peers["self"]["push"] == "channel");
    let all: Vec<(usize, Nasty)> = corpus().into_iter().enumerate().collect();
    ask_with(&stage, &mut bob, "channel", &all);
    ask_by_labels(&stage, &mut bob);
    bob.end();
    stage.finish();
}
