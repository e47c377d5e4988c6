//! What the plugin's hooks run. A hook tells the hub what the session is doing and which pushes it has met, in the prompt
//! or in the transcript. It stores nothing and never holds the user up; all that it ever prints is the reminder of an
//! unanswered ask at the end of a turn. Started with `--wait` it is the [`waiter`]: the push path that reaches a session
//! which has no other.

mod transcript;
mod waiter;

use std::io::{self, Read, Write};
use std::os::unix::process::parent_id;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;

use crate::datadir::{DataDir, is_absent};
use crate::fence::label;
use crate::link::Link;
use crate::session;
use crate::wire::{Answer, DebtLine, HookEvent, Receipts, ToClient, ToHub};
use transcript::Transcript;
pub use transcript::pushes_in;

/// The most that is read of the hook's input, in bytes. A longer one is not looked at.
const MAX_INPUT: u64 = 32 << 20;
/// The most that is read of a transcript's end, in bytes.
const MAX_TRANSCRIPT: u64 = 16 << 20;
/// The same where the user waits. A message of 512 KiB stands in it four times: when it is accepted, twice when the
/// conversation has it, and in the request.
const MAX_PROMPT: u64 = 8 << 20;
/// How long the hub may take while the user waits.
const PROMPT: Duration = Duration::from_millis(40);
/// How long it may take where nobody does.
const QUIET: Duration = Duration::from_millis(1000);
/// How long a hook pauses before it looks for a hub again.
const RETRY: Duration = Duration::from_millis(5);
/// How many asks a reminder names.
const MAX_REMINDED: usize = 5;

/// The input of a hook, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
struct Input {
    hook_event_name: String,
    transcript_path: Option<String>,
    /// Why a session starts or ends.
    source: Option<String>,
    reason: Option<String>,
    /// Why a turn failed.
    error: Option<String>,
    /// Identifies the turn.
    prompt_id: Option<String>,
    #[serde(default)]
    stop_hook_active: bool,
    tool_name: Option<String>,
    tool_input: Option<ToolInput>,
}

/// The arguments of a tool call, as far as they matter here.
#[derive(Debug, Default, Deserialize)]
struct ToolInput {
    ask_id: Option<String>,
}

impl Input {
    fn read() -> Option<(Input, Vec<u8>)> {
        let mut text = Vec::new();
        io::stdin().take(MAX_INPUT).read_to_end(&mut text).ok()?;
        Some((serde_json::from_slice(&text).ok()?, text))
    }

    /// What the hub needs to know about it, if anything.
    fn event(&self) -> Option<HookEvent> {
        Some(match self.hook_event_name.as_str() {
            // A compaction happens in the middle of a turn.
            "SessionStart" if self.source.as_deref() == Some("compact") => HookEvent::Tool,
            "SessionStart" => HookEvent::Start,
            "UserPromptSubmit" => HookEvent::Prompt,
            "PostToolUse" | "PostToolUseFailure" => HookEvent::Tool,
            "PermissionRequest" => HookEvent::Permission,
            "PermissionDenied" => HookEvent::Denied,
            "Stop" if self.stop_hook_active => HookEvent::StopAgain,
            "Stop" => HookEvent::Stop,
            "StopFailure" => HookEvent::Failed,
            // After these the same process goes on with another conversation.
            "SessionEnd" if matches!(self.reason.as_deref(), Some("clear" | "resume")) => return None,
            "SessionEnd" => HookEvent::End,
            _ => return None,
        })
    }

    /// The ask that a call of `relay_reply` is about.
    fn answered_ask(&mut self) -> Option<String> {
        let is_reply = self.tool_name.as_ref().is_some_and(|name| name.ends_with("__relay_reply"));
        self.tool_input.take().filter(|_| is_reply)?.ask_id
    }
}

/// `relay hook`, and with `waits` `relay hook --wait`.
pub fn run(dir: &DataDir, waits: bool) -> ExitCode {
    let Some((mut input, text)) = Input::read() else { return ExitCode::SUCCESS };
    if waits {
        drop(text);
        return waiter::wait(
            dir,
            &input.hook_event_name,
            input.transcript_path.as_deref().unwrap_or_default(),
        );
    }
    let Some(event) = input.event() else { return ExitCode::SUCCESS };
    let claude = session::key(parent_id());
    let prompted = if event == HookEvent::Prompt { pushes_in(&text) } else { Vec::new() };
    let receipts = Receipts { claude: Some(claude.clone()), prompted, ..Receipts::default() };
    let (ask_id, turn) = (input.answered_ask(), input.prompt_id.take());
    let reason = input.reason.take().or(input.error.take()).filter(|_| event != HookEvent::End);
    let hook = ToHub::Hook { id: 1, claude, event, turn, ask_id, reason, age_ms: session::own_age() };
    let remind = report(dir, &receipts, &hook, event, input.transcript_path.as_deref());
    if !remind.is_empty() {
        let output =
            json!({"hookSpecificOutput": {"hookEventName": "Stop", "additionalContext": reminder(&remind)}});
        let _ = writeln!(io::stdout(), "{output}"); // a client that does not read it only misses the reminder
    }
    ExitCode::SUCCESS
}

