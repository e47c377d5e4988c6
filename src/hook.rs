//! What the plugin's hooks run. A hook tells the hub what the session is doing and which pushes it has met, in the prompt
//! or in the transcript; it looks for nothing else, stores nothing, prints nothing and never holds the user up. Started
//! with `--wait` it is the waiter: the push path that reaches a session which has no other.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::datadir::{DataDir, is_absent};
use crate::link::{Link, Sender, Start};
use crate::wire::{Answer, HookEvent, Parcel, ToClient, ToHub};
use crate::{fence, session};

/// The most that is read of the hook's input, in bytes. A longer one is not looked at.
const MAX_INPUT: u64 = 32 << 20;
/// The most that is read of a transcript's end, in bytes.
const MAX_TRANSCRIPT: u64 = 16 << 20;
/// The same where the user waits.
const MAX_PROMPT: u64 = 2 << 20;
/// The most pushes that are looked for in one text.
const MAX_PUSHES: usize = 256;
/// The most that are reported at once.
const MAX_REPORT: usize = 2048;
/// How long the hub may take while the user waits.
const PROMPT: Duration = Duration::from_millis(40);
/// How long it may take where nobody does.
const QUIET: Duration = Duration::from_millis(1000);
/// How long a hook pauses before it looks for a hub again.
const RETRY: Duration = Duration::from_millis(5);
/// How often a waiter looks whether its session is still there, and into its transcript.
const LOOK: Duration = Duration::from_secs(1);
/// The same where the session, at its end, waits for it.
const GLANCE: Duration = Duration::from_millis(100);
/// How long it stays where it can't see that: longer than a client takes to write its transcript.
const BRIEF: Duration = Duration::from_millis(600);
/// How an identifier of a push begins, and how many hex digits follow.
const MARK: &str = "push_";
const DIGITS: usize = 24;

/// The input of a hook, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Input {
    pub(crate) hook_event_name: String,
    transcript_path: Option<String>,
    /// Why a session starts or ends.
    source: Option<String>,
    reason: Option<String>,
}

/// `relay hook`, and with `waits` `relay hook --wait`.
pub fn run(dir: &DataDir, waits: bool) -> ExitCode {
    if waits {
        return wait(dir);
    }
    let mut text = Vec::new();
    if io::stdin().take(MAX_INPUT).read_to_end(&mut text).is_ok()
        && let Ok(input) = serde_json::from_slice::<Input>(&text)
        && let Some(event) = event(&input)
    {
        let met = if event == HookEvent::Prompt { pushes_in(&text) } else { Vec::new() };
        report(dir, event, met, input.transcript_path.as_deref());
    }
    ExitCode::SUCCESS
}

pub(crate) fn event(input: &Input) -> Option<HookEvent> {
    Some(match input.hook_event_name.as_str() {
        // A compaction happens in the middle of a turn.
        "SessionStart" if input.source.as_deref() == Some("compact") => HookEvent::Tool,
        "SessionStart" => HookEvent::Start,
        "UserPromptSubmit" => HookEvent::Prompt,
        "PostToolUse" | "PostToolUseFailure" => HookEvent::Tool,
        "PermissionRequest" => HookEvent::Permission,
        "Stop" => HookEvent::Stop,
        // After these the same process goes on with another conversation.
        "SessionEnd" if matches!(input.reason.as_deref(), Some("clear" | "resume")) => return None,
        "SessionEnd" => HookEvent::End,
        _ => return None,
    })
}

/// Tells the hub, if there is one, and does what it asks for. A hub that is away may be back in 10 ms: the hook tries again
/// within its patience.
fn report(dir: &DataDir, event: HookEvent, met: Vec<String>, transcript: Option<&str>) {
    let patience = if event == HookEvent::Prompt { PROMPT } else { QUIET };
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let told = match dir.connect(left).and_then(Link::over) {
            Ok(link) => report_on(link, until, event, &met, transcript),
            Err(e) if is_absent(&e) => None,
            Err(_) => return,
        };
        if told.is_some() {
            return;
        }
        thread::sleep(RETRY.min(left));
    }
}

