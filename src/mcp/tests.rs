use super::*;
use std::io::BufReader;

use proptest::prelude::*;

fn read_all(text: &[u8]) -> Vec<Incoming> {
    let mut input = BufReader::with_capacity(64, text);
    std::iter::from_fn(|| read(&mut input).expect("memory does not fail")).collect()
}

/// The id (as text) and the code of the answer to a broken line.
fn refusal(incoming: &Incoming) -> (String, i64) {
    let Incoming::Broken(line) = incoming else { panic!("not broken: {incoming:?}") };
    assert!(!line.contains('\n'), "one line");
    let answer: Answer = serde_json::from_str(line).expect("the answer is JSON");
    (answer.id.get().to_owned(), answer.error["code"].as_i64().expect("a code"))
}

#[derive(Deserialize)]
struct Answer {
    id: Box<RawValue>,
    error: Value,
}

#[test]
fn ids_are_echoed_character_by_character() {
    for id in [
        "1",
        "\"server-discover-probe-1\"",
        "9007199254740993",
        "18446744073709551615",
        "18446744073709551616",
        "-340282366920938463463374607431768211456",
        "1e999",
        "1.0",
        "-0",
        "-5",
        r#""\ud83d""#,
        r#""\u0041\/""#,
        "\"\"",
    ] {
        let line = format!("{{\"jsonrpc\":\"2.0\",\"id\": {id} ,\"method\":\"ping\"}}\n");
        let [Incoming::Request { id: got, .. }] = &read_all(line.as_bytes())[..] else { panic!("{line}") };
        assert_eq!(result(got, json!({})), format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{}}}}"));
        assert!(error(got, METHOD_NOT_FOUND, "no").contains(&format!("\"id\":{id},")));
    }
}

