//! Lines from a socket, with a limit on their length and an optional deadline.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::wire::MAX_LINE;

/// The number of bytes that are read at once. Small, since a hub keeps one such buffer for each of a thousand connections.
const CHUNK: usize = 4096;

/// Reads newline-delimited lines of at most [`MAX_LINE`] bytes.
pub struct Lines {
    stream: Arc<UnixStream>,
    buffer: Vec<u8>,
    /// The end of the last returned line in `buffer`.
    start: usize,
    /// Whether the socket has a timeout from an earlier call.
    timed: bool,
}

impl Lines {
    pub fn new(stream: Arc<UnixStream>) -> Self {
        Lines { stream, buffer: Vec::new(), start: 0, timed: false }
    }

    /// The next line without its newline, or `None` at the end of the stream; a last line without a newline is
    /// incomplete and not returned.
    ///
    /// # Errors
    /// `InvalidData` for a line that is too long, `TimedOut` when `until` passes before the line is whole, and errors
    /// of the socket.
    pub fn next(&mut self, until: Option<Instant>) -> io::Result<Option<&[u8]>> {
        self.buffer.drain(..self.start);
        self.start = 0;
        if self.buffer.is_empty() && self.buffer.capacity() > 16 * CHUNK {
            self.buffer.shrink_to(CHUNK); // frees the memory of one long line
        }
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|b| *b == b'\n') {
                let end = searched + at;
                self.start = end + 1;
                return Ok(Some(&self.buffer[..end]));
            }
            searched = self.buffer.len();
            if searched >= MAX_LINE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the line is longer than 4 MiB"));
            }
            if self.fill(until)? == 0 {
                return Ok(None);
            }
        }
    }

    fn fill(&mut self, until: Option<Instant>) -> io::Result<usize> {
        let timeout = until.map(|t| t.saturating_duration_since(Instant::now()));
        if timeout == Some(Duration::ZERO) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if timeout.is_some() || self.timed {
            self.stream.set_read_timeout(timeout)?;
            self.timed = timeout.is_some();
        }
        let old = self.buffer.len();
        self.buffer.resize(old + CHUNK, 0);
        loop {
            match (&*self.stream).read(&mut self.buffer[old..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The hub's writer has switched this socket to non-blocking for a moment.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && timeout.is_none() => {
                    std::thread::yield_now();
                }
                Err(e) => {
                    self.buffer.truncate(old);
                    let waited = e.kind() == io::ErrorKind::WouldBlock;
                    return Err(if waited { io::ErrorKind::TimedOut.into() } else { e });
                }
                Ok(n) => {
                    self.buffer.truncate(old + n);
                    return Ok(n);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn pair() -> (UnixStream, Lines) {
        let (a, b) = UnixStream::pair().expect("a socket pair");
        (a, Lines::new(Arc::new(b)))
    }

    #[test]
    fn lines_are_returned_whole_for_any_fragmentation() {
        let (mut tx, mut lines) = pair();
        tx.write_all(b"one\n\ntwo").unwrap();
        assert_eq!(lines.next(None).unwrap(), Some(&b"one"[..]));
        assert_eq!(lines.next(None).unwrap(), Some(&b""[..]));
        tx.write_all(b" and more\ncut").unwrap();
        assert_eq!(lines.next(None).unwrap(), Some(&b"two and more"[..]));
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
        assert!(lines.buffer.len() <= MAX_LINE + CHUNK);
        drop(lines);
        writer.join().unwrap();
    }

    #[test]
    fn deadline_applies_to_the_whole_line() {
        let (mut tx, mut lines) = pair();
        tx.write_all(b"half a li").unwrap();
        let error = lines.next(Some(Instant::now() + Duration::from_millis(20))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
