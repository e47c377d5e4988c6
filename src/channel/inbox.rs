//! Pushes through the session's inbox socket (Claude Code 2.1.224 and later).

use crossbeam_channel::{Receiver, Sender};
use serde_json::json;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Received;
use crate::threads::{PARSER, spawn};

/// The longest text, in UTF-16 units as JSON. Claude Code silently drops a line of 1,048,601 (2.1.330, measured).
pub const MAX_TEXT: usize = 1_048_300;
/// The limit of an answer, in bytes; Claude Code sends none.
const ANSWER: u64 = 64 << 10;

/// How long a session that has read a message may take to close the connection; as long as late answers count.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How long the session may read nothing of a message.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Starts a thread that pushes each text to the session's inbox socket, so that the channel does not block. It gets the socket, the
/// identifier of the push, and the text.
pub fn serve(texts: Receiver<(PathBuf, String, String)>, done: Sender<Received>) -> io::Result<()> {
    spawn("inbox", PARSER, move || {
        let token = std::env::var("CLAUDE_CODE_MESSAGING_TOKEN").ok();
        for (socket, id, text) in texts {
            let error = push(&socket, &lines(token.as_deref(), &text, &id), TIMEOUT, PATIENCE).err();
            if done.send(Received::Inbox(id, error.map(|e| e.to_string()))).is_err() {
                return; // the channel exits
            }
        }
    })
}

/// The lines of a push: the session's `CLAUDE_CODE_MESSAGING_TOKEN`, if it has one, and the message, whose id must be a UUID.
fn lines(token: Option<&str>, text: &str, push: &str) -> String {
    let auth = token.map_or_else(String::new, |t| format!("{}\n", json!({"type": "auth", "token": t})));
    let hex: String =
        push.chars().filter(char::is_ascii_hexdigit).chain(std::iter::repeat('0')).take(32).collect();
    let id = format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    let message = json!({"role": "user", "content": text});
    format!("{auth}{}\n", json!({"type": "user", "message": message, "priority": "next", "msg_id": id}))
}

/// Hands `lines` to the session behind `socket`, and waits for it to close the connection.
///
/// `Ok` says that the session's process was given the text, not that the model will see it: the user's settings may hold
/// it back silently. `Err` says that it was not handed over: no process listens, the session closed before it had read all, it
/// took nothing for `timeout`, or did not close within `patience` (both `TimedOut`). A session that is stopped
/// has the text and does not close: it will take it when it goes on, so no other path may carry it meanwhile.
///
/// Blocks, also while the listener's queue of connections is full.
fn push(socket: &Path, lines: &str, timeout: Duration, patience: Duration) -> io::Result<()> {
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
        push(&path, &lines(Some("t0ken"), "a\n\"b\"", "push_1"), LONG, LONG).expect("pushed");
        let expected = json!({"type": "user", "message": {"role": "user", "content": "a\n\"b\""}, "priority": "next", "msg_id": "10000000-0000-0000-0000-000000000000"});
        assert_eq!(server.join().expect("server"), [json!({"type": "auth", "token": "t0ken"}), expected]);
        fs::remove_dir_all(path.parent().expect("a directory")).expect("removed");
    }

    #[test]
    fn long_text_is_sent_whole_and_an_endless_answer_is_ignored() {
        let (path, listener) = socket("long");
        let text = "é\n".repeat(1 << 18);
        let server = serve(listener, &[b'x'; 1 << 20]);
        push(&path, &lines(None, &text, "push_1"), LONG, LONG).expect("pushed");
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
        let error = push(&path, "short", LONG, short).expect_err("not closed");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let error = push(&path, &"x".repeat(8 << 20), short, short).expect_err("too long for the buffer");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        drop(listener);
        assert_eq!(push(&path, "x", LONG, LONG).expect_err("nobody").kind(), ErrorKind::ConnectionRefused);
        fs::remove_dir_all(path.parent().expect("a directory")).expect("removed");
    }

    #[test]
    fn connection_closed_before_the_text_was_read_is_an_error() {
        let (path, listener) = socket("closed");
        let server = thread::spawn(move || drop(listener.accept()));
        let text = "x".repeat(8 << 20);
        assert!(push(&path, &text, LONG, LONG).is_err());
        server.join().expect("server");
        fs::remove_dir_all(path.parent().expect("a directory")).expect("removed");
    }
}
