//! A scripted model: an HTTP server on loopback that speaks enough of the Messages API for the real client.
//!
//! One [`Model`] serves any number of sessions. Each has a key, which is part of the base URL that its client is given
//! (`http://127.0.0.1:PORT/s/KEY`), a script, and a record of every request that it made.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::journal::{Journal, deadline};

/// What the model does with one turn.
#[derive(Clone)]
pub enum Step {
    /// Ends the turn with a text.
    Say(String),
    /// Calls one tool.
    Tool { name: String, input: Value },
    /// Calls several tools in one message.
    Tools(Vec<(String, Value)>),
    /// Keeps the turn open until the gate is opened, then goes on with the step.
    Hold(Gate, Box<Step>),
    /// Answers with the HTTP status 529: the server is overloaded.
    Overloaded,
}

impl Step {
    pub fn say(text: impl Into<String>) -> Step {
        Step::Say(text.into())
    }

    pub fn tool(name: impl Into<String>, input: Value) -> Step {
        Step::Tool { name: name.into(), input }
    }

    /// Holds the turn at `gate`, then does `self`.
    pub fn after(self, gate: &Gate) -> Step {
        Step::Hold(gate.clone(), Box::new(self))
    }
}

/// Where a held turn waits. Clones are the same gate. Once open it stays open.
#[derive(Clone, Default)]
pub struct Gate(Arc<GateInner>);

#[derive(Default)]
struct GateInner {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    open: bool,
    reached: usize,
}

impl Gate {
    pub fn new() -> Gate {
        Gate::default()
    }

    /// Lets the turns that wait here, and all later ones, go on.
    pub fn open(&self) {
        self.lock().open = true;
        self.0.changed.notify_all();
    }

    /// Blocks until a turn has come to the gate: its session is now busy, and stays so until [`Gate::open`].
    #[track_caller]
    pub fn wait_until_reached(&self) {
        let (state, timeout) = self
            .0
            .changed
            .wait_timeout_while(self.lock(), deadline(), |state| state.reached == 0)
            .unwrap_or_else(PoisonError::into_inner);
        drop(state);
        assert!(!timeout.timed_out(), "no turn came to the gate within {} s", deadline().as_secs());
    }

    fn arrive(&self) {
        self.lock().reached += 1;
        self.0.changed.notify_all();
    }

    /// Waits up to `span`; true once open.
    fn pass(&self, span: Duration) -> bool {
        let waited = self.0.changed.wait_timeout_while(self.lock(), span, |state| !state.open);
        waited.unwrap_or_else(PoisonError::into_inner).0.open
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The arguments of a tool call as the model writes them: words of an order stand for what an order can't hold. The client gives
/// it back in later requests, where [`as_ordered`] finds it.
fn as_said(input: &Value) -> String {
    odd_words().iter().fold(input.to_string(), |text, (word, said)| text.replace(word, said))
}

fn as_ordered(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body).into_owned();
    odd_words().iter().fold(text, |text, (word, said)| text.replace(said, word))
}

/// The words, and what the model says, as JSON.
fn odd_words() -> [(&'static str, String); 3] {
    let brackets = "[".repeat(200) + &"]".repeat(200);
    [("HALF-AN-EMOJI", "\\ud83d".to_owned()), ("\"200-BRACKETS\"", brackets), ("5-MIB", "x".repeat(5 << 20))]
}

/// What a script is shown: one request of a session's conversation.
pub struct Turn {
    /// The session's key.
    pub session: String,
    pub request: Request,
}

impl std::ops::Deref for Turn {
    type Target = Request;
    fn deref(&self) -> &Request {
        &self.request
    }
}

/// A request as the client sent it.
#[derive(Clone)]
pub struct Request {
    /// When it arrived, since the model was started.
    pub at: Duration,
    /// The same, in milliseconds since 1970, as the hub's events have it.
    pub ts_ms: u64,
    /// False for the client's side requests (titles, summaries, probes). Only a side script sees those; they are answered "ok".
    pub conversation: bool,
    /// How many requests of the session's conversation came before.
    pub number: usize,
    pub body: Arc<Value>,
}

/// A tool's result among the newest messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolResult {
    /// The tool's name, looked up in the assistant message that called it.
    pub name: String,
    pub text: String,
    pub is_error: bool,
}

/// How often a needle occurs in a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occurrences {
    /// Messages with at least one match.
    pub messages: usize,
    /// Content blocks with at least one match (a message can hold several that arrived together).
    pub blocks: usize,
    /// Matches, also several in one block.
    pub matches: usize,
}

