//! The identity of this machine, for home directories that several machines share. Read once, since without `/proc` it takes
//! a child process.

use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use crate::process;

/// The host name of this machine or container, fit for a file name.
pub static HOST: LazyLock<String> = LazyLock::new(|| {
    let mut host = process::line("sys/kernel/hostname");
    if host.is_empty() {
        let uname = process::run(Command::new("uname").arg("-n"), Duration::from_secs(1));
        host = uname.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
    }
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || *c == '-' || *c == '.';
    host.chars().filter(is_plain).take(64).collect()
});

/// The identifier of the running kernel, which containers share with their host; the host name where there is none.
pub static BOOT: LazyLock<String> = LazyLock::new(|| match process::line("sys/kernel/random/boot_id") {
    boot if boot.is_empty() => HOST.clone(),
    boot => boot,
});
