//! The plugin's launcher, under every POSIX shell that is here.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

const LAUNCHER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/plugin/bin/relay-launcher");

/// A directory with spaces and worse in its name, that stands for a whole machine. There is one at a time: a program
/// can't be run while a child that another thread is just starting still has it open for writing.
struct Place(PathBuf, #[expect(dead_code, reason = "held, not read")] MutexGuard<'static, ()>);

impl Place {
    fn new() -> Place {
        static ONE: Mutex<()> = Mutex::new(());
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("launcher {} $HOME '\"' *", std::process::id());
        let place = Place(std::env::temp_dir().join(name), one);
        let _ = fs::remove_dir_all(&place.0);
        fs::create_dir_all(place.at("plugin/bin")).expect("a directory");
        fs::copy(LAUNCHER, place.at("plugin/bin/relay-launcher")).expect("a copy");
        place.uname("Linux x86_64");
        place
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    fn program(&self, path: &str, script: &str) -> PathBuf {
        let path = self.at(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, script).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
        path
    }

    /// A relay that says who and what it is.
    fn relay(&self, path: &str) -> PathBuf {
        let script = "#!/bin/sh\n# Claude Relay connects this session\necho \"$0\"; echo \"$$\"; for a; do echo \"<$a>\"; done\n";
        self.program(path, script)
    }

    fn uname(&self, says: &str) {
        self.program("uname/uname", &format!("#!/bin/sh\necho '{says}'\n"));
    }

    /// The launcher, started by a shell, with `bin` (and a `uname`) as its `PATH`.
    fn launcher(&self, shell: &Path) -> Command {
        let mut command = Command::new(shell);
        command.arg(self.at("plugin/bin/relay-launcher"));
        let path = format!("{}:{}", self.at("uname").display(), self.at("bin").display());
        command.env_clear().env("PATH", path).env("HOME", self.at("home")).current_dir("/");
        command
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Runs `test` under each shell. The first is the one that the launcher's first line names.
fn under_every_shell(test: impl Fn(&Path)) {
    let mut met = 0;
    for shell in ["/bin/sh", "/bin/dash", "/usr/bin/dash", "/bin/bash", "/usr/bin/bash"] {
        let shell = Path::new(shell);
        if shell.exists() {
            test(shell);
            met += 1;
        }
    }
    assert!(met > 0, "there is no shell");
}

fn lines(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Which binary it became.
#[track_caller]
fn became(command: &mut Command) -> PathBuf {
    lines(&command.arg("channel").output().expect("a shell")).first().expect("it said who it is").into()
}

#[test]
fn it_becomes_the_binary_and_hands_over_every_argument() {
    under_every_shell(|shell| {
        let place = Place::new();
        let relay = place.relay("plugin/bin/linux-x86_64/relay");
        let mut command = place.launcher(shell);
        command.args(["hook", "--wait", "a b", "", "*", "$(false)", "-n"]);
        let child = command.stdout(std::process::Stdio::piped()).spawn().expect("a shell");
        let pid = child.id().to_string();
        let said = lines(&child.wait_with_output().expect("it ended"));
        let want = ["<hook>", "<--wait>", "<a b>", "<>", "<*>", "<$(false)>", "<-n>"];
        assert_eq!(said[0], relay.to_str().expect("UTF-8"), "{}", shell.display());
        assert_eq!(said[1], pid, "exec keeps the process");
        assert_eq!(said[2..], want);
    });
}

#[test]
fn the_order_of_places() {
    under_every_shell(|shell| {
        let place = Place::new();
        let named = place.relay("somewhere else/my relay");
        let places =
            ["plugin/bin/linux-x86_64/relay", "bin/relay", "home/.cargo/bin/relay", "home/.local/bin/relay"]
                .map(|path| place.relay(path));
        assert_eq!(became(place.launcher(shell).env("RELAY_BIN", &named)), named);
        for relay in &places {
            assert_eq!(became(&mut place.launcher(shell)), *relay, "{}", shell.display());
            // What can't be run is passed over, and so is a directory of that name.
            fs::set_permissions(relay, fs::Permissions::from_mode(0o644)).expect("a mode");
            fs::remove_file(relay).expect("removed");
            fs::create_dir(relay).expect("a directory");
        }
    });
}

/// Of the programs that are called relay, only ours is run; another may exit 2, which blocks every prompt.
#[test]
fn a_program_that_is_not_ours_is_passed_over() {
    under_every_shell(|shell| {
        let place = Place::new();
        let theirs =
            ["bin/relay", "home/.cargo/bin/relay"].map(|path| place.program(path, "#!/bin/sh\nexit 2\n"));
        let ours = place.relay("home/.local/bin/relay");
        assert_eq!(became(&mut place.launcher(shell)), ours, "{}", shell.display());
        let refused =
            place.launcher(shell).arg("hook").env("RELAY_BIN", &theirs[0]).output().expect("a shell");
        assert_eq!(refused.status.code(), Some(127));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("is not a relay binary"));
        let found =
            place.launcher(shell).arg("--version").env("RELAY_BIN", env!("CARGO_BIN_EXE_relay")).output();
        assert_eq!(found.expect("a shell").status.code(), Some(0), "the built binary has the mark");
    });
}

/// What a client does that takes the plugin's hooks and drops their arguments.
#[test]
fn without_arguments_it_disturbs_nobody() {
    under_every_shell(|shell| {
        let place = Place::new();
        place.program("plugin/bin/linux-x86_64/relay", "#!/bin/sh\nexit 2\n");
        let output = place.launcher(shell).output().expect("a shell");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0));
    });
}

#[test]
fn every_system_has_its_folder() {
    under_every_shell(|shell| {
        for (says, folder) in [
            ("Linux x86_64", "linux-x86_64"),
            ("Linux aarch64", "linux-arm64"),
            ("Darwin arm64", "darwin-arm64"),
            ("Darwin x86_64", "darwin-x86_64"),
        ] {
            let place = Place::new();
            place.relay("bin/relay");
            let relay = place.relay(&format!("plugin/bin/{folder}/relay"));
            place.uname(says);
            assert_eq!(became(&mut place.launcher(shell)), relay);
            place.uname("Linux riscv64");
            assert_eq!(became(&mut place.launcher(shell)), place.at("bin/relay"));
        }
    });
}

#[test]
fn it_names_the_remedy_and_keeps_stdout_clean() {
    under_every_shell(|shell| {
        let place = Place::new();
        place.uname("Linux riscv64");
        if ["/usr/local/bin/relay", "/opt/homebrew/bin/relay"].iter().all(|p| !Path::new(p).exists()) {
            let output = place.launcher(shell).arg("channel").output().expect("a shell");
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!((output.status.code(), output.stdout.len()), (Some(127), 0), "{said}");
            for word in ["riscv64", "cargo install", "RELAY_BIN"] {
                assert!(said.contains(word), "{said}");
            }
            assert_eq!(said.trim_end().lines().count(), 1, "the doctor shows it in one line: {said}");
            // Also without HOME and without a PATH to speak of.
            let output = place.launcher(shell).arg("channel").env_remove("HOME").output().expect("a shell");
            assert_eq!(output.status.code(), Some(127));
        }
        place.relay("plugin/bin/linux-x86_64/relay");
        for wrong in ["nothing here", ".", "plugin/bin"] {
            let output = place
                .launcher(shell)
                .arg("channel")
                .env("RELAY_BIN", place.at(wrong))
                .output()
                .expect("a shell");
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!((output.status.code(), output.stdout.len()), (Some(127), 0));
            assert!(said.contains("RELAY_BIN is '") && said.contains(wrong), "{said}");
        }
    });
}

#[test]
fn its_parent_is_the_binarys() {
    // As Claude Code starts it: by its own path, with the interpreter that its first line names.
    let place = Place::new();
    let script = "#!/bin/sh\necho \"$PPID\"\n";
    for folder in ["linux-x86_64", "linux-arm64", "darwin-arm64", "darwin-x86_64"] {
        place.program(&format!("plugin/bin/{folder}/relay"), script);
    }
    let mut command = Command::new(place.at("plugin/bin/relay-launcher"));
    command.arg("hook").env("PATH", "/usr/bin:/bin").env_remove("RELAY_BIN");
    let said = lines(&command.output().expect("the launcher can be run"));
    assert_eq!(said, [std::process::id().to_string()]);
}

#[test]
fn it_is_short_and_clean() {
    let text = fs::read_to_string(LAUNCHER).expect("the launcher");
    assert!(text.lines().count() < 60);
    assert!(text.starts_with("#!/bin/sh\n"));
    let files = ["plugin/bin/relay-launcher", "scripts/package", "scripts/musl-toolchain"];
    match Command::new("shellcheck").args(files).current_dir(env!("CARGO_MANIFEST_DIR")).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
        Err(_) => eprintln!("SKIPPED: shellcheck is not here"),
    }
}
