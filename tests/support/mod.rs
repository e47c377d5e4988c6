//! Real Claude Code clients against a scripted model, offline, each test in a home of its own.
//!
//! A test has a [`home::Home`] (a fresh `$HOME`), a [`model::Model`] (the scripted model server), and launches sessions
//! ([`launch::Launch`]) that are pipes ([`session::Session`]) or terminals ([`terminal::Terminal`]). No test sleeps or
//! measures time: a test waits for what it wants to see, and fails after [`journal::deadline`] with all that it saw.
//!
//! ```ignore
//! mod support;
//! use std::path::Path;
//! use serde_json::json;
//! use support::{client, home::Home, launch::Launch, leftovers, model::{Model, Step}};
//!
//! #[test]
//! fn alice_gets_bobs_answer() {
//!     let Some(claude) = client::claude(client::NEWEST) else { return }; // says SKIPPED
//!     let home = Home::new();
//!     home.install_plugin(&claude, Path::new(env!("CARGO_MANIFEST_DIR")));
//!     let model = Model::start();
//!     model.script("alice", |turn| match turn.number {
//!         0 => Step::tool("mcp__plugin_relay_relay__relay_ask", json!({"to": "bob", "question": "which port?"})),
//!         _ => Step::say("noted"),
//!     });
//!     model.script("bob", |turn| match ask_id_in(&turn.fresh_text()) {
//!         Some(ask_id) => Step::tool("mcp__plugin_relay_relay__relay_reply", json!({"ask_id": ask_id, "answer": "4711"})),
//!         None => Step::say("done"),
//!     });
//!     let launch = |name| Launch::new(&claude, &home, &model, name).env("RELAY_BIN", relay_path());
//!     let (mut alice, mut bob) = (launch("alice").piped(), launch("bob").piped());
//!     alice.wait_for_server("plugin:relay:relay");
//!     bob.wait_for_server("plugin:relay:relay");
//!
//!     alice.prompt("ask bob for the port");
//!     model.wait_for("alice", "bob's answer", |request| request.hears("4711"));
//!     alice.prompt("anything else?"); // one more turn: whatever came twice is in it
//!     let after = model.wait_for("alice", "the last prompt", |request| request.hears("anything else?"));
//!     assert_eq!(after.received("4711").matches, 1);
//!
//!     alice.end();
//!     bob.end();
//!     leftovers::wait_until_none_of(home.marker(), "channels", |process| process.is("relay", "channel"));
//! }
//! ```
#![allow(dead_code)] // Every test file is a crate of its own, and none uses all of this.

pub mod actor;
#[allow(clippy::duplicate_mod, reason = "shell_e2e.rs includes it through two modules")]
#[path = "../binary/mod.rs"]
mod binary;
pub mod client;
pub mod home;
pub mod journal;
pub mod launch;
pub mod leftovers;
pub mod model;
pub mod receipts;
pub mod session;
pub mod stage;
pub mod terminal;
pub mod watch;

pub use binary::relay_path;
