use super::*;
use crate::wire::{AskRequest, BroadcastRequest, Scope, ToHub, Who};

const LATER: Duration = Duration::from_secs(61);

/// A journal of its own, which is removed at the end.
struct Place(PathBuf);

impl Place {
    fn new(test: &str) -> Self {
        Place(crate::repository::tests::dir(&format!("journal-{test}")).join("hub.journal"))
    }

    /// A hub's start, with the journal of the hub before.
    fn start(&self, epoch: &str) -> Start {
        let mut last = 0;
        let ids = move || {
            last += 1;
            format!("push_{last:024x}")
        };
        let (limits, info) = (Limits::default(), Info::default());
        let (journal, router) =
            Journal::start(self.0.clone(), true, limits, info, epoch.to_owned(), Box::new(ids));
        Start { journal, router }
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.0).expect("a journal")
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes()).expect("text")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0.parent().expect("a directory"));
    }
}

/// A hub's state and its journal.
struct Start {
    journal: Journal,
    router: Router,
}

impl Start {
    fn say(&mut self, conn: u64, message: ToHub) -> Step {
        let now = self.router.now + 1;
        let step = super::step(&mut self.router, now, Input::Said(conn, message), &mut self.journal.batch);
        self.journal.append();
        step
    }

    /// Two peers on the connections 1 and 2.
    fn with_peers(mut self) -> Start {
        for (conn, name) in [(1, "ann"), (2, "ben")] {
            step(&mut self.router, 0, Input::Opened(conn), &mut self.journal.batch);
            self.say(conn, ToHub::Register { id: 0, who: who(name), lost: Vec::new() });
        }
        self
    }

    fn ask(&mut self, ask_id: &str, text: &str) -> Step {
        let (ask_id, text, to) = (ask_id.to_owned(), text.to_owned(), "ben".to_owned());
        self.say(
            1,
            ToHub::Ask(AskRequest {
                id: 1,
                ask_id,
                to,
                text,
                timeout_ms: 60_000,
                thread: None,
                person: false,
            }),
        )
    }

    fn snapshot(&self) -> String {
        serde_json::to_string(&self.router).expect("JSON")
    }
}

fn who(name: &str) -> Box<Who> {
    Box::new(Who {
        peer: format!("p{name}"),
        secret: format!("secret{name}"),
        paths: vec![crate::wire::Path::Channel],
        ..Who::sample(name)
    })
}

/// The identifier of the push in a step's outputs.
fn push_in(step: &Step) -> String {
    let found = step.outputs.iter().find_map(|output| match output {
        super::super::router::Output::Send(_, crate::wire::ToClient::Push(parcel)) => {
            Some(parcel.push.clone())
        }
        _ => None,
    });
    found.expect("a push")
}

#[test]
fn journal_is_replayed_to_the_same_state() {
    let place = Place::new("replay");
    let mut first = place.start("epoch").with_peers();
    first.ask("ask_00000001", "one?");
    first.ask("ask_00000002", "two?");
    let before = first.snapshot();
    assert!(place.text().lines().count() > 3, "records, not a snapshot");
    let (header, router, _) = restore(&place.0).expect("a journal");
    assert_eq!(header.epoch, "epoch");
    assert_eq!(serde_json::to_string(&router).expect("JSON"), before);
    let second = place.start("another");
    assert_eq!(second.router.info.epoch, "epoch", "the state lives on");
    assert_eq!(place.text().lines().count(), 1, "a new hub begins with a snapshot");
}

/// Neither in records nor in the snapshot of the next hub, and the redacted journal still replays.
#[test]
fn redacted_journal_has_no_words_of_peers() {
    let place = Place::new("redact");
    let mut hub = place.start("epoch").with_peers();
    let step = hub.ask("ask_00000001", "hush, which port?");
    let push = push_in(&step);
    hub.say(2, ToHub::Pushed { push, error: None });
    let (claude, ask_id) = ("claude".to_owned(), Some("ask_00000001".to_owned()));
    let reason = Some("hush is no user intent".to_owned());
    let event = crate::wire::HookEvent::Denied;
    let (turn, age_ms, receipts) = Default::default();
    let hook = crate::wire::HookReport { id: 1, claude, event, turn, ask_id, reason, age_ms, receipts };
    super::step(&mut hub.router, 9, Input::Opened(3), &mut hub.journal.batch);
    hub.say(3, ToHub::Hook(hook));
    for form in ["records", "snapshot"] {
        assert!(place.text().contains("hush"), "{form}");
        let mut redacted = Vec::new();
        super::super::redact(&place.0, &mut redacted).expect("a journal");
        let text = String::from_utf8(redacted).expect("text");
        assert!(text.contains("ask_00000001") && !text.contains("hush"), "{form}: {text}");
        let other = Place::new("redacted");
        fs::write(&other.0, text).expect("written");
        let router = restore(&other.0).expect("a journal").1;
        assert_eq!(router.status().open_asks, 1, "{form}");
        place.start("another"); // leaves a snapshot
    }
}

