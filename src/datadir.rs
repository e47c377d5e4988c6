//! The data directory: where the hub's socket, its lock and the logs are. Private to its user.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The longest path of a socket, in bytes, the NUL at its end included.
const SOCKET_PATH: usize = if cfg!(target_os = "linux") { 108 } else { 104 };
const SOCKET: &str = "hub.sock";
/// How the file begins that tells us who we are.
const PROBE: &str = ".probe-";
const ELSEWHERE: &str = "choose another directory with --data-dir or RELAY_DATA_DIR";

/// Where our files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// `flag` (`--data-dir`), else `RELAY_DATA_DIR`, else `CLAUDE_PLUGIN_DATA`, else where Claude Code would put it.
    /// What is empty counts as unset. Touches nothing; fails, with the remedy, if not even `HOME` is set.
    pub fn locate(flag: Option<&OsStr>) -> Result<DataDir, String> {
        locate(flag, |key| env::var_os(key))
    }

    /// Makes the directory, and in it `logs` and `sessions`, all 0700, and checks that it is private: fails, with the
    /// remedy, if it belongs to somebody else, if others can write to it, or if we cannot.
    ///
    /// An empty directory that the group can write to is made private instead: on systems with umask 002 that is how
    /// Claude Code makes it.
    pub fn prepare(&self) -> Result<(), String> {
        self.make().map_err(|e| self.unusable(&e))
    }

    fn unusable(&self, e: &io::Error) -> String {
        format!("cannot use {} as data directory: {e}; mend that or {ELSEWHERE}", self.0.display())
    }

    fn make(&self) -> io::Result<()> {
        let dir = &self.0;
        if let Some(parent) = dir.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(parent)?; // not open to others, whatever the umask
        }
        make_private(dir)?;
        let me = self.check()?;
        if fs::metadata(dir)?.mode() & 0o077 != 0 {
            fs::set_permissions(dir, Permissions::from_mode(0o700))?;
        }
        for dir in [self.logs(), self.sessions()] {
            make_private(&dir)?;
            if !fs::symlink_metadata(&dir).is_ok_and(|m| m.is_dir() && m.uid() == me) {
                return Err(io::Error::other(format!("{} is not a directory of ours", dir.display())));
            }
        }
        Ok(())
    }

    /// Whether [`prepare`](Self::prepare) could use the directory, as far as can be seen without changing it; `false` where
    /// it is yet to be made.
    pub fn look(&self) -> Result<bool, String> {
        let there = self.0.ancestors().find(|at| fs::symlink_metadata(at).is_ok()).unwrap_or(&self.0);
        let looked = if there == self.0 { self.check() } else { user(there) };
        looked.map(|_| there == self.0).map_err(|e| self.unusable(&e))
    }

    /// Who we are, if the directory is ours alone.
    fn check(&self) -> io::Result<u32> {
        let dir = &self.0;
        // Looked at before the mode: others of ours may be doing the same, and make it private before they fill it.
        let empty = fs::read_dir(dir)?
            .flatten()
            .all(|entry| entry.file_name().as_bytes().starts_with(PROBE.as_bytes()));
        let meta = fs::metadata(dir)?;
        if meta.mode() & (if empty { 0o002 } else { 0o022 }) != 0 {
            return Err(io::Error::other("others can write to it (chmod 700, if you trust what is in it)"));
        }
        let me = user(dir)?;
        if meta.uid() != me {
            let owner = meta.uid();
            return Err(io::Error::other(format!("it belongs to user {owner}, and we are user {me}")));
        }
        Ok(me)
    }

    /// The directory itself; absolute.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The hub's socket. May be longer than a socket's path can be: see [`connect`](Self::connect).
    pub fn socket_path(&self) -> PathBuf {
        self.0.join(SOCKET)
    }

    /// The file whose lock makes a process the hub.
    pub fn lock_path(&self) -> PathBuf {
        self.0.join("hub.lock")
    }

    /// Where the logs are.
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    /// Where processes of a session leave what the next one needs.
    pub fn sessions(&self) -> PathBuf {
        self.0.join("sessions")
    }

    /// Whoever listens here would hear every question and could put words into a session: it must be one of ours.
    fn check_private(&self, listener: u32) -> io::Result<()> {
        let meta = fs::metadata(&self.0)?;
        let denied = |why: String| Err(io::Error::new(ErrorKind::PermissionDenied, why));
        if meta.mode() & 0o022 != 0 {
            return denied(format!("others can write to {}", self.0.display()));
        }
        // Whom the system takes us for; where there is no /proc, whoever can create a file here.
        let me = match fs::metadata("/proc/self") {
            Ok(process) => process.uid(),
            Err(_) => self.prepare().map(|()| meta.uid()).map_err(io::Error::other)?,
        };
        match (meta.uid() == me, listener == me) {
            (true, true) => Ok(()),
            (true, false) => denied(format!("its {SOCKET} belongs to user {listener}, and we are user {me}")),
            _ => denied(format!("it belongs to user {}, and we are user {me}", meta.uid())),
        }
    }

    /// Connects to the hub. `PermissionDenied` where it might be somebody else's, `NotFound` or `ConnectionRefused` where there is none; the latter also where `hub.sock` is
    /// something else than a socket, such as a link out of the directory: the next hub replaces it.
    ///
    /// May change the working directory, as may [`bind`](Self::bind).
    pub fn connect(&self) -> io::Result<UnixStream> {
        let socket = fs::symlink_metadata(self.socket_path())?;
        if !socket.file_type().is_socket() {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        self.check_private(socket.uid())?;
        UnixStream::connect(self.within_limit(SOCKET)?)
    }

    /// Listens on `hub.sock`, mode 0600, in place of what is there. The caller holds the [`lock`](Self::lock).
    pub fn bind(&self) -> io::Result<UnixListener> {
        // Made under another name, so that nobody ever meets it with another mode or without somebody listening.
        let name = format!("{SOCKET}.{}", std::process::id());
        let path = self.0.join(&name);
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(self.within_limit(&name)?)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&path, self.socket_path()))
            .inspect_err(|_| drop(fs::remove_file(&path)))?;
        Ok(listener)
    }

    /// The lock that makes this process the hub for as long as the file is open; `None` if another process has it.
    pub fn lock(&self) -> io::Result<Option<File>> {
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).create(true).truncate(false).mode(0o600).open(self.lock_path())?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    /// A path for the file `name` in this directory that a socket address can hold. Where the directory's own path is too
    /// long, that is the bare name, with this as the working directory. It stays so: the working directory belongs to
    /// the whole process, and changing it back could meet another thread here. Nothing of ours relies on it: every other
    /// path is made absolute at start.
    fn within_limit(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.0.join(name);
        if path.as_os_str().as_bytes().len() < SOCKET_PATH {
            return Ok(path);
        }
        env::set_current_dir(&self.0)?;
        Ok(PathBuf::from(name))
    }
}

