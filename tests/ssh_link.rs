//! Two homes and a real sshd on loopback between them: `relay link`. The sshd has a configuration, keys and a port of its
//! own; nothing of the user's `~/.ssh` is read. The sessions of the other machine run under another host name, where
//! namespaces can be had.

mod driver;
#[path = "namespaces/mod.rs"]
mod namespaces;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use driver::{Channel, DataDir, relay_path, signal, until};
use serde_json::{Value, json};

const SSHD: &str = "/usr/sbin/sshd";

/// This machine, the other one, and what runs between them.
struct Sites {
    /// First: its link ends before the server that it uses.
    local: DataDir,
    remote: DataDir,
    port: u16,
    sshd: Option<Child>,
}

impl Sites {
    /// `None`, and says so, where there is no OpenSSH.
    fn new(local: &[(&str, &str)]) -> Option<Sites> {
        let has_client = Command::new("ssh").arg("-V").stderr(Stdio::null()).status().is_ok();
        if !has_client || !Path::new(SSHD).exists() {
            eprintln!("SKIPPED: {SSHD} and ssh are not installed (apt-get install openssh-server)");
            return None;
        }
        let remote = DataDir::new();
        let root = remote.root().to_owned();
        let bin = root.join("bin");
        fs::create_dir(&bin).expect("a directory");
        let script = format!("#!/bin/sh\nexec ssh -F '{}' \"$@\"\n", root.join("config").display());
        let path = std::env::var("PATH").unwrap_or_default();
        // The wrapper must not find itself.
        let script = script.replace("exec ssh", &format!("PATH='{path}' exec ssh"));
        fs::write(bin.join("ssh"), script).expect("a wrapper");
        fs::set_permissions(bin.join("ssh"), fs::Permissions::from_mode(0o755)).expect("a mode");
        let path = format!("{}:{path}", bin.display());
        let mut env = vec![("PATH", path.as_str())];
        env.extend(local);
        let local = DataDir::with(&env);
        let mut sites = Sites { local, remote, port: 0, sshd: None };
        sites.configure();
        sites.start_sshd();
        let login = sites.local.command_of("ssh").args(["devbox", "true"]).output().expect("ssh");
        if fs::read_to_string(sites.at("sshd.log")).is_ok_and(|log| log.contains("account is locked")) {
            eprintln!("SKIPPED: sshd refuses this user, whose account is locked");
            return None;
        }
        assert!(login.status.success(), "{login:?}");
        Some(sites)
    }

    fn at(&self, name: &str) -> String {
        self.remote.root().join(name).to_str().expect("text").to_owned()
    }

    fn configure(&mut self) {
        self.port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        for key in ["host_key", "user_key"] {
            let args = ["-q", "-t", "ed25519", "-N", "", "-f", &self.at(key)];
            assert!(Command::new("ssh-keygen").args(args).status().expect("ssh-keygen").success());
        }
        let user = Command::new("id").arg("-un").output().expect("id").stdout;
        let user = String::from_utf8_lossy(&user).trim().to_owned();
        let program = Path::new(relay_path()).parent().expect("a directory").display();
        let set = format!(
            "RELAY_DATA_DIR={} HOME={} PATH={program}:/usr/bin:/bin",
            self.remote.path().display(),
            self.at("home")
        );
        let (host_key, user_key) = (self.at("host_key"), self.at("user_key"));
        let server = format!(
            "Port {}\nListenAddress 127.0.0.1\nHostKey {host_key}\nPidFile none\nAuthorizedKeysFile {user_key}.pub\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nSetEnv {set}\n",
            self.port
        );
        fs::write(self.at("sshd_config"), server).expect("a configuration");
        let client = format!(
            "Host devbox other-name\nHostName 127.0.0.1\nPort {}\nUser {user}\nIdentityFile {user_key}\nIdentitiesOnly yes\n\
             UserKnownHostsFile {}\nStrictHostKeyChecking accept-new\nLogLevel ERROR\n",
            self.port,
            self.at("known_hosts")
        );
        fs::write(self.at("config"), client).expect("a configuration");
    }

