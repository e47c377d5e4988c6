//! Sessions in containers: with processes, mounts, a root directory and a host name of their own, made by `unshare` and
//! `chroot`, since no container engine runs in the tests. The root directory holds the program under test, the libraries
//! that `ldd` lists for it, and nothing else.

mod driver;
#[path = "namespaces/mod.rs"]
mod namespaces;

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use driver::{Channel, DataDir, relay_path, until};
use serde_json::{Value, json};

/// Where the default data directory is in a container.
const DATA: &str = "home/.claude/plugins/data/relay-claude-relay";

/// A container, and what is mounted into it.
struct Container<'a> {
    host: &'a DataDir,
    root: PathBuf,
    options: &'static str,
    /// The variables of its processes.
    env: Vec<(&'static str, &'static str)>,
    /// Source, target below the root, and whether it can be written.
    mounts: Vec<(PathBuf, &'static str, bool)>,
    /// Its user, if it is not the one of the tests.
    user: Option<u32>,
}

impl<'a> Container<'a> {
    /// `None`, and says so, where there are no namespaces.
    fn new(host: &'a DataDir) -> Option<Self> {
        let Some(options) = namespaces::container() else {
            eprintln!("SKIPPED: no namespaces can be had (unshare needs root or user namespaces)");
            return None;
        };
        let root = host.root().join("container");
        for dir in ["bin", "proc", "dev", "tmp", "run/relay", DATA] {
            fs::create_dir_all(root.join(dir)).expect("a directory");
        }
        fs::copy(relay_path(), root.join("bin/relay")).expect("the program");
        let output = Command::new("ldd").arg(relay_path()).output();
        let libraries = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        for path in libraries.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new) {
            let to = root.join(path.strip_prefix("/").expect("absolute"));
            fs::create_dir_all(to.parent().expect("a directory")).expect("a directory");
            fs::copy(path, to).expect("a library");
        }
        for device in ["dev/urandom", "dev/null"] {
            fs::write(root.join(device), "").expect("a file to mount on");
        }
        let mounts = [("/dev/urandom", "dev/urandom"), ("/dev/null", "dev/null")];
        let mounts = mounts.map(|(from, to)| (from.into(), to, true)).to_vec();
        Some(Container { host, root, options, env: Vec::new(), mounts, user: None })
    }

    fn mount(mut self, source: &Path, target: &'static str, is_writable: bool) -> Self {
        self.mounts.push((source.to_owned(), target, is_writable));
        self
    }

    fn env(mut self, name: &'static str, value: &'static str) -> Self {
        self.env.push((name, value));
        self
    }

    /// Shell lines that become `relay` with `args` in the container.
    fn script(&self, args: &str) -> String {
        let root = self.root.display();
        let mut inner = format!("set -e\nhostname box\nmount -t proc proc '{root}/proc'\n");
        for (source, target, is_writable) in &self.mounts {
            inner += &format!("mount --bind '{}' '{root}/{target}'\n", source.display());
            if !is_writable {
                inner += &format!("mount -o remount,bind,ro '{root}/{target}'\n");
            }
        }
        let env: String = self.env.iter().map(|(name, value)| format!(" {name}={value}")).collect();
        let user = self.user.map_or(String::new(), |user| {
            format!("setpriv --reuid {user} --regid {user} --clear-groups unshare --user --map-root-user ")
        });
        // Nothing of the surroundings but the session's name.
        inner += &format!(
            "exec {user}env -i PATH=\"$PATH\" HOME=/home RELAY_SESSION=\"$RELAY_SESSION\" RELAY_PUSH=channel CLAUDE_PROJECT_DIR=/home{env} \
             chroot '{root}' /bin/relay {args}"
        );
        // The shell of `Launch::shell` adds a command; this one never gets there.
        format!("exec unshare {} /bin/sh -c '{}'", self.options, inner.replace('\'', "'\\''"))
    }

    fn session(&self, name: &str) -> Channel {
        let channel = self.host.launch(name).shell(self.script("channel")).start();
        channel.initialize();
        channel
    }

    fn relay(&self, args: &str) -> Output {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &self.script(args)]).stdin(Stdio::null()).output().expect("a shell")
    }

    /// Fails with this code, and says this.
    fn fails(&self, args: &str, code: i32, what: &str) {
        let output = self.relay(args);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args}: {text}");
        assert!(text.contains(what), "{args}: {text}");
    }
}

fn talk(asker: &Channel, asked: &Channel) {
    let ask = asker.ask(&asked.name(), "which port?");
    assert_eq!(asked.take("ask", &ask).from, asker.name());
    asked.reply(&ask, "4711").ok();
    assert!(asker.take("reply", &ask).content.contains("4711"));
}