/// Claude Code's own directory, `${CLAUDE_CONFIG_DIR:-~/.claude}`; absolute. `None` where neither it nor `HOME` is set.
pub fn config_dir() -> Option<PathBuf> {
    std::path::absolute(config_in(&|key| env::var_os(key))?).ok()
}

fn config_in(var: &impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |key| var(key).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("CLAUDE_CONFIG_DIR").or_else(|| Some(set("HOME")?.join(".claude")))
}

fn locate(flag: Option<&OsStr>, var: impl Fn(&str) -> Option<OsString>) -> Result<DataDir, String> {
    let dir = [flag.map(OsStr::to_owned), var("RELAY_DATA_DIR"), var("CLAUDE_PLUGIN_DATA")]
        .into_iter()
        .flatten()
        .find(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .or_else(|| Some(config_in(&var)?.join("plugins/data/relay-claude-relay")))
        .ok_or_else(|| format!("no data directory: HOME is not set; {ELSEWHERE}"))?;
    let dir =
        std::path::absolute(&dir).map_err(|e| format!("cannot find {}: {e}; {ELSEWHERE}", dir.display()))?;
    Ok(DataDir(dir))
}

/// Whom the system takes us for: the owner of what we create.
fn user(dir: &Path) -> io::Result<u32> {
    let probe = dir.join(format!("{PROBE}{}", std::process::id()));
    let _ = fs::remove_file(&probe);
    let me = OpenOptions::new().write(true).create_new(true).open(&probe)?.metadata()?.uid();
    fs::remove_file(&probe)?;
    Ok(me)
}

/// Creates a directory with mode 0700, whatever the umask; one that exists stays as it is.
fn make_private(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => fs::set_permissions(dir, Permissions::from_mode(0o700)),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn dir(test: &str) -> DataDir {
        let dir = env::temp_dir().join(format!("relay-data-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        DataDir(dir)
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("it is there").mode() & 0o777
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
    }

    #[test]
    fn the_order_of_places() {
        let at = |flag: Option<&str>, vars: &[(&str, &str)]| {
            let var =
                |key: &str| vars.iter().find(|(k, _)| *k == key).map(|(_, value)| OsString::from(value));
            locate(flag.map(OsStr::new), var).map(|dir| dir.0)
        };
        let all = [
            ("RELAY_DATA_DIR", "/r"),
            ("CLAUDE_PLUGIN_DATA", "/p"),
            ("CLAUDE_CONFIG_DIR", "/c"),
            ("HOME", "/h"),
        ];
        let below = |dir: &str| Ok(PathBuf::from(dir).join("plugins/data/relay-claude-relay"));
        assert_eq!(at(Some("/f"), &all), Ok("/f".into()));
        assert_eq!(at(Some(""), &all), Ok("/r".into()));
        assert_eq!(at(None, &all[1..]), Ok("/p".into()));
        assert_eq!(at(None, &all[2..]), below("/c"));
        assert_eq!(at(None, &all[3..]), below("/h/.claude"));
        assert_eq!(
            at(None, &[("RELAY_DATA_DIR", ""), ("CLAUDE_CONFIG_DIR", ""), ("HOME", "/h")]),
            below("/h/.claude")
        );
        assert!(at(Some("relative"), &[]).expect("a path").is_absolute());
        assert!(at(None, &[("HOME", "")]).expect_err("nowhere").contains("RELAY_DATA_DIR"));
    }

    #[test]
    fn prepare_makes_it_private() {
        let dir = dir("prepare");
        let nested = DataDir(dir.0.join("a/b"));
        nested.prepare().expect("made");
        nested.prepare().expect("made twice");
        for path in [nested.path(), &nested.logs(), &nested.sessions()] {
            assert_eq!(mode(path), 0o700, "{}", path.display());
        }
        assert_eq!(fs::read_dir(nested.path()).expect("it is there").count(), 2, "nothing else is left");
        chmod(nested.path(), 0o755);
        nested.prepare().expect("tightened");
        assert_eq!(mode(nested.path()), 0o700);
        fs::remove_dir_all(dir.0).expect("removed");
    }

    #[test]
    fn prepare_refuses_what_others_can_write() {
        let dir = dir("shared");
        fs::create_dir(&dir.0).expect("made");
        chmod(&dir.0, 0o777);
        assert!(dir.prepare().expect_err("open to all").contains("chmod 700"));
        chmod(&dir.0, 0o775);
        dir.prepare().expect("empty, so it is ours to close");
        chmod(&dir.0, 0o775);
        assert!(dir.prepare().expect_err("not empty").contains("chmod 700"));
        chmod(&dir.0, 0o700);
        fs::remove_dir(dir.logs()).expect("removed");
        symlink("/tmp", dir.logs()).expect("a link");
        assert!(dir.prepare().expect_err("a link").contains("logs"));
        fs::remove_dir_all(&dir.0).expect("removed");
        fs::write(&dir.0, "").expect("a file");
        assert!(dir.prepare().is_err());
        assert!(DataDir(dir.0.join("below")).prepare().is_err());
        fs::remove_file(dir.0).expect("removed");
    }

    #[test]
    fn one_has_the_lock() {
        let dir = dir("lock");
        assert!(dir.lock().is_err());
        dir.prepare().expect("made");
        let lock = dir.lock().expect("a lock file").expect("the lock");
        assert_eq!(mode(&dir.lock_path()), 0o600);
        assert!(dir.lock().expect("a lock file").is_none());
        drop(lock);
        assert!(dir.lock().expect("a lock file").is_some());
        fs::remove_dir_all(dir.0).expect("removed");
    }

    fn meet(dir: &DataDir) {
        dir.prepare().expect("made");
        assert_eq!(dir.connect().expect_err("no hub").kind(), ErrorKind::NotFound);
        symlink("/tmp/elsewhere.sock", dir.socket_path()).expect("a link");
        assert_eq!(dir.connect().expect_err("a link").kind(), ErrorKind::ConnectionRefused);
        drop(dir.bind().expect("bound over a link"));
        assert_eq!(dir.connect().expect_err("stale").kind(), ErrorKind::ConnectionRefused);
        let listener = dir.bind().expect("bound over a stale socket");
        assert_eq!(mode(&dir.socket_path()), 0o600);
        dir.connect().expect("connected");
        listener.accept().expect("accepted");
        assert_eq!(fs::read_dir(&dir.0).expect("it is there").count(), 3, "logs, sessions, hub.sock");
    }

    #[test]
    fn sockets() {
        let short = dir("socket");
        meet(&short);
        let before = env::current_dir().expect("a working directory");
        meet(&DataDir(short.0.join("x".repeat(120)).join("y".repeat(120))));
        env::set_current_dir(before).expect("back");
        fs::remove_dir_all(short.0).expect("removed");
    }
}
