//! Who is who: nobody speaks for another, whatever he knows of him.

use serde_json::{Value, json};

use crate::all_is_well;
use crate::driver::{DataDir, Raw, arguments, until};

/// Registers with these changes to what `Raw::who` says.
fn register(raw: &mut Raw, name: &str, changes: Value) -> Result<Value, (String, String)> {
    let mut who = Raw::who(name);
    for (key, value) in changes.as_object().expect("an object") {
        who[key] = value.clone();
    }
    raw.call(json!({"type": "register", "who": who}))
}

#[test]
fn only_the_asked_peer_can_answer_an_ask() {
    let dir = DataDir::new();
    dir.start_hub();
    let (mut ann, mut ben, mut eve) = (dir.peer("ann"), dir.peer("ben"), dir.peer("eve"));
    let id = ann.begin(Raw::ask_as("ask_secret01", "ben", "the port?"));
    ben.take_push();
    ann.end(id).expect("asked");
    let mut stranger = dir.raw();
    assert_eq!(
        stranger.refusal(json!({"type": "reply", "ask_id": "ask_secret01", "text": "666"})),
        "not_registered"
    );
    // The same words as for an ask that never was: not even that it exists is told.
    let forged =
        eve.call(json!({"type": "reply", "ask_id": "ask_secret01", "text": "666"})).expect_err("not hers");
    let none =
        eve.call(json!({"type": "reply", "ask_id": "ask_nothing1", "text": "666"})).expect_err("no ask");
    assert_eq!(forged.0, "unknown_ask");
    assert_eq!(forged, none);
    // Nor the asker itself.
    assert_eq!(ann.refusal(json!({"type": "reply", "ask_id": "ask_secret01", "text": "666"})), "unknown_ask");
    let id = ben.begin(json!({"type": "reply", "ask_id": "ask_secret01", "text": "4711"}));
    let reply = ann.take_push();
    assert_eq!((&reply["from"], &reply["text"]), (&json!("ben"), &json!("4711")));
    ben.end(id).expect("replied");
    assert_eq!(
        eve.refusal(json!({"type": "reply", "ask_id": "ask_secret01", "text": "4711"})),
        "unknown_ask"
    );
    assert_eq!(
        ben.refusal(json!({"type": "reply", "ask_id": "ask_secret01", "text": "no, 4712"})),
        "unknown_ask",
        "an ask has one answer"
    );
}

#[test]
fn another_peers_ask_id_is_refused() {
    let dir = DataDir::new();
    dir.start_hub();
    let (mut ann, mut ben, mut eve) = (dir.peer("ann"), dir.peer("ben"), dir.peer("eve"));
    let id = ann.begin(Raw::ask_as("ask_secret01", "ben", "the port?"));
    ben.take_push();
    ann.end(id).expect("asked");
    assert_eq!(eve.refusal(Raw::ask_as("ask_secret01", "ben", "mine")), "bad_msg");
    let all = |id: &str| json!({"type": "broadcast", "broadcast_id": id, "text": "x", "scope": "machine", "timeout_ms": 60_000});
    let sent = ann.call(all("all_secret01")).expect("sent");
    assert_eq!(sent["asks"].as_array().map(Vec::len), Some(2));
    assert_eq!(eve.refusal(all("all_secret01")), "bad_msg");
    // Nor can she take it back, or have it ended as if it were lost.
    for id in ["ask_secret01", "all_secret01"] {
        eve.call(json!({"type": "withdraw", "ask_id": id})).expect("done, but nothing of hers");
    }
    let mut again = dir.raw();
    let lost = ["ask_secret01", "all_secret01"];
    again.call(json!({"type": "register", "who": Raw::who("eve2"), "lost": lost})).expect("registered");
    let roster = again.call(json!({"type": "peers"})).expect("a roster");
    assert_eq!(roster["asks"], json!([]), "nothing of ann's");
    let open = ann.call(json!({"type": "peers"})).expect("a roster")["asks"].as_array().map(Vec::len);
    assert_eq!(open, Some(3), "her ask, and the two of her broadcast");
    let id = ben.begin(json!({"type": "reply", "ask_id": "ask_secret01", "text": "4711"}));
    let reply = ann.hear_type("push");
    assert_eq!((&reply["from"], &reply["text"]), (&json!("ben"), &json!("4711")));
    ann.say(&json!({"type": "pushed", "push": reply["push"]}));
    ben.end(id).expect("replied");
}