    fn start_sshd(&mut self) {
        let _ = fs::create_dir("/run/sshd"); // root's sshd wants it; a service would make it
        let log = fs::File::create(self.at("sshd.log")).expect("a log");
        let args = ["-D", "-e", "-f", &self.at("sshd_config")];
        self.sshd = Some(Command::new(SSHD).args(args).stderr(log).spawn().expect("sshd"));
        until("an sshd that listens", || TcpStream::connect(("127.0.0.1", self.port)).ok());
    }

    /// Neither listens nor serves any more.
    fn stop_sshd(&mut self) {
        self.sessions().into_iter().for_each(|pid| signal(pid, "KILL"));
        let mut sshd = self.sshd.take().expect("it runs");
        let _ = sshd.kill().and_then(|()| sshd.wait()); // it has not ended by itself
    }

    /// The processes of sshd that serve connections.
    fn sessions(&self) -> Vec<u32> {
        let mut found: Vec<u32> = self.sshd.iter().map(Child::id).collect();
        let mut at = 0;
        while at < found.len() {
            let children = namespaces::children(found[at]).into_iter();
            found.extend(children.filter(|(_, name)| name.starts_with("sshd")).map(|(pid, _)| pid));
            at += 1;
        }
        found.split_off(1)
    }

    fn relay(&self, args: &[&str]) -> Output {
        self.local.command(args).output().expect("relay")
    }

    fn unlink(&self) {
        let output = self.relay(&["unlink", "devbox"]);
        assert!(output.status.success(), "{output:?}");
        until("its end", || (!self.is_listed()).then_some(()));
    }

    /// Whether the link to `devbox` is listed.
    fn is_listed(&self) -> bool {
        String::from_utf8_lossy(&self.relay(&["link"]).stdout).contains("\ndevbox  ")
    }

    /// A session on the other machine.
    fn session(&self, name: &str) -> Channel {
        let launch = match namespaces::renaming("elsewhere") {
            Some(script) => self.remote.launch(name).shell(script),
            None => self.remote.launch(name),
        };
        let channel = launch.start();
        channel.initialize();
        channel.call("relay_peers", Value::Null).ok();
        channel
    }

    /// A link that is up.
    fn link(&self) -> Link {
        let mut command = self.local.command(&["link", "devbox"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("relay link");
        let lines = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut link = Link { child, lines };
        link.wait_for("Linked devbox");
        assert!(self.is_listed());
        link
    }
}

impl Drop for Sites {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("sshd: {}", fs::read_to_string(self.at("sshd.log")).unwrap_or_default());
        }
        let _ = self.relay(&["unlink", "devbox"]); // it may have ended
        if self.sshd.is_some() {
            self.stop_sshd();
        }
    }
}

