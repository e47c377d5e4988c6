//! Names: whence they come, how they change, and who may go on using old ones.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::driver::{Channel, DataDir, Raw, until};

#[test]
fn the_default_is_the_slug_of_the_project() {
    let dir = DataDir::new();
    let channel = dir.launch("My Project (v2)").start();
    channel.initialize();
    assert_eq!(channel.name(), "my-project-v2");
    assert!(channel.peers()["self"]["cwd"].as_str().is_some_and(|c| c.ends_with("/My Project (v2)")));
}

#[test]
fn a_taken_default_gets_a_suffix() {
    let dir = DataDir::new();
    let same = dir.project("api");
    let mut all: Vec<Channel> = Vec::new();
    for expected in ["api", "api-2", "api-3"] {
        let channel = dir.launch(expected).env("CLAUDE_PROJECT_DIR", &same).start();
        channel.initialize();
        assert_eq!(channel.name(), expected);
        all.push(channel);
    }
}

fn rename(channel: &Channel, name: &str) -> String {
    let data = channel.call("relay_rename", json!({"name": name})).ok();
    data["name"].as_str().expect("a name").to_owned()
}

#[test]
fn relay_rename_keeps_letters_of_any_case_dots_and_underscores() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    assert_eq!(rename(&a, "The Backend / API_v2.1"), "The-Backend-API_v2.1");
    assert_eq!(a.name(), "The-Backend-API_v2.1");
    assert_eq!(b.peer_names(), ["The-Backend-API_v2.1"]);
    assert_eq!(rename(&a, &"x".repeat(70)), "x".repeat(64));
}

#[test]
fn rename_to_its_own_name_does_nothing() {
    let dir = DataDir::new();
    let [a, _b] = dir.channels(["a", "b"]);
    assert_eq!(rename(&a, "web"), "web");
    assert_eq!(rename(&a, "web"), "web");
    assert_eq!(dir.logged("peer_rename").len(), 1);
    // In another case it is the same name, and may still be written so.
    assert_eq!(rename(&a, "Web"), "Web");
    assert_eq!(a.name(), "Web");
}

#[test]
fn lookup_ignores_case() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    rename(&b, "Web_App.v2");
    for to in ["Web_App.v2", "web_app.v2", "WEB_APP.V2"] {
        let ask_id = a.ask(to, "?");
        b.take("ask", &ask_id);
    }
    let refused = a.call("relay_rename", json!({"name": "wEB_app.V2"}));
    assert_eq!(refused.code(), "name_taken");
    // The directory's name as it is written leads to its slug.
    let _c = dir.channel("my_project");
    a.ask("my_project", "?");
}

#[test]
fn a_preset_name_comes_first_and_does_not_block_rename() {
    let dir = DataDir::new();
    let file = SessionFile::new(&dir);
    file.write(&json!({"name": "from-claude", "nameSource": "user"}));
    let launch = |preset: &str| {
        let launch = dir.launch("project").env("CLAUDE_CONFIG_DIR", SessionFile::config(&dir));
        let mut channel = launch.env("CLAUDE_RELAY_PRESET_NAME", preset).start();
        channel.initialize();
        let name = channel.name();
        channel.close();
        name
    };
    assert_eq!(launch(" Back.End_1 "), "Back.End_1");
    for invalid in ["two words", "a/b", "", &"x".repeat(65)] {
        assert_eq!(launch(invalid), "from-claude", "{invalid:?}");
    }
    let preset = dir.launch("project").env("CLAUDE_CONFIG_DIR", SessionFile::config(&dir));
    let channel = preset.env("CLAUDE_RELAY_PRESET_NAME", "preset").start();
    channel.initialize();
    assert_eq!(channel.name(), "preset");
    file.write(&json!({"name": "Renamed", "nameSource": "user"}));
    until("the name", || (channel.name() == "Renamed").then_some(()));
}

#[test]
fn a_taken_name_is_refused_and_another_proposed() {
    let dir = DataDir::new();
    let [a, _b] = dir.channels(["a", "b"]);
    let refused = a.call("relay_rename", json!({"name": "B"}));
    assert!(refused.text.contains("called \"b\"") && refused.text.contains("B-2"), "{}", refused.text);
    assert_eq!(refused.code(), "name_taken");
    assert_eq!(a.name(), "a");
}

#[test]
fn a_missing_name_is_answered_with_the_nearest() {
    let dir = DataDir::new();
    let [a, _b, _c] = dir.channels(["a", "backend-api", "frontend"]);
    let missed = a.call("relay_ask", json!({"to": "backend", "question": "?"}));
    assert!(missed.text.contains("backend-api") && !missed.text.contains("frontend"), "{}", missed.text);
    assert_eq!(missed.code(), "peer_not_found");
}