/// An ask that has timed out can still be answered, to its asker and nobody else.
#[test]
fn a_late_answer_goes_to_its_asker() {
    let dir = DataDir::new();
    dir.start_hub();
    let (mut ann, mut ben) = (dir.peer("ann"), dir.peer("ben"));
    let mut ask = Raw::ask_as("ask_secret01", "ben", "the port?");
    ask["timeout_ms"] = json!(50);
    let id = ann.begin(ask);
    ben.take_push();
    ann.end(id).expect("asked");
    assert_eq!(ann.take_push()["code"], "timeout");
    let mut eve = dir.peer("eve");
    assert_eq!(eve.refusal(Raw::ask_as("ask_secret01", "ben", "mine")), "bad_msg");
    let id = ben.begin(json!({"type": "reply", "ask_id": "ask_secret01", "text": "4711"}));
    let late = ann.take_push();
    assert_eq!((&late["text"], &late["late"]), (&json!("4711"), &json!(true)));
    ben.end(id).expect("replied");
}

#[test]
fn receipts_from_other_peers_are_ignored() {
    let dir = DataDir::new();
    dir.start_hub();
    let (mut ann, mut eve) = (dir.peer("ann"), dir.peer("eve"));
    // A session with hooks: its pushes await a receipt.
    let mut ben = dir.raw();
    register(&mut ben, "ben", json!({"kind": "session", "claude": "1-2-3", "paths": ["inbox"]}))
        .expect("registered");
    dir.raw().call(json!({"type": "hook", "claude": "1-2-3", "event": "start"})).expect("heard");
    let id = ann.begin(Raw::ask_as("ask_secret01", "ben", "the port?"));
    let push = ben.hear_type("push");
    // Eve even knows the identifier: as a peer she speaks for herself alone.
    for proof in ["queued", "prompted", "refused", "in_tool_result", "seen"] {
        eve.say(&json!({"type": "seen", "receipts": [[push["push"], proof]]}));
    }
    eve.say(&json!({"type": "pushed", "push": push["push"]}));
    eve.say(&json!({"type": "pushed", "push": push["push"], "error": "broken"}));
    let seen = json!([[push["push"], "seen"]]);
    ann.say(&json!({"type": "seen", "receipts": seen}));
    // A stranger, as hooks are, must know it, and the session's process.
    let mut stranger = dir.raw();
    stranger.say(&json!({"type": "pushed", "push": push["push"]}));
    let guesses: Vec<Value> = (0..1000).map(|n| json!([format!("push_{n:024x}"), "seen"])).collect();
    let hook = |claude: &str, receipts: &Value| json!({"type": "hook", "claude": claude, "event": "start", "receipts": receipts});
    stranger.call(hook("1-2-3", &json!(guesses))).expect("heard");
    stranger.say(&json!({"type": "seen", "receipts": seen}));
    stranger.call(hook("1-2-4", &seen)).expect("heard");
    eve.call(json!({"type": "status"})).expect("heard");
    stranger.call(json!({"type": "status"})).expect("heard");
    let asked = ann.end(id).expect("asked");
    assert_eq!(asked["state"], "queued");
    let state =
        |ann: &mut Raw| ann.call(json!({"type": "peers"})).expect("a roster")["asks"][0]["state"].clone();
    assert_eq!(state(&mut ann), "queued");
    ben.say(&json!({"type": "pushed", "push": push["push"]}));
    until("pushed", || (state(&mut ann) == "pushed").then_some(()));
    stranger.call(hook("1-2-3", &seen)).expect("heard");
    until("seen", || (state(&mut ann) == "seen").then_some(()));
}