impl Request {
    pub fn messages(&self) -> &[Value] {
        self.body["messages"].as_array().map_or(&[], Vec::as_slice)
    }

    /// The messages after the last one of the model: what is new in this request, tool results and `system`-role
    /// messages included.
    pub fn fresh(&self) -> &[Value] {
        let messages = self.messages();
        let start = messages.iter().rposition(|m| m["role"] == "assistant").map_or(0, |at| at + 1);
        &messages[start..]
    }

    /// The text of [`Request::fresh`], all of it.
    pub fn fresh_text(&self) -> String {
        self.fresh().iter().map(text_of).collect::<Vec<_>>().join("\n")
    }

    /// True if the needle is in what is new in this request.
    pub fn hears(&self, needle: &str) -> bool {
        self.fresh_text().contains(needle)
    }

    /// True if the needle is anywhere in the conversation.
    pub fn contains(&self, needle: &str) -> bool {
        self.occurrences(needle).matches > 0
    }

    /// The text of the newest `user` message, reminders of the client's included.
    pub fn newest_user_text(&self) -> String {
        self.messages().iter().rfind(|m| m["role"] == "user").map(text_of).unwrap_or_default()
    }

    /// The tool results that are new in this request, in the order of the calls: the client sends them as they come.
    pub fn tool_results(&self) -> Vec<ToolResult> {
        let calls: Vec<&Value> =
            blocks(self.messages()).filter(|block| block["type"] == "tool_use").collect();
        let mut results: Vec<(Option<usize>, ToolResult)> = blocks(self.fresh())
            .filter(|block| block["type"] == "tool_result")
            .map(|block| {
                let call = calls.iter().position(|call| call["id"] == block["tool_use_id"]);
                let name = call.and_then(|at| calls[at]["name"].as_str()).unwrap_or("?").to_owned();
                (call, ToolResult { name, text: text_of(block), is_error: block["is_error"] == true })
            })
            .collect();
        results.sort_by_key(|(call, _)| *call);
        results.into_iter().map(|(_, result)| result).collect()
    }

    /// The names of the tools that the model may call.
    pub fn tool_names(&self) -> Vec<&str> {
        let tools = self.body["tools"].as_array().map_or(&[][..], Vec::as_slice);
        tools.iter().filter_map(|tool| tool["name"].as_str()).collect()
    }

    /// The system prompt (server instructions are in it, or in a `system`-role message: see [`Request::contains`]).
    pub fn system_prompt(&self) -> String {
        let mut text = String::new();
        collect_text(&self.body["system"], &mut text);
        text
    }

    /// How often the needle occurs in the messages, the model's own included.
    pub fn occurrences(&self, needle: &str) -> Occurrences {
        occurrences(self.messages().iter(), needle)
    }

    /// How often the needle occurs in what the model was given: the messages that aren't its own.
    pub fn received(&self, needle: &str) -> Occurrences {
        occurrences(self.messages().iter().filter(|m| m["role"] != "assistant"), needle)
    }
}

/// The content blocks of the messages that have some.
fn blocks(messages: &[Value]) -> impl Iterator<Item = &Value> {
    messages.iter().filter_map(|message| message["content"].as_array()).flatten()
}

fn occurrences<'a>(messages: impl Iterator<Item = &'a Value>, needle: &str) -> Occurrences {
    assert!(!needle.is_empty(), "an empty needle is everywhere");
    let mut found = Occurrences::default();
    for message in messages {
        let before = found.blocks;
        let content = &message["content"];
        let blocks = content.as_array().map_or(std::slice::from_ref(content), Vec::as_slice);
        for block in blocks {
            let matches = text_of(block).matches(needle).count();
            found.matches += matches;
            found.blocks += usize::from(matches > 0);
        }
        found.messages += usize::from(found.blocks > before);
    }
    found
}

/// The text of a message or a content block: every string in it that is content, one a line.
pub fn text_of(value: &Value) -> String {
    let mut text = String::new();
    collect_text(value, &mut text);
    text
}

fn collect_text(value: &Value, text: &mut String) {
    const NOT_CONTENT: [&str; 8] =
        ["type", "role", "id", "tool_use_id", "name", "cache_control", "signature", "media_type"];
    match value {
        Value::String(s) => {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(s);
        }
        Value::Array(items) => items.iter().for_each(|item| collect_text(item, text)),
        // What a tool was called with is content whatever its keys are called.
        Value::Object(fields) if fields.get("type").is_some_and(|t| t == "tool_use") => {
            collect_input(&fields["input"], text);
        }
        Value::Object(fields) => {
            fields
                .iter()
                .filter(|(key, _)| !NOT_CONTENT.contains(&key.as_str()))
                .for_each(|(_, v)| collect_text(v, text));
        }
        _ => {}
    }
}

