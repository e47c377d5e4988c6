//! `relay channel` as Claude Code runs it: a child that speaks MCP.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};

use super::schema::nonconformance;
use super::{DataDir, Watched, relay_path, signal};

/// How a channel is started. The default is that of a session in a project of the session's name, with the channel flag.
pub struct Launch<'a> {
    dir: &'a DataDir,
    session: String,
    env: Vec<(String, String)>,
    /// What a shell does before it becomes the channel.
    before: Option<String>,
    user: Option<u32>,
}

impl<'a> Launch<'a> {
    pub(super) fn new(dir: &'a DataDir, session: &str) -> Self {
        let project = dir.project(session).to_str().expect("text").to_owned();
        let env =
            [("CLAUDE_PROJECT_DIR", project.as_str()), ("RELAY_SESSION", session), ("RELAY_PUSH", "channel")];
        let env = env.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
        Launch { dir, session: session.to_owned(), env, before: None, user: None }
    }

    pub fn env(mut self, key: &str, value: impl AsRef<Path>) -> Self {
        self.env.push((key.to_owned(), value.as_ref().to_str().expect("text").to_owned()));
        self
    }

    /// Lets a shell do this before it becomes the channel.
    pub fn shell(mut self, before: impl Into<String>) -> Self {
        self.before = Some(before.into());
        self
    }

    /// Runs it as this user, which only root may do.
    pub fn user(mut self, user: u32) -> Self {
        self.user = Some(user);
        self
    }

    /// Starts it and says nothing to it.
    pub fn start(self) -> Channel {
        let heard = Arc::new(Watched::default());
        self.start_with(heard)
    }

    /// Starts it as the client of that name does.
    pub fn start_as(self, client: &str) -> Channel {
        let channel = self.start();
        channel.initialize_as(client);
        channel
    }

    fn command(&self) -> Command {
        let mut command = match &self.before {
            None => self.dir.command(&["channel"]),
            Some(before) => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", &format!("{before}; exec \"$0\" channel"), relay_path()]);
                self.dir.surround(&mut shell);
                shell
            }
        };
        self.user.map(|user| command.uid(user).gid(user));
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        let stderr = File::create(self.dir.stderr_of(&self.session)).expect("a file for stderr");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        command
    }

    fn start_with(self, heard: Arc<Watched<Heard>>) -> Channel {
        let mut command = self.command();
        let (child, stdin, reader) = spawn(&mut command, &heard);
        let stdin = Mutex::new(Some(stdin));
        Channel { session: self.session, command, child, stdin, heard, reader: Some(reader) }
    }
}

fn spawn(command: &mut Command, heard: &Arc<Watched<Heard>>) -> (Child, ChildStdin, JoinHandle<()>) {
    let mut child = command.spawn().expect("relay channel");
    let (stdin, stdout) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
    heard.change(|h| h.ended = false);
    let heard = heard.clone();
    let reader = thread::spawn(move || {
        let mut stdout = BufReader::new(stdout);
        let mut line = Vec::new();
        while stdout.read_until(b'\n', &mut line).is_ok() && line.ends_with(b"\n") {
            heard.change(|h| h.hear(&line));
            line.clear();
        }
        heard.change(|h| h.ended = true);
    });
    (child, stdin, reader)
}

/// What a channel, or one process of it after the other, has written.
#[derive(Default)]
struct Heard {
    answers: HashMap<String, Value>,
    pushes: Vec<Push>,
    forms: Vec<Form>,
    /// What is neither, such as errors without an id.
    others: Vec<Value>,
    ended: bool,
}

/// The id of an answer as it is written: it may be a number of any size.
#[derive(serde::Deserialize)]
struct Answered {
    id: Box<serde_json::value::RawValue>,
}

impl Heard {
    fn hear(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let message: Value = serde_json::from_slice(line)
            .unwrap_or_else(|e| panic!("stdout carries protocol only: {e}: {text}"));
        assert_eq!(message["jsonrpc"], "2.0", "{text}");
        if message["method"] == "notifications/claude/channel" {
            self.pushes.push(Push::new(&message["params"]));
        } else if message["method"] == "elicitation/create" {
            self.forms.push(Form::new(&message));
        } else if !message["id"].is_null() {
            let id: Answered = serde_json::from_slice(line).expect("an id");
            let old = self.answers.insert(id.id.get().to_owned(), message);
            assert!(old.is_none(), "answered twice: {text}");
        } else {
            self.others.push(message);
        }
    }

