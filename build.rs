//! Leaves the unwind tables out of a release build for Linux. They are for panics that unwind and for backtraces; a release
//! build aborts instead (see `panic` in Cargo.toml) and has no symbols that a backtrace could show. The platform demands
//! them of the compiler all the same, and the standard library comes with its own: an eighth of the binary.

use std::env::var;

fn main() {
    println!("cargo::rerun-if-changed=release.ld");
    let is = |name: &str, value: &str| var(name).is_ok_and(|v| v == value);
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_OS", "linux") {
        let root = var("CARGO_MANIFEST_DIR").expect("invariant: cargo names the package's directory");
        println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr,-T,{root}/release.ld");
    }
}
