//! A real session whose hub runs elsewhere: it has a data directory of its own, as in a container, and reaches the hub by
//! `peers.sock`. The namespaces of a container are in `containers.rs`.

mod support;

use serde_json::json;
use support::client::{self, BEFORE_MESSAGING, NEWEST};
use support::stage::{Stage, peer_line, wait_until};

#[test]
fn a_session_with_the_socket_of_a_hub_elsewhere_is_asked_and_asks() {
    for version in [NEWEST, BEFORE_MESSAGING] {
        let Some(claude) = client::claude(version) else { continue };
        let stage = Stage::new(&claude);
        let mut alice = stage.piped("alice");
        let socket = stage.home.plugin_data().join("peers/peers.sock");
        wait_until("the socket", || socket.exists());
        let inner = stage.home.path().join("inner");
        let launch = stage.launch("bob").env("RELAY_SOCKET", &socket).env("RELAY_DATA_DIR", &inner);
        let mut bob = stage.act(launch.piped(), "bob");
        let watch = stage.watch();
        stage.answers("alice", "it is 42");
        stage.answers("bob", "it is 4711");

        alice.meet("bob");
        // 2.1.197 starts no waiter before its first turn.
        alice.settle();
        bob.settle();
        for (asker, to, answer) in [(&mut alice, "bob", "4711"), (&mut bob, "alice", "42")] {
            let question = format!("{to}'s port?");
            let ask_id = asker.ask(to, &question);
            stage.wait_for_ask(to, &question);
            let from = if to == "bob" { "alice" } else { "bob" };
            stage.model.wait_for(from, "the answer", |request| request.hears(answer));
            asker.settle();
            // The receipts are those of hooks, which found the hub in the same way.
            let is_seen =
                || watch.course("reply", &ask_id).last().is_some_and(|step| step.starts_with("seen"));
            wait_until("the receipt", is_seen);
        }
        assert_eq!(peer_line(&alice.peers(), "bob")["kind"], json!("session"));
        assert!(!inner.join("hub.lock").exists() && inner.join("sessions").exists(), "no hub was started");
        drop(watch);
        alice.end();
        bob.end();
        stage.finish();
    }
}
