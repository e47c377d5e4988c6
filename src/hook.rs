//! `relay hook`, which the plugin's hooks run. A hook reports the session's activity to the hub, and the pushes that it
//! finds in the prompt or in the transcript. It stores nothing and never delays the user noticeably; it prints only the
//! reminder of an unanswered ask at the end of a turn. Started with `--wait` it is the [`waiter`]: the push path that
//! reaches a session which has no other.

pub mod transcript;
mod waiter;

use std::io::{self, Read, Write};
use std::os::unix::process::parent_id;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::connection::Connection;
use crate::datadir::{DataDir, is_not_running};
use crate::fence::label;
use crate::process;
use crate::wire::{Answer, Code, HookEvent, HookReport, ListedAsk, MAX_LABEL, Proof, ToHub, VERSION};
use transcript::Transcript;
pub use transcript::pushes_in;

/// The limit of the hook's input, in bytes. A longer input is ignored.
const MAX_INPUT: u64 = 32 << 20;
/// The time limit while the user waits.
const PROMPT: Duration = Duration::from_millis(40);
/// The time limit otherwise.
const QUIET: Duration = Duration::from_millis(1000);
/// How long after the end of a turn the transcript may lack its text: the client writes it some 100 ms late (measured).
const LATE: Duration = Duration::from_millis(250);
/// The pause before a hook tries to reach the hub, or searches the transcript, again.
const RETRY: Duration = Duration::from_millis(5);

/// The fields of a hook's input that are used.
#[derive(Debug, Default, Deserialize)]
pub struct Input {
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
    /// Unparsed JSON: what Rust cannot represent, such as half an emoji in the input of another tool, is no error here.
    tool_input: Option<Box<RawValue>>,
}

/// The arguments of `relay_reply` that are used.
#[derive(Deserialize)]
struct ReplyArguments {
    ask_id: Option<String>,
}

impl Input {
    /// The event for the hub, if it is relevant.
    pub fn event(&self) -> Option<HookEvent> {
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
            // The same process continues with another conversation.
            "SessionEnd" if matches!(self.reason.as_deref(), Some("clear" | "resume")) => return None,
            "SessionEnd" => HookEvent::End,
            _ => return None,
        })
    }

    /// The ask that a call of `relay_reply` is about.
    pub fn answered_ask(&self) -> Option<String> {
        let is_reply = self.tool_name.as_ref().is_some_and(|name| name.ends_with("__relay_reply"));
        let arguments = self.tool_input.as_ref().filter(|_| is_reply)?;
        let ask_id = serde_json::from_str::<ReplyArguments>(arguments.get()).ok()?.ask_id;
        ask_id.filter(|id| id.len() <= MAX_LABEL) // a longer id names no ask, and the hub refuses it
    }
}

