use super::*;
use serde_json::{Value, json};

fn call(name: &str, arguments: &str) -> Option<Result<Tool, Fault>> {
    let call = format!("{{\"name\":\"{name}\",\"arguments\":{arguments}}}");
    serde_json::from_str::<Call>(&call).expect("a call").tool(false)
}

fn request(name: &str, arguments: Value) -> ToHub {
    let tool = call(name, &arguments.to_string()).expect("known").expect("right");
    tool.request(0, "1")
}

#[test]
fn refusals_name_the_argument_and_the_remedy() {
    let long = format!("{{\"to\":\"b\",\"question\":\"{}\"}}", "x".repeat(MAX_TEXT + 1));
    let deep = format!("{{\"to\":\"b\",\"question\":{}{}}}", "[".repeat(200), "]".repeat(200));
    for (name, arguments, says) in [
        ("relay_ask", r#"{"question":"?"}"#, "missing field `to`"),
        ("relay_ask", r#"{"to":"b"}"#, "missing field `question`"),
        ("relay_ask", r#"{"to":5,"question":"?"}"#, "`to`: invalid type: integer `5`, expected a string"),
        ("relay_ask", r#"{"to":"b","question":" \n"}"#, "`question`: the text is empty; give some text"),
        (
            "relay_ask",
            &long,
            "`question`: 524289 bytes exceed the limit of 524288; shorten the text or name a file to read",
        ),
        ("relay_ask", &deep, "`question`: invalid type: sequence, expected a string"),
        ("relay_ask", r#"{"to":"b","to":"c","question":"?"}"#, "duplicate field `to`"),
        (
            "relay_ask",
            r#"{"to":"b","question":"?","timeout_s":0}"#,
            "`timeout_s`: 0 is not a whole number of seconds from 1 to 86400",
        ),
        (
            "relay_ask",
            r#"{"to":"b","question":"?","timeout_s":1.5}"#,
            "`timeout_s`: 1.5 is not a whole number of seconds from 1 to 86400",
        ),
        ("relay_ask", r#"{"to":"b","question":"?","timeout_s":1e999}"#, "`timeout_s`: number out of range"),
        (
            "relay_ask",
            r#"{"to":"b","question":"?","timeout_s":"9"}"#,
            "`timeout_s`: invalid type: string \"9\", expected f64",
        ),
        (
            "relay_ask",
            r#"{"to":"b","question":"?","when":{}}"#,
            "`when`: unknown field `when`, expected one of `to`, `question`, `who`, `thread_id`, `timeout_s`",
        ),
        ("relay_peers", r#"{"all":true}"#, "`all`: unknown field `all`, there are no fields"),
        ("relay_peers", "[]", "the arguments are no object: invalid type: sequence, expected a map"),
        ("relay_peers", "7", "the arguments are no object: invalid type: integer `7`, expected a map"),
        ("relay_reply", r#"{"ask_id":"a","answer":null}"#, "`answer`: invalid type: null, expected a string"),
        ("relay_reply", r#"{"ask_id":"a","answer":"x","text":"y"}"#, "duplicate field `answer`"),
        ("relay_rename", r#"{"name":"a","new_name":"a"}"#, "duplicate field `name`"),
        (
            "relay_broadcast",
            r#"{"question":"?","scope":"planet"}"#,
            "`scope`: unknown variant `planet`, expected one of `machine`, `repo`, `directory`",
        ),
        ("relay_broadcast", r#"{"question":"?","scope":true}"#, "`scope`: expected value"),
        ("relay_rename", r#"{"name":["x"]}"#, "`name`: invalid type: sequence, expected a string"),
        ("relay_rename", r#"{"new_name":{}}"#, "`new_name`: invalid type: map, expected a string"),
    ] {
        let shown = &arguments[..arguments.len().min(60)];
        let refused = call(name, arguments).expect("a known tool").expect_err(shown);
        assert_eq!((refused.code, refused.message.as_str()), (Code::BadArgs, says), "{name} {shown}");
    }
    assert!(call("relay_dance", "{}").is_none());
}

#[test]
fn missing_optional_arguments_get_their_defaults() {
    let (broadcast_id, text, timeout_ms) = ("bc_1".to_owned(), "?".to_owned(), TIMEOUT_S * 1000);
    let (include_self, collect_ms) = (false, Some(timeout_ms));
    let scope = Scope::Machine;
    let want = ToHub::Broadcast(BroadcastRequest {
        id: 0,
        broadcast_id,
        text,
        scope,
        include_self,
        collect_ms,
        timeout_ms,
    });
    assert_eq!(request("relay_broadcast", json!({"question": "?"})), want);
    assert_eq!(request("relay_broadcast", json!({"question": "?", "scope": null, "timeout_s": null})), want);
    for (arguments, collected) in [
        (json!({"question": "?", "timeout_s": 60}), Some(60_000)),
        (json!({"question": "?", "collect_s": 20}), Some(20_000)),
        (json!({"question": "?", "collect": false, "collect_s": 20}), None),
    ] {
        let ToHub::Broadcast(BroadcastRequest { collect_ms, .. }) = request("relay_broadcast", arguments)
        else {
            panic!()
        };
        assert_eq!(collect_ms, collected);
    }
    assert_eq!(request("relay_peers", Value::Null), ToHub::Peers { id: 0 });
    assert_eq!(call("relay_wait", "{}"), Some(Ok(Tool::Wait { timeout_s: None })));
    let without: Call = serde_json::from_str(r#"{"name":"relay_peers"}"#).expect("a call");
    assert_eq!(without.tool(true), Some(Ok(Tool::Peers {})));
    let wait: Call = serde_json::from_str(r#"{"name":"relay_wait"}"#).expect("a call");
    assert_eq!(wait.tool(true), None);
}

/// Some models broadcast a question that could not be asked.
#[test]
fn every_failure_says_not_to_broadcast_as_a_fallback() {
    let failed = "peer_not_found peer_gone timeout hub_unreachable protocol_mismatch overloaded declined bad_msg \
        not_registered already_registered not_allowed";
    let to_correct = "bad_args name_taken unknown_ask"; // by the model itself
    for (codes, is_said) in [(failed, true), (to_correct, false)] {
        for code in codes.split_whitespace() {
            let code = serde_json::from_value(json!(code)).expect("a code");
            let (text, structured) = render_fault(&fault(code, "it did not work."));
            for said in [text.as_str(), structured["error"]["message"].as_str().expect("text")] {
                assert!(said.contains("it did not work."), "{said}");
                assert_eq!(
                    said.ends_with("Tell the user; do not broadcast as a fallback."),
                    is_said,
                    "{said}"
                );
            }
        }
    }
}

/// The spellings of the original claude-relay.
#[test]
fn both_spellings_mean_the_same() {
    for (name, ours, theirs) in [
        ("relay_reply", json!({"ask_id": "a", "answer": "x"}), json!({"ask_id": "a", "text": "x"})),
        ("relay_rename", json!({"name": "x"}), json!({"new_name": "x"})),
    ] {
        assert_eq!(request(name, ours), request(name, theirs));
    }
}

fn tools() -> Vec<Value> {
    let list: Value = serde_json::from_str(list(false).get()).expect("JSON");
    list["tools"].as_array().expect("a list").clone()
}

#[test]
fn every_schema_is_strict() {
    let tools = tools();
    let names: Vec<&str> = tools.iter().filter_map(|t| t["name"].as_str()).collect();
    assert_eq!(
        names,
        ["relay_peers", "relay_ask", "relay_reply", "relay_broadcast", "relay_rename", "relay_wait"]
    );
    for tool in &tools {
        assert_eq!(tool["inputSchema"]["additionalProperties"], json!(false));
        assert!(tool["description"].as_str().is_some_and(|d| d.len() <= 2048));
        assert_eq!(tool["annotations"]["readOnlyHint"], json!(tool["name"] != "relay_rename"));
    }
}

/// Whether `value` is valid by the part of JSON Schema that our schemas use.
fn valid(schema: &Value, value: &Value) -> bool {
    let length = |s: &str| s.chars().count() as u64;
    let at_least = |key: &str, n: f64| schema[key].as_f64().is_none_or(|least| n >= least);
    let at_most = |key: &str, n: f64| schema[key].as_f64().is_none_or(|most| n <= most);
    let is_type = match (schema["type"].as_str().expect("a type"), value) {
        ("object", Value::Object(members)) => {
            let known = |(name, value): (&String, &Value)| {
                let property = &schema["properties"][name];
                property.is_object() && valid(property, value)
            };
            let required = schema["required"].as_array().expect("a list");
            members.iter().all(known)
                && required.iter().all(|r| members.contains_key(r.as_str().expect("a name")))
        }
        ("string", Value::String(s)) => {
            at_least("minLength", length(s) as f64)
                && at_most("maxLength", length(s) as f64)
                && (schema["pattern"].is_null() || schema["pattern"] == "\\S" && !s.trim().is_empty())
        }
        ("integer", Value::Number(n)) => n.as_f64().is_some_and(|n| n.fract() == 0.0),
        ("boolean", Value::Bool(_)) => true,
        _ => false,
    };
    let number = value.as_f64();
    let known = [
        "type",
        "properties",
        "required",
        "additionalProperties",
        "description",
        "minLength",
        "maxLength",
        "pattern",
        "minimum",
        "maximum",
        "enum",
        "default",
    ];
    let strange = schema.as_object().expect("a schema").keys().find(|k| !known.contains(&k.as_str()));
    assert_eq!(strange, None, "this validator does not know it");
    is_type
        && number.is_none_or(|n| at_least("minimum", n) && at_most("maximum", n))
        && schema["enum"].as_array().is_none_or(|words| words.contains(value))
}

/// Every value in place of every argument: the types take what the schemas take. They take two things more, on purpose: the
/// other spelling of a name, and `null` for an argument that may be missing.
#[test]
fn types_accept_and_refuse_what_the_schemas_do() {
    let long = |length: usize| json!("x".repeat(length));
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(1),
        json!(-1),
        json!(1.5),
        json!(60.0),
        json!(86_400),
        json!(86_401),
        json!(1e300),
        json!(""),
        json!(" \n"),
        json!("x"),
        json!("repo"),
        json!("Machine"),
        json!([]),
        json!({}),
        json!(["x"]),
        long(256),
        long(257),
        long(MAX_TEXT),
        long(MAX_TEXT + 1),
    ];
    let mut refused = 0;
    for tool in tools() {
        let (name, schema) = (tool["name"].as_str().expect("a name"), &tool["inputSchema"]);
        let required = schema["required"].as_array().expect("a list");
        let base: Value =
            required.iter().map(|r| (r.as_str().expect("a name").to_owned(), json!("x"))).collect();
        let mut tries = vec![base.clone()];
        for property in
            schema["properties"].as_object().expect("properties").keys().chain([&"extra".to_owned()])
        {
            let mut without = base.clone();
            without.as_object_mut().expect("an object").remove(property);
            tries.push(without);
            for value in &values {
                if value.is_null() && !required.contains(&json!(property)) && property != "extra" {
                    continue;
                }
                let mut with = base.clone();
                with[property] = value.clone();
                tries.push(with);
            }
        }
        for arguments in tries {
            let taken = call(name, &arguments.to_string()).expect("known");
            let shown: String = arguments.to_string().chars().take(80).collect();
            assert_eq!(taken.is_ok(), valid(schema, &arguments), "{name} {shown}: {taken:?}");
            refused += usize::from(taken.is_err());
        }
    }
    assert!(refused > 50);
}
