//! The floor: processes that pass bytes on, one thread, blocking, and look at nothing but where a line ends. They are this
//! program itself, started with [`FLAG`].

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

pub const FLAG: &str = "--floor";

/// What such a process does, by its arguments.
pub fn run(arguments: &[String]) {
    let (mut stdin, mut stdout) = (std::io::stdin().lock(), std::io::stdout().lock());
    match arguments {
        // Answers each line with as many bytes as it is told.
        [what, size] if what == "echo" => {
            let answer = line_of(size.parse().expect("a size"));
            while pass(&mut stdin, &mut std::io::sink()) {
                stdout.write_all(&answer).expect("written");
            }
        }
        // The asking session's channel: a line from its client to the hub, and one back.
        [what, socket] if what == "asker" => {
            let mut hub = UnixStream::connect(socket).expect("the floor's hub");
            while pass(&mut stdin, &mut hub) && pass(&mut hub, &mut stdout) {}
        }
        // The asked one's: the other way round.
        [what, socket] if what == "asked" => {
            let mut hub = UnixStream::connect(socket).expect("the floor's hub");
            while pass(&mut hub, &mut stdout) && pass(&mut stdin, &mut hub) {}
        }
        // Between two peers, the asker first.
        [what, socket] if what == "hub" => {
            let listener = UnixListener::bind(socket).expect("a socket");
            stdout.write_all(b"listening\n").expect("written");
            let (mut asker, _) = listener.accept().expect("the asker");
            let (mut asked, _) = listener.accept().expect("the asked");
            while pass(&mut asker, &mut asked) && pass(&mut asked, &mut asker) {}
        }
        // One line from the first peer goes to all others.
        [what, socket, count] if what == "broadcast" => {
            let listener = UnixListener::bind(socket).expect("a socket");
            stdout.write_all(b"listening\n").expect("written");
            let accept = || listener.accept().expect("a peer").0;
            let mut asker = accept();
            let mut all: Vec<UnixStream> = (0..count.parse().expect("a count")).map(|_| accept()).collect();
            let mut line = Vec::new();
            while pass(&mut asker, &mut line) {
                all.iter_mut().for_each(|to| to.write_all(&line).expect("written"));
                line.clear();
            }
        }
        other => panic!("no floor does {other:?}"),
    }
}

/// A line of that many bytes.
pub fn line_of(size: usize) -> Vec<u8> {
    let mut line = vec![b'x'; size - 1];
    line.push(b'\n');
    line
}

/// Reads up to the end of a line and writes what came; false at the end.
fn pass(from: &mut impl Read, to: &mut impl Write) -> bool {
    let mut buffer = [0; 8192];
    loop {
        match from.read(&mut buffer) {
            Ok(n) if n > 0 => {
                if to.write_all(&buffer[..n]).and_then(|()| to.flush()).is_err() {
                    return false;
                }
                if buffer[n - 1] == b'\n' {
                    return true;
                }
            }
            _ => return false,
        }
    }
}

/// A floor process with its pipes.
pub struct Floor(pub Child);

impl Floor {
    pub fn start(arguments: &[&str]) -> Floor {
        let me = std::env::current_exe().expect("this program has a path");
        let mut command = Command::new(me);
        command.arg(FLAG).args(arguments).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped());
        Floor(command.spawn().expect("a floor process"))
    }

    /// One that serves a socket, when it does.
    pub fn serve(what: &str, socket: &Path, more: &[&str]) -> Floor {
        let mut floor = Floor::start(&[&[what, socket.to_str().expect("UTF-8")], more].concat());
        floor.hear();
        floor
    }

    pub fn say(&mut self, line: &[u8]) {
        self.0.stdin.as_mut().expect("a pipe").write_all(line).expect("it reads");
    }

    /// Waits for a line.
    pub fn hear(&mut self) {
        assert!(pass(self.0.stdout.as_mut().expect("a pipe"), &mut std::io::sink()), "a floor process ended");
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
