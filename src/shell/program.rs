//! A program whose standard input and output are one socket: reading from it has a time limit.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::sync::Arc;

use crate::lines::Lines;

/// A running program.
pub struct Program {
    pub child: Child,
    /// The other end of its standard input and output.
    pub stream: Arc<UnixStream>,
    /// What it prints.
    pub lines: Lines,
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
}