struct Link {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Link {
    fn wait_for(&mut self, beginning: &str) {
        let mut line = String::new();
        assert!(self.lines.read_line(&mut line).expect("text") > 0, "the link ended before: {beginning}");
        assert!(line.starts_with(beginning), "{line}");
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        signal(self.child.id(), "TERM");
        let _ = self.child.wait();
    }
}

/// Waits until the channel finds the other one among the peers.
fn wait_for_peer(channel: &Channel, name: &str) {
    until(&format!("{name} as a peer"), || {
        let answer = channel.call("relay_peers", json!({}));
        let peers = answer.data["peers"].as_array().cloned().unwrap_or_default();
        peers.iter().any(|peer| peer["name"] == name).then_some(())
    });
}

fn talk(asker: &Channel, asked: &Channel) {
    let ask = asker.ask(&asked.session, "which port?");
    assert_eq!(asked.take("ask", &ask).from, asker.session);
    asked.reply(&ask, "4711").ok();
    assert!(asker.take("reply", &ask).content.contains("4711"));
}

#[test]
fn ten_asks_each_way() {
    let Some(sites) = Sites::new(&[]) else { return };
    let _link = sites.link();
    let (here, there) = (sites.local.channel("here"), sites.session("there"));
    if namespaces::renaming("elsewhere").is_some() {
        let peer = |of: &Channel| of.peers()["peers"][0].clone();
        assert_eq!((&peer(&here)["name"], &peer(&here)["host"]), (&json!("there"), &json!("elsewhere")));
        assert!(peer(&there)["host"].is_null(), "{}", peer(&there));
        let list = String::from_utf8_lossy(&sites.relay(&["peers"]).stdout).into_owned();
        assert!(list.contains("elsewhere:/"), "{list}");
        let ask = here.ask("there", "where are you?");
        there.take("ask", &ask);
        there.reply(&ask, "elsewhere").ok();
        assert!(here.take("reply", &ask).meta("cwd").starts_with("elsewhere:/"));
    }
    let start = Instant::now();
    for _ in 0..10 {
        talk(&here, &there);
        talk(&there, &here);
    }
    let pair = start.elapsed() / 20;
    let start = Instant::now();
    for _ in 0..5 {
        assert!(sites.local.command_of("ssh").args(["devbox", "true"]).status().expect("ssh").success());
    }
    println!("ask and answer over the link: {pair:?}; ssh HOST true: {:?}", start.elapsed() / 5);
    assert!(here.pushes().is_empty() && there.pushes().is_empty());
    // The hub here serves both; there is none on the other side, and its sessions cannot stop this one.
    assert!(sites.remote.hubs().is_empty());
    let output = sites.remote.command(&["stop"]).output().expect("relay");
    assert_eq!(output.status.code(), Some(15), "{output:?}");
    sites.unlink();
    sites.remote.hub(); // its own again
    until("there to be alone", || there.peer_names().is_empty().then_some(()));
}

#[test]
fn a_hub_that_is_replaced_hands_its_sessions_over() {
    let Some(sites) = Sites::new(&[]) else { return };
    let here = sites.local.channel("here");
    let (anna, bert) = (sites.session("anna"), sites.session("bert"));
    let old = sites.remote.hub();
    let answered = anna.ask("bert", "one");
    bert.take("ask", &answered);
    bert.reply(&answered, "1").ok();
    anna.take("reply", &answered);
    let open = anna.ask("bert", "two");
    bert.take("ask", &open);
    let _link = sites.link();
    for channel in [&anna, &bert] {
        wait_for_peer(channel, "here");
        wait_for_peer(&here, &channel.session);
    }
    until("the old hub's end", || (!driver::is_running(old)).then_some(()));
    assert!(anna.take("failed", &open).content.contains("hub_unreachable"));
    assert_eq!(bert.reply(&open, "2").code(), "unknown_ask");
    talk(&anna, &bert);
    talk(&here, &anna);
    // The old state comes back with the old hub: the ask has ended all the same.
    sites.unlink();
    wait_for_peer(&anna, "bert");
    // The linked hub, which is still there for a moment, does not tell.
    let asks = until("the asks", || {
        let asks = sites.remote.command(&["asks", "--json"]).output().expect("relay").stdout;
        serde_json::from_slice::<Value>(&asks).expect("JSON")["open"].as_array().cloned()
    });
    assert!(asks.is_empty(), "{asks:?}");
    talk(&bert, &anna);
    assert!(anna.pushes().is_empty(), "{:?}", anna.pushes());
}

#[test]
fn asks_survive_a_connection_that_is_cut() {
    let Some(sites) = Sites::new(&[]) else { return };
    let mut link = sites.link();
    let (here, there) = (sites.local.channel("here"), sites.session("there"));
    let (to, from) = (here.ask("there", "to"), there.ask("here", "from"));
    there.take("ask", &to);
    here.take("ask", &from);
    sites.sessions().into_iter().for_each(|pid| signal(pid, "KILL"));
    link.wait_for("Linked devbox");
    wait_for_peer(&there, "here");
    there.reply(&to, "1").ok();
    here.reply(&from, "2").ok();
    here.take("reply", &to);
    there.take("reply", &from);
    talk(&there, &here);
    assert!(here.pushes().is_empty() && there.pushes().is_empty());
    assert!(sites.remote.hubs().is_empty(), "nobody had the time to start one");
}

#[test]
fn sessions_have_a_hub_of_their_own_while_the_link_is_down() {
    let Some(mut sites) = Sites::new(&[("RELAY_REMOTE_GRACE_S", "1")]) else { return };
    let mut link = sites.link();
    let here = sites.local.channel("here");
    let (anna, bert) = (sites.session("anna"), sites.session("bert"));
    let (to, from) = (here.ask("anna", "to"), anna.ask("here", "from"));
    anna.take("ask", &to);
    here.take("ask", &from);
    sites.stop_sshd();
    assert!(here.take("failed", &to).content.contains("peer_gone"));
    sites.remote.hub();
    assert!(anna.take("failed", &from).content.contains("hub_unreachable"));
    wait_for_peer(&anna, "bert");
    talk(&anna, &bert);
    sites.start_sshd();
    link.wait_for("Linked devbox");
    wait_for_peer(&anna, "here");
    wait_for_peer(&here, "anna");
    assert_eq!(here.reply(&from, "2").code(), "peer_gone");
    assert!(anna.reply(&to, "1").is_error);
    talk(&anna, &here);
    assert!(here.pushes().is_empty() && anna.pushes().is_empty() && bert.pushes().is_empty());
}

/// The other machine does not notice that the connection is dead: neither end of it closes a socket there.
#[test]
fn sessions_leave_a_connection_that_is_dead() {
    let Some(sites) = Sites::new(&[]) else { return };
    let mut link = sites.link();
    let (here, there) = (sites.local.channel("here"), sites.session("there"));
    let dead = sites.sessions();
    dead.iter().for_each(|pid| signal(*pid, "STOP"));
    let ssh = namespaces::children(link.child.id());
    ssh.iter().for_each(|(pid, _)| signal(*pid, "KILL"));
    link.wait_for("Linked devbox");
    let ask = here.ask("there", "still there?");
    there.take("ask", &ask);
    there.reply(&ask, "yes").ok();
    here.take("reply", &ask);
    dead.iter().for_each(|pid| signal(*pid, "KILL"));
    assert!(here.pushes().is_empty() && there.pushes().is_empty());
}

#[test]
fn what_cannot_be_linked_is_told_and_leaves_nothing() {
    let Some(sites) = Sites::new(&[]) else { return };
    let fails = |args: &[&str], code: i32, what: &str| {
        let output = sites.relay(args);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?} {text}");
        assert!(text.contains(what), "{args:?} {text}");
    };
    for host in ["", "--", "a/b", ".", "a b", "$(id)"] {
        fails(&["link", "--", host], 2, "invalid host");
    }
    fails(&["link", "--", "-oProxyCommand=id"], 2, "invalid host");
    fails(&["unlink", "devbox"], 2, "\"devbox\" is not linked");
    fails(&["unlink"], 2, "missing HOST");
    fails(&["link", "no-such-host.invalid"], 1, "no-such-host.invalid");
    let path = format!("{}:{}", sites.at("bin"), std::env::var("PATH").unwrap_or_default());
    let itself = sites.remote.command(&["link", "devbox"]).env("PATH", &path).output().expect("relay");
    assert!(String::from_utf8_lossy(&itself.stderr).contains("the same data directory"), "{itself:?}");
    let link = sites.link();
    fails(&["link", "devbox"], 1, "linked already");
    // The same machine by another name, and a third machine that must not take the sessions away.
    fails(&["link", "other-name"], 1, "this machine is linked already");
    let third = DataDir::with(&[("PATH", &path)]);
    let output = third.command(&["link", "devbox"]).output().expect("relay");
    assert!(String::from_utf8_lossy(&output.stderr).contains("this machine is linked already"), "{output:?}");
    // The other machine cannot link on: its sessions' hub is here.
    until("the replaced hub's end", || sites.remote.hubs().is_empty().then_some(()));
    let output = sites.remote.command(&["link", "devbox"]).output().expect("relay");
    assert!(String::from_utf8_lossy(&output.stderr).contains("runs elsewhere"), "{output:?}");
    sites.unlink();
    drop(link);
    until("the other end to be gone", || (!sites.remote.socket().exists()).then_some(()));
}

