//! `relay hook --wait`: waits in the background of a session until the hub has a text for it. Claude Code gives the
//! model what a waiter prints on stderr before it exits with 2, also in an idle session. While it waits, it reports
//! receipts from the transcript.

use std::fs::{self, DirEntry};
use std::io::{self, Write};
use std::os::unix::process::parent_id;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use super::transcript::Transcript;
use crate::connection::{Connection, Start};
use crate::datadir::DataDir;
use crate::texts::{self, Texts};
use crate::wire::{Parcel, ToClient, ToHub};
use crate::{fence, process};

/// The most that is printed, in UTF-16 units as JSON has them. Of about 100,000 Claude Code 2.1.330 keeps the first and the last half
/// (measured).
const MAX_OUTPUT: usize = 90_000;
/// How often a waiter checks that its session is running, and reads the transcript.
const CHECK: Duration = Duration::from_secs(1);
/// The same while the transcript grows.
const SHORT_CHECK: Duration = Duration::from_millis(100);
/// How long after its start, and after the transcript last grew, a waiter checks at short intervals.
const ACTIVE: Duration = Duration::from_secs(3);
/// How long a waiter runs after the input of its session has ended; longer than a client takes to write its transcript.
const BRIEF: Duration = Duration::from_millis(600);

/// Waits, for the hook `event`, until the hub has a text for this session, prints it and exits with 2. Exits with 0 if
/// it is not needed or the session ends.
pub fn wait(dir: &DataDir, event: &str, transcript: &str) -> ExitCode {
    let Some(lifetime) = Lifetime::of(event) else { return ExitCode::SUCCESS };
    while !lifetime.is_over() {
        if let Ok(mut hub) = Connection::open(dir, Start::No)
            && let Some(code) = wait_on(dir, &mut hub, &lifetime, transcript)
        {
            return code;
        }
        thread::sleep(CHECK); // the session's channel starts a hub
    }
    ExitCode::SUCCESS
}

/// When a waiter has to exit: when its session ends, at the latest.
struct Lifetime {
    parent: u32,
    started: Instant,
    /// Whether the session is a `claude -p`: the waiter runs as long as that reads prompts.
    is_printing: bool,
}

impl Lifetime {
    /// In some cases Claude Code runs an asynchronous hook in the foreground, for up to a day: `SessionStart` hooks of
    /// any `claude -p`, and all hooks of one whose input is not a stream. A waiter must exit there: `None`. A `claude
    /// -p` whose input has ended waits 30 s for its waiters before it exits. (Measured: 2.1.197, 2.1.330.)
    fn of(event: &str) -> Option<Lifetime> {
        let (parent, started) = (parent_id(), Instant::now());
        let is_printing = std::env::var("CLAUDE_CODE_ENTRYPOINT").as_deref() != Ok("cli");
        let may_wait = !is_printing || event != "SessionStart" && process::streams_input(parent);
        may_wait.then_some(Lifetime { parent, started, is_printing })
    }

    fn is_over(&self) -> bool {
        // 2.1.197 leaves a waiter behind when it exits; an orphan has another parent.
        parent_id() != self.parent
            || self.is_printing && self.started.elapsed() >= BRIEF && !reads_stdin(self.parent)
    }
}

/// Whether standard input is in an epoll instance of a process, by what the kernel tells about it; `false` if that cannot be
/// observed.
fn reads_stdin(pid: u32) -> bool {
    let of_process = |kind: &str| process::path(format!("{pid}/{kind}"));
    let (Some(open), Some(info)) = (of_process("fd"), of_process("fdinfo")) else { return false };
    let is_poll = |fd: &DirEntry| {
        fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == "anon_inode:[eventpoll]")
    };
    let has_stdin = |fd: DirEntry| {
        let polled = fs::read_to_string(info.join(fd.file_name())).unwrap_or_default();
        polled.lines().any(|line| line.split_whitespace().take(2).eq(["tfd:", "0"]))
    };
    fs::read_dir(open).into_iter().flatten().flatten().filter(is_poll).any(has_stdin)
}

/// Waits on one connection; `None` if it is lost.
fn wait_on(dir: &DataDir, hub: &mut Connection, lifetime: &Lifetime, transcript: &str) -> Option<ExitCode> {
    let own = process::process_key(std::process::id());
    hub.call(|id| ToHub::Wait { id, claude: process::key(parent_id()), process: own.clone() }).ok()?;
    // The client writes its transcript up to some 100 ms late, so the last hook of a turn may search too early.
    let mut transcript = Transcript::end(transcript);
    let mut active_until = Instant::now() + ACTIVE;
    loop {
        let now = Instant::now();
        if let Some(receipts) = transcript.search() {
            active_until = now + ACTIVE;
            if !receipts.is_empty() {
                let _ = hub.sender.send(&ToHub::Seen { receipts }); // if the hub has just exited, another hook reports them
            }
        }
        let pause = if now < active_until { SHORT_CHECK } else { CHECK };
        match hub.receive(Some(now + pause)) {
            Ok(Some(ToClient::Push(parcel))) => return Some(hand_over(dir, hub, parcel)),
            Ok(Some(ToClient::Dismissed)) => return Some(ExitCode::SUCCESS),
            Ok(_) if lifetime.is_over() => return Some(ExitCode::SUCCESS),
            Ok(None) if hub.is_stale(dir) => return None,
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

/// Prints the texts that have arrived. The hub sends unread ones to the next waiter.
fn hand_over(dir: &DataDir, hub: &mut Connection, first: Parcel) -> ExitCode {
    let mut parcels = vec![first];
    while let Ok(Some(ToClient::Push(parcel))) = hub.receive(Some(Instant::now() + Duration::from_millis(10)))
    {
        parcels.push(parcel);
    }
    let files = Texts::new(dir, process::key(parent_id()));
    // Claude Code puts a text of its own before the output, and the header has to start a line.
    let mut output = "\n".to_owned();
    for parcel in &parcels {
        let room = MAX_OUTPUT.saturating_sub(texts::length(&output));
        output += &(files.fit(parcel, room, fence::text) + "\n\n");
    }
    if io::stderr().write_all(output.as_bytes()).is_err() {
        return ExitCode::SUCCESS; // without a reader: the hub falls back to another path
    }
    for parcel in parcels {
        let _ = hub.sender.send(&ToHub::Pushed { push: parcel.push, error: None }); // a receipt reports it as well
    }
    ExitCode::from(2)
}
