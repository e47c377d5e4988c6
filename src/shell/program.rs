//! A program whose standard input and output are one socket: reading from it has a time limit.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::lines::Lines;

/// A running program, which is killed when this value is dropped.
pub struct Program {
    pub child: Child,
    /// The other end of its standard input and output.
    pub stream: Arc<UnixStream>,
    lines: Lines,
}

impl Program {
    /// # Errors
    /// The program cannot be started.
    pub fn start(command: &mut Command) -> io::Result<Program> {
        let (ours, theirs) = UnixStream::pair()?;
        let stdin = OwnedFd::from(theirs);
        let child = command.stdout(stdin.try_clone()?).stdin(stdin).spawn()?;
        let stream = Arc::new(ours);
        Ok(Program { child, lines: Lines::new(stream.clone()), stream })
    }

    /// The first line that it prints and `find` accepts. Skips other lines, such as those of a shell's start-up files.
    ///
    /// # Errors
    /// `TimedOut` after `limit`. Another error if the program has ended.
    pub fn find<T>(&mut self, limit: Duration, find: impl Fn(&[u8]) -> Option<T>) -> io::Result<T> {
        let until = Instant::now() + limit;
        loop {
            let line = self.lines.next(Some(until))?.ok_or(ErrorKind::UnexpectedEof)?;
            if let Some(found) = find(line.trim_ascii()) {
                return Ok(found);
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill().and_then(|()| self.child.wait()); // it may have ended
    }
}
