//! Sessions that have a question and do not answer it, at the router's level.

use crate::hub::router::{Info, Input, Limits, Ms, Output, Router};
use crate::wire::HookEvent::{self, Prompt, Start, Stop, StopAgain};
use crate::wire::{
    Activity, Answer, AskRequest, Changes, HookReport, Kind, Note, Parcel, Path, PeerKind, Proof, State,
    ToClient, ToHub, Who,
};

const ASKER: u64 = 1;
const SESSION: u64 = 2;
const WAITER: u64 = 3;
const HOOK: u64 = 4;
const CLAUDE: &str = "claude";

/// A person asks a session that has an inbox and a waiter.
struct Case {
    router: Router,
    now: Ms,
    push: String,
}

fn who(name: &str, kind: PeerKind, claude: Option<String>, paths: Vec<Path>) -> Box<Who> {
    Box::new(Who { kind, claude, paths, ..Who::sample(name) })
}

impl Case {
    /// The session is idle, and has been asked by its inbox.
    fn new(paths: Vec<Path>) -> Case {
        let mut last = 0;
        let ids = move || {
            last += 1;
            format!("push_{last:024x}")
        };
        let router = Router::new(Limits::default(), Info::default(), Box::new(ids));
        let mut case = Case { router, now: 0, push: String::new() };
        for conn in [ASKER, SESSION, WAITER, HOOK] {
            case.step(Input::Opened(conn));
        }
        let claude = Some(CLAUDE.to_owned());
        let mut asker = who("asker", PeerKind::Person, None, vec![Path::Socket]);
        asker.listens = false; // `relay ask`
        case.say(ASKER, ToHub::Register { id: 1, who: asker, lost: Vec::new() });
        let session = who("session", PeerKind::Session, claude, paths);
        case.say(SESSION, ToHub::Register { id: 1, who: session, lost: Vec::new() });
        case.hook(Start, None);
        let (claude, process) = (CLAUDE.to_owned(), "waiter".to_owned());
        case.say(WAITER, ToHub::Wait { id: 1, claude, process });
        let (ask_id, to, text) = ("ask_0000000000000001".to_owned(), "session".to_owned(), "?".to_owned());
        let (timeout_ms, thread, person) = (600_000, None, false);
        let out =
            case.say(ASKER, ToHub::Ask(AskRequest { id: 2, ask_id, to, text, timeout_ms, thread, person }));
        case.take_push(&out);
        case
    }

    fn step(&mut self, input: Input) -> Vec<Output> {
        self.router.step(self.now, input).outputs
    }

    fn say(&mut self, conn: u64, message: ToHub) -> Vec<Output> {
        self.step(Input::Said(conn, message))
    }

    /// Notes the push to the session and confirms that it was made. Returns it and the connection that was told.
    fn take_push(&mut self, out: &[Output]) -> Option<(u64, Parcel)> {
        let (conn, parcel) = out.iter().find_map(|o| match o {
            Output::Send(conn @ (SESSION | WAITER), ToClient::Push(parcel)) => Some((*conn, parcel.clone())),
            _ => None,
        })?;
        self.push.clone_from(&parcel.push);
        self.say(conn, ToHub::Pushed { push: parcel.push.clone(), error: None });
        Some((conn, parcel))
    }

    fn hook(&mut self, event: HookEvent, turn: Option<&str>) -> (Vec<Output>, usize) {
        let (claude, turn) = (CLAUDE.to_owned(), turn.map(str::to_owned));
        let (ask_id, reason, age_ms, receipts) = Default::default();
        let hook = HookReport { id: 1, claude, event, turn, ask_id, reason, age_ms, receipts };
        let out = self.say(HOOK, ToHub::Hook(hook));
        let reminded = out.iter().map(|o| match o {
            Output::Send(HOOK, ToClient::Ok { answer: Answer::Hooked { remind, .. }, .. }) => remind.len(),
            _ => 0,
        });
        let reminded = reminded.sum();
        (out, reminded)
    }

    /// The transcript has the question.
    fn seen(&mut self) {
        self.receipt(Proof::Seen);
    }

    fn receipt(&mut self, proof: Proof) {
        let receipts = vec![(self.push.clone(), proof)];
        self.say(SESSION, ToHub::Seen { receipts });
    }

    fn pass(&mut self, time: Ms) -> Vec<Output> {
        self.now += time;
        self.step(Input::Tick)
    }

    fn note(&self) -> Option<Note> {
        self.router.ask_list().open[0].note
    }
}