/// The person sees it too, so it is short.
fn reminder(asks: &[DebtLine]) -> String {
    let named =
        asks.iter().take(MAX_REMINDED).map(|ask| format!("{} from \"{}\"", ask.ask_id, label(&ask.from)));
    format!(
        "Claude Relay: still unanswered: {}. Answer with relay_reply, even if only to say why you can't.",
        named.collect::<Vec<_>>().join(", ")
    )
}

/// Tells the hub, if there is one, and does what it asks for; returns what to remind the model of. A hub that is away may
/// be back in 10 ms: the hook tries again within its patience.
fn report(
    dir: &DataDir,
    receipts: &Receipts,
    hook: &ToHub,
    event: HookEvent,
    transcript: Option<&str>,
) -> Vec<DebtLine> {
    let (patience, most) = match event {
        HookEvent::Prompt => (PROMPT, MAX_PROMPT),
        _ => (QUIET, MAX_TRANSCRIPT),
    };
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Vec::new();
        }
        match dir.connect(left).and_then(Link::over) {
            Ok(mut link) => {
                if let Some((unconfirmed, remind)) = report_on(&mut link, until, receipts, hook) {
                    if let Some(path) = transcript.filter(|_| unconfirmed > 0) {
                        Transcript::end(path, most).report(&link.sender);
                    }
                    return remind;
                }
            }
            Err(e) if is_absent(&e) => {}
            Err(_) => return Vec::new(),
        }
        thread::sleep(RETRY.min(left));
    }
}

/// The hub's answer on one connection; `None` if the hub is lost before.
fn report_on(
    link: &mut Link,
    until: Instant,
    receipts: &Receipts,
    hook: &ToHub,
) -> Option<(usize, Vec<DebtLine>)> {
    let (hello, seen) = (Link::hello(), ToHub::Seen(receipts.clone()));
    // All is sent before the hub has said a word, so that a receipt arrives even if the time runs out.
    let sent = match receipts.is_empty() {
        true => link.sender.send_all([&hello, hook]),
        false => link.sender.send_all([&hello, &seen, hook]),
    };
    sent.ok()?;
    loop {
        match link.try_receive(until) {
            Ok(Some(ToClient::Ok { answer: Answer::Hooked { unconfirmed, remind }, .. })) => {
                return Some((unconfirmed, remind));
            }
            Ok(Some(ToClient::Error { .. }) | None) => return Some((0, Vec::new())),
            Ok(Some(_)) => {}
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_derived_from_the_hooks_input() {
        let of = |text: &str| serde_json::from_str::<Input>(text).expect("an input").event();
        assert_eq!(of(r#"{"hook_event_name":"SessionStart","source":"startup"}"#), Some(HookEvent::Start));
        assert_eq!(of(r#"{"hook_event_name":"SessionStart","source":"compact"}"#), Some(HookEvent::Tool));
        assert_eq!(of(r#"{"hook_event_name":"SessionEnd","reason":"clear"}"#), None);
        assert_eq!(of(r#"{"hook_event_name":"SessionEnd","reason":"other"}"#), Some(HookEvent::End));
        assert_eq!(of(r#"{"hook_event_name":"Stop","stop_hook_active":true}"#), Some(HookEvent::StopAgain));
        assert_eq!(of(r#"{"hook_event_name":"Notification"}"#), None);
    }

    #[test]
    fn only_a_call_of_relay_reply_names_an_ask() {
        let of = |tool: &str| {
            let input = json!({"hook_event_name": "PermissionDenied", "tool_name": tool, "tool_input": {"ask_id": "ask_1"}});
            serde_json::from_value::<Input>(input).expect("an input").answered_ask()
        };
        assert_eq!(of("mcp__plugin_relay_relay__relay_reply").as_deref(), Some("ask_1"));
        assert_eq!(of("mcp__plugin_relay_relay__relay_ask"), None);
    }

    #[test]
    fn a_reminder_names_the_asks_and_quotes_no_markup() {
        let ask = |n: usize| DebtLine { ask_id: format!("ask_{n}"), from: "<b>\"x".to_owned(), age_s: 1 };
        let text = reminder(&(0..9).map(ask).collect::<Vec<_>>());
        assert!(
            text.contains("ask_0 from \"_b__x\", ask_1") && text.contains("ask_4") && !text.contains("ask_5"),
            "{text}"
        );
    }
}