/// An empty name, such as an unset variable of a script, is not that of a peer with the default name.
#[test]
fn a_name_without_letters_and_digits_is_nobodys() {
    let dir = DataDir::new();
    let [a, _relay] = dir.channels(["a", "relay"]);
    assert_eq!(a.call("relay_ask", json!({"to": "-", "question": "?"})).code(), "peer_not_found");
    let shell = dir.command(&["ask", "", "?", "--timeout", "1"]).output().expect("relay ask");
    assert_eq!(shell.status.code(), Some(3), "{shell:?}");
    assert!(String::from_utf8_lossy(&shell.stderr).contains("no peer named \"\""), "{shell:?}");
}

#[test]
fn old_name_is_answered_with_the_new_one() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    let first = a.ask("b", "one");
    b.take("ask", &first);
    rename(&b, "boris");
    let refused = a.call("relay_ask", json!({"to": "B", "question": "?"}));
    assert!(refused.text.contains("no peer named \"B\"; it is now \"boris\""), "{}", refused.text);
    assert_eq!(refused.code(), "peer_not_found");
    let shell = dir.command(&["ask", "b", "?"]).output().expect("relay ask");
    assert_eq!(shell.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&shell.stderr).contains("it is now \"boris\""));
    // What was asked before goes on, and the answer comes from the new name.
    b.reply(&first, "here").ok();
    assert_eq!(a.take("reply", &first).from, "boris");
}

#[test]
fn an_old_name_is_forgotten_with_its_peer() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "0.1")]);
    let [a, mut b] = dir.channels(["a", "b"]);
    rename(&b, "boris");
    b.close();
    until("the end of the peer", || a.peer_names().is_empty().then_some(()));
    let refused = a.call("relay_ask", json!({"to": "b", "question": "?"}));
    assert!(!refused.text.contains("it is now"), "{}", refused.text);
}

/// A channel of the Claude Code session of this id, in the project `project`.
fn continued(dir: &DataDir, id: &str) -> Channel {
    let channel = dir.launch("project").env("CLAUDE_CODE_SESSION_ID", id).start();
    channel.initialize();
    channel
}

#[test]
fn a_name_given_by_relay_rename_is_kept_by_session_id() {
    let dir = DataDir::new();
    let other = dir.channel("other");
    let mut first = continued(&dir, "session-1");
    rename(&first, "Web");
    first.close();
    until("the end of the peer", || other.peer_names().is_empty().then_some(()));
    dir.kill_hub();
    let mut second = continued(&dir, "session-1");
    assert_eq!(second.name(), "Web", "also by another hub");
    let third = continued(&dir, "session-2");
    assert_eq!(third.name(), "project", "another session is not called so");
    second.close();
    until("the end of the peer", || (other.peer_names() == ["project"]).then_some(()));
    rename(&third, "WEB");
    assert_eq!(continued(&dir, "session-1").name(), "project", "the name is taken");
}

/// Claude Code starts our process with an id that it never uses when it continues a conversation; its file has the right one,
/// perhaps later.
#[test]
fn a_name_goes_on_with_the_conversation() {
    let dir = DataDir::new();
    let file = SessionFile::new(&dir);
    let other = dir.channel("other");
    let start = |id: &str| {
        let launch = dir.launch("project").env("CLAUDE_CONFIG_DIR", SessionFile::config(&dir));
        let channel = launch.env("CLAUDE_CODE_SESSION_ID", id).start();
        channel.initialize();
        channel
    };
    let end = |mut channel: Channel| {
        channel.close();
        until("the end of the peer", || other.peer_names().is_empty().then_some(()));
    };
    file.write(&json!({"sessionId": "first"}));
    let channel = start("first");
    rename(&channel, "Web");
    file.write(&json!({"sessionId": "after-clear", "status": "idle"}));
    let journal = dir.path().join("hub.journal");
    until("the hub's notice of it", || {
        fs::read_to_string(&journal).ok()?.contains("after-clear").then_some(())
    });
    assert_eq!(channel.name(), "Web", "the process keeps its name");
    end(channel);
    for id in ["first", "after-clear"] {
        file.write(&json!({"sessionId": id}));
        let channel = start("never-used");
        assert_eq!(channel.name(), "Web", "{id}");
        end(channel);
    }
    file.write(&json!({"sessionId": "never-used"}));
    let channel = start("never-used");
    assert_eq!(channel.name(), "project");
    file.write(&json!({"sessionId": "after-clear"}));
    until("the name", || (channel.name() == "Web").then_some(()));
}