#[test]
fn a_link_that_is_killed_leaves_nothing_and_can_be_made_again() {
    let Some(sites) = Sites::new(&[]) else { return };
    let there = sites.session("there");
    let link = sites.link();
    signal(link.child.id(), "KILL");
    drop(link);
    assert!(!sites.is_listed());
    until("the end of every connection", || sites.sessions().is_empty().then_some(()));
    let _link = sites.link();
    let here = sites.local.channel("here");
    wait_for_peer(&there, "here");
    talk(&here, &there);
    sites.unlink();
    until("the end of every connection", || sites.sessions().is_empty().then_some(()));
    assert!(!sites.remote.socket().exists() || sites.remote.hub_in_lock().is_some());
}

/// Hooks and the waiter of a session reach the linked hub as its channel does.
#[test]
fn hooks_wake_a_session_and_confirm_over_a_link() {
    let Some(sites) = Sites::new(&[("RELAY_CONFIRM_S", "60")]) else { return };
    let _link = sites.link();
    let here = sites.local.channel("here");
    let there = sites.remote.launch("there").env("RELAY_PUSH", "hook").start();
    there.initialize();
    wait_for_peer(&there, "here");
    let start = json!({"hook_event_name": "SessionStart", "source": "startup"});
    sites.remote.hook("there", &start);
    let waiter = sites.remote.waiter("there", &start);
    let ask = here.ask("there", "awake?");
    let text = waiter.mark_busy();
    assert!(text.contains("> awake?"), "{text}");
    let line = json!({"type": "user", "origin": {"kind": "task-notification"}, "message": {"content": text}});
    let transcript = sites.remote.transcript(&[&line]);
    let tool = json!({"hook_event_name": "PostToolUse", "transcript_path": transcript});
    until("seen", || {
        sites.remote.hook("there", &tool);
        (here.peers()["asks"][0]["state"] == "seen").then_some(())
    });
    there.reply(&ask, "yes").ok();
    here.take("reply", &ask);
}

