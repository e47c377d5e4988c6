//! How a hub is started: by the program that runs, whatever became of its file, with nothing of its starter's; and one for
//! each machine, where several see one directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::driver::{Channel, DataDir, is_running, relay_path, signal, until};

fn exe(pid: u32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).expect("a process")
}

/// A channel that runs a copy of the program, and the copy.
fn by_a_copy(dir: &DataDir) -> (Channel, PathBuf) {
    let channel = dir.launch("a").shell("cp \"$0\" relay-copy && exec ./relay-copy channel").start();
    channel.initialize();
    channel.peers();
    (channel, dir.root().join("relay-copy"))
}

/// Stops the hub, and has the channel start another; gives its process.
fn next_hub(dir: &DataDir, channel: &Channel) -> u32 {
    let old = dir.hub_in_lock().expect("a hub");
    let stopped = dir.command(&["stop"]).output().expect("relay stop");
    assert!(stopped.status.success(), "{stopped:?}");
    until("its end", || (!is_running(old)).then_some(()));
    assert_eq!(channel.name(), "a");
    until("the next hub", || dir.hub_in_lock().filter(|pid| *pid != old))
}

fn end(dir: &DataDir, hub: u32) {
    signal(hub, "TERM"); // the driver does not know it by its name
    until("its end", || (!is_running(hub)).then_some(()));
    assert!(dir.logged("panic").is_empty());
}

#[test]
fn program_that_was_replaced_starts_a_hub() {
    let dir = DataDir::new();
    let (mut channel, copy) = by_a_copy(&dir);
    assert_eq!(exe(next_hub(&dir, &channel)), copy);
    // As an update does: another file takes its place.
    let new = dir.root().join("new");
    fs::write(&new, "#!/bin/sh\necho 'not what runs' >&2\nexit 1\n").expect("written");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("a mode");
    fs::rename(&new, &copy).expect("replaced");
    let hub = next_hub(&dir, &channel);
    assert_eq!(exe(hub), PathBuf::from(format!("{} (deleted)", copy.display())));
    channel.kill();
    end(&dir, hub);
}

#[test]
fn program_that_was_removed_starts_a_hub() {
    let dir = DataDir::new();
    let (mut channel, copy) = by_a_copy(&dir);
    fs::remove_file(&copy).expect("removed");
    for _ in 0..2 {
        let hub = next_hub(&dir, &channel);
        assert_eq!(exe(hub), PathBuf::from(format!("{} (deleted)", copy.display())));
    }
    let hub = dir.hub_in_lock().expect("a hub");
    channel.kill();
    end(&dir, hub);
}

/// Runs a script in `shell`, in this data directory.
fn script(dir: &DataDir, shell: &str, script: &str) -> Output {
    let output = dir.command_of(shell).args(["-c", script, relay_path()]).stdin(Stdio::null()).output();
    output.expect("a shell")
}

/// Whether nobody holds the lock that the script held.
fn is_free(dir: &DataDir) -> bool {
    dir.command_of("flock").args(["--nonblock", "lock", "true"]).status().expect("flock").success()
}

fn leaves_the_lock_free(shell: &str, descriptor: u32) {
    if [shell, "flock"].iter().any(|program| Command::new(program).arg("--version").output().is_err()) {
        return eprintln!("SKIPPED: {shell} or flock is not installed");
    }
    let dir = DataDir::new();
    let ask = format!("exec {descriptor}>lock; flock {descriptor}; \"$0\" ask nobody '?'");
    let asked = script(&dir, shell, &ask);
    assert_eq!(asked.status.code(), Some(3), "{asked:?}");
    let hub = dir.hub();
    assert!(is_free(&dir), "the hub that the script started holds its lock");
    let open: Vec<PathBuf> = fs::read_dir(format!("/proc/{hub}/fd"))
        .expect("a process")
        .filter_map(|fd| fs::read_link(fd.expect("a descriptor").path()).ok())
        .collect();
    assert!(!open.contains(&dir.root().join("lock")), "{open:?}");
}

#[test]
fn hub_keeps_no_lock_of_the_script_that_started_it() {
    leaves_the_lock_free("sh", 9);
}

/// Only bash has descriptors over 9 that it can name.
#[test]
fn hub_keeps_no_lock_of_a_bash_script() {
    leaves_the_lock_free("bash", 12);
}

#[test]
fn hub_has_no_terminal_and_no_group_of_its_starter() {
    let dir = DataDir::new();
    let mut starter = dir.command(&["hub", "--detach"]);
    let child = starter.process_group(0).stdout(Stdio::piped()).spawn().expect("relay hub");
    let group = child.id();
    let said = child.wait_with_output().expect("an end");
    assert!(said.stdout.starts_with(b"listening in /"), "{said:?}");
    let hub = dir.hub();
    // What ends the group of its starter does not end it.
    signal(group, "KILL");
    let stat = fs::read_to_string(format!("/proc/{hub}/stat")).expect("a hub");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    assert_ne!(fields[2], group.to_string(), "a group of its own");
    assert_eq!(fields[4], "0", "no terminal");
    assert_eq!(fs::read_link(format!("/proc/{hub}/fd/0")).expect("stdin"), PathBuf::from("/dev/null"));
}