fn collect_input(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => fields.values().for_each(|v| collect_input(v, text)),
        Value::Array(items) => items.iter().for_each(|v| collect_input(v, text)),
        other => collect_text(other, text),
    }
}

type Script = Arc<dyn Fn(&Turn) -> Step + Send + Sync>;

/// Answers a side request with a text.
type SideScript = Arc<dyn Fn(&Request) -> String + Send + Sync>;

/// The model server. Ends when dropped; turns that are still held then go on.
pub struct Model(Arc<Server>);

struct Server {
    address: SocketAddr,
    started: Instant,
    closing: AtomicBool,
    seats: Mutex<BTreeMap<String, Arc<Seat>>>,
    messages: AtomicUsize,
}

/// One session's place at the model.
struct Seat {
    script: Mutex<Script>,
    side_script: Mutex<SideScript>,
    requests: Journal<Request>,
    turns: AtomicUsize,
    /// What a script said when it panicked.
    failure: Mutex<Option<String>>,
}

impl Seat {
    /// A script that panics, on a failed expectation for one, fails the test that waits for the session.
    fn follow_script(&self, turn: &Turn) -> Step {
        let script = Arc::clone(&lock(&self.script));
        let step = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| script(turn)));
        step.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text =
                text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words");
            *lock(&self.failure) = Some(text.to_owned());
            self.requests.close();
            Step::say(format!("(the script panicked: {text})"))
        })
    }
}

impl Model {
    pub fn start() -> Model {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        let server = Arc::new(Server {
            address: listener.local_addr().expect("the listener's address"),
            started: Instant::now(),
            closing: AtomicBool::new(false),
            seats: Mutex::default(),
            messages: AtomicUsize::new(0),
        });
        let accepting = Arc::clone(&server);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if accepting.closing.load(Ordering::SeqCst) {
                    break;
                }
                let server = Arc::clone(&accepting);
                // A client that hangs up in the middle of an answer is no failure of the model's.
                std::thread::spawn(move || server.serve(stream).ok());
            }
        });
        Model(server)
    }

    /// The base URL to give to the client of the session with this key (letters, digits, `-`, `_`).
    pub fn base_url(&self, session: &str) -> String {
        assert!(
            !session.is_empty() && session.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'),
            "a session's key goes into a URL: {session:?}"
        );
        format!("http://{}/s/{session}", self.0.address)
    }

    /// Says what the model does in this session. May be called again at any time; the next turn follows the new script.
    pub fn script(&self, session: &str, script: impl Fn(&Turn) -> Step + Send + Sync + 'static) {
        *lock(&self.0.seat(session).script) = Arc::new(script);
    }

    /// Says what the model answers to the client's side requests of this session, instead of "ok".
    pub fn side_script(&self, session: &str, script: impl Fn(&Request) -> String + Send + Sync + 'static) {
        *lock(&self.0.seat(session).side_script) = Arc::new(script);
    }

    /// Every request of the session so far, side requests included.
    pub fn requests(&self, session: &str) -> Vec<Request> {
        self.0.seat(session).requests.entries()
    }

    /// The newest request of the session's conversation, which repeats all of it so far.
    pub fn conversation(&self, session: &str) -> Option<Request> {
        self.requests(session).into_iter().rfind(|request| request.conversation)
    }

    /// Blocks until the session has made a request of its conversation, earlier or later, that satisfies the predicate.
    /// Requests repeat the conversation so far: [`Request::hears`] looks at what is new, [`Request::number`] at the order.
    #[track_caller]
    pub fn wait_for(&self, session: &str, what: &str, predicate: impl Fn(&Request) -> bool) -> Request {
        let found = self
            .0
            .seat(session)
            .requests
            .wait(|requests| requests.iter().find(|r| r.conversation && predicate(r)).cloned());
        match found {
            Ok(request) => request,
            Err(missed) => {
                panic!("the model of {session:?} was not asked for {what}: {missed}\n{}", self.dump(session))
            }
        }
    }

    /// In how many messages of the conversation as it stands now the needle occurs. Several that arrived together can
    /// share a message: [`Request::occurrences`] tells them apart. To be sure that nothing is still to come, let the
    /// session take one more turn first ([`Model::wait_for`] a prompt of your own) and count then.
    pub fn count_occurrences(&self, session: &str, needle: &str) -> usize {
        self.conversation(session).map_or(0, |request| request.occurrences(needle).messages)
    }

    /// Everything that a failed test's reader wants to know of a session: its requests, and the conversation.
    pub fn dump(&self, session: &str) -> String {
        let requests = self.requests(session);
        let mut dump = format!("--- model: {} requests of {session:?}\n", requests.len());
        for (index, request) in requests.iter().enumerate() {
            let kind = if request.conversation { "conversation" } else { "side request" };
            let at = request.at.as_secs_f32();
            let _ = writeln!(dump, "#{index} at {at:.1} s: {kind}, {} messages", request.messages().len());
        }
        if let Some(request) = requests.iter().rfind(|request| request.conversation) {
            let _ = writeln!(dump, "the newest conversation:");
            for message in request.messages() {
                let _ =
                    writeln!(dump, "[{}] {}", message["role"].as_str().unwrap_or("?"), shortened(message));
            }
        }
        if let Some(failure) = &*lock(&self.0.seat(session).failure) {
            let _ = writeln!(dump, "the script panicked: {failure}");
        }
        let seats: Vec<String> = lock(&self.0.seats).keys().cloned().collect();
        let _ = writeln!(dump, "--- the model knows the sessions {seats:?}");
        dump
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.0.closing.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then sees that it is over.
        TcpStream::connect(self.0.address).ok();
    }
}

