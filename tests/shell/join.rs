//! `relay join`: the built binary, with and without a terminal.

use crate::shell_kit::{Home, Proc, kill, shown};

#[test]
fn join_edits_lines_on_a_terminal() {
    let home = Home::new();
    let Some(mut bob) = home.on_terminal(&["join", "bob"]) else { return };
    bob.out.until("You are bob");
    let ask = home.start(&["ask", "bob", "first?", "--as", "one"]);
    bob.out.until("#1 one asks:");
    bob.write("half an ans");
    bob.out.until("> half an ans");
    let second = home.start(&["ask", "bob", "se\u{1b}[2Jcond?", "--as", "two"]);
    let so_far = bob.out.until_match("the line again below", |text| {
        text.rfind("#2 two asks:").is_some_and(|at| text[at..].contains("> half an ans"))
    });
    assert!(shown(&so_far).contains("second?\n> half an ans"), "{}", shown(&so_far));
    // A typo is mended, an arrow key means nothing.
    bob.write("x\u{7f}wer\u{1b}[A\n");
    assert_eq!(ask.out.text(), "half an answer\n");
    // What is pasted is one answer, however many lines it has.
    bob.write("\u{1b}[200~one\ntwo\u{1b}[201~\n");
    assert_eq!(second.out.text(), "one\ntwo\n");
    bob.write("/peers\n/frob\n#9 x\n#1\nx\n");
    for note in ["NAME", "Unknown command /frob", "no question #9", "Missing TEXT", "No question waits"] {
        bob.out.until(note);
    }
    bob.write("\u{4}");
    assert_eq!(bob.code(), Some(0));
    let Some(mut bob) = home.on_terminal(&["join", "bob"]) else { return };
    bob.out.until("You are bob");
    bob.write("typed\u{3}");
    assert_eq!(bob.code(), Some(130));
}

#[test]
fn join_asks() {
    let home = Home::new();
    let mut bob = home.join("bob");
    let mut carol = home.join("carol");
    carol.line("@bob is it done?");
    bob.out.until("#1 carol asks: is it done?");
    carol.err.until("bob: seen");
    bob.line("@carol is what done?");
    carol.out.until("#1 bob asks: is what done?");
    bob.line("it is");
    carol.out.until("bob answers: it is\n");
    carol.line("@nobody x");
    carol.err.until("relay: peer_not_found: no peer named \"nobody\"");
    carol.line("/peers");
    carol.out.until("NAME");
    carol.line("#1 the work");
    bob.out.until("carol answers: the work\n");
    // A script asks on stdin and gets the answer although stdin has ended.
    let mut script = home.start(&["join", "ci"]);
    script.line("@bob is main green?");
    script.stdin = None;
    bob.out.until("#2 ci asks: is main green?");
    bob.line("very");
    assert_eq!(script.code(), Some(0));
    assert_eq!(script.out.text(), "bob answers: very\n");
    let ran = home.feed(&["join", "ci"], b"@nobody x\n");
    assert!(ran.err.contains("relay: peer_not_found: no peer named \"nobody\""), "{}", ran.err);
    let mut script = home.start(&["join", "ci"]);
    script.line("@carol going?");
    carol.out.until("asks: going?");
    carol.line("/quit");
    script.stdin = None;
    assert_eq!((carol.code(), script.code()), (Some(0), Some(0)));
    assert_eq!(script.out.text(), "");
    assert!(script.err.text().contains("relay: peer_gone: \"carol\""));
    bob.signal("-INT");
    assert_eq!(bob.code(), Some(130));
}

#[test]
fn an_answer_after_the_timeout_needs_its_number() {
    let home = Home::new();
    let (mut bob, mut carol) = (home.join("bob"), home.join("carol"));
    assert_eq!(home.run(&["ask", "bob", "quick", "--timeout", "1"]).code, Some(5));
    bob.err.until("Question #1 is over: timeout");
    carol.line("@bob and me?");
    bob.out.until("#2 carol asks: and me?");
    bob.line("yes"); // goes to the one that still waits
    carol.out.until("bob answers: yes\n");
    bob.line("#1 too late");
    bob.err.until("the answer is not needed");
}

#[test]
fn join_completes_names_recalls_lines_and_rings_the_bell() {
    let home = Home::new();
    let mut bob = home.join("bob");
    let _bill = home.join("bill");
    let Some(mut anna) = home.on_terminal(&["join", "anna"]) else { return };
    anna.out.until("You are anna");
    anna.write("@b\t");
    anna.out.until("@bill  @bob");
    anna.write("o\t");
    anna.out.until("> @bob ");
    // The cursor goes to the left and back to the end.
    anna.write("ello?\u{1b}[D\u{1b}[D\u{1b}[D\u{1b}[D\u{1b}[Dh\u{5}!\n");
    bob.out.until("#1 anna asks: hello?!\n");
    bob.line("yes");
    anna.out.until("\u{7}");
    anna.out.until("bob answers:");
    anna.write("\u{1b}[A\u{7f}?\n");
    bob.out.until("#2 anna asks: hello??\n");
    anna.write("/q\t\n");
    assert_eq!(anna.code(), Some(0));
}

#[test]
fn a_person_is_asked_in_the_same_way_by_both_kinds_of_questions() {
    let home = Home::new();
    let Some(mut anna) = home.on_terminal(&["join", "anna"]) else { return };
    anna.out.until("You are anna");
    let tail = home.start(&["tail"]);
    tail.err.until("watching for events");
    for (args, n) in [
        (&["ask", "anna", "--json", "deploy?"][..], 1),
        (&["ask", "anna", "--person", "--json", "deploy?"], 2),
    ] {
        let ask = home.start(args);
        anna.out.until(&format!("#{n} "));
        anna.write(format!("#{n} yes {n}\n"));
        let answer: serde_json::Value = serde_json::from_str(&ask.out.text()).expect("JSON");
        assert_eq!(
            (&answer["answer"], &answer["by"]),
            (&format!("yes {n}").into(), &"person".into()),
            "{answer}"
        );
        tail.out.until(&format!("reply person  {}", &answer["ask_id"].as_str().expect("an id")[..12]));
    }
    // One that reads its questions from a pipe is nobody, and all at once are not asked.
    let _robot = home.join("robot");
    let ran = home.run(&["ask", "robot", "--person", "deploy?"]);
    assert_eq!(ran.code, Some(14), "{}", ran.err);
    assert!(ran.err.contains("declined: \"robot\": no person answers there"), "{}", ran.err);
    let ran = home.run(&["broadcast", "--person", "deploy?"]);
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    let ran = home.run(&["ask", "anna", "--person", &"x".repeat(1001)]);
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    assert!(ran.err.contains("at most 1000 bytes and 12 lines"), "{}", ran.err);
}

#[test]
fn a_script_learns_that_its_question_was_lost_with_the_hub() {
    let home = Home::new();
    let mut bob = Proc::start(home.relay(&["join", "bob"]).env("RELAY_JOURNAL", "off"));
    bob.err.until("You are bob");
    let mut script = home.start(&["join", "ci"]);
    script.line("@bob is main green?");
    bob.out.until("is main green?");
    script.err.until("bob: seen");
    script.stdin = None;
    let hub = home.json(&["status", "--json"])["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    kill("-KILL", hub.expect("its process"));
    assert_eq!(script.code(), Some(0));
    assert!(script.err.text().contains("relay: hub_unreachable: "), "{}", script.err.text());
    bob.line("/quit");
    assert_eq!(bob.code(), Some(0));
}