/// The same on a connection; `None` if the hub is lost before it has answered.
fn report_on(
    mut link: Link,
    until: Instant,
    event: HookEvent,
    met: &[String],
    transcript: Option<&str>,
) -> Option<()> {
    let mut messages = vec![Link::hello()];
    if !met.is_empty() {
        messages.push(ToHub::Seen { pushes: met.to_vec(), accepted: Vec::new() });
    }
    messages.push(ToHub::Hook { id: 1, claude: session::key(), event, age_ms: session::own_age() });
    // All is sent before the hub has said a word, so that a receipt arrives even if the time runs out.
    link.sender.send_all(&messages).ok()?;
    loop {
        match link.try_receive(until) {
            Ok(Some(ToClient::Ok { answer: Answer::Hooked { unconfirmed }, .. })) => {
                if let Some(path) = transcript.filter(|_| unconfirmed > 0) {
                    let most = if event == HookEvent::Prompt { MAX_PROMPT } else { MAX_TRANSCRIPT };
                    Transcript::end(path, most).report(&link.sender);
                }
                return Some(());
            }
            Ok(Some(ToClient::Error { .. }) | None) => return Some(()),
            Ok(Some(_)) => {}
            Err(_) => return None,
        }
    }
}

/// A session's transcript, from some line near its end on.
struct Transcript {
    path: PathBuf,
    /// Where the next search begins.
    at: u64,
    /// The most that one search reads.
    most: u64,
}

impl Transcript {
    /// What there is by now of the last `most` bytes, and what will be appended.
    fn end(path: impl Into<PathBuf>, most: u64) -> Transcript {
        let path = path.into();
        let at = fs::metadata(&path).map_or(0, |m| m.len().saturating_sub(most));
        Transcript { path, at, most }
    }

    /// Reports what it holds of our pushes and has not been searched for them.
    fn report(&mut self, sender: &Sender) {
        let Ok((pushes, accepted)) = self.search() else { return };
        if !pushes.is_empty() || !accepted.is_empty() {
            let _ = sender.send(&ToHub::Seen { pushes, accepted }); // a hub that has just left hears of it another time
        }
    }

    /// The pushes that the model has got, and those that the client has only queued. One `stat` where nothing happened.
    fn search(&mut self) -> io::Result<(Vec<String>, Vec<String>)> {
        let (mut seen, mut accepted) = (Vec::new(), Vec::new());
        let meta = fs::metadata(&self.path)?;
        if !meta.is_file() {
            return Err(io::ErrorKind::InvalidInput.into()); // it might never open, or never end
        }
        if meta.len() <= self.at {
            return Ok((seen, accepted));
        }
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.at))?;
        let mut lines = BufReader::with_capacity(64 << 10, file.take(self.most));
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            let found = pushes_in(&line);
            if !found.is_empty() {
                match role(&line) {
                    Some(Role::Conversation) => seen.extend(found),
                    Some(Role::Queue) => accepted.extend(found),
                    None => {}
                }
            }
            // A line that is half written is read again, unless it is too long for that.
            let length = line.len() as u64;
            self.at += if line.ends_with(b"\n") || length == self.most { length } else { 0 };
            line.clear();
        }
        for found in [&mut seen, &mut accepted] {
            let excess = found.len().saturating_sub(MAX_REPORT);
            found.drain(..excess);
        }
        accepted.retain(|push| !seen.contains(push));
        Ok((seen, accepted))
    }
}

/// What a line of the transcript proves of a text in it.
#[derive(Debug, PartialEq)]
pub(crate) enum Role {
    /// The model got it.
    Conversation,
    /// The client has it and will pass it on.
    Queue,
}

