//! `relay hub`: the hub's process.

use std::io::Write;

use super::router::Limits;
use super::run;
use crate::datadir::DataDir;

/// `relay hub`: runs the hub in the foreground, and prints a line once it is listening. With `announce` it prints no log.
///
/// # Errors
/// The hub cannot start.
pub fn main(dir: &DataDir, announce: bool) -> Result<(), String> {
    crate::logging::init(&dir.logs(), "hub", !announce);
    let say = |what: &str| {
        let _ = writeln!(std::io::stdout(), "{what} in {}", dir.path().display()); // the process that started us may be gone
    };
    if !run(dir, limits(), || say("listening"))? {
        say("another hub is running");
    }
    Ok(())
}

/// The default limits, with the changes of the environment variables.
fn limits() -> Limits {
    let seconds = |name: &str, default: u64| {
        let value = std::env::var(name).ok().and_then(|v| v.parse::<f64>().ok());
        value.filter(|s| (0.0..=1e9).contains(s)).map_or(default, |s| (s * 1000.0) as u64)
    };
    let base = Limits::default();
    let rate = std::env::var("RELAY_ASKS_PER_MIN").ok().and_then(|v| v.parse().ok());
    Limits {
        grace: seconds("RELAY_GRACE_S", base.grace),
        remote_grace: seconds("RELAY_REMOTE_GRACE_S", base.remote_grace),
        idle_exit: seconds("RELAY_IDLE_EXIT_S", base.idle_exit).max(100), // the client that starts a hub has to reach it
        confirm: seconds("RELAY_CONFIRM_S", base.confirm),
        begin_turn: seconds("RELAY_BEGIN_TURN_S", base.begin_turn),
        nudge: seconds("RELAY_NUDGE_S", base.nudge),
        form_quiet: seconds("RELAY_FORM_QUIET_S", base.form_quiet).max(10),
        form_again: seconds("RELAY_FORM_AGAIN_S", base.form_again),
        asks_per_minute: rate.unwrap_or(base.asks_per_minute),
        ..base
    }
}