#[test]
fn torn_last_line_is_cut_off_at_every_byte() {
    let place = Place::new("torn");
    let mut hub = place.start("epoch").with_peers();
    let before = (place.bytes(), hub.snapshot());
    hub.ask("ask_00000001", "törn?");
    let after = (place.bytes(), hub.snapshot());
    for end in before.0.len()..=after.0.len() {
        fs::write(&place.0, &after.0[..end]).expect("written");
        let router = restore(&place.0).expect("a journal").1;
        let expected = if end == after.0.len() { &after.1 } else { &before.1 };
        assert_eq!(serde_json::to_string(&router).expect("JSON"), *expected, "cut at byte {end}");
        super::super::redact(&place.0, &mut Vec::new()).unwrap_or_else(|e| panic!("cut at byte {end}: {e}"));
    }
}

#[test]
fn journal_that_cannot_be_read_begins_a_new_epoch() {
    let place = Place::new("unreadable");
    let mut hub = place.start("epoch").with_peers();
    hub.ask("ask_00000001", "kept?");
    let good = place.text();
    let record = good.lines().nth(1).expect("a record");
    let broken_record = good.replacen(record, &record[..record.len() / 2], 1);
    let newer = good.replacen("\"format\":2", "\"format\":3", 1);
    let huge = u64::MAX.to_string();
    let late_record = format!("{good}{{\"at\":{huge},\"ids\":[],\"input\":\"tick\"}}\n");
    let last_conn = format!("{good}{{\"at\":0,\"ids\":[],\"input\":{{\"opened\":{huge}}}}}\n");
    let edited = good.replacen("\"snapshot\":{", "\"snapshot\":{\"edited\":true,", 1);
    let numbers = [&late_record, &last_conn, &edited].map(String::as_str);
    let broken = ["", "\n", "{", "garbage\n", "{\"format\":2}\n", "[]\n", &newer, &broken_record, &good[1..]];
    for bad in broken.into_iter().chain(numbers) {
        fs::write(&place.0, bad).expect("written");
        let start = place.start("another");
        let shown = &bad[..bad.len().min(40)];
        assert_eq!(start.router.info.epoch, "another", "{shown}");
        assert!(!start.snapshot().contains("ann"), "{shown}");
        assert_eq!(place.text().lines().count(), 1, "{shown}: it is written anew");
    }
}

#[test]
fn directory_in_place_of_the_journal_turns_it_off() {
    let place = Place::new("directory");
    fs::create_dir(&place.0).expect("a directory");
    fs::write(place.0.join("file"), "").expect("a file");
    let mut hub = place.start("epoch").with_peers();
    let off = hub.journal.status.off.clone().expect("it is off");
    assert!(off.contains("hub.journal"), "{off}");
    hub.ask("ask_00000001", "?");
    assert_eq!(hub.router.status().open_asks, 1);
    fs::remove_dir_all(&place.0).expect("removed");
    hub.journal.maintain(&hub.router, Instant::now());
    assert!(hub.journal.status.off.is_some(), "it is not tried all the time");
    hub.journal.maintain(&hub.router, Instant::now() + LATER);
    assert_eq!(hub.journal.status.off, None);
    hub.ask("ask_00000002", "?");
    assert_eq!(place.start("another").router.status().open_asks, 2);
}

