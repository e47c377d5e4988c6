//! A real session in its terminal user interface, on a screen that the test reads: a tmux server of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::journal::deadline;
use super::launch::Launch;
use super::leftovers;

/// A session in a terminal of 160 by 50 characters. Its tmux server is killed on drop.
pub struct Terminal {
    name: String,
    tmux: PathBuf,
    socket: PathBuf,
    environment: Vec<(String, String)>,
    channel: bool,
    pid: u32,
    /// The process of its tmux server.
    server: u32,
}

impl Terminal {
    #[track_caller]
    pub fn start(launch: Launch<'_>, tmux: &Path) -> Terminal {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = launch.home.path().join("tmp");
        let config = dir.join(format!("tmux-{number}.conf"));
        std::fs::write(&config, CONFIGURATION).expect("tmux's configuration");

        let mut terminal = Terminal {
            name: launch.name.clone(),
            tmux: tmux.to_owned(),
            socket: dir.join(format!("tmux-{number}.sock")),
            environment: launch.environment().into_iter().collect(),
            channel: launch.channel.is_some(),
            pid: 0,
            server: 0,
        };
        let mut start = terminal.command();
        start
            .arg("-f")
            .arg(&config)
            .args(["new-session", "-d", "-x", "160", "-y", "50", "-c"])
            .arg(&launch.dir);
        start.arg("--").arg(&launch.claude).args(launch.arguments()).current_dir(&launch.dir);
        let output = start.output().unwrap_or_else(|e| panic!("{}: {e}", tmux.display()));
        assert!(output.status.success(), "tmux did not start: {}", String::from_utf8_lossy(&output.stderr));
        let ask = |format: &str| {
            let pid = terminal.tmux(&["display-message", "-p", format]);
            pid.trim().parse().unwrap_or_else(|e| panic!("tmux names no process, but {pid:?}: {e}"))
        };
        (terminal.pid, terminal.server) = (ask("#{pane_pid}"), ask("#{pid}"));
        terminal
    }

    /// Blocks until the session takes prompts. Answers the dialog about development channels on the way.
    #[track_caller]
    pub fn wait_until_ready(&self) {
        if self.channel {
            // Where the feature is off the dialog does not come.
            let screen = self.wait_for("a dialog or the prompt", |screen| {
                screen.contains(DEVELOPMENT) || input(screen).is_some()
            });
            if screen.contains(DEVELOPMENT) {
                self.accept_development_channels();
            }
        }
        self.wait_for("the prompt", |screen| input(screen).is_some());
    }

    /// Blocks until the dialog about development channels is there, and accepts it.
    #[track_caller]
    pub fn accept_development_channels(&self) {
        self.accept_dialog(DEVELOPMENT);
    }

    /// Blocks until a dialog with this text is there (`Do you want to proceed?`), and takes its first choice.
    #[track_caller]
    pub fn accept_dialog(&self, text: &str) {
        self.wait_for_text(text);
        // Until it is gone: the client ignores keys that come too soon after a dialog has opened.
        self.press_until(&["Enter"], &format!("that the dialog {text:?} went"), |screen| {
            !screen.contains(text)
        });
    }

    /// Types a prompt of one line, and submits it once it stands on the screen.
    #[track_caller]
    pub fn prompt(&self, text: &str) {
        assert!(!text.contains('\n'), "a prompt of one line");
        self.send_text(text);
        self.wait_for(&format!("the typed {text:?}"), |screen| {
            is_typed(screen, text) && without_space(screen).contains(&without_space(text))
        });
        // The last screen of a session that `/exit` has ended still shows it.
        self.press_until(&["Enter"], "that it took the prompt", |screen| {
            !is_typed(screen, text) || self.has_ended()
        });
    }

    /// Types text as it is.
    #[track_caller]
    pub fn send_text(&self, text: &str) {
        self.tmux(&["send-keys", "-l", "--", text]);
    }

    /// Presses keys by their names in tmux: `Enter`, `Escape`, `C-c`, `Down`.
    #[track_caller]
    pub fn send_keys(&self, keys: &[&str]) {
        let mut arguments = vec!["send-keys", "--"];
        arguments.extend(keys);
        self.tmux(&arguments);
    }

    /// Presses the keys again every second until the screen satisfies the predicate. For keys that do no harm twice.
    #[track_caller]
    pub fn press_until(&self, keys: &[&str], what: &str, predicate: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + deadline();
        loop {
            self.send_keys(keys);
            let next = Instant::now() + Duration::from_secs(1);
            if let Some(screen) = self.poll(next.min(end), &predicate) {
                return screen;
            }
            assert!(Instant::now() < end && !self.has_ended(), "{}", self.missed(what));
        }
    }

