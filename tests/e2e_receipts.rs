//! `seen` means that the model has it, and once means once: what real clients do with a text that they refuse, delay, queue
//! or can't take. Each test counts what the model received and compares it with what the asker was shown meanwhile.

mod support;

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use support::client::{self, BEFORE_MESSAGING, MESSAGING, NEWEST, VERSIONS, WITH_MESSAGING};
use support::home::Home;
use support::launch::CHANNEL;
use support::leftovers::Stopped;
use support::receipts::PromptHook;
use support::session::Session;
use support::stage::{Actor, Prompted, Stage, ask_line, headers_in, peer_line};
use support::terminal::Terminal;
use support::watch::Watch;

/// Longer than the 4 s that an idle session has to confirm a push.
const LONG: Duration = Duration::from_secs(6);

/// What a text says that may have come already.
const AGAIN: &str = "This may have come already";

/// By `push` alone, or as sessions are by default.
fn stage(version: &str, push: &str) -> Option<Stage> {
    let mut stage = Stage::new(&client::claude(version)?);
    stage.env("RELAY_ASKS_PER_MIN", "0");
    stage.env("RELAY_PUSH", push);
    Some(stage)
}

/// One stage per client. Those before messaging have the hook as their only path outside of a terminal.
fn stages<'a>(versions: &'a [&str], push: &'a str) -> impl Iterator<Item = Stage> + 'a {
    versions.iter().filter_map(move |version| stage(version, push))
}

/// Two sessions in pipes that know each other, each with a hook that waits.
fn pair(stage: &Stage) -> (Actor<'_, Session>, Actor<'_, Session>) {
    let (mut alice, mut bob) = (stage.piped("alice"), stage.piped("bob"));
    alice.meet("bob");
    bob.settle();
    (alice, bob)
}

/// A session in a terminal that can be asked by channel, and one in a pipe that asks it.
fn pair_by_channel<'a>(stage: &'a Stage, tmux: &Path) -> (Actor<'a, Session>, Actor<'a, Terminal>) {
    let bob = stage.launch("bob").channel(CHANNEL).in_terminal(tmux);
    let mut alice = stage.piped("alice");
    let bob = stage.act_in_terminal(bob, "bob");
    alice.wait_for_peers("channel of bob", |peers| peer_line(peers, "bob")["push"] == "channel");
    (alice, bob)
}

/// Where only some prompts are refused, the next path brings the question; where all are, the asker is told until a tool
/// call of the session takes it along.
#[test]
fn a_prompt_that_another_hook_refuses_is_not_called_seen() {
    for stage in stages(&MESSAGING, "auto") {
        refuse_once(&stage.home, "cross-session-message");
        let (alice, bob) = pair(&stage);
        refused(&stage, alice, bob, &["pushed by inbox", "pushed by hook"]);
    }
}

#[test]
fn a_prompt_that_another_hook_refuses_by_channel() {
    let Some(tmux) = client::tmux() else { return };
    for (version, next) in [(NEWEST, "inbox"), (WITH_MESSAGING, "inbox"), (BEFORE_MESSAGING, "hook")] {
        let Some(stage) = stage(version, "auto") else { return };
        refuse_once(&stage.home, "<channel");
        let (alice, bob) = pair_by_channel(&stage, &tmux);
        refused(&stage, alice, bob, &["pushed by channel", &format!("pushed by {next}")]);
    }
}

/// 2.1.197 has the hook path alone.
#[test]
fn a_prompt_that_another_hook_refuses_before_messaging() {
    let Some(stage) = stage(BEFORE_MESSAGING, "auto") else { return };
    PromptHook::that_refuses(&stage.home, "grep -q Q-never");
    let (alice, mut bob) = pair(&stage);
    never_in_a_prompt(&stage, &stage.watch(), alice, &mut bob);
    bob.got_each_once(&["Q-never?"]);
}

/// Refuses each prompt with `Q-never`, and with `Q-once` where it came by the path that this word shows.
fn refuse_once(home: &Home, path: &str) {
    let refuses = format!(
        "input=$(cat); case $input in *Q-never*) true;; *) case $input in *'{path}'*Q-once*) true;; *) false;; esac;; esac"
    );
    PromptHook::that_refuses(home, &refuses);
}

