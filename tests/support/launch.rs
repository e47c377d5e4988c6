//! How a session is launched, whether as a pipe ([`Session`]) or in a terminal ([`Terminal`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::home::Home;
use super::model::Model;
use super::session::Session;
use super::terminal::Terminal;

/// What makes the client load our plugin's channel.
pub const CHANNEL: &str = "plugin:relay@claude-relay";

/// The rule that lets a session use all of the relay's tools without asking.
pub const RELAY_TOOLS: &str = "mcp__plugin_relay_relay__*";

/// A session about to be launched. By default it runs in the project directory `work/<name>` of its home, and may use
/// the relay's tools without asking.
#[derive(Clone)]
pub struct Launch<'a> {
    pub(super) claude: PathBuf,
    pub(super) home: &'a Home,
    pub(super) model: &'a Model,
    pub(super) name: String,
    pub(super) dir: PathBuf,
    pub(super) channel: Option<String>,
    allowed: Option<String>,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
}

impl<'a> Launch<'a> {
    /// `name` is the session's key at the model, and the name of its project directory.
    pub fn new(claude: &Path, home: &'a Home, model: &'a Model, name: &str) -> Launch<'a> {
        Launch {
            claude: claude.to_owned(),
            home,
            model,
            name: name.to_owned(),
            dir: home.project(name),
            channel: None,
            allowed: Some(RELAY_TOOLS.to_owned()),
            arguments: Vec::new(),
            environment: home.environment().into_iter().collect(),
        }
    }

    /// Runs in that directory instead.
    pub fn dir(mut self, dir: &Path) -> Self {
        self.dir = dir.to_owned();
        self
    }

    /// Sets an environment variable, e.g. `RELAY_PUSH`, `RELAY_DATA_DIR`, `RELAY_BIN`.
    pub fn env(mut self, name: &str, value: impl AsRef<Path>) -> Self {
        let value = value.as_ref().to_str().expect("a value in UTF-8").to_owned();
        self.environment.insert(name.to_owned(), value);
        self
    }

    /// Adds an argument for the client.
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Allows these tools (a list for `--allowedTools`) instead of the relay's.
    pub fn allow(mut self, tools: &str) -> Self {
        self.allowed = Some(tools.to_owned());
        self
    }

    /// Allows no tool: what the settings don't permit raises a dialog.
    pub fn allow_nothing(mut self) -> Self {
        self.allowed = None;
        self
    }

    /// Loads a development channel, e.g. [`CHANNEL`] or `server:relay`. Has no effect but in a terminal.
    pub fn channel(mut self, channel: &str) -> Self {
        self.channel = Some(channel.to_owned());
        self
    }

    /// Launches it as a child with stream-json on its stdin and stdout.
    #[track_caller]
    pub fn piped(self) -> Session {
        Session::start(self)
    }

    /// Launches it in a terminal of its own.
    #[track_caller]
    pub fn in_terminal(self, tmux: &Path) -> Terminal {
        Terminal::start(self, tmux)
    }

    /// The arguments that both ways of launching share.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments = self.arguments.clone();
        if let Some(channel) = &self.channel {
            arguments.extend(["--dangerously-load-development-channels".to_owned(), channel.clone()]);
        }
        if let Some(tools) = &self.allowed {
            arguments.extend(["--allowedTools".to_owned(), tools.clone()]);
        }
        arguments
    }

    pub(super) fn environment(&self) -> BTreeMap<String, String> {
        let mut environment = self.environment.clone();
        environment.insert("ANTHROPIC_BASE_URL".to_owned(), self.model.base_url(&self.name));
        environment
    }
}
