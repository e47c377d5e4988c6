//! `relay hook --wait`: waits in the background of a session until the hub has a text for it. Claude Code gives the
//! model what a waiter prints on stderr before it exits with 2, also in an idle session. While it waits, it reports
//! receipts from the transcript.

use std::fs;
use std::io::{self, Write};
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use super::MAX_PROMPT;
use super::transcript::Transcript;
use crate::datadir::DataDir;
use crate::link::{Link, Start};
use crate::texts::Texts;
use crate::wire::{Parcel, ToClient, ToHub};
use crate::{fence, process};

/// The most that is printed, in UTF-16 units as JSON has them. Of about 100,000 Claude Code 2.1.330 keeps the first and the last half
/// (measured).
const MAX_OUTPUT: usize = 90_000;
/// How often a waiter checks that its session is running, and reads the transcript.
const CHECK: Duration = Duration::from_secs(1);
/// The same if the session waits for the waiter at its end, and while the transcript grows.
const SHORT_CHECK: Duration = Duration::from_millis(100);
/// How long after its start, and after the transcript last grew, a waiter checks at short intervals.
const ACTIVE: Duration = Duration::from_secs(3);
/// How long a waiter runs if it cannot observe its session's input; longer than a client takes to write its transcript.
const BRIEF: Duration = Duration::from_millis(600);

/// Waits, for the hook `event`, until the hub has a text for this session, prints it and exits with 2. Exits with 0 if
/// it is not needed or the session ends.
pub fn wait(dir: &DataDir, event: &str, transcript: &str) -> ExitCode {
    let Some(lifetime) = Lifetime::of(event) else { return ExitCode::SUCCESS };
    while !lifetime.is_over() {
        if let Ok(mut link) = Link::open(dir, Start::No)
            && let Some(code) = wait_on(dir, &mut link, &lifetime, transcript)
        {
            return code;
        }
        thread::sleep(lifetime.check()); // the session's channel starts a hub
    }
    ExitCode::SUCCESS
}

/// When a waiter has to exit: when its session ends, at the latest.
struct Lifetime {
    parent: u32,
    limit: Limit,
}

enum Limit {
    /// In a terminal: none.
    None,
    /// As long as a `claude -p` reads prompts: its epoll instance that contains standard input.
    Polled(PathBuf),
    /// Where that cannot be observed.
    Until(Instant),
}

impl Lifetime {
    /// In some cases Claude Code runs an asynchronous hook in the foreground, for up to a day: `SessionStart` hooks of
    /// any `claude -p`, and all hooks of one whose input is not a stream. A waiter must exit there: `None`. A `claude
    /// -p` whose input has ended waits 30 s for its waiters before it exits. (Measured: 2.1.197, 2.1.330.)
    fn of(event: &str) -> Option<Lifetime> {
        let parent = parent_id();
        let in_terminal = std::env::var("CLAUDE_CODE_ENTRYPOINT").is_ok_and(|entry| entry == "cli");
        if in_terminal {
            return Some(Lifetime { parent, limit: Limit::None });
        }
        if event == "SessionStart" || !process::streams_input(parent) {
            return None;
        }
        let limit = polled_stdin(parent).map_or_else(|| Limit::Until(Instant::now() + BRIEF), Limit::Polled);
        Some(Lifetime { parent, limit })
    }

    fn is_over(&self) -> bool {
        // 2.1.197 leaves a waiter behind when it exits; an orphan has another parent.
        parent_id() != self.parent
            || match &self.limit {
                Limit::None => false,
                Limit::Polled(poll) => !has_stdin(poll) && polled_stdin(self.parent).is_none(),
                Limit::Until(at) => Instant::now() >= *at,
            }
    }

    /// The pause between two calls of `is_over`.
    fn check(&self) -> Duration {
        if matches!(self.limit, Limit::None) { CHECK } else { SHORT_CHECK }
    }
}

/// What the kernel tells about the epoll instance of a process that contains its standard input. `None` if its input has ended,
/// or if that cannot be observed.
fn polled_stdin(pid: u32) -> Option<PathBuf> {
    let open = fs::read_dir(process::path(format!("{pid}/fd"))?).ok()?.filter_map(Result::ok);
    let polls = open.filter(|fd| {
        fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == "anon_inode:[eventpoll]")
    });
    let info = process::path(format!("{pid}/fdinfo"))?;
    polls.map(|fd| info.join(fd.file_name())).find(|poll| has_stdin(poll))
}

fn has_stdin(poll: &Path) -> bool {
    let waits_for = fs::read_to_string(poll).unwrap_or_default();
    waits_for.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("tfd:") && words.next() == Some("0")
    })
}

/// Waits on one connection; `None` if it is lost.
fn wait_on(dir: &DataDir, link: &mut Link, lifetime: &Lifetime, transcript: &str) -> Option<ExitCode> {
    let own = process::process_key(std::process::id());
    link.call(|id| ToHub::Wait { id, claude: process::key(parent_id()), process: own.clone() }).ok()?;
    // The client writes its transcript up to some 100 ms late, so the last hook of a turn may search too early.
    let mut transcript = Transcript::end(transcript, MAX_PROMPT);
    let mut active_until = Instant::now() + ACTIVE;
    loop {
        let now = Instant::now();
        if transcript.report(&link.sender) {
            active_until = now + ACTIVE;
        }
        let pause = if now < active_until { SHORT_CHECK } else { lifetime.check() };
        match link.receive(Some(now + pause)) {
            Ok(Some(ToClient::Push(parcel))) => return Some(hand_over(dir, link, parcel)),
            Ok(Some(ToClient::Dismissed)) => return Some(ExitCode::SUCCESS),
            Ok(_) if lifetime.is_over() => return Some(ExitCode::SUCCESS),
            Ok(None) if link.is_stale(dir) => return None,
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

/// Prints the texts that have arrived. The hub sends unread ones to the next waiter.
fn hand_over(dir: &DataDir, link: &mut Link, first: Parcel) -> ExitCode {
    let mut parcels = vec![first];
    while let Ok(Some(ToClient::Push(parcel))) =
        link.receive(Some(Instant::now() + Duration::from_millis(10)))
    {
        parcels.push(parcel);
    }
    Texts::new(dir, process::key(parent_id())).fit(&mut parcels, MAX_OUTPUT, fence::text);
    let texts: Vec<String> = parcels.iter().map(fence::text).collect();
    // Claude Code puts a text of its own before the output, and the header has to start a line.
    let text = format!("\n{}\n", texts.join("\n\n"));
    if io::stderr().write_all(text.as_bytes()).is_err() {
        return ExitCode::SUCCESS; // without a reader: the hub falls back to another path
    }
    for parcel in parcels {
        let _ = link.sender.send(&ToHub::Pushed { push: parcel.push, error: None }); // a receipt reports it as well
    }
    ExitCode::from(2)
}
