//! `relay asks` and `relay statusline`.

use serde_json::{Value, json};

use crate::shell_kit::{Home, Proc, kill};

#[test]
fn asks_lists_open_and_ended_asks() {
    let home = Home::new();
    assert_eq!(home.json(&["asks", "--json"]), json!({"open": [], "ended": []}));
    assert_eq!(home.run(&["asks"]).out.lines().count(), 1, "the heading");
    let mut bob = home.join("bob");
    assert_eq!(home.run(&["asks"]).out.lines().count(), 1);
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
    assert!(lines[1].starts_with("ci      bob  ") && lines[1].contains(" min  ask_"), "{text}");
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
    assert_eq!(line(), "relay: not connected\n");
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

#[test]
fn no_text_is_cut() {
    let home = Home::new();
    let (bob, mut carol) = (home.join("bob"), home.join("carol"));
    // The newlines at the place where reading ends are not those at the end of the text.
    let text = format!("{}\n\n\nthe rest", "x".repeat((512 << 10) - 1));
    let ran = home.feed(&["ask", "bob", "-"], text.as_bytes());
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    // The longest text, and one that is longer: the name before it does not count.
    carol.line(&format!("@bob {} end", "x".repeat((512 << 10) - 4)));
    bob.out.until("x end\n");
    carol.line(&format!("@bob {}", "x".repeat((512 << 10) + 1)));
    carol.err.until("relay: bad_args: ");
}

/// A process that is stopped, until the end of this.
struct Stopped(u32);

impl Drop for Stopped {
    fn drop(&mut self) {
        kill("-CONT", self.0);
    }
}

#[test]
fn an_ask_ends_though_the_hub_hangs() {
    let home = Home::new();
    let bob = home.join("bob");
    let tail = home.start(&["tail"]);
    tail.err.until("watching");
    let mut ask = home.start(&["ask", "bob", "still there?", "--timeout", "5"]);
    bob.out.until("still there?");
    tail.out.until("seen");
    // Before the hub answers this, it has answered the request to ask.
    let hub = home.json(&["status", "--json"])["pid"].as_u64().expect("its process");
    let hub = u32::try_from(hub).expect("a process");
    kill("-STOP", hub);
    let _stopped = Stopped(hub);
    assert_eq!(ask.code(), Some(5));
    assert!(ask.err.text().contains("the hub did not report the end"), "{}", ask.err.text());
}

#[test]
fn a_broadcast_ends_if_the_hub_has_lost_its_state() {
    let home = Home::new();
    let bob = Proc::start(home.relay(&["join", "bob"]).env("RELAY_JOURNAL", "off"));
    bob.err.until("You are bob");
    let mut asker = home.start(&["broadcast", "--json", "what are you working on?"]);
    bob.out.until("working on?");
    let hub = home.json(&["status", "--json"])["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    kill("-KILL", hub.expect("its process"));
    assert_eq!(asker.code(), Some(11));
    let all: Value = serde_json::from_str(&asker.out.text()).expect("JSON");
    assert_eq!(all["error"]["code"], "hub_unreachable", "{all}");
}
