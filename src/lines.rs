//! Lines from a socket, with a limit on their length and an optional deadline.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crate::wire::MAX_LINE;

/// The number of bytes that are read at once. Small, since a hub keeps one such buffer for each of a thousand connections.
const CHUNK: usize = 4096;

/// A socket that its reader shares with its writer.
struct Socket {
    stream: Arc<UnixStream>,
    /// When reading fails with `WouldBlock`.
    until: Option<Instant>,
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(until) = self.until {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::WouldBlock.into()); // also if there is data: a sender that never pauses gets no more time
            }
            // macOS refuses that if the other end has closed the connection. Reading does not block then.
            let _ = self.stream.set_read_timeout(Some(left));
        }
        (&*self.stream).read(buffer)
    }
}

/// Reads newline-delimited lines of at most [`MAX_LINE`] bytes.
pub struct Lines {
    socket: BufReader<Socket>,
    /// The beginning of a line whose end has not arrived.
    line: Vec<u8>,
}

impl Lines {
    pub fn new(stream: Arc<UnixStream>) -> Self {
        let socket = BufReader::with_capacity(CHUNK, Socket { stream, until: None });
        Lines { socket, line: Vec::new() }
    }

    /// The next line without its newline, or `None` at the end of the stream; a last line without a newline is
    /// incomplete and not returned.
    ///
    /// # Errors
    /// `InvalidData` for a line that is too long, `TimedOut` when `until` passes before the line is whole, and errors
    /// of the socket.
    pub fn next(&mut self, until: Option<Instant>) -> io::Result<Option<Vec<u8>>> {
        let socket = self.socket.get_mut();
        if std::mem::replace(&mut socket.until, until).is_some() && until.is_none() {
            let _ = socket.stream.set_read_timeout(None); // see above
        }
        loop {
            let room = MAX_LINE - self.line.len();
            match (&mut self.socket).take(room as u64).read_until(b'\n', &mut self.line) {
                Ok(_) if self.line.ends_with(b"\n") => {
                    self.line.pop();
                    return Ok(Some(std::mem::take(&mut self.line)));
                }
                Ok(_) if self.line.len() == MAX_LINE => {
                    return Err(io::Error::new(ErrorKind::InvalidData, "the line is longer than 4 MiB"));
                }
                Ok(_) => return Ok(None),
                Err(e) if e.kind() != ErrorKind::WouldBlock => return Err(e),
                Err(_) if until.is_some() => return Err(ErrorKind::TimedOut.into()),
                Err(_) => thread::yield_now(), // the hub's writer has switched this socket to non-blocking for a moment
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::Duration;

    fn pair() -> (UnixStream, Lines) {
        let (a, b) = UnixStream::pair().expect("a socket pair");
        (a, Lines::new(Arc::new(b)))
    }

    #[test]
    fn lines_are_returned_whole_for_any_fragmentation() {
        let (mut tx, mut lines) = pair();
        tx.write_all(b"one\n\ntwo").unwrap();
        assert_eq!(lines.next(None).unwrap(), Some(b"one".to_vec()));
        assert_eq!(lines.next(None).unwrap(), Some(Vec::new()));
        tx.write_all(b" and more\ncut").unwrap();
        assert_eq!(lines.next(None).unwrap(), Some(b"two and more".to_vec()));
        drop(tx);
        assert_eq!(lines.next(None).unwrap(), None);
    }

    #[test]
    fn line_over_the_limit_is_an_error_with_bounded_memory() {
        let (mut tx, mut lines) = pair();
        let writer = std::thread::spawn(move || {
            let chunk = [b'x'; 65536];
            while tx.write_all(&chunk).is_ok() {}
        });
        let error = lines.next(None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(lines.line.len() <= MAX_LINE + CHUNK);
        drop(lines);
        writer.join().unwrap();
    }

    #[test]
    fn deadline_applies_to_the_whole_line() {
        let (mut tx, mut lines) = pair();
        tx.write_all(b"half a li").unwrap();
        let error = lines.next(Some(Instant::now() + Duration::from_millis(20))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // Bytes that keep coming do not extend it.
        tx.write_all(b"ne\n").unwrap();
        let error = lines.next(Some(Instant::now())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(lines.next(None).unwrap(), Some(b"half a line".to_vec()));
    }

    #[test]
    fn nothing_is_read_after_the_deadline() {
        let (mut tx, mut lines) = pair();
        tx.write_all(b"late\n").unwrap();
        assert_eq!(lines.next(Some(Instant::now())).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(lines.next(None).unwrap(), Some(b"late".to_vec()));
    }
}