/// The session in the container is a peer of the one outside, and both say where it is.
fn both_talk(outside: &Channel, inside: &Channel) {
    until("the session in the container", || {
        (outside.call("relay_peers", json!({})).data["peers"][0]["host"] == "box").then_some(())
    });
    let peer = |of: &Channel| of.peers()["peers"][0].clone();
    assert!(peer(inside)["host"].is_null(), "{}", peer(inside));
    for _ in 0..10 {
        talk(outside, inside);
        talk(inside, outside);
    }
    assert!(outside.pushes().is_empty() && inside.pushes().is_empty());
}

fn peers_directory(dir: &DataDir) -> PathBuf {
    dir.peers_socket().parent().expect("a directory").to_owned()
}

#[test]
fn a_session_in_a_container_is_a_peer_and_no_more() {
    let host = DataDir::new();
    let outside = host.channel("outside");
    let Some(container) = Container::new(&host) else { return };
    let container = container
        .mount(&peers_directory(&host), "run/relay", false)
        .env("RELAY_SOCKET", "/run/relay/peers.sock");
    let inside = container.session("inside");
    both_talk(&outside, &inside);
    let hub = host.hub();
    for command in ["status", "stop", "tail", "asks"] {
        container.fails(command, 15, "not_allowed");
    }
    container.fails("hub", 1, "runs elsewhere");
    container.fails("link devbox", 1, "runs elsewhere");
    assert_eq!(host.hub(), hub);
    let output = container.relay("peers --json");
    let peers: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(peers["peers"].as_array().map(Vec::len), Some(2), "{output:?}");
    let name = inside.name();
    // The next hub replaces the socket in the mounted directory.
    host.kill_hub();
    until("a hub of the session outside", || outside.peer_names().contains(&name).then_some(()));
    talk(&outside, &inside);
    assert_eq!(fs::read_dir(peers_directory(&host)).expect("a directory").count(), 1, "peers.sock alone");
}

/// Without a variable: the directory is mounted at its place in the default data directory.
#[test]
fn a_mounted_directory_is_enough_and_no_hub_is_started() {
    let host = DataDir::new();
    let Some(container) = Container::new(&host) else { return };
    fs::create_dir(container.root.join(DATA).join("peers")).expect("a directory");
    let outside = host.channel("outside");
    let container =
        container.mount(&peers_directory(&host), "home/.claude/plugins/data/relay-claude-relay/peers", false);
    let inside = container.session("inside");
    both_talk(&outside, &inside);
    drop(outside);
    host.stop_hub();
    // The directory still has the socket that nobody listens on.
    assert!(fs::symlink_metadata(host.peers_socket()).expect("left").file_type().is_socket());
    container.fails("ask outside hm?", 11, "no hub listens on");
    assert_eq!(
        inside.call("relay_ask", json!({"to": "outside", "question": "hm?"})).code(),
        "hub_unreachable"
    );
    assert!(!container.root.join(DATA).join("hub.lock").exists(), "no hub was started in it");
    let outside = host.channel("outside");
    until("the session in the container", || (!outside.peer_names().is_empty()).then_some(()));
    talk(&outside, &inside);
}

/// Everything is mounted: then a container is as trusted as a process outside.
#[test]
fn the_data_directory_may_be_mounted() {
    let host = DataDir::new();
    let outside = host.channel("outside");
    let Some(container) = Container::new(&host) else { return };
    let container = container.mount(host.path(), "run/relay", true).env("RELAY_DATA_DIR", "/run/relay");
    let inside = container.session("inside");
    both_talk(&outside, &inside);
    let output = container.relay("status");
    assert!(output.status.success(), "{output:?}");
}

/// A container whose user is another one outside, as engines with user namespaces have it.
#[test]
fn another_user_connects_only_if_the_directory_is_open_to_it() {
    let host = DataDir::new();
    let Some(container) = Container::new(&host) else { return };
    if !fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0) {
        eprintln!("SKIPPED: only root can take another user id");
        return;
    }
    let outside = host.channel("outside");
    let mut container = container
        .mount(&peers_directory(&host), "run/relay", false)
        .env("RELAY_SOCKET", "/run/relay/peers.sock");
    container.user = Some(54_321);
    // A temporary directory may be closed to others; an engine's storage is not.
    let owner = format!("{0}:{0}", 54_321);
    for dir in [container.root.join("home"), container.root.join("tmp")] {
        let done = Command::new("chown").args(["-R", &owner]).arg(dir).status();
        assert!(done.expect("chown").success());
    }
    let mode = |path: &Path| fs::symlink_metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(&peers_directory(&host)), mode(&host.peers_socket())), (0o700, 0o600));
    container.fails("ask outside hm?", 11, "Permission denied");
    fs::set_permissions(peers_directory(&host), Permissions::from_mode(0o711)).expect("a mode");
    host.stop_hub();
    until("the next hub", || {
        (host.peers_socket().exists() && mode(&host.peers_socket()) == 0o666).then_some(())
    });
    assert_eq!(mode(host.path()), 0o700, "others on the machine are kept out as before");
    let inside = container.session("inside");
    both_talk(&outside, &inside);
}
