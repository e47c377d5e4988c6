//! A client that says to the hub's socket whatever the test wants, in the notation of [`super::flat`].

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

use super::flat::{from_wire, to_wire};
use super::{DataDir, LONG, until};

/// See the module.
pub struct Raw {
    reader: BufReader<UnixStream>,
    next_id: u64,
    /// What came while an answer was awaited.
    early: VecDeque<Value>,
}

/// An error's code and message.
pub type Refusal = (String, String);

impl Raw {
    /// Connected as soon as somebody listens; nothing is said.
    pub fn connect(dir: &DataDir) -> Raw {
        until("a hub that listens", || Raw::try_connect(dir).ok())
    }

    /// Connected if somebody listens.
    pub fn try_connect(dir: &DataDir) -> io::Result<Raw> {
        Raw::try_connect_to(&dir.socket())
    }

    /// A connection by `peers.sock` that has been welcomed.
    pub fn remote(dir: &DataDir) -> Raw {
        let mut raw = until("a hub that listens", || Raw::try_connect_to(&dir.peers_socket()).ok());
        raw.hello();
        raw
    }

    fn try_connect_to(socket: &Path) -> io::Result<Raw> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(LONG))?;
        Ok(Raw { reader: BufReader::new(stream), next_id: 0, early: VecDeque::new() })
    }

    pub fn stream(&self) -> &UnixStream {
        self.reader.get_ref()
    }

    pub fn say_bytes(&self, bytes: &[u8]) -> io::Result<()> {
        self.stream().write_all(bytes)
    }

    /// Says one line. A hub that has closed the connection does not hear it.
    pub fn say(&self, message: &Value) {
        let _ = self.say_bytes(format!("{}\n", to_wire(message)).as_bytes());
    }

    /// The next line, or `None` at the end of the connection.
    pub fn hear(&mut self) -> Option<Value> {
        if let Some(message) = self.early.pop_front() {
            return Some(message);
        }
        self.read()
    }

    fn read(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(_) if !line.ends_with('\n') => None, // the end, perhaps of a hub that was killed in the middle of a line
            Ok(_) => {
                let message = serde_json::from_str(&line);
                Some(from_wire(message.unwrap_or_else(|e| panic!("not a message: {e}: {line}"))))
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => panic!("waited in vain for the hub"),
            Err(_) => None,
        }
    }

    /// The next message of this type; the others are kept.
    pub fn hear_type(&mut self, wanted: &str) -> Value {
        if let Some(at) = self.early.iter().position(|m| m["type"] == wanted) {
            return self.early.remove(at).expect("it was just there");
        }
        loop {
            let message =
                self.read().unwrap_or_else(|| panic!("closed before {wanted}; had {:?}", self.early));
            if message["type"] == wanted {
                return message;
            }
            self.early.push_back(message);
        }
    }

    /// The connection is closed, perhaps after an error line, whose code is given.
    pub fn hear_end(&mut self) -> Option<String> {
        let mut code = None;
        while let Some(message) = self.hear() {
            if message["type"] == "error" && message["id"].is_null() {
                assert!(message["message"].is_string(), "{message}");
                code = message["code"].as_str().map(str::to_owned);
            }
        }
        code
    }

    pub fn hello(&mut self) -> Value {
        self.say(&json!({"type": "hello", "v": 2}));
        let welcome = self.hear().expect("a welcome");
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        welcome
    }

    /// Says a request, to which an id is added, and gives the id.
    pub fn begin(&mut self, mut request: Value) -> u64 {
        self.next_id += 1;
        request["id"] = json!(self.next_id);
        self.say(&request);
        self.next_id
    }

    /// The answer to a request.
    pub fn end(&mut self, id: u64) -> std::result::Result<Value, Refusal> {
        let is_it = |m: &Value| m["id"] == json!(id) && (m["type"] == "ok" || m["type"] == "error");
        let mut early = self.early.iter().position(is_it).and_then(|at| self.early.remove(at));
        loop {
            let message = early.take().unwrap_or_else(|| self.read().expect("an answer"));
            if !is_it(&message) {
                self.early.push_back(message);
                continue;
            }
            if message["type"] == "ok" {
                return Ok(message["answer"].clone());
            }
            let text = |key: &str| message[key].as_str().expect("an error").to_owned();
            return Err((text("code"), text("message")));
        }
    }

    pub fn call(&mut self, request: Value) -> std::result::Result<Value, Refusal> {
        let id = self.begin(request);
        self.end(id)
    }

    /// The code that a request is refused with.
    pub fn refusal(&mut self, request: Value) -> String {
        self.call(request).expect_err("a refusal").0
    }

    /// Who registers as `name`: its own reader, like a person or a script.
    pub fn who(name: &str) -> Value {
        let pid = std::process::id();
        json!({"name": name, "kind": "script", "peer": format!("p-{name}"), "secret": format!("secret of {name}"),
            "cwd": "/", "pid": pid, "paths": ["socket"], "listens": true, "fresh": true})
    }

    pub fn register(&mut self, name: &str) -> String {
        let answer = self.call(json!({"type": "register", "who": Raw::who(name)})).expect("registered");
        answer["name"].as_str().expect("a name").to_owned()
    }

    /// An ask with this id.
    pub fn ask_as(ask_id: &str, to: &str, text: &str) -> Value {
        json!({"type": "ask", "ask_id": ask_id, "to": to, "text": text, "timeout_ms": 600_000})
    }

    /// Takes the next push and says that it is done.
    pub fn take_push(&mut self) -> Value {
        let push = self.hear_type("push");
        self.say(&json!({"type": "pushed", "push": push["push"]}));
        push
    }

    /// Closes the connection without a word.
    pub fn hang_up(self) {
        let _ = self.stream().shutdown(Shutdown::Both); // it may be closed already
    }
}
