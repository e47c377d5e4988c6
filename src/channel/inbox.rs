//! Pushes through the session's inbox socket (Claude Code 2.1.224 and later).

use crossbeam_channel::Receiver;
use serde_json::json;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fence;
use crate::texts::Texts;
use crate::threads::{PARSER, spawn};
use crate::wire::Parcel;

/// The longest line that Claude Code takes, in UTF-16 units; it silently drops one of 1,048,601 (2.1.330, measured).
const MAX_LINE: usize = 1_048_500;
/// The limit of an answer, in bytes; Claude Code sends none.
const ANSWER: u64 = 64 << 10;

/// How long a session that has read a message may take to close the connection; as long as late answers count.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How long the session may read nothing of a message.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Starts a thread that pushes each text to the session's inbox socket, so that the channel does not block. `done` gets the
/// identifier of each push and the error if it failed, and returns whether to continue.
pub fn serve(
    texts: Texts,
    parcels: Receiver<(PathBuf, Parcel)>,
    done: impl Fn(String, Option<String>) -> bool + Send + 'static,
) -> io::Result<()> {
    spawn("inbox", PARSER, move || {
        let token = std::env::var("CLAUDE_CODE_MESSAGING_TOKEN").ok();
        for (socket, parcel) in parcels {
            let id = message_id(&parcel.push);
            let text = texts.fit(&parcel, MAX_LINE - line("", &id).len(), fence::inbox_text);
            let error = push(&socket, token.as_deref(), &text, &id, TIMEOUT, PATIENCE).err();
            if !done(parcel.push, error.map(|e| e.to_string())) {
                return;
            }
        }
    })
}

/// The message id in the form of a UUID, as the inbox requires.
fn message_id(push: &str) -> String {
    let hex: String =
        push.chars().filter(char::is_ascii_hexdigit).chain(std::iter::repeat('0')).take(32).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The message, as one line.
fn line(text: &str, msg_id: &str) -> String {
    let message = json!({"role": "user", "content": text});
    format!("{}\n", json!({"type": "user", "message": message, "priority": "next", "msg_id": msg_id}))
}

/// Hands `text` to the session behind `socket`, as one message `msg_id` (a UUID), and waits for it to close the
/// connection. `token` is the session's `CLAUDE_CODE_MESSAGING_TOKEN`.
///
/// `Ok` says that the session's process was given the text, not that the model will see it: the user's settings may hold
/// it back silently. `Err` says that it was not handed over: no process listens, the session closed before it had read all, it
/// took nothing for `timeout`, or did not close within `patience` (both `TimedOut`). A session that is stopped
/// has the text and does not close: it will take it when it goes on, so no other path may carry it meanwhile.
///
/// Blocks, also while the listener's queue of connections is full.
pub fn push(
    socket: &Path,
    token: Option<&str>,
    text: &str,
    msg_id: &str,
    timeout: Duration,
    patience: Duration,
) -> io::Result<()> {
    let mut lines = String::new();
    if let Some(token) = token {
        lines += &format!("{}\n", json!({"type": "auth", "token": token}));
    }
    lines += &line(text, msg_id);

    let mut stream = UnixStream::connect(socket)?;
    // Once, at the beginning: macOS refuses it on a connection that the other side has closed.
    stream.set_write_timeout(Some(timeout))?;
    stream.set_read_timeout(Some(patience))?;
    let handed_over = stream.write_all(lines.as_bytes()).and_then(|()| {
        // Fails if the session has closed already; reading shows whether it had read everything.
        let _ = stream.shutdown(Shutdown::Write);
        io::copy(&mut (&stream).take(ANSWER), &mut io::sink())
    });
    handed_over.map(drop).map_err(|e| match e.kind() {
        ErrorKind::WouldBlock => ErrorKind::TimedOut.into(),
        _ => e,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::fs;
    use std::os::unix::net::UnixListener;
    use std::thread;

    const LONG: Duration = Duration::from_secs(60);

    fn socket(test: &str) -> (PathBuf, UnixListener) {
        let path = crate::repository::tests::dir(&format!("inbox-{test}")).join("socket");
        let listener = UnixListener::bind(&path).expect("a socket in the temporary directory");
        (path, listener)
    }

    /// Accepts one connection, reads it to the end and gives its lines.
    fn serve(listener: UnixListener, answer: &'static [u8]) -> thread::JoinHandle<Vec<Value>> {
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut all = String::new();
            stream.read_to_string(&mut all).expect("lines");
            let _ = stream.write_all(answer);
            all.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
        })
    }

    #[test]
    fn token_is_sent_before_the_message() {
        let (path, listener) = socket("auth");
        let server = serve(listener, b"");
        push(&path, Some("t0ken"), "a\n\"b\"", "id-1", LONG, LONG).expect("pushed");
        let expected = json!({"type": "user", "message": {"role": "user", "content": "a\n\"b\""}, "priority": "next", "msg_id": "id-1"});
        assert_eq!(server.join().expect("server"), [json!({"type": "auth", "token": "t0ken"}), expected]);
        fs::remove_dir_all(path.parent().expect("a directory")).expect("removed");
    }

    #[test]
    fn long_text_is_sent_whole_and_an_endless_answer_is_ignored() {
        let (path, listener) = socket("long");
        let text = "é\n".repeat(1 << 18);
        let server = serve(listener, &[b'x'; 1 << 20]);
        push(&path, None, &text, "id", LONG, LONG).expect("pushed");
        let lines = server.join().expect("server");
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["message"]["content"], text);
        fs::remove_dir_all(path.parent().expect("a directory")).expect("removed");
    }

    #[test]
    fn unread_message_times_out_and_missing_listener_is_refused() {
        let (path, listener) = socket("stuck");
        let short = Duration::from_millis(20);
        // It fits into the socket's buffer, and the session may still take it.
        let error = push(&path, None, "short", "id", LONG, short).expect_err("not closed");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let error =
            push(&path, None, &"x".repeat(8 << 20), "id", short, short).expect_err("too long for the buffer");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        drop(listener);
        assert_eq!(
            push(&path, None, "x", "id", LONG, LONG).expect_err("nobody").kind(),
            ErrorKind::ConnectionRefused
        );
        fs::remove_dir_all(path.parent().expect("a directory")).expect("removed");
    }

    #[test]
    fn connection_closed_before_the_text_was_read_is_an_error() {
        let (path, listener) = socket("closed");
        let server = thread::spawn(move || drop(listener.accept()));
        let text = "x".repeat(8 << 20);
        assert!(push(&path, None, &text, "id", LONG, LONG).is_err());
        server.join().expect("server");
        fs::remove_dir_all(path.parent().expect("a directory")).expect("removed");
    }
}