fn refused<S: Prompted>(
    stage: &Stage,
    mut alice: Actor<'_, Session>,
    mut bob: Actor<'_, S>,
    course: &[&str],
) {
    let watch = stage.watch();
    let once = alice.ask("bob", "Q-once?");
    stage.wait_for_ask("bob", "Q-once?");
    alice.wait_for_state(&once, "seen");
    let seen = course.last().expect("a path").replace("pushed", "seen");
    assert_eq!(watch.course("ask", &once), [course, &[&seen]].concat());

    let never = never_in_a_prompt(stage, &watch, alice, &mut bob);
    bob.got_each_once(&["Q-once?", "Q-never?"]);
    assert_eq!(bob.settle().received(AGAIN).matches, 0, "what was refused has not come");
    stage.seen_never_early(&watch, "bob", &[(once, "Q-once?".to_owned()), (never, "Q-never?".to_owned())]);
}

/// A question that each path fails to bring comes with the result of a tool call.
fn never_in_a_prompt<S: Prompted>(
    stage: &Stage,
    watch: &Watch,
    mut alice: Actor<'_, Session>,
    bob: &mut Actor<'_, S>,
) -> String {
    let never = alice.ask("bob", "Q-never?");
    let refused = alice.wait_for_peers("the end of all paths", |peers| {
        let line = ask_line(peers, &never);
        line["detail"].as_str().is_some_and(|d| d.contains("no path to that session works"))
    });
    assert_eq!(ask_line(&refused, &never)["state"], "queued");
    let got = stage.model.conversation("bob").map_or(0, |request| request.received("Q-never?").matches);
    assert_eq!(got, 0);
    bob.peers();
    alice.wait_for_state(&never, "seen");
    let course = watch.course("ask", &never);
    assert!(course.ends_with(&["queued", "pushed by tool", "seen by tool"].map(str::to_owned)), "{course:?}");
    never
}

#[test]
fn seen_waits_for_a_slow_hook_by_inbox() {
    for stage in stages(&MESSAGING, "inbox") {
        let hook = PromptHook::that_holds(&stage.home, "Q-slow");
        let (alice, bob) = pair(&stage);
        seen_waits_for(stage.watch(), &stage, hook, alice, bob, "inbox");
    }
}

#[test]
fn seen_waits_for_a_slow_hook_by_hook() {
    for stage in stages(&VERSIONS, "hook") {
        let hook = PromptHook::that_holds(&stage.home, "Q-slow");
        let (alice, bob) = pair(&stage);
        seen_waits_for(stage.watch(), &stage, hook, alice, bob, "hook");
    }
}

#[test]
fn seen_waits_for_a_slow_hook_by_channel() {
    let Some(tmux) = client::tmux() else { return };
    for stage in stages(&VERSIONS, "auto") {
        let hook = PromptHook::that_holds(&stage.home, "Q-slow");
        let (alice, bob) = pair_by_channel(&stage, &tmux);
        seen_waits_for(stage.watch(), &stage, hook, alice, bob, "channel");
    }
}

/// Another hook holds the prompt for longer than a push has to be confirmed in.
fn seen_waits_for<S: Prompted>(
    watch: Watch,
    stage: &Stage,
    hook: PromptHook,
    mut alice: Actor<'_, Session>,
    mut bob: Actor<'_, S>,
    path: &str,
) {
    let slow = alice.ask("bob", "Q-slow?");
    alice.wait_for_peers("that the client has accepted it", |peers| {
        let line = ask_line(peers, &slow);
        assert_eq!(line["state"], "pushed", "{line}");
        line["detail"].as_str().is_some_and(|d| d.contains("accepted by the client"))
    });
    stage.let_pass(LONG);
    let line = ask_line(&alice.peers(), &slow);
    assert_eq!(line["state"], "pushed", "{line}");
    assert_eq!(stage.model.conversation("bob").map_or(0, |r| r.received("Q-slow?").matches), 0);
    hook.open();
    stage.wait_for_ask("bob", "Q-slow?");
    alice.wait_for_state(&slow, "seen");
    watch.only_by(path, "ask", &slow);
    bob.got_each_once(&["Q-slow?"]);
    stage.seen_never_early(&watch, "bob", &[(slow, "Q-slow?".to_owned())]);
}

