//! `relay hook --wait`: waits in the background of a session until the hub has a text for it. Claude Code gives the
//! model what a waiter prints on stderr before it exits with 2, also in an idle session. While it waits, it reports
//! receipts from the transcript.

use std::fs::{self, DirEntry};
use std::io::{self, Write};
use std::os::unix::process::parent_id;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use super::Input;
use super::transcript::Transcript;
use crate::connection::Connection;
use crate::datadir::DataDir;
use crate::texts::{self, Texts};
use crate::wire::{Parcel, ToClient, ToHub};
use crate::{fence, process};

/// The most that is printed, in UTF-16 units as JSON has them. Of about 100,000 Claude Code 2.1.330 keeps the first and the last half
/// (measured).
const MAX_OUTPUT: usize = 90_000;
/// How often a waiter checks that its session is running, and reads the transcript.
const CHECK: Duration = Duration::from_secs(1);
/// The same after the transcript grew; then the interval doubles.
const SHORT_CHECK: Duration = Duration::from_millis(100);
/// How long a waiter runs after the input of its session has ended; longer than a client takes to write its transcript.
const BRIEF: Duration = Duration::from_millis(600);

/// Waits until the hub has a text for this session, prints it and exits with 2. Exits with 0 if it is not needed or the session
/// ends. `hook` is the input of the hook that started it.
pub fn wait(dir: &DataDir, hook: Input) -> ExitCode {
    let (parent, started) = (parent_id(), Instant::now());
    // In some cases Claude Code runs an asynchronous hook in the foreground, for up to a day: `SessionStart` hooks of any
    // `claude -p`, and all hooks of one whose input is not a stream. A `claude -p` whose input has ended waits 30 s for its
    // waiters before it exits. (Measured: 2.1.197, 2.1.330.)
    let is_printing = std::env::var("CLAUDE_CODE_ENTRYPOINT").as_deref() != Ok("cli");
    if is_printing && (hook.hook_event_name == "SessionStart" || !process::streams_input(parent)) {
        return ExitCode::SUCCESS;
    }
    // 2.1.197 leaves a waiter behind when it exits; an orphan has another parent.
    let is_over =
        || parent_id() != parent || is_printing && started.elapsed() >= BRIEF && !reads_stdin(parent);
    let path = hook.transcript_path.unwrap_or_default();
    while !is_over() {
        if let Ok(Some(mut hub)) = Connection::find(dir)
            && let Some(code) = wait_on(dir, &mut hub, &path, &is_over)
        {
            return code;
        }
        thread::sleep(CHECK); // the session's channel starts a hub
    }
    ExitCode::SUCCESS
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

/// Waits on one connection, and reads the transcript at `path`; `None` if the connection is lost.
fn wait_on(dir: &DataDir, hub: &mut Connection, path: &str, is_over: &dyn Fn() -> bool) -> Option<ExitCode> {
    let (claude, process) = (process::key(parent_id()), process::process_key(std::process::id()));
    hub.call(|id| ToHub::Wait { id, claude, process }).ok()?;
    // The client writes its transcript up to some 100 ms late, so the last hook of a turn may search too early.
    let mut transcript = Transcript::end(path);
    let mut pause = SHORT_CHECK;
    loop {
        pause = CHECK.min(pause * 2);
        if let Some(receipts) = transcript.search() {
            pause = SHORT_CHECK;
            if !receipts.is_empty() {
                let _ = hub.sender.send(&ToHub::Seen { receipts }); // if the hub has just exited, another hook reports them
            }
        }
        match hub.receive(Some(Instant::now() + pause)) {
            Ok(Some(ToClient::Push(parcel))) => return Some(hand_over(dir, hub, parcel)),
            Ok(Some(ToClient::Dismissed)) => return Some(ExitCode::SUCCESS),
            Ok(_) if is_over() => return Some(ExitCode::SUCCESS),
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