#[test]
fn an_idle_session_that_has_seen_a_question_is_nudged_once_by_another_path() {
    let mut case = Case::new(vec![Path::Inbox, Path::Hook]);
    case.seen();
    assert!(case.pass(9_999).is_empty() && case.note().is_none());
    let out = case.pass(1);
    assert_eq!(case.note(), Some(Note::NoTurn));
    let (conn, nudge) = case.take_push(&out).expect("a nudge");
    assert_eq!((conn, nudge.kind, nudge.path), (WAITER, Kind::Notice, Path::Hook));
    assert!(nudge.text.contains("ask_0000000000000001") && !nudge.text.contains('?'), "{}", nudge.text);
    let later = case.pass(60_000);
    assert!(case.take_push(&later).is_none());
}

#[test]
fn a_nudge_goes_the_way_of_the_question_where_there_is_no_other() {
    let mut case = Case::new(vec![Path::Inbox]);
    case.seen();
    let out = case.pass(10_000);
    let (conn, nudge) = case.take_push(&out).expect("a nudge");
    assert_eq!((conn, nudge.kind, nudge.path), (SESSION, Kind::Notice, Path::Inbox));
}

#[test]
fn a_turn_that_begins_in_time_is_not_nudged() {
    let mut case = Case::new(vec![Path::Inbox, Path::Hook]);
    case.seen();
    case.pass(9_000);
    case.hook(Prompt, Some("turn 1"));
    let out = case.pass(9_000);
    assert!(case.take_push(&out).is_none() && case.note().is_none());
}

#[test]
fn an_ask_is_reminded_of_once_and_then_called_unanswered() {
    let mut case = Case::new(vec![Path::Inbox, Path::Hook]);
    case.hook(Prompt, Some("turn 1"));
    case.seen();
    assert_eq!(case.hook(Stop, Some("turn 1")).1, 1);
    assert_eq!(case.note(), None);
    assert_eq!(case.hook(StopAgain, Some("turn 1")).1, 0);
    assert_eq!(case.note(), Some(Note::Unanswered));
    case.hook(Prompt, Some("turn 2"));
    assert_eq!(case.hook(Stop, Some("turn 2")).1, 0);
}

/// Where a waiter mark_busy the session, its turn ends with `stop_hook_active` from the first time on.
#[test]
fn a_turn_that_the_waiter_began_is_reminded_once() {
    let mut case = Case::new(vec![Path::Hook]);
    case.hook(Prompt, Some("turn 1"));
    case.seen();
    assert_eq!(case.hook(StopAgain, Some("turn 1")).1, 1);
    assert_eq!(case.hook(StopAgain, Some("turn 1")).1, 0);
    assert_eq!(case.note(), Some(Note::Unanswered));
}

#[test]
fn where_another_hook_continues_the_turn_nothing_is_reminded_of() {
    let mut case = Case::new(vec![Path::Inbox, Path::Hook]);
    case.hook(Prompt, Some("turn 1"));
    case.seen();
    assert_eq!(case.hook(StopAgain, Some("turn 1")).1, 0);
    assert_eq!(case.note(), Some(Note::Unanswered));
}

/// A prompt in the middle of a turn has that turn's identifier: the end of the turn proves nothing of it.
#[test]
fn the_end_of_a_turn_proves_only_what_began_it() {
    for (running, proves) in [(None, true), (Some("turn 1"), false)] {
        let mut case = Case::new(vec![Path::Inbox]);
        case.hook(Start, None);
        if running.is_some() {
            case.hook(Prompt, running);
        }
        case.receipt(Proof::Prompted);
        case.hook(Prompt, Some("turn 1"));
        case.hook(Stop, Some("turn 1"));
        let state = case.router.ask_list().open[0].state;
        assert_eq!(state == crate::wire::State::Seen, proves, "{running:?}: {state:?}");
    }
}

/// A client that is stopped is silent, though nothing is lost.
#[test]
fn a_stopped_session_keeps_the_path() {
    let mut case = Case::new(vec![Path::Channel, Path::Hook]);
    let is_now = |activity| {
        ToHub::Activity(Changes { activity: Some(activity), age_ms: Some(0), ..Changes::default() })
    };
    case.say(SESSION, is_now(Activity::Stopped));
    let out = case.pass(60_000);
    assert!(case.take_push(&out).is_none());
    case.say(SESSION, is_now(Activity::Idle));
    assert!(case.pass(3_999).is_empty());
}