#[test]
fn a_name_given_by_the_user_since_is_not_overruled() {
    let dir = DataDir::new();
    let file = SessionFile::new(&dir);
    let other = dir.channel("other");
    let start = || {
        let launch = dir.launch("project").env("CLAUDE_CONFIG_DIR", SessionFile::config(&dir));
        let channel = launch.env("CLAUDE_CODE_SESSION_ID", "session-1").start();
        channel.initialize();
        channel
    };
    let end = |mut channel: Channel| {
        channel.close();
        until("the end of the peer", || other.peer_names().is_empty().then_some(()));
    };
    let channel = start();
    rename(&channel, "by-model");
    file.write(&json!({"name": "by-user", "nameSource": "user"}));
    until("the name", || (channel.name() == "by-user").then_some(()));
    end(channel);
    let channel = start();
    assert_eq!(channel.name(), "by-user");
    rename(&channel, "by-model");
    end(channel);
    let channel = start();
    assert_eq!(channel.name(), "by-model", "the last one counts");
    end(channel);
    file.write(&json!({"name": "other-flag", "nameSource": "user"}));
    assert_eq!(start().name(), "other-flag", "as by --name");
}

#[test]
fn new_owner_of_an_old_name_is_found_first() {
    let dir = DataDir::new();
    let [a, b, c] = dir.channels(["a", "b", "c"]);
    let known = a.ask("b", "one");
    b.take("ask", &known);
    rename(&b, "boris");
    rename(&c, "b");
    let ask_id = a.ask("b", "who is this?");
    c.take("ask", &ask_id);
    assert!(b.pushes().is_empty());
}

/// The file that Claude Code keeps about a session; for a channel that we start, we are Claude Code.
struct SessionFile(PathBuf);

impl SessionFile {
    fn new(dir: &DataDir) -> Self {
        let sessions = dir.root().join("config/sessions");
        fs::create_dir_all(&sessions).expect("a directory");
        SessionFile(sessions.join(format!("{}.json", std::process::id())))
    }

    fn config(dir: &DataDir) -> PathBuf {
        dir.root().join("config")
    }

    fn write(&self, file: &Value) {
        let new = self.0.with_extension("new");
        fs::write(&new, file.to_string()).and_then(|()| fs::rename(&new, &self.0)).expect("written");
    }
}

fn named_by_claude(dir: &DataDir, session: &str) -> Channel {
    let channel = dir.launch(session).env("CLAUDE_CONFIG_DIR", SessionFile::config(dir)).start();
    channel.initialize();
    channel
}

#[test]
fn claude_codes_name_is_the_first_choice() {
    let dir = DataDir::new();
    let file = SessionFile::new(&dir);
    file.write(&json!({"name": "Night Shift", "nameSource": "user"}));
    assert_eq!(named_by_claude(&dir, "project").name(), "Night-Shift");
}

#[test]
fn a_name_that_claude_code_made_up_is_none() {
    let dir = DataDir::new();
    let file = SessionFile::new(&dir);
    file.write(&json!({"name": "Fixing the tests", "nameSource": "derived"}));
    let channel = named_by_claude(&dir, "project");
    assert_eq!(channel.name(), "project");
    file.write(&json!({"name": "Fixing more tests", "nameSource": "auto", "status": "busy"}));
    file.write(&json!({"name": "session-id-2", "nameSource": "collision"}));
    // It is read in the same look as the name that follows.
    file.write(&json!({"name": "mine", "nameSource": "user"}));
    until("the name", || (channel.name() == "mine").then_some(()));
    assert_eq!(dir.logged("peer_rename").len(), 1);
}

#[test]
fn rename_in_claude_code_carries_over() {
    let dir = DataDir::new();
    let file = SessionFile::new(&dir);
    let channel = named_by_claude(&dir, "project");
    assert_eq!(channel.name(), "project");
    file.write(&json!({"name": "First", "nameSource": "user"}));
    until("the first name", || (channel.name() == "First").then_some(()));
    file.write(&json!({"name": "Second (as 2.1.197 writes it)"}));
    until("the second name", || (channel.name() == "Second-as-2.1.197-writes-it").then_some(()));
}

#[test]
fn a_taken_name_in_claude_code_gets_a_suffix() {
    let dir = DataDir::new();
    let file = SessionFile::new(&dir);
    let _other = dir.channel("taken");
    let channel = named_by_claude(&dir, "project");
    file.write(&json!({"name": "taken", "nameSource": "user"}));
    until("the name", || (channel.name() == "taken-2").then_some(()));
}

