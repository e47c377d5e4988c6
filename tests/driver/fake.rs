//! A hub that does what the test wants.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};

use super::flat::{from_wire, to_wire};
use super::{DataDir, Watched};

/// What it does after it has read a message.
pub enum Reaction {
    Say(Value),
    Nothing,
    /// It dies: the connection ends.
    Die,
}

/// See the module. It welcomes and registers every client; for all else the test decides.
pub struct FakeHub {
    socket: PathBuf,
    heard: Arc<Watched<Vec<Value>>>,
    over: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl FakeHub {
    /// `react` is given every message but `hello`; where it returns `None`, a registration is answered and nothing else is.
    pub fn new(dir: &DataDir, react: impl Fn(&Value) -> Option<Reaction> + Send + Sync + 'static) -> Self {
        Self::serving(dir, move |stream, all| serve(stream, all, &react))
    }

    /// Answers the first line of every client with this one, and hangs up.
    pub fn of_another_version(dir: &DataDir, answer: &'static str) -> Self {
        Self::serving(dir, move |stream, _| {
            let _ = BufReader::new(stream).read_line(&mut String::new()); // a probe says nothing
            let _ = { stream }.write_all(format!("{answer}\n").as_bytes());
        })
    }

    fn serving(
        dir: &DataDir,
        serve: impl Fn(&UnixStream, &Watched<Vec<Value>>) + Send + Sync + 'static,
    ) -> Self {
        std::fs::create_dir_all(dir.path()).expect("made");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).expect("a mode");
        let listener = UnixListener::bind(dir.socket()).expect("a socket");
        let (heard, over) = (Arc::new(Watched::<Vec<Value>>::default()), Arc::new(AtomicBool::new(false)));
        let (all, stop, serve) = (heard.clone(), over.clone(), Arc::new(serve));
        let server = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (all, serve) = (all.clone(), serve.clone());
                thread::spawn(move || serve(&stream, &all));
            }
        });
        FakeHub { socket: dir.socket(), heard, over, server: Some(server) }
    }

    /// The messages of this type so far.
    pub fn heard(&self, kind: &str) -> Vec<Value> {
        self.heard.change(|all| all.iter().filter(|m| m["type"] == kind).cloned().collect())
    }

    /// Waits until there are `n` of them.
    pub fn wait_for(&self, kind: &str, n: usize) {
        let count = |all: &Vec<Value>| all.iter().filter(|m| m["type"] == kind).count();
        self.heard.wait(
            &format!("{n} {kind}"),
            |all| format!("{all:?}"),
            |all| (count(all) >= n).then_some(()),
        );
    }
}

fn serve(stream: &UnixStream, all: &Watched<Vec<Value>>, react: &dyn Fn(&Value) -> Option<Reaction>) {
    let mut lines = BufReader::new(stream).lines();
    let say = |message: &Value| {
        let _ = { stream }.write_all(format!("{}\n", to_wire(message)).as_bytes()); // the client may be gone
    };
    if lines.next().is_none() {
        return;
    }
    say(&json!({"type": "welcome", "v": 2, "pid": std::process::id(), "version": "0", "epoch": "fake"}));
    for line in lines.map_while(Result::ok) {
        let message = from_wire(serde_json::from_str(&line).expect("a message"));
        all.change(|all| all.push(message.clone()));
        match react(&message) {
            Some(Reaction::Say(answer)) => say(&answer),
            Some(Reaction::Die) => break,
            Some(Reaction::Nothing) => {}
            None if message["type"] == "register" => {
                let answer = json!({"registered": {"name": message["who"]["name"], "open": []}});
                say(&json!({"type": "ok", "id": message["id"], "answer": answer}));
            }
            None => {}
        }
    }
    let _ = stream.shutdown(Shutdown::Both); // it may be closed already
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(&self.socket); // so that it looks
        let _ = self.server.take().map(JoinHandle::join);
        let _ = std::fs::remove_file(&self.socket);
    }
}