    fn show(&self) -> String {
        let pushes: Vec<String> = self.pushes.iter().map(|p| format!("{} {}", p.kind, p.id)).collect();
        let (forms, answers) = (&self.forms, self.answers.len());
        format!("pushes {pushes:?}, {forms:?}, {answers} answers, {:?}, ended: {}", self.others, self.ended)
    }
}

/// What the session was pushed.
#[derive(Debug, Clone)]
pub struct Push {
    pub kind: String,
    /// The ask's id, or the broadcast's for a summary.
    pub id: String,
    pub from: String,
    pub content: String,
    pub meta: Value,
}

impl Push {
    pub fn new(params: &Value) -> Self {
        let meta = params["meta"].clone();
        let all_text = meta.as_object().is_some_and(|m| m.values().all(Value::is_string));
        assert!(all_text, "meta holds strings only: {params}");
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let id = if meta["kind"] == "summary" { &meta["broadcast_id"] } else { &meta["ask_id"] };
        Push {
            kind: text(&meta["kind"]),
            id: text(id),
            from: text(&meta["from"]),
            content: text(&params["content"]),
            meta,
        }
    }

    /// The text of the peer, as it is quoted.
    pub fn quoted(&self) -> &str {
        self.content.split("\n\n").next().unwrap_or_default()
    }

    pub fn meta(&self, key: &str) -> &str {
        self.meta[key].as_str().unwrap_or_default()
    }
}

/// A form that the channel wants its client to show.
#[derive(Debug, Clone)]
pub struct Form {
    /// Of the request.
    pub id: String,
    pub message: String,
    /// The name and the schema of its only field.
    pub field: (String, Value),
}

impl Form {
    fn new(request: &Value) -> Form {
        let (params, schema) = (&request["params"], &request["params"]["requestedSchema"]);
        assert_eq!((&params["mode"], &schema["type"]), (&json!("form"), &json!("object")), "{request}");
        let mut fields = schema["properties"].as_object().expect("fields").iter();
        let (name, field) = fields.next().expect("a field");
        assert!(fields.next().is_none(), "{request}");
        Form {
            id: request["id"].as_str().expect("an id").to_owned(),
            message: params["message"].as_str().expect("a message").to_owned(),
            field: (name.clone(), field.clone()),
        }
    }

    /// The question as the form shows it.
    pub fn question(&self) -> &str {
        self.field.1["description"].as_str().expect("a description")
    }
}

/// What a tool call brought.
#[derive(Debug, Clone)]
pub struct Result {
    pub text: String,
    /// `structuredContent`.
    pub data: Value,
    pub is_error: bool,
}

impl Result {
    /// The structured content of a call that succeeded.
    pub fn ok(self) -> Value {
        assert!(!self.is_error, "{}", self.text);
        self.data
    }

    /// The error's code; its text begins with it.
    pub fn code(self) -> String {
        assert!(self.is_error, "no error: {}", self.data);
        let code = self.data["error"]["code"].as_str().expect("a code").to_owned();
        assert!(self.text.starts_with(&format!("{code}: ")), "{}", self.text);
        assert!(self.data["error"]["message"].is_string(), "{}", self.data);
        code
    }
}

/// A running channel.
pub struct Channel {
    pub session: String,
    command: Command,
    child: Child,
    stdin: Mutex<Option<ChildStdin>>,
    heard: Arc<Watched<Heard>>,
    reader: Option<JoinHandle<()>>,
}

impl Channel {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes one line; `false` if the channel does not read any more.
    pub fn write(&self, line: &str) -> bool {
        self.write_bytes(line.as_bytes())
    }

    /// The same, for a line that need not be UTF-8.
    pub fn write_bytes(&self, line: &[u8]) -> bool {
        let mut stdin = self.stdin.lock().unwrap_or_else(PoisonError::into_inner);
        stdin.as_mut().is_some_and(|s| s.write_all(&[line, b"\n"].concat()).is_ok())
    }

