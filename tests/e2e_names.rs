//! Names of real sessions that go on in another process.

mod support;

use serde_json::{Value, json};
use support::client::{self, BEFORE_MESSAGING, NEWEST, WITH_MESSAGING};
use support::session::Session;
use support::stage::{Actor, Stage};

#[test]
fn a_name_survives_continue_and_resume() {
    a_name_survives(NEWEST);
}

#[test]
fn a_name_survives_continue_and_resume_with_messaging() {
    a_name_survives(WITH_MESSAGING);
}

#[test]
fn a_name_survives_continue_and_resume_before_messaging() {
    a_name_survives(BEFORE_MESSAGING);
}

/// `/relay:relay-rename` calls this tool.
fn a_name_survives(version: &str) {
    let Some(claude) = client::claude(version) else { return };
    let stage = Stage::new(&claude);
    let mut witness = stage.piped("witness");
    let start = |arguments: &[&str]| -> Actor<'_, Session> {
        let launch = arguments.iter().fold(stage.launch("bob"), |launch, argument| launch.arg(*argument));
        stage.act(launch.piped(), "bob")
    };
    let mut end = |bob: Actor<'_, Session>| {
        bob.end();
        witness.wait_for_peers("nobody", |peers| peers["peers"] == json!([]));
    };
    let is_called = |name: &'static str| move |peers: &Value| peers["self"]["name"] == name;

    let mut bob = start(&[]);
    bob.wait_for_peers("bob", is_called("bob"));
    bob.get("relay_rename", json!({"name": "Builder_2"}));
    let begun = |line: &Value| line["type"] == "system" && line["subtype"] == "init";
    let id = bob.session.wait_for("its beginning", begun)["session_id"].clone();
    end(bob);

    let mut continued = start(&["--continue"]);
    continued.wait_for_peers("the name after --continue", is_called("Builder_2"));
    end(continued);

    let mut resumed = start(&["--resume", id.as_str().expect("an id")]);
    resumed.wait_for_peers("the name after --resume", is_called("Builder_2"));
    // Another conversation in the same directory is another session.
    let mut other = start(&[]);
    other.wait_for_peers("the directory's name", is_called("bob"));
    other.end();
    resumed.end();
    witness.end();
    stage.finish();
}