/// A data directory, and with it the directory of an ssh that does what the script says.
fn with_fake_ssh(script: &str) -> (DataDir, DataDir) {
    let bin = DataDir::new();
    let ssh = bin.root().join("ssh");
    fs::write(&ssh, format!("#!/bin/sh\n{script}\n")).expect("a script");
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).expect("a mode");
    let path = format!("{}:{}", bin.root().display(), std::env::var("PATH").unwrap_or_default());
    (DataDir::with(&[("PATH", &path)]), bin)
}

#[test]
fn what_the_other_machine_says_is_cleaned() {
    let lie = r#"{"data_dir": "/x\u001b[2J\u001b]0;x\u0007:y\u202e", "epoch": null}"#;
    let (local, _bin) = with_fake_ssh(&format!("cat <<'END'\n{lie}\nEND\nexec sleep 60"));
    let output = local.command(&["link", "devbox"]).output().expect("relay");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("ssh cannot forward /x") && text.contains(":y/link.sock"), "{text:?}");
    assert!(!text.trim_end().contains(|c: char| c.is_control() || c == '\u{202e}'), "{text:?}");
}

#[test]
fn a_login_that_needs_a_prompt_is_explained() {
    let (local, _bin) = with_fake_ssh("echo 'me@devbox: Permission denied (publickey).' >&2; exit 255");
    let output = local.command(&["link", "devbox"]).output().expect("relay");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains(
            "Permission denied (publickey).\nrelay link: the connection has ended; `relay link --help`"
        ),
        "{text:?}"
    );
}

#[test]
fn a_link_that_never_came_up_is_listed_and_can_be_ended() {
    let (local, _bin) = with_fake_ssh("exec cat");
    let link = local.command(&["link", "devbox"]).stderr(Stdio::piped()).spawn().expect("relay");
    let list = || String::from_utf8(local.command(&["link"]).output().expect("relay").stdout).expect("text");
    let process = format!("devbox  {}\n", link.id());
    until("a link that connects", || list().contains(&process).then_some(()));
    assert!(local.command(&["unlink", "devbox"]).output().expect("relay").status.success());
    let ended = link.wait_with_output().expect("an end");
    let text = String::from_utf8_lossy(&ended.stderr);
    assert_eq!((ended.status.code(), text.as_ref(), list()), (None, "", "HOST  PROCESS\n".to_owned()));
}