#[test]
fn forty_at_once_by_inbox() {
    for stage in stages(&MESSAGING, "auto") {
        let (alice, bob) = pair(&stage);
        // What exceeds the inbox's rate goes by the hook.
        many_at_once(&stage, alice, bob, 40);
    }
}

#[test]
fn forty_at_once_by_hook() {
    for stage in stages(&VERSIONS, "hook") {
        let (alice, bob) = pair(&stage);
        many_at_once(&stage, alice, bob, 40);
    }
}

#[test]
fn twelve_at_once_by_channel() {
    let Some(tmux) = client::tmux() else { return };
    for stage in stages(&VERSIONS, "auto") {
        let (alice, bob) = pair_by_channel(&stage, &tmux);
        many_at_once(&stage, alice, bob, 12);
    }
}

fn many_at_once<S: Prompted>(
    stage: &Stage,
    mut alice: Actor<'_, Session>,
    mut bob: Actor<'_, S>,
    count: usize,
) {
    let watch = stage.watch();
    let questions: Vec<String> = (0..count).map(|n| format!("Q-{n:02}-many?")).collect();
    let ids = alice.ask_all("bob", &questions);
    for id in &ids {
        watch.wait_for("seen", |event| event["state"] == "seen" && event["ask_id"] == id.as_str());
    }
    bob.got_each_once(&questions.iter().map(String::as_str).collect::<Vec<_>>());
    for id in &ids {
        let course = watch.course("ask", id);
        let [pushed, seen] = course.iter().map(String::as_str).collect::<Vec<_>>()[..] else {
            panic!("{id}: {course:?}")
        };
        assert_eq!(pushed.strip_prefix("pushed"), seen.strip_prefix("seen"), "{course:?}");
    }
    let asked: Vec<(String, String)> = ids.into_iter().zip(questions).collect();
    let ahead = stage.seen_never_early(&watch, "bob", &asked);
    eprintln!("{count} at once: seen was at most {ahead} ms ahead of the model's request");
}

/// Claude Code holds back what comes while it shows a screen of its own.
#[test]
fn once_behind_a_screen_of_the_client_by_channel() {
    let Some(tmux) = client::tmux() else { return };
    for stage in stages(&VERSIONS, "auto") {
        let (alice, bob) = pair_by_channel(&stage, &tmux);
        once_behind_screens(&stage, alice, bob, "channel");
    }
}

#[test]
fn once_behind_a_screen_of_the_client_by_inbox() {
    let Some(tmux) = client::tmux() else { return };
    for stage in stages(&MESSAGING, "auto") {
        let bob = stage.launch("bob").in_terminal(&tmux);
        let mut alice = stage.piped("alice");
        let bob = stage.act_in_terminal(bob, "bob");
        alice.meet("bob");
        once_behind_screens(&stage, alice, bob, "inbox");
    }
}

fn once_behind_screens(
    stage: &Stage,
    mut alice: Actor<'_, Session>,
    mut bob: Actor<'_, Terminal>,
    path: &str,
) {
    let watch = stage.watch();
    let mut asked = Vec::new();
    for screen in ["/model", "/config", "/status", "/help"] {
        bob.session.prompt(screen);
        alice.wait_for_peers("the screen", |peers| peer_line(peers, "bob")["activity"] == "screen");
        let question = format!("Q-behind-{}?", &screen[1..]);
        let id = alice.ask("bob", &question);
        watch.wait_for_ask(&id, "pushed", path);
        stage.let_pass(LONG);
        let line = ask_line(&alice.peers(), &id);
        assert_eq!(line["state"], "pushed", "{line}");
        assert!(line["detail"].as_str().is_some_and(|d| d.contains("a screen of its own")), "{line}");
        assert_eq!(watch.course("ask", &id), [format!("pushed by {path}")]);
        bob.session.close_screen();
        stage.wait_for_ask("bob", &question);
        alice.wait_for_state(&id, "seen");
        watch.only_by(path, "ask", &id);
        asked.push((id, question));
    }
    bob.got_each_once(&asked.iter().map(|(_, question)| question.as_str()).collect::<Vec<_>>());
    stage.seen_never_early(&watch, "bob", &asked);
}

