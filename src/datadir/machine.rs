//! The identity of this machine, for home directories that several machines share.

use std::process::{Command, Stdio};
use std::sync::LazyLock;

use crate::process;

/// Distinguishes this machine from another one that shares the directory. Containers share the kernel's boot id with
/// their host, and a rebooted machine keeps its name: one of the two is enough.
pub struct Machine {
    /// Fit for a file name.
    pub host: String,
    pub boot: String,
}

/// Read once, since without /proc it takes a child process.
pub static MACHINE: LazyLock<Machine> = LazyLock::new(Machine::this);

impl Machine {
    fn this() -> Machine {
        let mut host = process::line("sys/kernel/hostname");
        if host.is_empty() {
            let uname = Command::new("uname").arg("-n").stderr(Stdio::null()).output();
            host = uname.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
        }
        let plain = |c: &char| c.is_ascii_alphanumeric() || *c == '-' || *c == '.';
        Machine {
            host: host.chars().filter(plain).take(64).collect(),
            boot: process::line("sys/kernel/random/boot_id"),
        }
    }
}