/// `relay hook`, and with `waits` `relay hook --wait`.
pub fn run(dir: &DataDir, waits: bool) -> ExitCode {
    let mut text = Vec::new();
    let _ = io::stdin().take(MAX_INPUT).read_to_end(&mut text); // what could not be read is no JSON
    let Ok(mut input) = serde_json::from_slice::<Input>(&text) else { return ExitCode::SUCCESS };
    if waits {
        drop(text);
        return waiter::wait(dir, input);
    }
    let Some(event) = input.event() else { return ExitCode::SUCCESS };
    let claude = process::key(parent_id());
    let prompted = if event == HookEvent::Prompt { pushes_in(&text) } else { Vec::new() };
    let receipts = prompted.into_iter().map(|push| (push, Proof::Prompted)).collect();
    let (ask_id, turn) = (input.answered_ask(), input.prompt_id.take());
    let reason = input.reason.take().or(input.error.take()).filter(|_| event != HookEvent::End);
    let age_ms = process::own_age();
    let mut hook = HookReport { id: 0, claude, event, turn, ask_id, reason, age_ms, receipts };
    // A large prompt may take longer to read than the limit; its receipts must still be sent.
    let until = Instant::now() + if event == HookEvent::Prompt { PROMPT } else { QUIET };
    let Some((mut hub, mut answer)) = report(dir, &hook, until) else { return ExitCode::SUCCESS };
    let mut transcript = Transcript::end(input.transcript_path.unwrap_or_default());
    let late = until.min(Instant::now() + LATE);
    let mut reminded = Vec::new();
    while let Answer::Hooked { unconfirmed, remind } = answer {
        if !remind.is_empty() {
            hook.event = HookEvent::Tool; // the reminder makes the turn go on
            reminded = remind;
        }
        if unconfirmed == 0 {
            break;
        }
        // In a short turn no other hook has found the question, and only this receipt tells the hub that the model has it.
        let is_end = matches!(hook.event, HookEvent::Stop | HookEvent::StopAgain);
        hook.receipts = transcript.search_until(if is_end { late } else { Instant::now() });
        if hook.receipts.is_empty() {
            break;
        }
        hook.age_ms = process::own_age(); // a turn may have ended since it fired
        match hub.call_until(until, |id| ToHub::Hook(HookReport { id, ..hook.clone() })) {
            Ok(next) => answer = next,
            Err(_) => break,
        }
    }
    if !reminded.is_empty() {
        let text = reminder(&reminded);
        let output = json!({"hookSpecificOutput": {"hookEventName": "Stop", "additionalContext": text}});
        let _ = writeln!(io::stdout(), "{output}"); // without a reader only the reminder is lost
    }
    ExitCode::SUCCESS
}

/// The text of a reminder; short, since the screen shows it.
fn reminder(asks: &[ListedAsk]) -> String {
    let named = asks.iter().map(|ask| format!("{} from \"{}\"", ask.ask_id, label(&ask.from)));
    format!(
        "Claude Relay: still unanswered: {}. Answer with relay_reply, even if only to say why you can't.",
        named.collect::<Vec<_>>().join(", ")
    )
}

/// Reports to the hub, and returns its answer. If that fails, tries again within the time limit: another hub may be running
/// within 10 ms. The report is sent before the hub greets, so that its receipts arrive even if the time limit expires.
fn report(dir: &DataDir, hook: &HookReport, until: Instant) -> Option<(Connection, Answer)> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        match dir.connect(left).and_then(Connection::over) {
            Ok(mut hub) if hub.sender.send(&ToHub::Hello { v: VERSION }).is_ok() => {
                match hub.call_until(until, |id| ToHub::Hook(HookReport { id, ..hook.clone() })) {
                    Ok(answer) => return Some((hub, answer)),
                    Err(fault) if fault.code == Code::HubUnreachable => {}
                    Err(_) => return None, // a hub of another version
                }
            }
            Err(e) if !is_not_running(&e) => return None, // an unusable directory: it would delay every hook
            Ok(_) | Err(_) => {}
        }
        thread::sleep(RETRY.min(left));
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
    fn arguments_of_any_tool_are_no_error() {
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        for argument in [r#""half an emoji \ud83d""#, "1e999", &deep] {
            for tool in ["Write", "mcp__plugin_relay_relay__relay_reply"] {
                let call =
                    format!(r#""tool_name":"{tool}","tool_input":{{"ask_id":"ask_1","x":{argument}}}"#);
                let input = format!(r#"{{"hook_event_name":"PermissionRequest",{call}}}"#);
                let input: Input = serde_json::from_slice(input.as_bytes()).expect("an input");
                assert_eq!(input.answered_ask().is_some(), tool.ends_with("reply"), "{argument:.30}");
            }
        }
    }

    #[test]
    fn a_reminder_names_the_asks_and_quotes_no_markup() {
        let ask = |n: usize| ListedAsk {
            ask_id: format!("ask_{n}"),
            from: "<b>\"x".to_owned(),
            ..ListedAsk::default()
        };
        let text = reminder(&(0..2).map(ask).collect::<Vec<_>>());
        assert!(text.contains("ask_0 from \"_b__x\", ask_1 from"), "{text}");
    }
}