    /// Begins a request and gives its id.
    pub fn begin(&self, method: &str, params: &Value) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        self.write(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string());
        id
    }

    /// Waits for the answer with this id, as JSON writes it; `None` if the channel ended without it.
    pub fn answer_to(&self, id: &str) -> Option<Value> {
        self.heard.wait(&format!("the answer to {id} of {}", self.session), Heard::show, |h| {
            let answer = h.answers.remove(id);
            (answer.is_some() || h.ended).then_some(answer)
        })
    }

    /// Whether the answer to that is there.
    pub fn has_answer(&self, id: u64) -> bool {
        self.heard.change(|h| h.answers.contains_key(&id.to_string()))
    }

    /// A request that is answered.
    pub fn request(&self, method: &str, params: &Value) -> Value {
        let id = self.begin(method, params);
        self.answer_to(&id.to_string()).unwrap_or_else(|| panic!("{} ended before it answered", self.session))
    }

    /// As Claude Code does.
    pub fn initialize(&self) -> Value {
        self.initialize_as("claude-code")
    }

    /// As the client of that name does, which shows forms.
    pub fn initialize_as(&self, client: &str) -> Value {
        self.initialize_with(client, &json!({"elicitation": {}}))
    }

    /// As the client of that name and with these capabilities does.
    pub fn initialize_with(&self, client: &str, capabilities: &Value) -> Value {
        let client = json!({"name": client, "version": "0"});
        let params =
            json!({"protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": client});
        let answer = self.request("initialize", &params);
        self.write(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        answer["result"].clone()
    }

    /// Begins a tool call; see [`Channel::end_call`].
    pub fn begin_call(&self, tool: &str, arguments: &Value) -> u64 {
        self.begin("tools/call", &json!({"name": tool, "arguments": arguments}))
    }

    /// `None` if the channel ended before it answered.
    pub fn end_call(&self, id: u64) -> Option<Result> {
        let answer = self.answer_to(&id.to_string())?;
        let result = &answer["result"];
        assert!(result.is_object(), "not a tool result: {answer}");
        let texts: Vec<&str> = result["content"]
            .as_array()
            .expect("content")
            .iter()
            .filter_map(|c| c["text"].as_str())
            .collect();
        Some(Result {
            text: texts.join("\n"),
            data: result["structuredContent"].clone(),
            is_error: result["isError"] == true,
        })
    }

    /// Calls a tool.
    pub fn call(&self, tool: &str, arguments: Value) -> Result {
        let id = self.begin_call(tool, &arguments);
        let result = self.end_call(id).unwrap_or_else(|| panic!("{} ended before it answered", self.session));
        assert_eq!(nonconformance(tool, &result.data), None, "{}", result.data);
        result
    }

    /// Asks, successfully, and gives the `ask_id`.
    pub fn ask(&self, to: &str, question: &str) -> String {
        let data = self.call("relay_ask", json!({"to": to, "question": question})).ok();
        data["ask_id"].as_str().expect("an ask_id").to_owned()
    }

    pub fn reply(&self, ask_id: &str, answer: &str) -> Result {
        self.call("relay_reply", json!({"ask_id": ask_id, "answer": answer}))
    }

    pub fn peers(&self) -> Value {
        self.call("relay_peers", json!({})).ok()
    }

    /// The names of the others.
    pub fn peer_names(&self) -> Vec<String> {
        let peers = self.peers();
        let names = peers["peers"].as_array().expect("peers").iter();
        names.map(|p| p["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// Its own name.
    pub fn name(&self) -> String {
        self.peers()["self"]["name"].as_str().expect("a name").to_owned()
    }

    /// Waits for the first push of this kind and id, and takes it out.
    pub fn take(&self, kind: &str, id: &str) -> Push {
        self.take_where(&format!("{kind} {id}"), |p| p.kind == kind && p.id == id)
    }

    pub fn take_where(&self, what: &str, which: impl Fn(&Push) -> bool) -> Push {
        self.heard.wait(&format!("{what} at {}", self.session), Heard::show, |h| {
            let at = h.pushes.iter().position(&which);
            assert!(at.is_some() || !h.ended, "{} ended without {what}", self.session);
            at.map(|at| h.pushes.remove(at))
        })
    }

    /// What has been pushed and not taken. What the hub sent before an answer of its own has arrived before that.
    pub fn pushes(&self) -> Vec<Push> {
        self.heard.change(|h| h.pushes.clone())
    }

    /// Takes all of that out.
    pub fn take_all(&self) -> Vec<Push> {
        self.heard.change(|h| std::mem::take(&mut h.pushes))
    }

    /// Waits for a form, and takes it out.
    pub fn take_form(&self) -> Form {
        self.heard.wait(&format!("a form at {}", self.session), Heard::show, |h| {
            assert!(!h.forms.is_empty() || !h.ended, "{} ended without a form", self.session);
            (!h.forms.is_empty()).then(|| h.forms.remove(0))
        })
    }

    /// The forms that were opened and not taken.
    pub fn forms(&self) -> Vec<Form> {
        self.heard.change(|h| h.forms.clone())
    }

    /// Answers a form: `accept`, `decline` or `cancel`.
    pub fn close_form(&self, form: &Form, action: &str, content: Value) {
        let mut result = json!({"action": action});
        if action == "accept" {
            result["content"] = content;
        }
        self.write(&json!({"jsonrpc": "2.0", "id": form.id, "result": result}).to_string());
    }

    /// Accepts a form with this answer.
    pub fn answer_form(&self, form: &Form, answer: &str) {
        self.close_form(form, "accept", json!({"answer": answer}));
    }

    /// Waits until the channel takes a form away.
    pub fn wait_until_taken_away(&self, form: &Form) {
        let is_it = |m: &Value| {
            m["method"] == "notifications/cancelled" && m["params"]["requestId"] == form.id.as_str()
        };
        self.heard.wait(&format!("the end of {form:?} at {}", self.session), Heard::show, |h| {
            h.others.iter().any(is_it).then_some(())
        });
    }

    /// Waits for a message that is neither answer nor push.
    pub fn take_other(&self) -> Value {
        self.heard.wait("a message without an id", Heard::show, |h| {
            (!h.others.is_empty()).then(|| h.others.remove(0))
        })
    }

    /// What has come and nobody asked for.
    pub fn others(&self) -> Vec<Value> {
        self.heard.change(|h| h.others.clone())
    }

    /// Closes its stdin, as Claude Code does when it exits, and waits for its end.
    pub fn close(&mut self) -> ExitStatus {
        drop(self.stdin.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.wait()
    }

    /// Waits for its end, whyever it comes.
    pub fn wait(&mut self) -> ExitStatus {
        self.heard.wait(&format!("the end of {}", self.session), Heard::show, |h| h.ended.then_some(()));
        let status = self.child.wait().expect("a child");
        if let Some(reader) = self.reader.take() {
            reader.join().expect("stdout carried protocol only");
        }
        status
    }

    /// SIGKILL. What it had written is heard.
    pub fn kill(&mut self) {
        signal(self.pid(), "KILL");
        self.wait();
    }

    /// Starts it again as the same session, which has what the earlier ones were pushed.
    pub fn start_again(&mut self) {
        let (child, stdin, reader) = spawn(&mut self.command, &self.heard);
        (self.child, self.reader) = (child, Some(reader));
        *self.stdin.lock().unwrap_or_else(PoisonError::into_inner) = Some(stdin);
        self.initialize();
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        signal(self.pid(), "KILL"); // it may have ended
        let _ = self.child.wait();
        *self.stdin.get_mut().unwrap_or_else(PoisonError::into_inner) = None; // where the child was a shell around it
        if let Some(reader) = self.reader.take()
            && reader.join().is_err()
            && !thread::panicking()
        {
            panic!("{} wrote something else than protocol", self.session);
        }
    }
}

/// The arguments of a `tools/call`.
pub fn arguments(tool: &str, arguments: Value) -> Value {
    json!({"name": tool, "arguments": arguments})
}