#[test]
fn a_living_session_cannot_be_taken_over() {
    let dir = DataDir::new();
    dir.start_hub();
    let (mut ann, mut ben) = (dir.peer("ann"), dir.peer("ben"));
    for wrong in [
        json!({"secret": "a guess"}),
        json!({"secret": "secret of ben "}),
        json!({"secret": "SECRET OF BEN"}),
    ] {
        let mut eve = dir.raw();
        let (code, message) = register(&mut eve, "ben", wrong).expect_err("not ben");
        assert_eq!(code, "name_taken");
        assert!(!message.contains("secret of"), "{message}");
        // She may still be herself.
        let mut who = Raw::who("eve");
        who["peer"] = json!("p-eve");
        assert_eq!(eve.call(json!({"type": "register", "who": who})).expect("herself")["name"], "eve");
    }
    // Ben is still there and still ben.
    let id = ann.begin(Raw::ask_as("ask_00000002", "ben", "you?"));
    assert_eq!(ben.take_push()["text"], "you?");
    ann.end(id).expect("asked");
    // Nor while he may come back.
    ben.hang_up();
    let mut eve = dir.raw();
    assert_eq!(register(&mut eve, "ben", json!({"secret": "a guess"})).expect_err("not ben").0, "name_taken");
    // With the secret it is ben again, and the half-open connection of before is cut.
    let mut first = dir.raw();
    register(&mut first, "ben", json!({"fresh": false})).expect("ben");
    let mut second = dir.raw();
    register(&mut second, "ben", json!({"fresh": false})).expect("ben");
    first.hear_end();
    assert!(dir.hubs().len() == 1);
}

/// The next hub knows the secrets that the last one knew: who comes first is not believed.
#[test]
fn a_restarted_hub_knows_who_is_who() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "60")]);
    dir.start_hub();
    let (mut ann, mut ben) = (dir.peer("ann"), dir.peer("ben"));
    let id = ann.begin(Raw::ask_as("ask_secret01", "ben", "the port?"));
    ben.take_push();
    ann.end(id).expect("asked");
    for stops in [true, false] {
        if stops {
            dir.stop_hub()
        } else {
            dir.kill_hub()
        };
        dir.start_hub();
        let mut eve = dir.raw();
        assert_eq!(
            register(&mut eve, "ben", json!({"secret": "a guess"})).expect_err("not ben").0,
            "name_taken"
        );
        let other = json!({"peer": "p-eve", "exact": true});
        assert_eq!(register(&mut eve, "ben", other).expect_err("not her name").0, "name_taken");
        dir.peer("eve").refusal(json!({"type": "reply", "ask_id": "ask_secret01", "text": "666"}));
    }
    let (mut ann, mut ben) = (dir.peer("ann"), dir.peer("ben"));
    let id = ben.begin(json!({"type": "reply", "ask_id": "ask_secret01", "text": "4711"}));
    assert_eq!(ann.take_push()["text"], "4711");
    ben.end(id).expect("replied");
}

#[test]
fn name_in_use_is_refused() {
    let dir = DataDir::new();
    dir.start_hub();
    let (mut ann, mut ben) = (dir.peer("ann"), dir.peer("ben"));
    for disguise in ["ben", "BEN", " ben ", "-ben-", "b\u{200b}en", "\u{1b}[31mben"] {
        let mut eve = dir.raw();
        let result = register(&mut eve, disguise, json!({"peer": crate::unique("p"), "exact": true}));
        match result {
            Err((code, _)) => assert_eq!(code, "name_taken", "{disguise:?}"),
            Ok(answer) => assert_ne!(answer["name"], "ben", "{disguise:?}"),
        }
        assert_ne!(
            ann.call(json!({"type": "rename", "name": disguise, "exact": false}))
                .map(|a| a["renamed"]["name"].clone()),
            Ok(json!("ben"))
        );
    }
    let mut eve = dir.raw();
    assert_eq!(register(&mut eve, "ben", json!({"peer": "p-eve"})).expect("a suffix")["name"], "ben-2");
    assert_eq!(eve.refusal(json!({"type": "rename", "name": "Ben", "exact": true})), "name_taken");
    // An old name goes on resolving for those who knew it, but a new owner is not passed over.
    let id = ann.begin(Raw::ask_as("ask_00000001", "ben", "you?"));
    assert_eq!(ben.take_push()["text"], "you?");
    ann.end(id).expect("asked");
}

#[test]
fn from_is_set_by_the_hub() {
    let dir = DataDir::new();
    dir.start_hub();
    let mut ben = dir.peer("ben");
    let mut eve = dir.peer("eve");
    let mut ask = Raw::ask_as("ask_00000001", "ben", "x");
    for (key, value) in
        [("from", "ann"), ("peer", "p-ann"), ("cwd", "/home/ann"), ("kind", "failed"), ("push", "push_x")]
    {
        ask[key] = json!(value);
    }
    let id = eve.begin(ask);
    let push = ben.take_push();
    eve.end(id).expect("asked");
    assert_eq!((&push["from"], &push["cwd"]), (&json!("eve"), &json!("/")));
    assert_eq!((&push["kind"], &push["path"]), (&json!("ask"), &json!("socket")));
}