    /// Presses Escape until the screen of the client's own (`/config`) that is open has closed.
    #[track_caller]
    pub fn close_screen(&self) {
        self.press_until(&["Escape"], "the prompt", |screen| input(screen).is_some());
    }

    /// What the screen shows.
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// What the screen shows, with the escape sequences of its colours.
    pub fn coloured_screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-e"])
    }

    /// Changes the size of the terminal, in characters.
    pub fn resize(&self, columns: u32, rows: u32) {
        self.tmux(&["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]);
    }

    /// What the screen shows and all that has scrolled off it.
    pub fn history(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-S", "-"])
    }

    /// Blocks until the screen satisfies the predicate, and returns it.
    #[track_caller]
    pub fn wait_for(&self, what: &str, predicate: impl Fn(&str) -> bool) -> String {
        match self.poll(Instant::now() + deadline(), &predicate) {
            Some(screen) => screen,
            None => panic!("{}", self.missed(what)),
        }
    }

    /// Blocks until the text is on the screen. Lines that the screen broke don't match: look for something short.
    #[track_caller]
    pub fn wait_for_text(&self, needle: &str) -> String {
        self.wait_for(&format!("{needle:?}"), |screen| screen.contains(needle))
    }

    /// Stops the session, as a debugger would. tmux would let it go on, and so is stopped first.
    pub fn stop(&self) -> leftovers::Stopped {
        let tmux = self.tmux(&["display-message", "-p", "#{pid}"]);
        let tmux = tmux.trim().parse().unwrap_or_else(|e| panic!("tmux has no process, but {tmux:?}: {e}"));
        leftovers::Stopped::new(&[tmux, self.pid])
    }

    /// The session's process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// True once the session has ended, also by a signal.
    pub fn has_ended(&self) -> bool {
        // tmux 3.3a can't be asked: it sometimes leaves a pane's process as a zombie and never says that it is dead.
        !leftovers::runs(self.pid)
    }

    /// Blocks until the session has ended.
    #[track_caller]
    pub fn wait_for_exit(&self) {
        let end = Instant::now() + deadline();
        while !self.has_ended() {
            assert!(Instant::now() < end, "{}", self.missed("the end of the session"));
            std::thread::sleep(POLL);
        }
    }

    fn poll(&self, end: Instant, predicate: impl Fn(&str) -> bool) -> Option<String> {
        loop {
            let screen = self.screen();
            if predicate(&screen) {
                return Some(screen);
            }
            // One more look after the end of the process; it will show no more.
            if Instant::now() > end || self.has_ended() && !predicate(&self.screen()) {
                return None;
            }
            std::thread::sleep(POLL);
        }
    }

    fn missed(&self, what: &str) -> String {
        let fate = if self.has_ended() { "has ended" } else { "still runs" };
        let name = &self.name;
        format!("terminal {name:?} did not show {what}; the session {fate}\n--- history\n{}", self.history())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.tmux);
        command.env_clear().envs(self.environment.iter().cloned()).env("TERM", "xterm-256color");
        command.arg("-S").arg(&self.socket);
        command
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let output: Output = self
            .command()
            .args(arguments)
            .output()
            .unwrap_or_else(|e| panic!("{}: {e}", self.tmux.display()));
        assert!(output.status.success(), "tmux {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let killed = self.command().arg("kill-server").output();
        if self.server != 0 && !killed.is_ok_and(|output| output.status.success()) {
            leftovers::signal(self.server, "TERM"); // its socket went with the home
        }
    }
}

/// A screen outlives what ran on it, so that its last words can be read.
const CONFIGURATION: &str = "\
    set -g remain-on-exit on
    set -g history-limit 20000
    set -g status off
    set -g focus-events on
    set -sg escape-time 0
";

/// What stands in the dialog about development channels.
const DEVELOPMENT: &str = "I am using this for local development";

/// How often the screen is looked at: tmux has no event for "the screen changed".
const POLL: Duration = Duration::from_millis(100);

/// What has been typed where prompts are typed: behind the sign under a ruled line. `None` if there is a dialog instead.
/// The sign alone is not enough: it also marks earlier prompts, and the chosen entry of a dialog or a menu.
fn input(screen: &str) -> Option<&str> {
    let lines = screen.lines().zip(screen.lines().skip(1));
    let inputs =
        lines.filter(|(above, _)| above.starts_with("───")).filter_map(|(_, line)| line.strip_prefix('❯'));
    inputs.last().map(str::trim)
}

/// True if the text, or as much of it as fits a line, still waits to be submitted.
fn is_typed(screen: &str, text: &str) -> bool {
    input(screen)
        .is_some_and(|typed| !typed.is_empty() && without_space(text).starts_with(&without_space(typed)))
}

fn without_space(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}
