//! The MCP side: what a client may say, and what it hears.

use std::fs;

use serde_json::{Value, json};

use crate::driver::{Channel, DataDir, arguments};

/// A data directory that nobody can make, so that no hub can be.
fn nowhere() -> DataDir {
    let dir = DataDir::below("file/data", &[]);
    fs::write(dir.root().join("file"), "").expect("a file");
    dir
}

fn lonely(dir: &DataDir) -> Channel {
    dir.launch("lonely").start()
}

#[test]
fn initialize_is_answered_though_no_hub_is_possible() {
    let dir = nowhere();
    let result = lonely(&dir).initialize();
    assert_eq!(result["protocolVersion"], "2025-11-25");
    assert_eq!(result["serverInfo"]["name"], "relay");
    let capabilities = json!({
        "tools": {}, "resources": {"listChanged": true}, "prompts": {}, "experimental": {"claude/channel": {}},
    });
    assert_eq!(result["capabilities"], capabilities);
    let instructions = result["instructions"].as_str().expect("instructions");
    assert!(
        instructions.len() <= 2048,
        "the client cuts at 2 KB, and these are {} bytes",
        instructions.len()
    );
    for word in ["relay_reply", "SendMessage", "not the user"] {
        assert!(instructions.contains(word), "{word}");
    }
}

#[test]
fn known_revisions_are_echoed_and_others_get_the_newest() {
    let dir = nowhere();
    let channel = lonely(&dir);
    for (wanted, given) in [
        ("2025-11-25", "2025-11-25"),
        ("2025-06-18", "2025-06-18"),
        ("2025-03-26", "2025-03-26"),
        ("2024-11-05", "2024-11-05"),
        ("2026-07-28", "2025-11-25"),
        ("yesterday", "2025-11-25"),
    ] {
        let answer = channel.request("initialize", &json!({"protocolVersion": wanted}));
        assert_eq!(answer["result"]["protocolVersion"], given, "{wanted}");
    }
}

#[test]
fn server_discover_and_other_methods_are_unknown() {
    let dir = nowhere();
    let channel = lonely(&dir);
    channel.write(
        r#"{"jsonrpc":"2.0","id":"server-discover-probe-1","method":"server/discover","params":{"protocolVersion":"2026-07-28"}}"#,
    );
    let answer = channel.answer_to("\"server-discover-probe-1\"").expect("an answer");
    assert_eq!(answer["error"]["code"], -32601);
    for method in ["completion/complete", "tools", ""] {
        assert_eq!(channel.request(method, &json!({}))["error"]["code"], -32601, "{method}");
    }
}

#[test]
fn ids_come_back_as_they_were() {
    let dir = nowhere();
    let channel = lonely(&dir);
    for id in ["\"a string\"", "\"\"", "0", "-7", "9007199254740993", "18446744073709551615"] {
        channel.write(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#));
        assert_eq!(channel.answer_to(id).expect("an answer")["result"], json!({}), "{id}");
    }
}

#[test]
fn notifications_and_responses_get_no_answer() {
    let dir = nowhere();
    let channel = lonely(&dir);
    for line in [
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/unheard-of"}"#,
        r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"relay_peers"}}"#,
        r#"{"jsonrpc":"2.0","id":99,"result":{}}"#,
        "",
    ] {
        channel.write(line);
    }
    channel.request("ping", &json!({}));
    assert_eq!(channel.others(), Vec::<Value>::new());
    assert!(channel.pushes().is_empty());
}