/// A model has the five tools and nothing else: it can't name a push, another's secret, or an ask that is not its own.
#[test]
fn tools_cannot_act_for_another_session() {
    let dir = DataDir::new();
    let [ann, ben, eve] = dir.channels(["ann", "ben", "eve"]);
    let ask = ann.ask("ben", "the port?");
    assert_eq!(ben.take("ask", &ask).from, "ann");
    assert_eq!(eve.reply(&ask, "666").code(), "unknown_ask");
    assert_eq!(ann.reply(&ask, "666").code(), "unknown_ask");
    for (tool, extra) in [
        ("relay_reply", json!({"ask_id": ask, "answer": "666", "from": "ben"})),
        ("relay_ask", json!({"to": "ben", "question": "x", "from": "ann"})),
        ("relay_ask", json!({"to": "ben", "question": "x", "ask_id": ask})),
        ("relay_peers", json!({"secret": true})),
    ] {
        assert_eq!(eve.call(tool, extra).code(), "bad_args");
    }
    for method in ["resume", "seen", "register", "relay_stop", "notifications/claude/channel"] {
        let answer = eve.request("tools/call", &arguments(method, json!({})));
        assert!(answer["error"].is_object(), "{answer}");
    }
    assert_eq!(eve.call("relay_rename", json!({"name": "Ben"})).code(), "name_taken");
    assert_eq!(ben.reply(&ask, "4711").ok()["to"], "ann");
    assert!(ann.take("reply", &ask).content.contains("4711"));
    assert!(ann.pushes().is_empty() && eve.pushes().is_empty());
}

/// What anybody with the socket can do, and `SECURITY.md` says so: hooks are known by the process that they name only.
/// Nobody learns more by it than who watches the traffic does, and what was taken is not called seen.
#[test]
fn holder_of_the_socket_can_pose_as_a_hook() {
    let dir = DataDir::new();
    dir.start_hub();
    let mut ann = dir.peer("ann");
    let mut ben = dir.raw();
    register(&mut ben, "ben", json!({"kind": "session", "claude": "1-2-3", "paths": ["hook"]}))
        .expect("registered");
    let mut thief = dir.raw();
    thief
        .call(json!({"type": "wait", "claude": "1-2-3", "process": "7-7-7"}))
        .expect("taken for ben's waiter");
    let id = ann.begin(Raw::ask_as("ask_00000001", "ben", "hm?"));
    let stolen = thief.hear_type("push");
    thief.say(&json!({"type": "pushed", "push": stolen["push"]}));
    let asked = ann.end(id).expect("asked");
    assert_ne!(asked["state"], "seen");
    // One connection is one waiter, and no peer is one.
    assert_eq!(thief.refusal(json!({"type": "wait", "claude": "4-5-6", "process": "7-7-7"})), "bad_msg");
    assert_eq!(ann.refusal(json!({"type": "wait", "claude": "1-2-3", "process": "7-7-7"})), "bad_msg");
    all_is_well(&dir);
}

/// What a container or another machine may do is less than what this user's processes may.
#[test]
fn peers_socket_has_no_watch_stop_status_or_asks() {
    let dir = DataDir::new();
    dir.start_hub();
    let hub = dir.hub();
    let mut eve = Raw::remote(&dir);
    register(&mut eve, "eve", json!({"host": "box"})).expect("registered");
    for request in ["asks", "watch", "status", "stop"] {
        // More often than one connection may have messages under way: the refused ones count as well.
        for _ in 0..20 {
            let (code, why) = eve.call(json!({"type": request})).expect_err("refused");
            assert_eq!(code, "not_allowed");
            assert!(why.contains("peers.sock") && why.contains("relay tail"), "{why}");
        }
    }
    let mut ann = dir.peer("ann");
    let peers = ann.call(json!({"type": "peers"})).expect("peers");
    assert_eq!((&peers["peers"][0]["name"], &peers["peers"][0]["host"]), (&json!("eve"), &json!("box")));
    let mut ben = Raw::remote(&dir);
    ben.register("ben");
    crate::talk(&mut ann, &mut ben, "ben", "ask_00000001");
    crate::talk(&mut ben, &mut ann, "ann", "ask_00000002");
    assert_eq!(dir.hub(), hub, "nobody stopped it");
}