/// Measured with Claude Code 2.1.197 and 2.1.330; a line of another form proves nothing.
pub(crate) fn role(line: &[u8]) -> Option<Role> {
    /// A line of the transcript, as far as it matters here.
    #[derive(Deserialize)]
    struct Line {
        r#type: String,
        operation: Option<String>,
        attachment: Option<Attachment>,
    }
    #[derive(Deserialize)]
    struct Attachment {
        r#type: Option<String>,
    }
    let line: Line = serde_json::from_slice(line).ok()?; // the last line may be half written: next time
    let attachment = line.attachment.and_then(|a| a.r#type);
    match (line.r#type.as_str(), line.operation.as_deref(), attachment.as_deref()) {
        ("user", ..) | ("attachment", _, Some("queued_command")) => Some(Role::Conversation),
        ("queue-operation", Some("enqueue"), _) => Some(Role::Queue),
        _ => None,
    }
}

/// The identifiers of pushes in `text`, each once, in order, [`MAX_PUSHES`] at most. What peers write holds none that
/// is whole: see [`fence::clean`].
pub(crate) fn pushes_in(text: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(text) = std::str::from_utf8(text) else { return found }; // what the client writes is, but for a cut line
    // Hardly any text has one, and this is the fastest way to tell.
    if !text.contains(MARK) {
        return found;
    }
    for rest in text.split(MARK).skip(1) {
        let digits = rest.bytes().take_while(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).count();
        let push = format!("{MARK}{}", &rest[..digits]);
        if digits == DIGITS && found.len() < MAX_PUSHES && !found.contains(&push) {
            found.push(push);
        }
    }
    found
}

/// Waits until the hub has something for this session, prints it on stderr and exits with 2, which
/// makes Claude Code give it to the model, also in an idle session. Exits with 0 when it is not needed (any more), or the
/// session ends. Meanwhile it reports what the transcript tells.
fn wait(dir: &DataDir) -> ExitCode {
    let mut text = Vec::new();
    let read = io::stdin().take(MAX_INPUT).read_to_end(&mut text).is_ok();
    let input = serde_json::from_slice::<Input>(&text).ok().filter(|_| read);
    drop(text);
    let (event, transcript) = input.map(|i| (i.hook_event_name, i.transcript_path)).unwrap_or_default();
    let Some(stay) = Stay::of(&event) else { return ExitCode::SUCCESS };
    let transcript = transcript.unwrap_or_default();
    while !stay.is_over() {
        if let Ok(mut link) = Link::open(dir, Start::No)
            && let Some(code) = wait_on(&mut link, &stay, &transcript)
        {
            return code;
        }
        thread::sleep(stay.look()); // the session's channel sees to it that there is a hub
    }
    ExitCode::SUCCESS
}

/// How long a waiter may stay.
struct Stay {
    parent: u32,
    /// For a `claude -p`.
    input: Option<InputWatch>,
}

/// Tells whether a `claude -p` still reads prompts.
struct InputWatch {
    /// `None` where nothing shows it.
    stdin: Option<StdinPoll>,
    since: Instant,
}

impl Stay {
    /// In some cases Claude Code runs what it should run in the background while it waits for it, for a day if need be:
    /// `SessionStart` hooks of any `claude -p`, and all hooks of one whose input is not a stream. There no waiter may
    /// stay: `None`. And a `claude -p` whose input has ended waits half a minute for its waiters before it leaves.
    /// (Measured: 2.1.197, 2.1.330.)
    fn of(event: &str) -> Option<Stay> {
        let parent = std::os::unix::process::parent_id();
        let in_terminal = std::env::var("CLAUDE_CODE_ENTRYPOINT").is_ok_and(|entry| entry == "cli");
        if in_terminal {
            return Some(Stay { parent, input: None });
        }
        if event == "SessionStart" || !session::streams_input(parent) {
            return None;
        }
        Some(Stay { parent, input: Some(InputWatch { stdin: StdinPoll::of(parent), since: Instant::now() }) })
    }

    fn is_over(&self) -> bool {
        let has_ended = |input: &InputWatch| match &input.stdin {
            Some(stdin) => !stdin.is_polled() && StdinPoll::of(self.parent).is_none(),
            None => input.since.elapsed() >= BRIEF,
        };
        // 2.1.197 leaves a waiter behind when it exits; an orphan has another parent.
        std::os::unix::process::parent_id() != self.parent || self.input.as_ref().is_some_and(has_ended)
    }

    /// Until when to wait before `is_over` is asked again.
    fn look(&self) -> Duration {
        if self.input.is_some() { GLANCE } else { LOOK }
    }
}

/// The epoll instance of a process that contains its standard input.
struct StdinPoll(PathBuf);

impl StdinPoll {
    /// `None` if its input has ended, or where nothing shows it.
    fn of(pid: u32) -> Option<StdinPoll> {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.filter_map(Result::ok);
        let polls = open.filter(|fd| {
            fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == "anon_inode:[eventpoll]")
        });
        let info = PathBuf::from(format!("/proc/{pid}/fdinfo"));
        polls.map(|fd| StdinPoll(info.join(fd.file_name()))).find(StdinPoll::is_polled)
    }

    fn is_polled(&self) -> bool {
        let waits_for = fs::read_to_string(&self.0).unwrap_or_default();
        waits_for.lines().any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some("tfd:") && words.next() == Some("0")
        })
    }
}

