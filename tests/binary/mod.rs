//! The program under test.

use std::env;
use std::sync::LazyLock;

/// The path of the `relay` to test: `RELAY_TEST_BIN` if set (absolute), else the one that cargo built for these tests.
/// Release builds and static builds are tested that way: `RELAY_TEST_BIN=$PWD/dist/plugin/bin/linux-x86_64/relay cargo test`.
pub fn relay_path() -> &'static str {
    static PATH: LazyLock<String> = LazyLock::new(|| {
        env::var("RELAY_TEST_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_relay").to_owned())
    });
    &PATH
}
