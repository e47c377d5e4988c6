//! Real sessions in terminals, for the pictures in the README. `scripts/picture` runs this and draws the screens.

mod support;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use support::client::{self, NEWEST};
use support::model::{Step, Turn};
use support::stage::{Stage, asks_in, headers_in, wait_until};

const QUESTION: &str = "Did the shape of the auth token change?";
const ANSWER: &str = "Yes. Since Tuesday it has `sub` instead of `user_id`; see src/auth/token.rs:41.";
const COLUMNS: u32 = 88;
const ROWS: u32 = 40;

/// What the model of the asking session does.
fn ask(turn: &Turn) -> Step {
    if !headers_in(turn, "reply").is_empty() {
        let words =
            "backend-api has changed the token: `user_id` is now `sub`, so the login form has to read `sub`.";
        return Step::say(words);
    }
    if !turn.tool_results().is_empty() {
        return Step::say(
            "I asked backend-api and go on with the login form. The answer arrives as a message.",
        );
    }
    Step::tool("mcp__plugin_relay_relay__relay_ask", json!({"to": "backend-api", "question": QUESTION}))
}

/// What the model of the asked session does.
fn answer(turn: &Turn) -> Step {
    match asks_in(turn).pop() {
        Some(ask) => {
            let arguments = json!({"ask_id": ask.ask_id, "answer": ANSWER});
            Step::tool("mcp__plugin_relay_relay__relay_reply", arguments)
        }
        None => Step::say("I told web that `user_id` became `sub`."),
    }
}

/// Writes what each terminal shows, with its colours, to `web.ansi` and `backend-api.ansi` in `RELAY_PICTURE`.
#[test]
#[ignore = "makes the picture in the README; run scripts/picture"]
fn two_terminals_show_question_and_answer() {
    let (Some(claude), Some(tmux)) = (client::claude(NEWEST), client::tmux()) else { return };
    let dir = std::env::var("RELAY_PICTURE").expect("RELAY_PICTURE names a directory");
    let stage = Stage::new(&claude);
    let launch = |name| {
        let terminal = stage.launch(name).in_terminal(&tmux);
        terminal.resize(COLUMNS, ROWS);
        stage.act_in_terminal(terminal, name)
    };
    let (backend, web) = (launch("backend-api"), launch("web"));
    stage.model.script("backend-api", answer);
    stage.model.script("web", ask);
    wait_until("both are peers", || {
        let relay = stage.home.command(support::relay_path()).args(["peers", "--json"]).output();
        let roster = relay.ok().and_then(|output| serde_json::from_slice::<Value>(&output.stdout).ok());
        roster.is_some_and(|roster| roster["peers"].as_array().is_some_and(|peers| peers.len() == 2))
    });
    web.session.prompt("ask backend-api if the auth token shape changed");
    web.session.wait_for_text("so the login form");
    backend.session.wait_for_text("I told web");
    for session in [&web.session, &backend.session] {
        session.wait_for("the end of the turn", |screen| screen.contains("for shortcuts"));
    }
    for (actor, file) in [(&web, "web.ansi"), (&backend, "backend-api.ansi")] {
        fs::write(Path::new(&dir).join(file), actor.session.coloured_screen())
            .expect("the screen is written");
    }
    web.end();
    backend.end();
    stage.finish();
}

/// Writes what a terminal shows when a peer asks its person, to `form.ansi` in `RELAY_PICTURE`.
#[test]
#[ignore = "makes the picture in the README; run scripts/picture"]
fn a_terminal_shows_the_form() {
    let (Some(claude), Some(tmux)) = (client::claude(NEWEST), client::tmux()) else { return };
    let dir = std::env::var("RELAY_PICTURE").expect("RELAY_PICTURE names a directory");
    let stage = Stage::new(&claude);
    let backend = stage.launch("backend-api").in_terminal(&tmux);
    backend.resize(COLUMNS, ROWS);
    let backend = stage.act_in_terminal(backend, "backend-api");
    let mut web = stage.piped("web");
    web.meet("backend-api");
    let question = "May I drop the column user_id, or does your team still read it?";
    web.get("relay_ask", json!({"to": "backend-api", "question": question, "who": "person"}));
    backend.session.wait_for_text("asks you");
    backend.session.send_text("We stopped reading it in May, go ahead.");
    backend.session.wait_for_text("go ahead.");
    fs::write(Path::new(&dir).join("form.ansi"), backend.session.coloured_screen())
        .expect("the screen is written");
    backend.session.press_until(&["Enter"], "that the form went", |screen| !screen.contains("asks you"));
    web.end();
    backend.end();
    stage.finish();
}