#[test]
fn an_odd_session_file_is_no_harm() {
    let dir = DataDir::new();
    let file = SessionFile::new(&dir);
    fs::write(&file.0, b"\xff{[").expect("written");
    let channel = named_by_claude(&dir, "project");
    assert_eq!(channel.name(), "project");
    file.write(&json!({"name": ["a list"], "status": {}, "messagingSocketPath": 5}));
    fs::remove_file(&file.0).expect("removed");
    file.write(&json!({"name": "fine", "nameSource": "user"}));
    until("the name", || (channel.name() == "fine").then_some(()));
}

/// A git repository with a commit, and a worktree of it.
fn repository(at: &Path) -> PathBuf {
    let tree = at.with_extension("tree");
    let script = "cd \"$0\" && git init -q -b main && git config user.email t@example.com && git config user.name t \
        && git commit -q --allow-empty -m one && git worktree add -q -b side \"$1\"";
    let mut git = std::process::Command::new("/bin/sh");
    git.args(["-c", script]).arg(at).arg(&tree).env("GIT_CONFIG_GLOBAL", "/dev/null");
    assert!(git.status().expect("git").success(), "these tests need git");
    tree
}

#[test]
fn the_roster_tells_who_is_where() {
    let dir = DataDir::new();
    repository(&dir.project("repo"));
    let [a, b] = dir.channels(["a", "repo"]);
    let peers = a.peers();
    let line = &peers["peers"][0];
    assert_eq!(
        (&line["name"], &line["kind"], &line["branch"]),
        (&json!("repo"), &json!("session"), &json!("main"))
    );
    assert_eq!(line["pid"], std::process::id(), "of the session, which is the test");
    assert_eq!(
        (&line["push"], &line["confirmed"], &line["activity"]),
        (&json!("channel"), &json!(false), &json!("unknown"))
    );
    assert!(
        line["cwd"].as_str().is_some_and(|c| c.ends_with("/repo")) && line["connected_s"].is_u64(),
        "{line}"
    );
    assert_eq!(peers["self"]["push"], "channel");
    // As the original claude-relay calls them.
    assert_eq!(
        (&line["git_branch"], &peers["me"], &peers["ok"]),
        (&json!("main"), &json!("a"), &json!(true))
    );
    // Both sides of an ask show up.
    let ask_id = a.ask("repo", "?");
    let asks = a.peers()["asks"].clone();
    assert_eq!(
        (&asks[0]["ask_id"], &asks[0]["to"], &asks[0]["state"]),
        (&json!(ask_id), &json!("repo"), &json!("pushed"))
    );
    let owed = b.peers()["owed"].clone();
    assert_eq!((&owed[0]["ask_id"], &owed[0]["from"]), (&json!(ask_id), &json!("a")));
}

#[test]
fn a_branch_that_changes_shows_up() {
    let dir = DataDir::new();
    let repo = dir.project("repo");
    repository(&repo);
    let [a, _b] = dir.channels(["a", "repo"]);
    fs::write(repo.join(".git/HEAD"), "ref: refs/heads/feature/x\n").expect("another branch");
    until("the branch", || (a.peers()["peers"][0]["branch"] == "feature/x").then_some(()));
}

/// Whom a broadcast goes to, by name.
fn reach(from: &Channel, scope: &str) -> Vec<String> {
    let data = from.call("relay_broadcast", json!({"question": "?", "scope": scope})).ok();
    let asks = data["asks"].as_array().expect("asks").iter();
    asks.map(|a| a["to"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn broadcasts_reach_the_machine_the_repository_or_the_directory() {
    let dir = DataDir::new();
    let repo = dir.project("repo");
    let tree = repository(&repo);
    let deep = repo.join("src");
    fs::create_dir(&deep).expect("a directory");
    let mut all = Vec::new();
    for (session, cwd) in
        [("me", &repo), ("same", &repo), ("deep", &deep), ("tree", &tree), ("far", &dir.project("far"))]
    {
        let channel = dir.launch(session).env("CLAUDE_PROJECT_DIR", cwd).start();
        channel.initialize();
        rename(&channel, session);
        all.push(channel);
    }
    let (me, far) = (&all[0], &all[4]);
    assert_eq!(reach(me, "machine"), ["deep", "far", "same", "tree"]);
    assert_eq!(reach(me, "repo"), ["deep", "same", "tree"]);
    assert_eq!(reach(me, "directory"), ["same"]);
    assert_eq!(reach(far, "directory"), Vec::<String>::new());
    let none = far.call("relay_broadcast", json!({"question": "?", "scope": "repo"}));
    assert_eq!(none.code(), "bad_args", "in no repository");
    // A script at the shell asks and does not listen.
    let mut script = dir.raw();
    let mut who = Raw::who("script");
    who["listens"] = json!(false);
    script.call(json!({"type": "register", "who": who})).expect("registered");
    assert!(!reach(me, "machine").contains(&"script".to_owned()));
}
