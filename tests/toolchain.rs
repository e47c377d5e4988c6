//! `scripts/musl-toolchain` with a compiler and a rustup that are scripts: which way it goes, and what it says. That it builds
//! a toolchain that works is tested by `.ci/static`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

const RUSTC: &str = r#"#!/bin/sh
root=$(dirname "$(dirname "$0")")
case "$*" in
    '--print sysroot') echo "$root" ;;
    '--print target-libdir --target '*) echo "$root/lib/rustlib/$4/lib" ;;
    -vV) printf 'release: 1.99.0\ncommit-hash: 0123456789abcdef\n' ;;
    *) exit 1 ;;
esac
"#;
/// Installs the target as the real one does.
const RUSTUP: &str = r#"#!/bin/sh
lib=$(dirname "$0")/../lib/rustlib/$3/lib
[ "$1 $2" = 'target add' ] && mkdir -p "$lib" && : >"$lib/libstd-0.rlib"
"#;

/// A checkout with nothing but the script, and a toolchain. There is one at a time: a program can't be run while a child that
/// another thread is just starting still has it open for writing.
struct Place(PathBuf, #[expect(dead_code, reason = "held, not read")] MutexGuard<'static, ()>);

impl Place {
    fn new(rustup: &str) -> Place {
        static ONE: Mutex<()> = Mutex::new(());
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let place = Place(std::env::temp_dir().join(format!("relay toolchain {}", std::process::id())), one);
        let _ = fs::remove_dir_all(&place.0);
        let script = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/musl-toolchain"));
        place.program("scripts/musl-toolchain", &script.expect("the script"));
        place.program("rust/bin/rustc", RUSTC);
        place.program("rust/bin/rustup", rustup);
        // What the script needs of a system that has no package manager.
        for tool in ["sh", "dirname", "mkdir", "ls", "sed", "uname", "timeout", "flock", "env"] {
            let found = ["/bin", "/usr/bin"].map(|dir| Path::new(dir).join(tool));
            let found = found.iter().find(|path| path.exists()).unwrap_or_else(|| panic!("no {tool}"));
            fs::create_dir_all(place.0.join("bin")).expect("a directory");
            std::os::unix::fs::symlink(found, place.0.join("bin").join(tool)).expect("a link");
        }
        place
    }

    fn program(&self, path: &str, script: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, script).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let path = format!("{0}/rust/bin:{0}/bin", self.0.display());
        let script = self.0.join("scripts/musl-toolchain");
        Command::new(script).args(arguments).env("PATH", path).current_dir("/").output().expect("it runs")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn rustup_is_used_where_it_works_and_once() {
    let place = Place::new(RUSTUP);
    let bin = format!("{}\n", place.0.join("rust/bin").display());
    let ran = place.run(&["x86_64", "aarch64"]);
    assert_eq!(text(&ran.stdout), bin, "{}", text(&ran.stderr));
    assert!(text(&ran.stderr).contains("rustup target add"));
    let again = place.run(&["aarch64"]);
    assert_eq!(text(&again.stdout), bin);
    assert!(text(&again.stderr).contains("aarch64-unknown-linux-musl: the installed toolchain has it"));
}

#[test]
fn without_rustup_and_packages_it_says_what_is_missing_and_prints_no_path() {
    let place = Place::new("#!/bin/sh\nexit 1\n");
    for arguments in [&["x86_64"][..], &["--build", "aarch64"]] {
        let ran = place.run(arguments);
        assert_eq!((ran.status.code(), ran.stdout.len()), (Some(1), 0));
        assert!(text(&ran.stderr).contains("apt-get is not here"), "{}", text(&ran.stderr));
    }
    let tools = fs::read_dir(place.0.join("rust")).expect("the toolchain").count();
    assert_eq!(tools, 1, "the installed toolchain is as it was");
}

#[test]
fn usage_errors_and_help() {
    let place = Place::new(RUSTUP);
    let ran = place.run(&["riscv64"]);
    assert_eq!(ran.status.code(), Some(2));
    assert!(text(&ran.stderr).contains("unexpected argument 'riscv64'"));
    let ran = place.run(&["--help"]);
    assert_eq!(ran.status.code(), Some(0));
    assert!(text(&ran.stdout).starts_with("Usage: scripts/musl-toolchain"), "{}", text(&ran.stdout));
}
