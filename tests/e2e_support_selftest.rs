//! The end-to-end harness itself, against the real clients and without our plugin.

mod support;

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use serde_json::{Value, json};
use support::client::{self, VERSIONS};
use support::home::Home;
use support::launch::Launch;
use support::leftovers;
use support::model::{Gate, Model, Occurrences, Request, Step};

/// Every client that is there.
fn clients() -> impl Iterator<Item = PathBuf> {
    VERSIONS.into_iter().filter_map(client::claude)
}

#[test]
fn a_piped_session_shows_the_scripted_answer() {
    for claude in clients() {
        let (home, model) = (Home::new(), Model::start());
        model.script("alice", |turn| Step::say(format!("answer {}", turn.number)));
        let mut alice = Launch::new(&claude, &home, &model, "alice").piped();

        alice.prompt("first question");
        alice.wait_for_text("answer 0");
        alice.wait_for_turns(1);
        alice.prompt("second question");
        alice.wait_for_text("answer 1");
        assert_eq!(alice.wait_for_turns(2)["result"], "answer 1");

        let init = alice.wait_for("its start", |line| line["type"] == "system" && line["subtype"] == "init");
        assert_eq!(init["cwd"].as_str(), home.project("alice").to_str());
        let second =
            model.wait_for("alice", "the second question", |request| request.hears("second question"));
        assert_eq!(second.number, 1);
        assert!(!second.hears("first question") && second.contains("first question"));
        assert!(second.newest_user_text().contains("second question"));
        assert_eq!(model.count_occurrences("alice", "first question"), 1);
        assert_eq!(model.count_occurrences("alice", "never said"), 0);

        assert!(alice.end().success());
        leftovers::wait_until_none(home.marker());
    }
}

#[test]
fn sessions_at_one_model_are_kept_apart() {
    for claude in clients() {
        let (home, model) = (Home::new(), Model::start());
        for name in ["alice", "bob"] {
            model.script(name, |turn| Step::say(format!("this is {}", turn.session)));
        }
        let launch = |name| Launch::new(&claude, &home, &model, name).piped();
        let (mut alice, mut bob) = (launch("alice"), launch("bob"));
        alice.prompt("for alice only");
        bob.prompt("for bob only");
        alice.wait_for_text("this is alice");
        bob.wait_for_text("this is bob");
        assert_eq!(model.count_occurrences("alice", "for bob only"), 0);
        assert_eq!(model.count_occurrences("bob", "for bob only"), 1);
    }
}

#[test]
fn a_held_turn_stays_open_until_released() {
    for claude in clients() {
        let (home, model) = (Home::new(), Model::start());
        let gate = Gate::new();
        let at = gate.clone();
        model.script("alice", move |_| Step::say("through the gate").after(&at));
        let mut alice = Launch::new(&claude, &home, &model, "alice").piped();
        alice.prompt("go");
        gate.wait_until_reached();
        // Another conversation goes all its way meanwhile, and the held one is still where it was.
        model.script("bob", |_| Step::say("bob is done"));
        let mut bob = Launch::new(&claude, &home, &model, "bob").piped();
        bob.prompt("go");
        bob.wait_for_turns(1);
        assert!(alice.output().iter().all(|line| line["type"] != "assistant" && line["type"] != "result"));
        gate.open();
        alice.wait_for_text("through the gate");
        assert_eq!(alice.wait_for_turns(1)["is_error"], false);
        assert_eq!(model.requests("alice").len(), 1, "the held turn was not tried again");
    }
}

#[test]
fn several_tools_are_called_in_one_turn() {
    for claude in clients() {
        let (home, model) = (Home::new(), Model::start());
        model.script("alice", |turn| match turn.number {
            0 => Step::Tools(vec![
                ("Bash".to_owned(), json!({"command": "echo one-$((1 + 1))", "description": "One"})),
                ("Bash".to_owned(), json!({"command": "echo two-$((2 + 2))", "description": "Two"})),
            ]),
            _ => Step::say("both done"),
        });
        let mut alice = Launch::new(&claude, &home, &model, "alice").allow("Bash").piped();
        alice.prompt("go");
        alice.wait_for_text("both done");
        let results = model.wait_for("alice", "the results", |request| request.number == 1).tool_results();
        let texts: Vec<&str> = results.iter().map(|result| result.text.as_str()).collect();
        assert_eq!(texts, ["one-2", "two-4"]);
        assert!(results.iter().all(|result| result.name == "Bash" && !result.is_error));
    }
}

#[test]
fn a_terminal_session_shows_the_scripted_answer() {
    let Some(tmux) = client::tmux() else { return };
    for claude in clients() {
        let (home, model) = (Home::new(), Model::start());
        model.script("carol", |turn| Step::say(format!("answer {}", turn.number)));
        let carol = Launch::new(&claude, &home, &model, "carol").in_terminal(&tmux);
        carol.wait_until_ready();
        carol.prompt("a question typed in");
        carol.wait_for_text("answer 0");
        carol.prompt("a second one");
        carol.wait_for_text("answer 1");
        assert_eq!(model.count_occurrences("carol", "a question typed in"), 1);
        assert!(leftovers::processes_with(home.marker()).iter().any(|process| process.pid == carol.pid()));

        carol.prompt("/exit");
        carol.wait_for_exit();
        drop(carol);
        leftovers::wait_until_none(home.marker());
    }
}