/// The states that the asker is told, each with its note and words.
fn told(out: &[Output]) -> Vec<(State, Option<Note>, String)> {
    let state = |o: &Output| match o {
        Output::Send(ASKER, ToClient::State { state, note, detail, .. }) => {
            Some((*state, *note, detail.clone().unwrap_or_default()))
        }
        _ => None,
    };
    out.iter().filter_map(state).collect()
}

fn denied(case: &mut Case) -> Vec<Output> {
    let (claude, ask_id) = (CLAUDE.to_owned(), Some("ask_0000000000000001".to_owned()));
    let (event, reason) = (HookEvent::Denied, Some("not by a peer".to_owned()));
    let (turn, age_ms, receipts) = Default::default();
    let denied = HookReport { id: 1, claude, event, turn, ask_id, reason, age_ms, receipts };
    case.say(HOOK, ToHub::Hook(denied))
}

#[test]
fn model_whose_answer_is_refused_has_seen_the_question() {
    let told = told(&denied(&mut Case::new(vec![Path::Inbox])));
    let states: Vec<_> = told.iter().map(|(state, note, _)| (*state, *note)).collect();
    // A model that acts is busy, has seen the question, and was refused.
    let expected = [(State::Pushed, None), (State::Seen, None), (State::Seen, Some(Note::Declined))];
    assert_eq!(states, expected, "{told:?}");
    assert!(told[2].2.contains("not by a peer"), "{told:?}");
}

#[test]
fn asker_at_a_shell_is_told_what_the_session_does() {
    let mut case = Case::new(vec![Path::Inbox]);
    let busy = told(&case.hook(Prompt, Some("turn 1")).0);
    assert_eq!(busy[0].2, "pushed by inbox, not seen yet: the session is busy");
    let waiting = told(&case.hook(HookEvent::Permission, None).0);
    assert!(waiting[0].2.ends_with("the session is waiting for its user's permission"), "{waiting:?}");
    assert!(told(&case.hook(HookEvent::Permission, None).0).is_empty(), "nothing new");
}

#[test]
fn advice_at_the_timeout_follows_from_what_is_known() {
    type Course = fn(&mut Case);
    let unanswered: Course = |case| {
        case.seen();
        case.hook(Stop, None);
        case.hook(StopAgain, None);
    };
    for (course, advice) in [
        ((|case| case.seen()) as Course, "Ask again with more time"),
        (unanswered, "More time does not help"),
        (|case| drop(denied(case)), "`relay setup --allow`"),
        (|case| drop(case.hook(HookEvent::Permission, None)), "Its user has to answer the permission dialog"),
    ] {
        let mut case = Case::new(vec![Path::Inbox]);
        course(&mut case);
        let failure = case.pass(600_000).into_iter().find_map(|o| match o {
            Output::Send(ASKER, ToClient::Push(parcel)) => Some(parcel.text),
            _ => None,
        });
        let failure = failure.expect("the end");
        assert!(failure.contains(advice), "{failure}");
        assert_eq!(failure.contains("with more time"), advice.contains("with more time"), "{failure}");
    }
}

/// The client took it at the end of a turn, between the hook and the waiter that comes with that hook.
#[test]
fn what_an_idle_session_has_swallowed_takes_the_next_path_without_another_hook() {
    let mut case = Case::new(vec![Path::Inbox, Path::Hook]);
    case.seen();
    case.step(Input::Closed(WAITER));
    case.hook(Prompt, Some("turn 1"));
    let (ask_id, to, text) = ("ask_0000000000000002".to_owned(), "session".to_owned(), "?".to_owned());
    let (timeout_ms, thread, person) = (600_000, None, false);
    let asked =
        case.say(ASKER, ToHub::Ask(AskRequest { id: 3, ask_id, to, text, timeout_ms, thread, person }));
    case.pass(100);
    case.hook(Stop, Some("turn 1"));
    case.pass(10);
    case.take_push(&asked).expect("by its inbox");
    case.pass(10);
    case.step(Input::Opened(WAITER));
    let (claude, process) = (CLAUDE.to_owned(), "another".to_owned());
    case.say(WAITER, ToHub::Wait { id: 1, claude, process });
    let mut out = case.pass(4_000);
    out.extend(case.pass(4_000));
    let (conn, again) = case.take_push(&out).expect("a push by another path");
    assert_eq!((conn, again.path, again.again), (WAITER, Path::Hook, true));
}