fn shortened(message: &Value) -> String {
    const LONGEST: usize = 4000;
    let text = message["content"].to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    fn seat(&self, session: &str) -> Arc<Seat> {
        let mut seats = lock(&self.seats);
        let seat = seats.entry(session.to_owned()).or_insert_with(|| {
            Arc::new(Seat {
                script: Mutex::new(Arc::new(|turn: &Turn| {
                    Step::Say(format!("({} has no script)", turn.session))
                })),
                side_script: Mutex::new(Arc::new(|_: &Request| "ok".to_owned())),
                requests: Journal::default(),
                turns: AtomicUsize::new(0),
                failure: Mutex::default(),
            })
        });
        Arc::clone(seat)
    }

    /// Serves the one request of a connection.
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let Some(call) = Call::read(&mut stream)? else { return Ok(()) };
        let path = call.target.split('?').next().unwrap_or_default();
        let Some((session, endpoint)) = path.strip_prefix("/s/").and_then(|rest| rest.split_once('/')) else {
            return answer(&mut stream, 404, &not_found(path));
        };
        match (call.method.as_str(), endpoint) {
            ("POST", "v1/messages/count_tokens") => answer(&mut stream, 200, &json!({"input_tokens": 10})),
            ("POST", "v1/messages") => match serde_json::from_str(&as_ordered(&call.body)) {
                Ok(body) => self.take_turn(session, body, &mut stream),
                Err(e) => answer(&mut stream, 400, &api_error("invalid_request_error", &e.to_string())),
            },
            _ => answer(&mut stream, 404, &not_found(path)),
        }
    }

    fn take_turn(&self, session: &str, body: Value, stream: &mut TcpStream) -> io::Result<()> {
        let seat = self.seat(session);
        let streaming = body["stream"] == true;
        let model = body["model"].as_str().unwrap_or("scripted").to_owned();
        let conversation = is_conversation(&body);
        let number = seat.turns.fetch_add(usize::from(conversation), Ordering::SeqCst);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let ts_ms = u64::try_from(now).unwrap_or(u64::MAX);
        let request =
            Request { at: self.started.elapsed(), ts_ms, conversation, number, body: Arc::new(body) };
        seat.requests.push(request.clone());
        let mut step = if conversation {
            seat.follow_script(&Turn { session: session.to_owned(), request })
        } else {
            let script = Arc::clone(&lock(&seat.side_script));
            Step::say(script(&request))
        };
        if matches!(step, Step::Overloaded) {
            return self::answer(stream, 529, &api_error("overloaded_error", "Overloaded"));
        }

        let mut answer =
            Answer::begin(stream, streaming, &model, self.messages.fetch_add(1, Ordering::SeqCst))?;
        while let Step::Hold(gate, next) = step {
            gate.arrive();
            while !gate.pass(Duration::from_secs(1)) && !self.closing.load(Ordering::SeqCst) {
                // Also how a client that gave up is noticed.
                answer.ping()?;
            }
            step = *next;
        }
        answer.finish(step)
    }
}

/// The session's own conversation has tools to call; titles, summaries and probes have none.
fn is_conversation(body: &Value) -> bool {
    body["tools"].as_array().is_some_and(|tools| tools.len() > 1)
}

fn api_error(kind: &str, message: &str) -> Value {
    json!({"type": "error", "error": {"type": kind, "message": message}})
}