#[test]
fn a_crashed_terminal_session_is_noticed() {
    let Some(tmux) = client::tmux() else { return };
    for claude in clients() {
        let (home, model) = (Home::new(), Model::start());
        let carol = Launch::new(&claude, &home, &model, "carol").in_terminal(&tmux);
        carol.wait_until_ready();
        leftovers::signal(carol.pid(), "KILL");
        carol.wait_for_exit();
        leftovers::wait_until_none(home.marker());
    }
}

#[test]
fn a_crashed_session_is_gone() {
    for claude in clients() {
        let (home, model) = (Home::new(), Model::start());
        let mut alice = Launch::new(&claude, &home, &model, "alice").piped();
        let pid = alice.pid();
        leftovers::wait_until_some(home.marker(), "session", |process| process.pid == pid);
        leftovers::signal(pid, "KILL");
        assert!(!alice.wait_for_exit().success());
        leftovers::wait_until_none(home.marker());
    }
}

#[test]
fn leftovers_are_found_by_environment_and_end_with_the_home() {
    let home = Home::new();
    let marker = home.marker().to_owned();
    let mut sleeper = home.command("sleep").arg("600").stdout(Stdio::null()).spawn().expect("sleep");
    let found = leftovers::wait_until_some(&marker, "sleep", |process| process.program == "sleep");
    assert!(found.pid == sleeper.id() && found.is("sleep", "600"));
    drop(home);
    assert!(!sleeper.wait().expect("our child").success(), "killed with its home");
    leftovers::wait_until_none(&marker);
    assert!(!PathBuf::from(marker).exists());
}

#[test]
fn a_home_has_projects_and_repositories() {
    let home = Home::new();
    let dir = home.git_project("depot");
    let head = support::home::run(home.command("git").args(["log", "--format=%s", "main"]).current_dir(&dir));
    assert_eq!(head, "Start\n");
    home.settings(json!({"permissions": {"allow": ["Bash"]}}));
    home.settings(json!({"crossSessionInbound": "refuse"}));
    let settings = std::fs::read_to_string(home.path().join(".claude/settings.json")).expect("the settings");
    let settings: Value = serde_json::from_str(&settings).expect("JSON");
    assert_eq!(
        settings,
        json!({"permissions": {"allow": ["Bash"], "defaultMode": "default"}, "crossSessionInbound": "refuse"})
    );
}

#[test]
#[should_panic(expected = "the script panicked: unexpected turn")]
fn a_script_that_panics_fails_the_test_that_waits() {
    let model = Model::start();
    model.script("alice", |_| panic!("unexpected turn"));
    post(&model, "alice", &json!({"tools": [{}, {}], "messages": []}));
    model.wait_for("alice", "a turn that never comes", |_| false);
}

#[test]
fn side_requests_are_no_turns() {
    let model = Model::start();
    model.script("alice", |turn| Step::say(format!("turn {}", turn.number)));
    let main =
        json!({"tools": [{"name": "A"}, {"name": "B"}], "messages": [{"role": "user", "content": "hi"}]});
    assert!(
        post(&model, "alice", &json!({"messages": [{"role": "user", "content": "title?"}]})).contains("ok")
    );
    assert!(post(&model, "alice", &main).contains("turn 0"));
    assert!(post(&model, "alice", &main).contains("turn 1"));
    assert_eq!(model.requests("alice").len(), 3);
    assert_eq!(model.conversation("alice").expect("a conversation").number, 1);
}

#[test]
fn occurrences_tell_messages_blocks_and_matches_apart() {
    let text = |text: &str| json!({"type": "text", "text": text});
    let body = json!({"messages": [
        {"role": "user", "content": "needle"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "Ask", "input": {"id": "needle"}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": [text("a needle")], "is_error": true},
            text("needle, needle"), text("hay"),
        ]},
        {"role": "system", "content": "hay"},
    ]});
    let request =
        Request { at: Default::default(), ts_ms: 0, conversation: true, number: 0, body: Arc::new(body) };
    assert_eq!(request.occurrences("needle"), Occurrences { messages: 3, blocks: 4, matches: 5 });
    assert_eq!(request.received("needle"), Occurrences { messages: 2, blocks: 3, matches: 4 });
    assert_eq!(request.fresh().len(), 2);
    let results = request.tool_results();
    assert_eq!(
        (results[0].name.as_str(), results[0].text.as_str(), results[0].is_error),
        ("Ask", "a needle", true)
    );
}

/// Sends a request to the model as a client would, and returns the whole answer.
fn post(model: &Model, session: &str, body: &Value) -> String {
    use std::io::{Read, Write};
    let url = model.base_url(session);
    let (host, path) = url.trim_start_matches("http://").split_once('/').expect("a URL with a path");
    let mut stream = std::net::TcpStream::connect(host).expect("the model listens");
    let body = body.to_string();
    write!(stream, "POST /{path}/v1/messages HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}