/// What other servers left their clients waiting for ever on: each is answered once, under the id that the client waits for.
#[test]
fn every_request_is_answered_with_its_id() {
    let dir = nowhere();
    let mut channel = lonely(&dir);
    let ask = |id: &str, question: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"relay_ask","arguments":{{"to":"x","question":{question}}}}}}}"#
        )
    };
    let brackets = |n: usize| "[".repeat(n) + &"]".repeat(n);
    for (line, id) in [
        (ask("20", r#""cut \ud83d""#), "20"),
        (ask("21", &brackets(200)), "21"),
        (ask("22", "1e999"), "22"),
        (ask("23", "\"a\u{1}b\""), "23"),
        (ask("24", "\"a\"b\""), "24"),
        (ask("25", &format!("\"{}\"", "x".repeat(5 << 20))), "25"),
        (ask("18446744073709551616", "\"?\""), "18446744073709551616"),
        (r#"{"method":"tools/call","params":{"id":1,},"jsonrpc":"2.0","id":"last"}"#.to_owned(), r#""last""#),
        (r#"{"id":7,"jsonrpc":"2.0"}"#.to_owned(), "7"),
        (r#"{"id":8,"method":"ping","method":"ping"}"#.to_owned(), "8"),
        ("\u{feff}{\"id\":9,\"method\":\"initialize\",\"params\":{}}".to_owned(), "9"),
        (r#"{"id":12,"method":"no/such"}"#.to_owned(), "12"),
    ] {
        channel.write(&line);
        let answer = channel.answer_to(id).unwrap_or_else(|| panic!("{id}: it ended"));
        assert!(answer["result"].is_object() || answer["error"]["code"].is_i64(), "{id}: {answer}");
    }
    assert_eq!(channel.others(), Vec::<Value>::new(), "no answer without an id");
    // Half of an emoji and bad bytes are replaced, so that the ask goes through; there is only no hub here.
    channel.write_bytes(b"{\"id\":13,\"method\":\"tools/call\",\"params\":{\"name\":\"relay_ask\",\"arguments\":{\"to\":\"x\",\"question\":\"\xff\\udc00\"}}}");
    let answer = channel.answer_to("13").expect("an answer");
    assert_eq!(answer["result"]["structuredContent"]["error"]["code"], "hub_unreachable", "{answer}");
    // What is open when stdin ends is answered before the channel leaves.
    let open = channel.begin_call("relay_peers", &json!({}));
    assert!(channel.close().success());
    assert_eq!(channel.end_call(open).expect("an answer").code(), "hub_unreachable");
}

#[test]
fn what_has_no_id_gets_an_error_and_the_session_goes_on() {
    let dir = nowhere();
    let channel = lonely(&dir);
    for (line, code) in [
        ("{oops", -32700),
        ("\u{0}", -32700),
        ("[]", -32600),
        ("42", -32600),
        (r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, -32600),
    ] {
        channel.write(line);
        let answer = channel.take_other();
        assert_eq!(answer["error"]["code"], code, "{line}");
        assert_eq!(answer["id"], Value::Null);
    }
    assert_eq!(channel.request("ping", &json!({}))["result"], json!({}));
}

#[test]
fn an_unknown_tool_is_invalid_params() {
    let dir = nowhere();
    let channel = lonely(&dir);
    for name in ["relay_dance", ""] {
        let answer = channel.request("tools/call", &arguments(name, json!({})));
        assert_eq!(answer["error"]["code"], -32602, "{name}");
    }
    for params in [json!({}), json!([]), json!({"name": 5})] {
        assert_eq!(channel.request("tools/call", &params)["error"]["code"], -32602, "{params}");
    }
}

#[test]
fn there_are_five_tools_for_claude_code_with_strict_schemas() {
    let dir = nowhere();
    let channel = lonely(&dir);
    channel.initialize();
    let answer = channel.request("tools/list", &json!({}));
    let tools = answer["result"]["tools"].as_array().expect("tools");
    let names: Vec<&str> = tools.iter().filter_map(|t| t["name"].as_str()).collect();
    assert_eq!(names, ["relay_peers", "relay_ask", "relay_reply", "relay_broadcast", "relay_rename"]);
    for tool in tools {
        let schema = &tool["inputSchema"];
        assert_eq!(schema["type"], "object");
        assert_eq!(schema["additionalProperties"], false);
        let properties = schema["properties"].as_object().expect("properties");
        assert!(
            properties.values().all(|p| p["description"].is_string() && p["type"].is_string()),
            "{schema}"
        );
        let required = schema["required"].as_array().expect("a list");
        assert!(required.iter().all(|r| properties.contains_key(r.as_str().unwrap_or_default())), "{schema}");
        // Plan mode lets a tool run only with this hint.
        assert_eq!(tool["annotations"]["readOnlyHint"], tool["name"] != "relay_rename");
        assert_eq!(tool["_meta"], json!({"anthropic/maxResultSizeChars": 500_000}));
        let output = &tool["outputSchema"];
        assert_eq!((&output["type"], &output["required"]), (&json!("object"), &json!(["ok"])));
    }
}

#[test]
fn bad_arguments_are_refused_and_named() {
    let dir = nowhere();
    let channel = lonely(&dir);
    let long = "x".repeat((512 << 10) + 1);
    for (tool, arguments, named) in [
        ("relay_ask", json!({"question": "?"}), "`to`"),
        ("relay_ask", json!({"to": "b"}), "`question`"),
        ("relay_ask", json!({"to": "b", "question": ""}), "`question`"),
        ("relay_ask", json!({"to": "b", "question": long}), "`question`"),
        ("relay_ask", json!({"to": "b", "question": "?", "timeout_s": -1}), "`timeout_s`"),
        ("relay_ask", json!({"to": "b", "question": "?", "timeout_s": 1e30}), "`timeout_s`"),
        ("relay_ask", json!({"to": "b", "question": "?", "urgent": true}), "`urgent`"),
        ("relay_reply", json!({"ask_id": "a"}), "`answer`"),
        ("relay_reply", json!({"ask_id": 7, "answer": "x"}), "`ask_id`"),
        ("relay_broadcast", json!({"question": "?", "scope": "planet"}), "`scope`"),
        ("relay_broadcast", json!({}), "`question`"),
        ("relay_rename", json!({"name": null}), "`name`"),
        ("relay_peers", json!({"all": 1}), "`all`"),
        ("relay_peers", json!("all"), "arguments"),
    ] {
        let result = channel.call(tool, arguments.clone());
        assert!(result.text.contains(named), "{tool}: {}", result.text);
        assert_eq!(result.code(), "bad_args", "{tool}");
    }
}

#[test]
fn a_tool_call_without_a_hub_says_why() {
    let dir = nowhere();
    let result = lonely(&dir).call("relay_peers", json!({}));
    assert!(
        result.text.contains("data directory") && result.text.contains("RELAY_DATA_DIR"),
        "{}",
        result.text
    );
    assert_eq!(result.code(), "hub_unreachable");
}

#[test]
fn it_exits_when_stdin_closes_and_its_peers_see_it_leave() {
    let dir = DataDir::new();
    let [mut leaver, other] = dir.channels(["leaver", "other"]);
    let ask_id = other.ask("leaver", "still there?");
    assert!(leaver.close().success());
    let failed = other.take("failed", &ask_id);
    assert_eq!(failed.meta("code"), "peer_gone");
    assert_eq!(other.peer_names(), Vec::<String>::new());
}

#[test]
fn it_exits_on_sigterm_and_its_peers_see_it_leave() {
    let dir = DataDir::new();
    let [mut leaver, other] = dir.channels(["leaver", "other"]);
    let ask_id = other.ask("leaver", "still there?");
    crate::driver::signal(leaver.pid(), "TERM");
    assert!(leaver.wait().success());
    assert_eq!(other.take("failed", &ask_id).meta("code"), "peer_gone");
}

#[test]
fn it_exits_when_stdin_closes_before_a_word_was_said() {
    let dir = DataDir::new();
    assert!(lonely(&dir).close().success());
}

#[test]
fn calls_may_overlap_and_each_gets_its_own_answer() {
    let dir = DataDir::new();
    let [a, _b] = dir.channels(["a", "b"]);
    let ids: Vec<u64> = (0..20)
        .map(|n| match n % 2 {
            0 => a.begin_call("relay_peers", &json!({})),
            _ => a.begin_call("relay_ask", &json!({"to": "nobody", "question": "?"})),
        })
        .collect();
    for (n, id) in ids.into_iter().enumerate().rev() {
        let result = a.end_call(id).expect("an answer");
        assert_eq!(result.is_error, n % 2 == 1, "{}", result.text);
    }
}