fn not_found(path: &str) -> Value {
    api_error("not_found_error", &format!("nothing at {path}"))
}

fn answer(stream: &mut TcpStream, status: u16, body: &Value) -> io::Result<()> {
    let body = body.to_string();
    write!(
        stream,
        "HTTP/1.1 {status} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        if status == 200 { "OK" } else { "Error" },
        body.len(),
    )
}

/// An HTTP request.
struct Call {
    method: String,
    target: String,
    body: Vec<u8>,
}

impl Call {
    /// Reads a request; `None` if the client connected and said nothing.
    fn read(stream: &mut TcpStream) -> io::Result<Option<Call>> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(io::Error::other(format!("not a request line: {line:?}")));
        };
        let (mut length, mut chunked) = (0, false);
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().map_err(io::Error::other)?,
                "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
                "expect" => stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?,
                _ => {}
            }
        }
        let mut body = Vec::new();
        if chunked {
            read_chunks(&mut reader, &mut body)?;
        } else {
            reader.take(length).read_to_end(&mut body)?;
        }
        Ok(Some(Call { method, target, body }))
    }
}

fn read_chunks(reader: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = line.trim().split(';').next().unwrap_or_default();
        let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
        reader.by_ref().take(size).read_to_end(body)?;
        // The line break after the chunk, or the empty line after the last.
        reader.read_line(&mut String::new())?;
        if size == 0 {
            return Ok(());
        }
    }
}

/// An answer being written: server-sent events, or one JSON object for a client that didn't ask for a stream.
struct Answer<'a> {
    stream: &'a mut TcpStream,
    streaming: bool,
    message: Value,
    number: usize,
}

impl<'a> Answer<'a> {
    fn begin(
        stream: &'a mut TcpStream,
        streaming: bool,
        model: &str,
        number: usize,
    ) -> io::Result<Answer<'a>> {
        let message = json!({
            "id": format!("msg_scripted_{number}"), "type": "message", "role": "assistant", "model": model,
            "content": [], "stop_reason": null, "stop_sequence": null,
            "usage": {"input_tokens": 10, "output_tokens": 1},
        });
        let mut answer = Answer { stream, streaming, message, number };
        if streaming {
            answer.stream.write_all(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\nconnection: close\r\n\r\n",
            )?;
            let start = json!({"type": "message_start", "message": answer.message});
            answer.event(&start)?;
        }
        Ok(answer)
    }

    fn event(&mut self, event: &Value) -> io::Result<()> {
        write!(self.stream, "event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default())
    }

    fn ping(&mut self) -> io::Result<()> {
        if self.streaming { self.event(&json!({"type": "ping"})) } else { Ok(()) }
    }

    fn finish(mut self, step: Step) -> io::Result<()> {
        let calls = match step {
            Step::Say(text) => return self.write(&[json!({"type": "text", "text": text})], "end_turn"),
            Step::Tool { name, input } => vec![(name, input)],
            Step::Tools(calls) => calls,
            Step::Hold(..) | Step::Overloaded => unreachable!("handled before the answer begins"),
        };
        let number = self.number;
        let blocks: Vec<Value> = calls
            .into_iter()
            .enumerate()
            .map(|(i, (name, input))| {
                json!({"type": "tool_use", "id": format!("toolu_scripted_{number}_{i}"), "name": name, "input": input})
            })
            .collect();
        self.write(&blocks, "tool_use")
    }

    fn write(&mut self, blocks: &[Value], stop_reason: &str) -> io::Result<()> {
        if !self.streaming {
            self.message["content"] = json!(blocks);
            self.message["stop_reason"] = json!(stop_reason);
            return answer(self.stream, 200, &self.message);
        }
        for (index, block) in blocks.iter().enumerate() {
            let mut empty = block.clone();
            let delta = if block["type"] == "text" {
                empty["text"] = json!("");
                json!({"type": "text_delta", "text": block["text"]})
            } else {
                empty["input"] = json!({});
                json!({"type": "input_json_delta", "partial_json": as_said(&block["input"])})
            };
            self.event(&json!({"type": "content_block_start", "index": index, "content_block": empty}))?;
            self.event(&json!({"type": "content_block_delta", "index": index, "delta": delta}))?;
            self.event(&json!({"type": "content_block_stop", "index": index}))?;
        }
        self.event(&json!({
            "type": "message_delta", "delta": {"stop_reason": stop_reason, "stop_sequence": null},
            "usage": {"output_tokens": 1},
        }))?;
        self.event(&json!({"type": "message_stop"}))?;
        self.stream.flush()
    }
}
