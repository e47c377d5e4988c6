//! Clients other than Claude Code: nothing reaches their models but the results of tool calls, and several of their sessions
//! may run under one process.

use serde_json::{Value, json};

use crate::driver::{Channel, DataDir, arguments, nonconformance, until};

/// A session of the client of that name, started as that client would start it.
fn session(dir: &DataDir, name: &str, client: &str) -> Channel {
    let channel = dir.launch(name).env("RELAY_PUSH", "auto").env("RELAY_SESSION", "").start();
    channel.initialize_as(client);
    channel.peers();
    channel
}

fn sessions<const N: usize>(dir: &DataDir, names: [&str; N]) -> [Channel; N] {
    names.map(|name| session(dir, name, "some-sdk"))
}

/// The messages that a result brought.
fn messages(data: &Value) -> Vec<String> {
    let messages = data["messages"].as_array().map_or(&[][..], Vec::as_slice);
    messages.iter().map(|m| m.as_str().expect("text").to_owned()).collect()
}

fn field(message: &str, name: &str) -> String {
    let header = message.lines().next().expect("a header");
    let (_, rest) =
        header.split_once(&format!(" {name}=")).unwrap_or_else(|| panic!("no {name} in {header}"));
    rest.split([' ', ']']).next().expect("a value").to_owned()
}

fn wait(channel: &Channel) -> Vec<String> {
    messages(&channel.call("relay_wait", json!({"timeout_s": 50})).ok())
}

