//! `relay asks` and `relay statusline`.

use serde_json::{Value, json};

use crate::shell_kit::Home;

#[test]
fn asks_lists_open_and_ended_asks() {
    let home = Home::new();
    assert_eq!(home.json(&["asks", "--json"]), json!({"open": [], "ended": []}));
    assert!(home.run(&["asks"]).err.contains("There are no asks: no hub runs for"));
    let mut bob = home.join("bob");
    assert_eq!(home.run(&["asks"]).out, "There are no open asks.\n");
    assert_eq!(home.run(&["ask", "bob", "quick", "--timeout", "1"]).code, Some(5));
    let mut ask = home.start(&["ask", "bob", "long?", "--as", "ci"]);
    bob.out.until("long?");
    let list = home.json(&["asks", "--json"]);
    assert_eq!((&list["open"][0]["from"], &list["open"][0]["to"]), (&json!("ci"), &json!("bob")));
    assert_eq!(
        (&list["ended"][0]["from"], &list["ended"][0]["detail"]),
        (&json!("tester"), &json!("timeout"))
    );
    let text = home.run(&["asks"]).out;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[1].starts_with("ci    bob  ") && lines[1].contains(" min  ask_"), "{text}");
    assert!(
        lines.last().is_some_and(|line| line.starts_with("tester") && line.ends_with("  timeout")),
        "{text}"
    );
    bob.line("#2 short");
    assert_eq!(ask.code(), Some(0));
    assert!(home.run(&["asks"]).out.contains("  answered\n"));
    let mut ask = home.start(&["ask", "bob", "never mind"]);
    bob.out.until("never mind");
    ask.signal("-INT");
    assert_eq!(ask.code(), Some(130));
    bob.err.until("is over: peer_gone");
    let ended = &home.json(&["asks", "--json"])["ended"][0];
    assert_eq!((&ended["state"], &ended["detail"]), (&json!("ended"), &json!("withdrawn")), "{ended}");
    assert!(home.run(&["asks"]).out.contains("  withdrawn\n"));
}

#[test]
fn a_conversation_goes_on_in_its_thread_which_every_list_shows() {
    let home = Home::new();
    let mut bob = home.join("bob");
    let tail = home.start(&["tail"]);
    tail.err.until("watching");
    let first = home.start(&["ask", "bob", "one?", "--json"]);
    bob.out.until("one?");
    bob.line("yes");
    let thread = |answer: &str| {
        let answer: Value = serde_json::from_str(answer).expect("JSON");
        answer["thread"].as_str().expect("a thread").to_owned()
    };
    let made = thread(&first.out.text());
    let second = home.start(&["ask", "bob", "--json", "--thread", &made, "two?"]);
    bob.out.until("two?");
    assert_eq!(home.json(&["asks", "--json"])["open"][0]["thread"], made.as_str());
    let shown = format!("  {}  ", &made[..12]);
    let table = home.run(&["asks"]).out;
    assert!(table.lines().nth(1).is_some_and(|line| line.contains(&shown)), "{table}");
    bob.line("yes");
    assert_eq!(thread(&second.out.text()), made);
    tail.out.until_match("both questions and both answers", |text| text.matches(&shown).count() == 4);
    assert_eq!(home.run(&["ask", "bob", "--thread", "", "?"]).code, Some(2));
}

#[test]
fn statusline_counts_what_the_session_waits_for_and_owes() {
    let home = Home::new();
    let line = || {
        let ran = home.run(&["statusline"]);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
        ran.out
    };
    assert_eq!(line(), "relay: no hub\n");
    let bob = home.join("bob");
    assert_eq!(line(), "relay: not connected\n");
    let mut session = home.channel("one"); // of this process, which starts `relay statusline` too
    assert_eq!(line(), "relay: work\n");
    let call = |id: u32, tool: &str, arguments: Value| {
        let params = json!({"name": tool, "arguments": arguments});
        json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}).to_string()
    };
    session.line(&call(3, "relay_ask", json!({"to": "bob", "question": "hm?"})));
    bob.out.until("work asks: hm?");
    let tail = home.start(&["tail"]);
    tail.err.until("watching");
    let mut ask = home.start(&["ask", "work", "and?"]);
    tail.out.until("tester → work  ask");
    assert_eq!(
        line(),
        "relay: work · 1 open · 1 waiting\n",
        "there is no path into a session without a client"
    );
    session.line(&call(4, "relay_peers", json!({})));
    session.out.until("and?");
    assert_eq!(line(), "relay: work · 1 open · 1 owed\n");
    ask.signal("-INT");
    ask.code();
    assert_eq!(line(), "relay: work · 1 open\n");
}