#[test]
fn text_leaves_the_journal_when_nobody_needs_it() {
    let place = Place::new("text");
    let mut hub = place.start("epoch").with_peers();
    let asked = hub.ask("ask_00000001", "xyzzy-delivered");
    hub.ask("ask_00000002", "xyzzy-waiting");
    assert!(place.text().contains("xyzzy-delivered"), "it is needed");
    // A session without hooks sends no receipts: handed over is as far as anyone can know.
    hub.say(2, ToHub::Pushed { push: push_in(&asked), error: None });
    let due = hub.journal.renew_at.expect("there are records");
    hub.journal.maintain(&hub.router, due - Duration::from_millis(1));
    assert!(place.text().lines().count() > 1);
    hub.journal.maintain(&hub.router, due);
    let text = place.text();
    assert!(text.lines().count() == 1 && text.contains("xyzzy-waiting"), "{text}");
    assert_eq!(text.matches("xyzzy-delivered").count(), 1, "the beginning of an open question: {text}");
    hub.say(1, ToHub::Withdraw { id: 9, ask_id: "ask_00000001".to_owned() });
    hub.say(1, ToHub::Withdraw { id: 9, ask_id: "ask_00000002".to_owned() });
    hub.journal.maintain(&hub.router, Instant::now() + COMPACTION);
    assert!(!place.text().contains("xyzzy"), "{}", place.text());
}

#[test]
fn text_of_a_request_that_is_refused_leaves_the_journal() {
    let place = Place::new("refused");
    let mut hub = place.start("epoch").with_peers();
    let ask_id = "ask_00000001".to_owned();
    hub.say(1, ToHub::Reply { id: 1, ask_id: ask_id.clone(), text: "xyzzy-unknown".to_owned() });
    let (to, thread) = ("nobody".to_owned(), None);
    hub.say(
        1,
        ToHub::Ask(AskRequest {
            id: 2,
            ask_id,
            to,
            text: "xyzzy-nobody".to_owned(),
            timeout_ms: 1000,
            thread,
            person: false,
        }),
    );
    let (broadcast_id, text, scope) = ("bc_00000001".to_owned(), "xyzzy-repo".to_owned(), Scope::Repo);
    let (include_self, collect_ms, timeout_ms) = (false, None, 1000);
    hub.say(
        1,
        ToHub::Broadcast(BroadcastRequest {
            id: 3,
            broadcast_id,
            text,
            scope,
            include_self,
            collect_ms,
            timeout_ms,
        }),
    );
    hub.journal.maintain(&hub.router, Instant::now() + COMPACTION);
    assert!(!place.text().contains("xyzzy"), "{}", place.text());
}

#[test]
fn large_journal_is_compacted() {
    let place = Place::new("large");
    let mut hub = place.start("epoch").with_peers();
    let name = "n".repeat(4000);
    for n in 0..300 {
        hub.say(1, ToHub::Rename { id: n, name: format!("{n} {name}"), exact: false });
    }
    assert!(hub.journal.status.bytes > SMALL, "{}", hub.journal.status.bytes);
    hub.journal.maintain(&hub.router, Instant::now());
    assert_eq!(place.text().lines().count(), 1);
    assert_eq!(hub.journal.status.bytes, fs::metadata(&place.0).expect("a journal").len());
}

#[test]
fn clean_stop_leaves_a_snapshot() {
    let place = Place::new("close");
    let mut hub = place.start("epoch").with_peers();
    hub.ask("ask_00000001", "?");
    let before = hub.snapshot();
    hub.journal.close(&hub.router);
    assert_eq!(place.text().lines().count(), 1);
    let router = restore(&place.0).expect("a journal").1;
    assert_eq!(serde_json::to_string(&router).expect("JSON"), before);
}

/// A client may choose any number; the snapshot holds it until the request is answered.
#[test]
fn request_with_the_largest_id_does_not_make_the_journal_unusable() {
    let place = Place::new("large-id");
    let mut hub = place.start("epoch").with_peers();
    let (id, ask_id, to) = (u64::MAX, "ask_00000001".to_owned(), "ben".to_owned());
    let (text, timeout_ms, thread, person) = ("?".to_owned(), 60_000, None, false);
    hub.say(1, ToHub::Ask(AskRequest { id, ask_id, to, text, timeout_ms, thread, person }));
    hub.journal.close(&hub.router);
    assert!(place.text().contains(&u64::MAX.to_string()), "the request is not answered yet");
    let next = place.start("another");
    assert_eq!(next.router.info.epoch, "epoch");
    assert!(next.snapshot().contains("ask_00000001"));
}

#[test]
fn journal_that_is_not_wanted_is_removed() {
    let place = Place::new("unwanted");
    place.start("epoch").with_peers().ask("ask_00000001", "?");
    let (limits, info) = (Limits::default(), Info::default());
    let (journal, router) =
        Journal::start(place.0.clone(), false, limits, info, "another".to_owned(), Box::new(String::new));
    assert_eq!(router.info.epoch, "another");
    assert!(!place.0.exists());
    assert_eq!(journal.status.off.as_deref(), Some("RELAY_JOURNAL=off"));
}