/// `None` when the hub is lost and another may come.
fn wait_on(link: &mut Link, stay: &Stay, transcript: &str) -> Option<ExitCode> {
    let process = session::process_key(std::process::id());
    link.call(|id| ToHub::Wait { id, claude: session::key(), process }).ok()?;
    // The client writes its transcript up to some 100 ms late, so that the last hook of a turn may look too early.
    let mut transcript = Transcript::end(transcript, MAX_PROMPT);
    loop {
        transcript.report(&link.sender);
        match link.try_receive(Instant::now() + stay.look()) {
            Ok(Some(ToClient::Push(parcel))) => return Some(hand_over(link, parcel)),
            Ok(Some(ToClient::Dismissed)) => return Some(ExitCode::SUCCESS),
            Ok(_) if stay.is_over() => return Some(ExitCode::SUCCESS),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

/// Prints everything that has come. What was not read stays with the hub, which sends it by the next waiter.
fn hand_over(link: &mut Link, first: Parcel) -> ExitCode {
    let mut parcels = vec![first];
    while let Some(ToClient::Push(parcel)) = link.receive(Some(Instant::now() + Duration::from_millis(10))) {
        parcels.push(parcel);
    }
    let texts: Vec<String> = parcels.iter().map(fence::text).collect();
    // Claude Code puts words of its own before what it reads, and our header belongs at the start of a line.
    let text = format!("\n{}\n", texts.join("\n\n"));
    if io::stderr().write_all(text.as_bytes()).is_err() {
        return ExitCode::SUCCESS; // nobody reads it: the hub sends it another way
    }
    for parcel in parcels {
        let _ = link.sender.send(&ToHub::Pushed { push: parcel.push, error: None }); // the receipt will tell as well
    }
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "push_0123456789abcdef01234567";
    const B: &str = "push_ffffffffffffffffffffffff";

    #[test]
    fn identifiers_are_found_whole_or_not_at_all() {
        let text = format!("x [relay push={A}] push_123 push_{A} <channel push=\\\"{B}\\\"> {B}0 pushpush_");
        assert_eq!(pushes_in(text.as_bytes()), [A, B]);
        let many: String = (0..MAX_PUSHES * 2).map(|n| format!(" push_{n:024x}")).collect();
        assert_eq!(pushes_in(many.as_bytes()).len(), MAX_PUSHES);
        assert!(pushes_in(fence::clean(&many).as_bytes()).is_empty());
        assert!(pushes_in(b"push_0123456789ABCDEF01234567").is_empty());
        assert!(pushes_in(b"").is_empty());
    }

    #[test]
    fn the_transcript_tells_queued_from_got() {
        let user = r#"{"type":"user","message":{"role":"user","content":"x"}}"#;
        assert_eq!(role(user.as_bytes()), Some(Role::Conversation));
        let queued = r#"{"type":"attachment","attachment":{"type":"queued_command","prompt":"x"}}"#;
        assert_eq!(role(queued.as_bytes()), Some(Role::Conversation));
        let enqueued = r#"{"type":"queue-operation","operation":"enqueue","content":"x"}"#;
        assert_eq!(role(enqueued.as_bytes()), Some(Role::Queue));
        for other in [
            r#"{"type":"queue-operation","operation":"remove"}"#,
            r#"{"type":"assistant","message":{}}"#,
            r#"{"type":"api-request-blob"}"#,
            r#"{"type":"user","mess"#,
            "",
        ] {
            assert_eq!(role(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn events_are_what_they_mean() {
        let of = |text: &str| event(&serde_json::from_str(text).expect("an input"));
        assert_eq!(of(r#"{"hook_event_name":"SessionStart","source":"startup"}"#), Some(HookEvent::Start));
        assert_eq!(of(r#"{"hook_event_name":"SessionStart","source":"compact"}"#), Some(HookEvent::Tool));
        assert_eq!(of(r#"{"hook_event_name":"SessionEnd","reason":"clear"}"#), None);
        assert_eq!(of(r#"{"hook_event_name":"SessionEnd","reason":"other"}"#), Some(HookEvent::End));
        assert_eq!(of(r#"{"hook_event_name":"Notification"}"#), None);
    }
}