fn tool_names(channel: &Channel) -> Vec<String> {
    let list = channel.request("tools/list", &json!({}));
    let tools = list["result"]["tools"].as_array().expect("tools").iter();
    tools.map(|t| t["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn relay_wait_is_only_for_clients_that_cannot_be_pushed_to() {
    let dir = DataDir::new();
    let [codex, claude] = [("a", "codex-mcp-client"), ("b", "claude-code")]
        .map(|(name, client)| dir.launch(name).env("RELAY_PUSH", "auto").start_as(client));
    assert_eq!(tool_names(&codex).last().map(String::as_str), Some("relay_wait"));
    assert_eq!((tool_names(&codex).len(), tool_names(&claude).len()), (6, 5));
    let answer = claude.request("tools/call", &arguments("relay_wait", json!({})));
    assert_eq!(answer["error"]["code"], -32602, "{answer}");
}

#[test]
fn texts_tell_how_answers_arrive() {
    let dir = DataDir::new();
    let [a, b] = sessions(&dir, ["a", "b"]);
    for (channel, by_tool) in [(&a, true), (&dir.channel("claude"), false)] {
        let list = channel.request("tools/list", &json!({})).to_string();
        assert!(!list.contains("{arrival}"), "a placeholder is left");
        assert_eq!(list.contains("with the result of a later relay tool call"), by_tool);
        assert_eq!(list.contains("comes by itself"), !by_tool);
    }
    drop(b);
}

#[test]
fn an_open_wait_brings_the_question_and_the_answer() {
    let dir = DataDir::new();
    let [a, b] = sessions(&dir, ["a", "b"]);
    let waiting = b.begin_call("relay_wait", &json!({"timeout_s": 50}));
    let ask_id = a.ask("b", "all well?");
    let result = b.end_call(waiting).expect("an answer");
    assert!(
        result.text.starts_with("{\"ok\":true}"),
        "no text says that there are no messages: {}",
        result.text
    );
    let got = messages(&result.ok());
    assert_eq!(
        (got.len(), field(&got[0], "kind").as_str(), field(&got[0], "ask_id")),
        (1, "ask", ask_id.clone())
    );
    let waiting = a.begin_call("relay_wait", &json!({"timeout_s": 50}));
    b.reply(&ask_id, "very well").ok();
    let got = messages(&a.end_call(waiting).expect("an answer").ok());
    assert_eq!((got.len(), field(&got[0], "kind").as_str(), field(&got[0], "ask_id")), (1, "reply", ask_id));
    assert!(got[0].contains("> very well"), "{got:?}");
    assert_eq!(a.peers()["messages"], Value::Null, "once");
}

#[test]
fn without_a_wait_the_next_tool_call_brings_it_and_the_asker_is_told_so() {
    let dir = DataDir::new();
    let [a, b] = sessions(&dir, ["a", "b"]);
    let asked = a.call("relay_ask", json!({"to": "b", "question": "all well?"})).ok();
    assert_eq!(asked["state"], "queued");
    let peers = a.peers();
    assert_eq!(
        (&peers["peers"][0]["push"], &peers["self"]["push"]),
        (&Value::Null, &Value::Null),
        "no path is claimed"
    );
    let detail = peers["asks"][0]["detail"].as_str().expect("text");
    assert_eq!(
        detail,
        "queued: no path to that session works; it is handed over at its next hook event or relay tool call"
    );
    let got = messages(&b.peers());
    assert_eq!((got.len(), field(&got[0], "ask_id").as_str()), (1, asked["ask_id"].as_str().expect("an id")));
    until("the hub knows it", || (a.peers()["asks"][0]["state"] == "pushed").then_some(()));
    b.reply(&field(&got[0], "ask_id"), "yes").ok();
    assert_eq!(wait(&a).len(), 1, "what is there is handed over at once");
}

#[test]
fn a_wait_ends_with_nothing_when_its_time_is_up() {
    let dir = DataDir::new();
    let [a, b] = sessions(&dir, ["a", "b"]);
    let result = a.call("relay_wait", json!({"timeout_s": 1}));
    assert_eq!(result.ok(), json!({"ok": true, "messages": []}));
    assert_eq!(
        b.call("relay_ask", json!({"to": "a", "question": "?"})).ok()["state"],
        "queued",
        "the way is closed"
    );
    assert_eq!(messages(&a.peers()).len(), 1);
}

#[test]
fn a_cancelled_wait_loses_nothing() {
    let dir = DataDir::new();
    let [a, b] = sessions(&dir, ["a", "b"]);
    let waiting = b.begin_call("relay_wait", &json!({"timeout_s": 50}));
    b.peers(); // the hub knows of the wait
    b.write(
        &json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": waiting}})
            .to_string(),
    );
    b.peers();
    a.ask("b", "all well?");
    assert_eq!(wait(&b).len(), 1);
    assert!(!b.has_answer(waiting), "nobody waits for it");
}

#[test]
fn a_second_wait_ends_the_first() {
    let dir = DataDir::new();
    let [a, b] = sessions(&dir, ["a", "b"]);
    let [first, second] = [(); 2].map(|()| b.begin_call("relay_wait", &json!({"timeout_s": 50})));
    assert_eq!(messages(&b.end_call(first).expect("an answer").ok()).len(), 0);
    a.ask("b", "all well?");
    assert_eq!(messages(&b.end_call(second).expect("an answer").ok()).len(), 1);
}

#[test]
fn what_comes_together_is_handed_over_together_as_far_as_a_result_has_room() {
    let dir = DataDir::new();
    let [a, b] = sessions(&dir, ["a", "b"]);
    let text = "x\"".repeat(5_000); // 15,000 characters in JSON
    for _ in 0..5 {
        a.ask("b", &text);
    }
    let counts: Vec<usize> = (0..3).map(|_| wait(&b).len()).collect();
    assert_eq!(counts, [2, 2, 1], "at most 40,000 characters each");
    // Claude Code shows its model 500,000.
    let claude = dir.launch("claude").env("RELAY_PUSH", "hook").start_as("claude-code");
    claude.peers();
    for _ in 0..5 {
        a.ask("claude", &text.repeat(10));
    }
    let counts: Vec<usize> = (0..2).map(|_| messages(&claude.peers()).len()).collect();
    assert_eq!(counts, [3, 2]);
}

#[test]
fn requests_in_flight_at_the_end_of_stdin_are_answered_also_a_wait() {
    let dir = DataDir::new();
    let mut a = session(&dir, "a", "some-sdk");
    let waiting = a.begin_call("relay_wait", &json!({"timeout_s": 3600}));
    assert!(a.close().success());
    assert_eq!(a.end_call(waiting).expect("an answer").ok()["messages"], json!([]));
}

/// Codex runs all its sessions under one process.
#[test]
fn sessions_under_one_process_are_peers_of_their_own() {
    let dir = DataDir::new();
    let codex = |name| session(&dir, name, "codex-mcp-client");
    let [a, b, c] = ["a", "b", "c"].map(codex);
    assert_eq!(
        (a.peer_names(), b.peer_names()),
        (vec!["b".to_owned(), "c".to_owned()], vec!["a".to_owned(), "c".to_owned()])
    );
    drop(c);
    // Of Claude Code there is one session in one process.
    let claude = |name| session(&dir, name, "claude-code");
    let [first, second] = ["d", "e"].map(claude);
    assert_eq!(second.name(), "e");
    let data = a.call("relay_broadcast", json!({"question": "?"})).ok();
    let asked: Vec<&str> =
        data["asks"].as_array().expect("asks").iter().filter_map(|ask| ask["to"].as_str()).collect();
    assert!(asked.contains(&"b") && asked.contains(&"d") && !asked.contains(&"e"), "{asked:?}");
    drop(first);
}

/// Codex calls tools itself, too; what only it reads no model sees.
#[test]
fn a_call_of_codex_that_no_model_made_brings_no_messages() {
    let dir = DataDir::new();
    let [codex, asker] = [session(&dir, "codex", "codex-mcp-client"), session(&dir, "asker", "some-sdk")];
    asker.ask("codex", "all well?");
    let call = |tool: &str, meta: Value| {
        let params = json!({"name": tool, "arguments": {}, "_meta": meta});
        let result = codex.request("tools/call", &params)["result"]["structuredContent"].clone();
        assert_eq!(nonconformance(tool, &result), None, "{result}");
        messages(&result).len()
    };
    for tool in ["relay_peers", "relay_wait"] {
        for meta in [json!({}), json!({"threadId": "t1"}), json!(null), json!({"callId": null})] {
            assert_eq!(call(tool, meta), 0, "{tool}");
        }
    }
    assert_eq!(call("relay_wait", json!({"callId": "c1", "threadId": "t1"})), 1);
    asker.ask("codex", "still well?");
    assert_eq!(call("relay_peers", json!({"callId": "c1", "threadId": "t1"})), 1);
}

#[test]
fn a_client_that_does_not_introduce_itself_is_served() {
    let dir = DataDir::new();
    let channel = dir.launch("quiet").env("RELAY_PUSH", "auto").start();
    assert_eq!(uris(&channel), Vec::<String>::new());
    assert_eq!(channel.request("ping", &json!({}))["result"], json!({}));
    assert_eq!(channel.peer_names(), Vec::<String>::new());
}

fn uris(channel: &Channel) -> Vec<String> {
    let list = channel.request("resources/list", &json!({}));
    let all = list["result"]["resources"].as_array().expect("resources").iter();
    all.map(|r| r["uri"].as_str().expect("an address").to_owned()).collect()
}

/// A client waits for the list at its start, and a session begins at once whatever became of the hub.
#[test]
fn resources_are_listed_without_a_hub() {
    let dir = DataDir::new();
    std::fs::write(dir.path(), "").expect("a file in the place of the directory");
    let channel = dir.launch("a").start();
    channel.initialize();
    assert_eq!(uris(&channel), Vec::<String>::new());
}

#[test]
fn peers_are_resources_and_changes_are_told() {
    let dir = DataDir::new();
    let capabilities = dir.launch("x").start().initialize()["capabilities"].clone();
    assert_eq!(
        (&capabilities["resources"], &capabilities["prompts"]),
        (&json!({"listChanged": true}), &json!({}))
    );
    let a = dir.channel("a");
    assert_eq!(uris(&a), Vec::<String>::new());
    let b = dir.channel("b");
    let told = a.take_other();
    assert_eq!(
        told,
        json!({"jsonrpc": "2.0", "method": "notifications/resources/list_changed", "params": {}})
    );
    assert_eq!(uris(&a), ["peer://b"]);
    b.call("relay_rename", json!({"name": "back-end"})).ok();
    a.take_other();
    assert_eq!(uris(&a), ["peer://back-end"]);
    let mut c = dir.channel("c");
    a.take_other();
    assert_eq!(uris(&a).len(), 2);
    c.close();
    a.take_other();
    assert_eq!(uris(&a), ["peer://back-end"]);

    let ask_id = a.ask("back-end", "all well?");
    let read = |uri: &str| a.request("resources/read", &json!({"uri": uri}));
    let contents = read("peer://back-end")["result"]["contents"][0].clone();
    assert_eq!(
        (&contents["uri"], &contents["mimeType"]),
        (&json!("peer://back-end"), &json!("application/json"))
    );
    let text = contents["text"].as_str().expect("text");
    assert!(text.contains("\"name\":\"back-end\"") && text.contains(&ask_id), "{text}");
    for uri in ["peer://nobody", "file:///etc/passwd", ""] {
        assert_eq!(read(uri)["error"]["code"], -32002, "{uri}");
    }
    assert_eq!(a.request("resources/read", &json!({}))["error"]["code"], -32002);
}

#[test]
fn prompts_are_listed_and_given() {
    let dir = DataDir::new();
    let a = dir.channel("a");
    let list = a.request("prompts/list", &json!({}));
    let names: Vec<&str> = list["result"]["prompts"]
        .as_array()
        .expect("prompts")
        .iter()
        .filter_map(|p| p["name"].as_str())
        .collect();
    assert_eq!(names, ["ask", "broadcast"]);
    let get = |name: &str| {
        a.request("prompts/get", &json!({"name": name, "arguments": {"to": "b", "question": "why?"}}))
    };
    for (name, tool) in [("ask", "relay_ask"), ("broadcast", "relay_broadcast")] {
        let text = get(name)["result"]["messages"][0]["content"]["text"].as_str().expect("text").to_owned();
        assert!(text.contains(tool) && text.ends_with("why?"), "{text}");
    }
    assert_eq!(get("dance")["error"]["code"], -32602);
}