/// A pipe that is stopped, a debugger, a lid: the question waits, by the path that it took.
#[test]
fn once_into_a_stopped_client_by_inbox() {
    for stage in stages(&MESSAGING, "auto") {
        let (alice, bob) = pair(&stage);
        let stopped = Stopped::new(&[bob.session.pid()]);
        once_into_stopped(&stage, alice, bob, stopped, "inbox", "queued");
    }
}

#[test]
fn once_into_a_stopped_client_by_hook() {
    for stage in stages(&VERSIONS, "hook") {
        let (alice, bob) = pair(&stage);
        let stopped = Stopped::new(&[bob.session.pid()]);
        once_into_stopped(&stage, alice, bob, stopped, "hook", "pushed");
    }
}

#[test]
fn once_into_a_stopped_client_by_channel() {
    let Some(tmux) = client::tmux() else { return };
    for stage in stages(&VERSIONS, "auto") {
        let (alice, bob) = pair_by_channel(&stage, &tmux);
        let stopped = bob.session.stop();
        once_into_stopped(&stage, alice, bob, stopped, "channel", "pushed");
    }
}

fn once_into_stopped<S: Prompted>(
    stage: &Stage,
    mut alice: Actor<'_, Session>,
    mut bob: Actor<'_, S>,
    stopped: Stopped,
    path: &str,
    state: &str,
) {
    let watch = stage.watch();
    let id = alice.ask("bob", "Q-stopped?");
    stage.let_pass(Duration::from_secs(12));
    let line = ask_line(&alice.peers(), &id);
    drop(stopped);
    assert_eq!(line["state"], state, "{line}");
    stage.wait_for_ask("bob", "Q-stopped?");
    alice.wait_for_state(&id, "seen");
    watch.only_by(path, "ask", &id);
    bob.got_each_once(&["Q-stopped?"]);
    stage.seen_never_early(&watch, "bob", &[(id, "Q-stopped?".to_owned())]);
}

/// The hub dies with an answer on its way to a busy asker, and again before a second answer to the same ask.
#[test]
fn an_answer_on_its_way_through_the_death_of_the_hub() {
    for stage in stages(&VERSIONS, "auto") {
        let (mut alice, mut bob) = pair(&stage);
        let id = alice.ask("bob", "Q-once?");
        // That bob ends his turn without an answer is news for alice, which must not be on its way as well.
        stage.model.wait_for("alice", "the notice", |request| !headers_in(request, "notice").is_empty());
        alice.settle();
        let call = alice.long_call();
        let watch = stage.watch();
        bob.get("relay_reply", json!({"ask_id": id, "answer": "A-first"}));
        watch.wait_for("the answer on its way", |event| {
            event["kind"] == "reply" && event["state"] == "pushed" && event["ask_id"] == id.as_str()
        });
        assert_eq!(watch.ends(&id), 1);
        drop(watch);
        stage.kill_hub();
        let watch = stage.watch();
        let second = bob.fail("relay_reply", json!({"ask_id": id, "answer": "A-second"}));
        assert!(second.contains("unknown_ask"), "{second}");
        call.end(&alice);
        stage.model.wait_for("alice", "the answer", |request| request.hears("A-first"));
        assert_eq!(alice.peers()["asks"], json!([]));
        alice.got_each_once(&["A-first"]);
        bob.got_each_once(&["Q-once?"]);
        assert_eq!(alice.settle().received("A-second").matches, 0);
        assert_eq!(watch.ends(&id), 0, "it had ended before: {}", watch.dump());
        let all = stage.model.requests("alice");
        let ends: usize = all.iter().map(|r| headers_in(r, "failed").len()).sum();
        assert_eq!(ends, 0);
    }
}