/// What a process of the machine `other` runs, if such a machine can be made: in a mount namespace where the files that tell
/// which machine this is are others.
fn on_another_machine(dir: &DataDir, command: &str) -> Option<Output> {
    let (host, boot) = (dir.root().join("hostname"), dir.root().join("boot_id"));
    fs::write(&host, "other\n").expect("written");
    fs::write(&boot, "00000000-1111-2222-3333-444444444444\n").expect("written");
    let script = "mount --bind hostname /proc/sys/kernel/hostname && mount --bind boot_id \
        /proc/sys/kernel/random/boot_id && echo there && eval \"$1\"";
    let mut unshare = dir.command_of("unshare");
    unshare.args(["--mount", "/bin/sh", "-c", script, relay_path(), command]).stdin(Stdio::null());
    let mut output = unshare.output().ok()?;
    let Some(said) = output.stdout.strip_prefix(b"there\n") else {
        eprintln!("SKIPPED: no mount namespace may be made here, so there is no other machine: {output:?}");
        return None;
    };
    output.stdout = said.to_vec();
    Some(output)
}

#[test]
fn two_machines_that_share_a_directory_have_a_hub_each() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "1000")]);
    let [a, b] = dir.channels(["a", "b"]);
    let ask_id = a.ask("b", "?");
    b.take("ask", &ask_id);
    let here = dir.hub();
    let Some(started) = on_another_machine(&dir, "\"$0\" hub --detach") else { return };
    assert!(started.status.success(), "{started:?}");
    let there = until("two hubs", || dir.hubs().into_iter().find(|hub| *hub != here));
    // Neither takes anything from the other.
    for name in ["hub", "hub-other"] {
        for ending in ["sock", "lock", "journal"] {
            assert!(dir.path().join(format!("{name}.{ending}")).exists(), "{name}.{ending}");
        }
    }
    let pid_in = |lock: &str| {
        let text = fs::read_to_string(dir.path().join(lock)).expect("a lock");
        text.lines().next().and_then(|pid| pid.parse::<u32>().ok())
    };
    assert_eq!((pid_in("hub.lock"), pid_in("hub-other.lock")), (Some(here), Some(there)));
    b.reply(&ask_id, "!").ok();
    a.take("reply", &ask_id);
    // Sockets do not reach from machine to machine. Here they do, so this machine's has to go first.
    for session in [a.pid(), b.pid()] {
        signal(session, "STOP");
    }
    dir.raw().call(json!({"type": "stop"})).expect("done");
    until("its end", || (!is_running(here)).then_some(()));
    let status = on_another_machine(&dir, "\"$0\" status --json").expect("it could be made before");
    let status: Value = serde_json::from_slice(&status.stdout).unwrap_or_else(|e| panic!("{e}: {status:?}"));
    assert_eq!((&status["pid"], &status["peers"]), (&json!(there), &json!(0)));
    // The machine that had the directory first goes on as before.
    for session in [a.pid(), b.pid()] {
        signal(session, "CONT");
    }
    until("both", || (a.peer_names() == ["b"] && b.peer_names() == ["a"]).then_some(()));
    assert!(is_running(there));
    let stopped = on_another_machine(&dir, "kill -TERM $(head -n 1 data/hub-other.lock)").expect("as before");
    assert!(stopped.status.success(), "{stopped:?}");
    until("its end", || (!is_running(there)).then_some(()));
    assert!(!dir.path().join("hub-other.sock").exists() && dir.socket().exists());
}

#[test]
fn machine_that_was_rebooted_or_renamed_is_the_same() {
    let dir = DataDir::new();
    dir.start_hub();
    let hub = dir.hub();
    dir.stop_hub();
    let lock = dir.path().join("hub.lock");
    let text = fs::read_to_string(&lock).expect("a lock");
    let lines: Vec<&str> = text.lines().collect();
    let [pid, host, boot] = lines[..] else { panic!("{text}") };
    assert_eq!(pid, hub.to_string());
    for same in [format!("1\n{host}\nother-boot\n"), format!("1\nother-host\n{boot}\n"), String::new()] {
        fs::write(&lock, &same).expect("written");
        dir.start_hub();
        assert!(dir.socket().exists(), "{same}");
        dir.stop_hub();
    }
}

/// The line by which a hub says that it listens names its directory.
#[test]
fn a_long_directory_in_any_script_starts_a_hub() {
    for begin in ["", "x"] {
        let dir = DataDir::below(&format!("{begin}{}", "é".repeat(60)), &[]);
        dir.start_hub();
        dir.stop_hub();
    }
}