/// The processes that a client of `peers.sock` names are not those of the hub's machine.
#[test]
fn holder_of_the_peers_socket_cannot_pose_as_a_hook_of_the_hubs_machine() {
    let dir = DataDir::new();
    dir.start_hub();
    let (mut ann, mut ben) = (dir.peer("ann"), dir.raw());
    register(&mut ben, "ben", json!({"kind": "session", "claude": "1-2-3", "paths": ["hook"]}))
        .expect("registered");
    let mut thief = Raw::remote(&dir);
    thief.call(json!({"type": "hook", "claude": "1-2-3", "event": "prompt"})).expect("a hook of nobody");
    thief.call(json!({"type": "wait", "claude": "1-2-3", "process": "7-7-7"})).expect("a waiter of nobody");
    let asked = ann.call(Raw::ask_as("ask_00000001", "ben", "hm?")).expect("asked");
    assert_eq!(asked["state"], "queued", "the thief was not handed it");
    let peers = ann.call(json!({"type": "peers"})).expect("peers");
    assert_eq!(peers["peers"][0]["activity"], "unknown", "{peers}");
    let mut waiter = dir.raw();
    waiter.call(json!({"type": "wait", "claude": "1-2-3", "process": "8-8-8"})).expect("ben's waiter");
    let push = waiter.take_push();
    assert_eq!(push["text"], "hm?");
    waiter.call(json!({"type": "peers"})).expect("the push has been reported");
    let receipts = json!([[push["push"], "seen"]]);
    thief.say(&json!({"type": "seen", "receipts": receipts}));
    thief
        .call(json!({"type": "hook", "claude": "1-2-3", "event": "tool", "receipts": receipts}))
        .expect("a hook of nobody");
    let peers = ann.call(json!({"type": "peers"})).expect("peers");
    assert_eq!(peers["asks"][0]["state"], "pushed", "{peers}");
}

/// A client cannot choose by which socket it counts as connected, and needs no name of a host.
#[test]
fn remote_is_set_by_the_hub() {
    let dir = DataDir::with(&[("RELAY_REMOTE_GRACE_S", "1000"), ("RELAY_GRACE_S", "0")]);
    dir.start_hub();
    let mut ann = dir.peer("ann");
    let mut near = dir.raw();
    register(&mut near, "near", json!({"remote": true})).expect("registered");
    let mut far = Raw::remote(&dir);
    register(&mut far, "far", json!({"remote": false, "host": "x".repeat(5000)})).expect_err("too long");
    register(&mut far, "far", json!({"remote": false})).expect("registered");
    far.hang_up();
    near.hang_up();
    until("only far to be left", || {
        let peers = ann.call(json!({"type": "peers"})).expect("peers");
        let names = peers["peers"].as_array().expect("peers").iter();
        names.map(|p| p["name"].as_str().expect("a name")).eq(["far"]).then_some(())
    });
}

/// The same path on another machine or in a container is another directory: it gives no right.
#[test]
fn a_directory_elsewhere_is_not_the_same_repository() {
    let dir = DataDir::new();
    dir.start_hub();
    let (mut ben, mut near, mut far) = (dir.raw(), dir.raw(), Raw::remote(&dir));
    let session = json!({"kind": "session", "repo": "/r", "forms": true, "consent": "repo"});
    register(&mut ben, "ben", session).expect("registered");
    register(&mut near, "near", json!({"kind": "session", "repo": "/r"})).expect("registered");
    register(&mut far, "far", json!({"kind": "session", "repo": "/r", "host": "box"})).expect("registered");
    let asked = far.call(Raw::ask_as("ask_00000001", "ben", "from afar?")).expect("asked");
    assert_eq!(asked["state"], "queued", "ben's user is to consent first");
    let id = near.begin(Raw::ask_as("ask_00000002", "ben", "from nearby?"));
    assert_eq!(ben.take_push()["text"], "from nearby?");
    near.end(id).expect("asked");
    let all = json!({"type": "broadcast", "broadcast_id": "bc_00000001", "text": "all?", "scope": "repo", "timeout_ms": 60_000});
    assert_eq!(far.call(all).expect("asked nobody")["asks"], json!([]));
}
