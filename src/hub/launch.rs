//! The hub's process: how it is started, in the foreground and in the background.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ExitCode, Stdio};

use super::router::Limits;
use super::run;
use crate::datadir::DataDir;
use crate::link::{hub_command, own_executable};

/// A shell script that becomes the hub. A shell can do two things that need unsafe code in Rust: raise the limit of
/// open files, since the usual 1,024 are too few for 1,024 peers, and close inherited files, such as the lock of a
/// script that called `relay ask`. Some shells cannot close descriptors over 9; then bash does, if installed. The loop
/// of that bash has no redirection of its own: it would close the copy that restores stderr.
const START: &str = r#"ulimit -n 8192 2>/dev/null || ulimit -n "$(ulimit -Hn)" 2>/dev/null
exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-
for fd in /dev/fd/[1-9][0-9]*; do
    [ -z "${BASH_VERSION-}" ] && [ -e "$fd" ] && bash=$(command -v bash) && exec "$bash" -c '
        for fd in /dev/fd/[1-9][0-9]*; do eval "exec ${fd##*/}>&-"; done
        exec "$0" hub --announce --data-dir "$1"' "$0" "$1"
    break
done
exec "$0" hub --announce --data-dir "$1""#;

/// `relay hub`: runs the hub in the foreground. With `announce`, prints one line on stdout once it is listening.
pub fn main(dir: &DataDir, announce: bool) -> ExitCode {
    crate::logging::init(&dir.logs(), "hub", !announce);
    let say = |what: &str| {
        if announce {
            let _ = writeln!(std::io::stdout(), "{what}"); // the process that started us may be gone
        } else {
            let _ = writeln!(std::io::stderr(), "relay: {what} in {}", dir.path().display());
        }
    };
    match run(dir, limits(), || say("listening")) {
        Ok(ran) => {
            if !ran {
                say("another hub is running");
            }
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("relay: {why}");
            ExitCode::FAILURE
        }
    }
}

/// `relay hub --detach`: starts the hub in the background and returns once it is listening. This process exits at once,
/// so that the hub is reparented: it leaves no zombie and is not part of a session's process tree.
pub fn detach(dir: &DataDir) -> ExitCode {
    let failed = |why: &str| {
        eprintln!("relay: {why}");
        ExitCode::FAILURE
    };
    let exe = own_executable();
    let args = ["-c".as_ref(), START.as_ref(), exe.as_os_str(), dir.path().as_os_str()];
    let mut command = hub_command("/bin/sh", &args);
    // Both pipes lose their reader when this process exits. The hub writes to them before that or not at all.
    let child = command.current_dir("/").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(e) => return failed(&format!("cannot start a hub: {e}")),
    };
    let mut said = String::new();
    if let Some(out) = child.stdout.take() {
        let _ = BufReader::new(out.take(100)).read_line(&mut said); // on an error the line stays empty
    }
    if !said.is_empty() {
        let _ = std::io::stdout().write_all(said.as_bytes()); // the starting process may have ended
        return ExitCode::SUCCESS;
    }
    let mut why = String::new();
    if let Some(err) = child.stderr.take() {
        let _ = err.take(2000).read_to_string(&mut why); // as above
    }
    failed(why.trim().trim_start_matches("relay: "))
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