#[test]
fn requests_with_odd_parameters_go_through() {
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for (params, want) in [
        (r#"{"question":"cut \ud83d"}"#, "{\"question\":\"cut \u{fffd}\"}"),
        ("{\"question\":\"\u{fffd}\u{2028}\"}", "{\"question\":\"\u{fffd}\u{2028}\"}"),
        (r#"{"timeout_s":1e999}"#, r#"{"timeout_s":1e999}"#),
        (r#"{"a":1,"a":2}"#, r#"{"a":1,"a":2}"#),
        (&deep, &deep),
        ("null", "null"),
    ] {
        let line = format!("{{\"jsonrpc\":\"2.0\",\"id\":20,\"method\":\"tools/call\",\"params\":{params}}}");
        let [Incoming::Request { params, .. }] = &read_all(line.as_bytes())[..] else { panic!("{line}") };
        assert_eq!(params, want);
    }
}

#[test]
fn invalid_utf8_and_a_byte_order_mark_are_accepted() {
    let [Incoming::Request { params, .. }] =
        &read_all(b"\xef\xbb\xbf{\"id\":1,\"method\":\"x\",\"params\":\"a\xff\xed\xa0\x80b\"}\r\n")[..]
    else {
        panic!("no request")
    };
    assert_eq!(params, "\"a\u{fffd}\u{fffd}\u{fffd}\u{fffd}b\"");
}

#[test]
fn broken_lines_are_answered_with_their_id_and_code() {
    for (line, id, code) in [
        ("{oops", "null", -32700),
        ("42", "null", -32600),
        ("{\"id\":{},\"method\":\"x\"}", "null", -32600),
        ("{\"id\":null,\"method\":\"x\"}", "null", -32600),
        ("{\"id\":1}", "1", -32600),
        ("{\"id\":2,\"method\":5}", "2", -32600),
        ("{\"id\":3,\"id\":4,\"method\":5}", "4", -32600),
        ("{\"id\":6,\"method\":\"x\"} and more", "6", -32700),
        ("{\"id\":7,\"method\":\"tools/call\",\"params\":{\"name\":\"relay", "7", -32700),
        ("{\"method\":\"x\",\"params\":{\"id\":1,},\"id\":\"a\"}", "\"a\"", -32700),
        ("{\"id\":8,\"method\":\"x\",\"params\":\"\u{1}\"}", "8", -32700),
        ("{\"id\":01,\"method\":\"x\"}", "null", -32700),
        ("[]", "null", -32600),
        // A batch.
        ("[{\"id\":1,\"method\":\"ping\"}]", "null", -32600),
        ("[{\"id\":1,\"method\":\"ping\"", "null", -32600),
    ] {
        let all = read_all(line.as_bytes());
        assert_eq!(all.iter().map(refusal).collect::<Vec<_>>(), [(id.to_owned(), code)], "{line}");
    }
}

#[test]
fn answers_to_our_requests_are_not_answered() {
    for line in [r#"{"id":7,"result":{}}"#, r#"{"id":7,"result":null}"#, r#"{"id":null,"error":{}}"#] {
        assert!(matches!(read_all(line.as_bytes())[..], [Incoming::Response { .. }]), "{line}");
    }
}

#[test]
fn a_line_over_the_limit_is_answered_with_its_id_wherever_that_stands() {
    let long = "x".repeat(MAX_LINE);
    for (line, id) in [
        (format!("{{\"id\":1,\"method\":\"tools/call\",\"params\":\"{long}\"}}"), "1"),
        (
            format!("{{\"method\":\"tools/call\",\"params\":\"{long}\",\"jsonrpc\":\"2.0\",\"id\":\"z\"}}"),
            "\"z\"",
        ),
        (long.clone(), "null"),
    ] {
        let all = read_all(format!("{line}\n{{\"id\":2,\"method\":\"ping\"}}\n").as_bytes());
        assert_eq!(refusal(&all[0]), (id.to_owned(), -32600));
        assert!(matches!(&all[1..], [Incoming::Request { .. }]));
    }
}

#[test]
fn the_longest_text_fits_a_line_with_every_byte_escaped() {
    let text = "\\u0001".repeat(512 << 10);
    let line = format!(
        "{{\"id\":1,\"method\":\"tools/call\",\"params\":{{\"arguments\":{{\"question\":\"{text}\"}}}}}}\n"
    );
    assert!(matches!(&read_all(line.as_bytes())[..], [Incoming::Request { .. }]));
}

#[test]
fn deep_nesting_is_an_error() {
    assert_eq!(refusal(&read_all(&[b'['; 100_000])[0]).1, -32600);
    let line = [b"{\"id\":9,\"method\":\"x\",\"params\":".to_vec(), vec![b'['; 100_000]].concat();
    assert_eq!(refusal(&read_all(&line)[0]), ("9".to_owned(), -32700));
}

#[test]
fn the_revision_is_echoed_when_it_is_known() {
    let revision = |params: Value| {
        let read: Initialize = params_of(&params);
        read.answer(true)["protocolVersion"].clone()
    };
    for known in REVISIONS {
        assert_eq!(revision(json!({"protocolVersion": known})), known);
    }
    for other in [json!({"protocolVersion": "2026-07-28"}), json!({"protocolVersion": 5}), json!({})] {
        assert_eq!(revision(other), REVISIONS[0]);
    }
}

fn params_of<T: DeserializeOwned>(value: &Value) -> T {
    params(&value.to_string()).expect("lenient")
}

#[test]
fn clients_are_known_by_their_names() {
    let client = |info: Value| {
        params_of::<Initialize>(&json!({"protocolVersion": 5, "clientInfo": info})).client().to_owned()
    };
    assert_eq!(client(json!({"name": "claude-code", "title": "Claude Code"})), "claude-code");
    for other in [json!({"name": 5}), json!([]), json!(null)] {
        assert_eq!(client(other), "");
    }
}

#[test]
fn instructions_fit_the_clients_limit() {
    for is_pushable in [true, false] {
        let answer = Initialize::default().answer(is_pushable);
        let text = answer["instructions"].as_str().expect("text");
        assert!(text.len() <= 2048, "{} bytes", text.len());
        assert!(!text.contains(['{', '}']), "{text}");
        assert_eq!(text.contains("relay_wait"), !is_pushable);
        assert_eq!(text.contains("comes by itself"), is_pushable);
    }
}

/// A piece of a line, with a leaning towards what parsers stumble over.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,12}",
        Just("\\ud83d".to_owned()),
        Just("\"".to_owned()),
        Just("}".to_owned()),
        Just("[".repeat(150)),
        Just("1e999".to_owned()),
        Just("\u{1}\u{fffd}".to_owned()),
        Just(",\"id\":99".to_owned()),
        Just("\"id\":{},".to_owned()),
    ]
}

proptest! {
    /// Whatever stands behind an id, its line is answered once, under that id or a later one of the line's own.
    #[test]
    fn every_line_with_an_id_is_answered_once_with_an_id(
        id in prop_oneof!["[1-9][0-9]{0,30}", "\"[a-z0-9]{0,9}\""],
        pieces in proptest::collection::vec(piece(), 0..8),
    ) {
        let rest = pieces.concat().replace(['\n', '\r'], "");
        let line = format!("{{\"method\":\"tools/call\",\"id\":{id},\"params\":{rest}");
        let answers: Vec<String> = read_all(line.as_bytes()).iter().map(|incoming| match incoming {
            Incoming::Request { id, .. } => id.0.clone(),
            other => refusal(other).0,
        }).collect();
        prop_assert_eq!(answers.len(), 1);
        let later = rest.contains("\"id\"");
        prop_assert!(answers[0] == id || later, "{} became {}", line, answers[0]);
    }

    /// JSON that is whole keeps its id in any place among its members.
    #[test]
    fn an_id_is_found_before_and_behind_the_parameters(
        id in "[1-9][0-9]{0,30}",
        text in any::<String>(),
        cut in 0usize..4000,
    ) {
        let params = json!({"arguments": {"question": text, "id": 5}});
        let front = format!("{{\"id\":{id},\"method\":\"tools/call\",\"params\":{params}}}");
        let back = format!("{{\"params\":{params},\"method\":\"tools/call\",\"id\":{id}}}");
        for line in [front.clone(), back] {
            let all = read_all(line.as_bytes());
            let [Incoming::Request { id: got, .. }] = &all[..] else { panic!("{line}") };
            prop_assert_eq!(got.0.as_str(), id.as_str());
        }
        let head = format!("{{\"id\":{id},").len();
        let mut end = head + cut % (front.len() - head);
        while !front.is_char_boundary(end) {
            end -= 1;
        }
        prop_assert_eq!(refusal(&read_all(&front.as_bytes()[..end])[0]).0, id);
    }
}

#[test]
fn answers_to_our_requests_are_read() {
    let read = |line: &str| match read_all(line.as_bytes()).pop() {
        Some(Incoming::Response { id, result }) => (id.is("push_1"), result),
        other => panic!("{other:?}"),
    };
    let line = r#"{"jsonrpc":"2.0","id":"push_1","result":{"action":"accept"}}"#;
    assert_eq!(read(line), (true, Some(r#"{"action":"accept"}"#.to_owned())));
    assert_eq!(read(r#"{"id":"push_1","error":{"code":-32601,"message":"no"}}"#), (true, None));
    assert_eq!(read(r#"{"id":null,"result":{}}"#), (false, Some("{}".to_owned())));
}

#[test]
fn clients_that_show_forms_say_so() {
    for (capabilities, expected) in [
        (r#"{"elicitation":{}}"#, true),
        (r#"{"elicitation":{"form":{},"url":{}}}"#, true),
        (r#"{"elicitation":{"url":{}}}"#, false),
        (r#"{"elicitation":true}"#, false),
        (r#"{"roots":{}}"#, false),
        ("7", false),
    ] {
        let initialize: Initialize =
            params(&format!(r#"{{"capabilities":{capabilities}}}"#)).expect("lenient");
        assert_eq!(initialize.shows_forms(), expected, "{capabilities}");
    }
    assert!(!params::<Initialize>("{}").expect("lenient").shows_forms());
}
