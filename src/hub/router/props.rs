//! What holds for the router after any inputs: its limits, and that its journal restores it.

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Info, Input, Limits, Output, Router};
use crate::hub::journal;
use crate::wire::{
    Answer, AskRequest, BroadcastRequest, FormEnd, HookEvent, HookReport, Parcel, Path, Proof, Scope,
    ToClient, ToHub, Who,
};

const CONNS: u64 = 6;

/// A connection, another one, what to say, and how much later.
type Act = (u64, u64, u8, u64);

fn acts(most: usize) -> impl Strategy<Value = Vec<Act>> {
    vec((0..CONNS, 0..CONNS, 0..12_u8, 0..40_u64), 1..most)
}

fn router() -> Router {
    let limits = Limits { peers: 4, open_asks: 3, undelivered: 5, asks_per_minute: 4, ..Limits::default() };
    let mut made = 0;
    let ids = move || {
        made += 1;
        format!("push_{made:024x}")
    };
    let mut router = Router::new(limits, Info::default(), Box::new(ids));
    for conn in 0..CONNS {
        router.step(0, Input::Opened(conn));
    }
    router
}

fn who(conn: u64) -> Box<Who> {
    Box::new(Who {
        exact: true,
        peer: format!("p{conn}"),
        secret: "s".into(),
        claude: Some(format!("claude{conn}")),
        paths: if conn.is_multiple_of(2) { vec![Path::Channel] } else { Vec::new() },
        ..Who::sample(&format!("peer{conn}"))
    })
}

/// What a connection says; `told` has the pushes so far.
fn message(id: u64, (conn, to, act, _): Act, told: &[Parcel]) -> ToHub {
    let last = told.last();
    let claude = format!("claude{conn}");
    match (act, last) {
        (0 | 1, _) => ToHub::Register { id, who: who(conn), lost: Vec::new() },
        (2, _) => {
            let (text, scope) = ("x".into(), Scope::Machine);
            ToHub::Broadcast(BroadcastRequest {
                id,
                broadcast_id: format!("all_{id:08}"),
                text,
                scope,
                include_self: false,
                collect_ms: None,
                timeout_ms: 5000,
            })
        }
        (3, Some(parcel)) => ToHub::Pushed { push: parcel.push.clone(), error: None },
        (4, Some(parcel)) => ToHub::Seen { receipts: vec![(parcel.push.clone(), Proof::Seen)] },
        (5, Some(Parcel { push, ask_id, path: Path::Form, .. })) => {
            let ends = [FormEnd::PutOff, FormEnd::Answered { text: "y".into() }, FormEnd::Declined];
            let end = ends[id as usize % 3].clone();
            ToHub::FormClosed { id, push: push.clone(), ask_id: ask_id.clone(), end }
        }
        (5, Some(parcel)) => ToHub::Reply { id, ask_id: parcel.ask_id.clone(), text: "y".into() },
        (6, _) => {
            let (turn, ask_id, reason, age_ms, receipts) = Default::default();
            let event = HookEvent::Stop;
            ToHub::Hook(HookReport { id, claude, event, turn, ask_id, reason, age_ms, receipts })
        }
        (7, _) => ToHub::Wait { id, claude, process: conn.to_string() },
        (8, _) => ToHub::Peers { id },
        _ => ToHub::Ask(AskRequest {
            id,
            ask_id: format!("ask_{id:08}"),
            to: format!("peer{to}"),
            text: "x".into(),
            timeout_ms: 5000,
            thread: None,
            person: id.is_multiple_of(2),
        }),
    }
}

fn is_request(message: &ToHub) -> bool {
    !matches!(message, ToHub::Pushed { .. } | ToHub::Seen { .. })
}

fn snapshot(router: &Router) -> String {
    serde_json::to_string(router).expect("a router can be written")
}

fn restored(journal: &[u8]) -> Router {
    let (_, mut router, records) = journal::read(journal).expect("a journal");
    journal::replay(&mut router, records).expect("records");
    router
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn limits_hold_and_every_request_is_answered_once(acts in acts(300)) {
        let (mut router, mut told) = (router(), Vec::new());
        let (mut asked, mut answers, mut now) = (0, 0, 0);
        for (n, act) in acts.into_iter().enumerate() {
            now += act.3;
            let message = message(n as u64 + 1, act, &told);
            asked += u64::from(is_request(&message));
            for output in router.step(now, Input::Said(act.0, message)).outputs {
                match output {
                    Output::Send(_, ToClient::Ok { .. } | ToClient::Error { id: Some(_), .. }) => answers += 1,
                    Output::Send(_, ToClient::Push(parcel)) => told.push(parcel),
                    _ => {}
                }
            }
            for output in router.step(now, Input::Said(act.0, ToHub::Status { id: 0 })).outputs {
                if let Output::Send(_, ToClient::Ok { answer: Answer::Status(status), .. }) = output {
                    prop_assert!(status.peers <= 4);
                    // 4 askers with 3 asks or broadcasts to 3 others each; their failures come to them.
                    prop_assert!(status.open_asks <= 4 * 3 * 3, "{} asks", status.open_asks);
                    prop_assert!(status.undelivered <= 4 * (5 + 3 * 3), "{} texts", status.undelivered);
                }
            }
        }
        for output in router.step(now + 1000, Input::Tick).outputs {
            if let Output::Send(_, ToClient::Ok { .. } | ToClient::Error { id: Some(_), .. }) = output {
                answers += 1;
            }
        }
        prop_assert_eq!(answers, asked);
    }

}

proptest! {
    // Every byte of a line is a replay.
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 16, ..ProptestConfig::default() })]

    /// Wherever the last line of a journal is torn, the state before that line is restored, and the whole line restores the
    /// state after it. What was restored is written as it was read.
    #[test]
    fn a_torn_journal_restores_the_state_before_its_last_line(acts in acts(40)) {
        let (mut router, mut told, mut now) = (router(), Vec::new(), 0);
        let mut journal = Vec::new();
        journal::write_header(&mut journal, &router).expect("a header");
        let (mut before, mut start) = (snapshot(&router), journal.len());
        for (n, act) in acts.into_iter().enumerate() {
            now += act.3;
            let (was, length) = (snapshot(&router), journal.len());
            let input = Input::Said(act.0, message(n as u64 + 1, act, &told));
            let step = journal::step(&mut router, now, input, &mut journal);
            if journal.len() > length {
                (before, start) = (was, length);
            }
            let pushes = step.outputs.into_iter().filter_map(|output| match output {
                Output::Send(_, ToClient::Push(parcel)) => Some(parcel),
                _ => None,
            });
            told.extend(pushes);
        }
        let mut dead: Router = serde_json::from_str(&before).expect("our own snapshot");
        prop_assert_eq!(snapshot(&dead), before);
        for cut in start..journal.len() {
            let torn = restored(&journal[..cut]);
            (dead.now, dead.last_conn) = (torn.now, torn.last_conn); // not all inputs are recorded
            prop_assert_eq!(snapshot(&torn), snapshot(&dead), "cut at {}", cut);
        }
        let mut whole = restored(&journal);
        (whole.now, whole.last_conn) = (router.now, router.last_conn);
        prop_assert_eq!(snapshot(&whole), snapshot(&router));
    }
}
