//! The data directory: the hub's socket, lock and journal, session files, long texts and logs. Private to its user.

mod elsewhere;

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::{BOOT, HOST};
use crate::repository::{self, is_locked, read};
pub use elsewhere::Listener;
use elsewhere::dial;

/// The longest path of a socket, in bytes, the NUL at its end included: that of macOS. Linux allows 108.
const SOCKET_PATH: usize = 104;
const SOCKET: &str = "hub.sock";
const LOCK: &str = "hub.lock";
const JOURNAL: &str = "hub.journal";
/// The prefix of a file that another process has only for a moment.
const PROBE: &str = ".probe-";
const REMEDY: &str = "choose another directory with --data-dir or RELAY_DATA_DIR";

/// The data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// `flag` (`--data-dir`), else `RELAY_DATA_DIR`, else `CLAUDE_PLUGIN_DATA`, else where Claude Code would put it. An
    /// empty value counts as unset. Touches no file. Fails, with the remedy, if `HOME` is not set either.
    pub fn locate(flag: Option<&OsStr>) -> Result<DataDir, String> {
        locate(flag, |key| env::var_os(key))
    }

    /// Creates the directory with `logs` and `sessions`, all 0700, and checks that it is private. Fails, with the
    /// remedy, if it belongs to another user, if others can write to it, or if this user cannot.
    ///
    /// An empty directory that is writable for the group is made private instead: Claude Code creates it so on systems
    /// with umask 002.
    pub fn prepare(&self) -> Result<(), String> {
        self.make().map_err(|e| self.unusable(&e))
    }

    fn unusable(&self, e: &io::Error) -> String {
        format!("cannot use {} as data directory: {e}; correct that or {REMEDY}", self.0.display())
    }

    fn make(&self) -> io::Result<()> {
        let dir = &self.0;
        if let Some(parent) = dir.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(parent)?; // not open to others, whatever the umask
        }
        make_private(dir)?;
        self.check()?;
        fs::set_permissions(dir, Permissions::from_mode(0o700))?;
        for dir in [self.logs(), self.sessions()] {
            make_private(&dir)?;
            if !fs::symlink_metadata(&dir)?.is_dir() {
                return Err(io::Error::other(format!("{} is not a directory", dir.display())));
            }
        }
        Ok(())
    }

    /// Checks whether a hub can use the directory, or make it. Changes nothing, but writes a file of `room` bytes and removes it:
    /// a disk or a quota that is full shows only so.
    pub fn look(&self, room: usize) -> Result<(), String> {
        let there = self.0.ancestors().find(|at| fs::symlink_metadata(at).is_ok()).unwrap_or(&self.0);
        let checked = if there == self.0 { self.check() } else { Ok(()) };
        let probe = there.join(format!("{PROBE}{}", std::process::id()));
        let written = checked.and_then(|()| File::create_new(&probe)?.write_all(&vec![0; room]));
        let _ = fs::remove_file(probe); // if it could be made
        written.map_err(|e| self.unusable(&e))
    }

    /// Whether the directory belongs to this user and is private.
    fn check(&self) -> io::Result<()> {
        // Read before the mode: another process may be making it private and filling it.
        let mut entries = fs::read_dir(&self.0)?.flatten();
        let is_empty = entries.all(|entry| entry.file_name().as_bytes().starts_with(PROBE.as_bytes()));
        let meta = fs::metadata(&self.0)?;
        if meta.mode() & (if is_empty { 0o002 } else { 0o022 }) != 0 {
            return Err(io::Error::other("others can write to it (check its content, then run chmod 700)"));
        }
        is_ours("it", &meta)
    }

    /// The directory itself; absolute.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The hub's socket. May be longer than a socket's path can be: see [`connect`](Self::connect).
    pub fn socket_path(&self) -> PathBuf {
        self.of_machine(SOCKET)
    }

    /// The journal of this machine's hub.
    pub fn journal_path(&self) -> PathBuf {
        self.of_machine(JOURNAL)
    }

    /// The path of a file of this machine's hub.
    fn of_machine(&self, file: &str) -> PathBuf {
        self.0.join(self.name(file))
    }

    /// The name of a file of this machine's hub: `hub.sock`, or `hub-HOST.sock` if another machine has that.
    fn name(&self, file: &str) -> String {
        match (self.other_machine(), file.split_once('.')) {
            (Some(_), Some((stem, ending))) => format!("{stem}-{}.{ending}", *HOST),
            _ => file.to_owned(),
        }
    }

    /// The directory of the logs.
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    /// The directory of the session files.
    pub fn sessions(&self) -> PathBuf {
        self.0.join("sessions")
    }

    /// Connects to the hub, within `limit`. May change the working directory, as may [`Claim::bind`].
    ///
    /// # Errors
    /// `NotFound` or `ConnectionRefused` if no hub runs. The latter also if `hub.sock` is not a socket, such as a symbolic link,
    /// which the next hub replaces. `TimedOut` if a hub does not accept. Another error if the directory is not private, or if
    /// the socket belongs to another user, who could read every question and send text into sessions.
    pub fn connect(&self, limit: Duration) -> io::Result<UnixStream> {
        if let Some(socket) = self.elsewhere() {
            return dial(socket, limit); // the user has named or mounted it
        }
        let name = self.name(SOCKET);
        let socket = fs::symlink_metadata(self.0.join(&name))?;
        if !socket.file_type().is_socket() {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        self.check()?;
        is_ours(SOCKET, &socket)?;
        dial(self.within_limit(&name)?, limit)
    }

    /// Makes this process the hub of the directory for as long as the claim lives; `None` if another process is.
    pub fn claim(&self) -> io::Result<Option<Claim>> {
        let Some(mut lock) = repository::lock(&self.of_machine(LOCK))? else { return Ok(None) };
        let text = format!("{}\n{}\n{}\n", std::process::id(), *HOST, *BOOT);
        // Never empty: another machine that finds no names in it takes ours for its own.
        if let Err(e) = lock.write_all(text.as_bytes()).and_then(|()| lock.set_len(text.len() as u64)) {
            log::warn!(error:% = e; "lock_not_written"); // a full disk; it is locked all the same
        }
        Ok(Some(Claim { dir: self.clone(), lock }))
    }

    /// Whether a process is the hub of the directory, or is about to be.
    pub fn is_claimed(&self) -> bool {
        is_locked(&self.of_machine(LOCK))
    }

    /// The process that is the hub of the directory, or is about to be.
    pub fn hub_process(&self) -> Option<u32> {
        let lock = read(self.of_machine(LOCK)).filter(|_| self.is_claimed())?;
        lock.lines().next()?.parse().ok()
    }

    /// The other machine whose hub uses the unsuffixed file names, if any. This machine's files then have its host name
    /// as a suffix. A container has another name and the same kernel, after a reboot it is the other way round.
    fn other_machine(&self) -> Option<String> {
        let text = read(self.0.join(LOCK))?;
        let [_, host, boot, ..] = text.lines().collect::<Vec<_>>()[..] else { return None };
        (host != *HOST && boot != *BOOT).then(|| host.to_owned())
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

/// The held lock of a data directory.
pub struct Claim {
    dir: DataDir,
    /// Locked until it is closed.
    lock: File,
}

impl Claim {
    /// Whether the locked file is still the one in the directory. If not, the directory was removed or moved, and its
    /// files may belong to another hub.
    pub fn is_current(&self) -> bool {
        let ours = self.lock.metadata().map(|lock| (lock.dev(), lock.ino()));
        ours.ok() == inode(&self.dir.of_machine(LOCK)) // an open file has metadata
    }

    /// Listens on the socket, with mode 0600, and replaces an existing file.
    pub fn bind(&self) -> io::Result<UnixListener> {
        self.bind_as(SOCKET, 0o600)
    }

    fn bind_as(&self, socket: &str, mode: u32) -> io::Result<UnixListener> {
        // Created under another name and renamed, so that it never has another mode or no listener. That name is in the
        // data directory, where no container can put something else in its place.
        let name = format!("{SOCKET}.{}", std::process::id());
        let path = self.dir.0.join(&name);
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(self.dir.within_limit(&name)?)?;
        fs::set_permissions(&path, Permissions::from_mode(mode))
            .and_then(|()| fs::rename(&path, self.dir.of_machine(socket)))
            .inspect_err(|_| drop(fs::remove_file(&path)))?;
        Ok(listener)
    }
}

/// The identity of the file at a path: device and inode.
pub fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Whether the error means that no hub is listening.
pub fn is_not_running(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}

/// Claude Code's own directory, `${CLAUDE_CONFIG_DIR:-~/.claude}`; absolute. `None` where neither it nor `HOME` is set.
pub fn config_dir() -> Option<PathBuf> {
    std::path::absolute(config_in(&|key| env::var_os(key))?).ok()
}

/// The same with other environment variables; not absolute.
pub fn config_in(var: &impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |key| var(key).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("CLAUDE_CONFIG_DIR").or_else(|| Some(set("HOME")?.join(".claude")))
}

/// The files with Claude Code's settings that apply in `cwd`, whether they exist or not, the one with the highest precedence first.
pub fn settings_files(cwd: &Path) -> impl Iterator<Item = PathBuf> {
    let managed = ["/etc/claude-code", "/Library/Application Support/ClaudeCode"]
        .map(|dir| Path::new(dir).join("managed-settings.json"));
    let project = ["settings.local.json", "settings.json"].map(|name| cwd.join(".claude").join(name));
    let user = config_dir().map(|dir| dir.join("settings.json"));
    managed.into_iter().chain(project).chain(user)
}

fn locate(flag: Option<&OsStr>, var: impl Fn(&str) -> Option<OsString>) -> Result<DataDir, String> {
    let dir = [flag.map(OsStr::to_owned), var("RELAY_DATA_DIR"), var("CLAUDE_PLUGIN_DATA")]
        .into_iter()
        .flatten()
        .find(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .or_else(|| Some(config_in(&var)?.join("plugins/data/relay-claude-relay")))
        .ok_or_else(|| format!("no data directory: HOME is not set; {REMEDY}"))?;
    let dir =
        std::path::absolute(&dir).map_err(|e| format!("cannot find {}: {e}; {REMEDY}", dir.display()))?;
    Ok(DataDir(dir))
}

/// Fails if a file, `name` in the message, belongs to another user. The system says who we are by the owner of a new pipe.
fn is_ours(name: &str, meta: &fs::Metadata) -> io::Result<()> {
    let me = File::from(OwnedFd::from(io::pipe()?.0)).metadata()?.uid();
    match meta.uid() {
        owner if owner == me => Ok(()),
        owner => Err(io::Error::other(format!("{name} belongs to user {owner}, and this is user {me}"))),
    }
}

/// Creates a directory with mode 0700, whatever the umask; one that exists stays as it is.
pub fn make_private(dir: &Path) -> io::Result<()> {
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

    const LONG: Duration = Duration::from_secs(60);

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
    fn data_directory_is_chosen_in_the_documented_order() {
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
    fn prepare_creates_private_directories() {
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
    fn prepare_refuses_a_directory_that_others_can_write_to() {
        let dir = dir("shared");
        fs::create_dir(&dir.0).expect("made");
        chmod(&dir.0, 0o777);
        assert!(dir.prepare().expect_err("open to all").contains("chmod 700"));
        chmod(&dir.0, 0o775);
        fs::write(dir.0.join(".probe-1"), "").expect("another process looks too");
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
    fn lock_is_exclusive_and_names_its_process() {
        let dir = dir("lock");
        assert!(dir.claim().is_err());
        dir.prepare().expect("made");
        let claim = dir.claim().expect("a lock file").expect("the lock");
        assert_eq!(mode(&dir.0.join(LOCK)), 0o600);
        assert!(dir.claim().expect("a lock file").is_none());
        assert_eq!(dir.hub_process(), Some(std::process::id()));
        drop(claim);
        // A child that another test starts in this moment has the file open until it runs its program.
        while dir.claim().expect("a lock file").is_none() {}
        fs::remove_dir_all(dir.0).expect("removed");
    }

    #[test]
    fn second_machine_uses_file_names_with_its_host_name() {
        let dir = dir("machines");
        dir.prepare().expect("made");
        fs::write(dir.0.join(LOCK), "1\nother-machine\nother-boot\n").expect("a lock of another machine");
        let (host, boot) = (HOST.as_str(), BOOT.as_str());
        assert_eq!(dir.other_machine().as_deref(), Some("other-machine"));
        let claim = dir.claim().expect("a lock file").expect("the lock");
        assert_eq!(dir.socket_path(), dir.0.join(format!("hub-{host}.sock")));
        assert_eq!(dir.journal_path(), dir.0.join(format!("hub-{host}.journal")));
        let lock = fs::read_to_string(dir.0.join(LOCK)).expect("it is there");
        assert_eq!(lock, "1\nother-machine\nother-boot\n");
        let _listener = claim.bind().expect("bound");
        dir.connect(LONG).expect("connected");
        // A container has another name and the same kernel; after a reboot it is the other way round.
        for same in [format!("1\nname\n{boot}\n"), format!("1\n{host}\nboot\n"), "1\n".to_owned()] {
            fs::write(dir.0.join(LOCK), &same).expect("a lock");
            assert!(dir.other_machine().is_none(), "{same}");
        }
        // In the moment in which a shorter text was written over a longer one.
        fs::write(dir.0.join(LOCK), "1\nother-machine\nother-boot\noot\n").expect("a lock");
        assert!(dir.other_machine().is_some());
        fs::remove_dir_all(dir.0).expect("removed");
    }

    fn meet(dir: &DataDir) {
        dir.prepare().expect("made");
        let claim = dir.claim().expect("a lock file").expect("the lock");
        assert_eq!(dir.connect(LONG).expect_err("no hub").kind(), ErrorKind::NotFound);
        symlink("/tmp/elsewhere.sock", dir.socket_path()).expect("a link");
        assert_eq!(dir.connect(LONG).expect_err("a link").kind(), ErrorKind::ConnectionRefused);
        drop(claim.bind().expect("bound over a link"));
        assert_eq!(dir.connect(LONG).expect_err("stale").kind(), ErrorKind::ConnectionRefused);
        let listener = claim.bind().expect("bound over a stale socket");
        assert_eq!(mode(&dir.socket_path()), 0o600);
        dir.connect(LONG).expect("connected");
        listener.accept().expect("accepted");
        let count = fs::read_dir(&dir.0).expect("it is there").count();
        assert_eq!(count, 4, "logs, sessions, hub.lock, hub.sock");
    }

    #[test]
    fn socket_replaces_stale_files_and_works_with_long_paths() {
        let short = dir("socket");
        let before = env::current_dir().expect("a working directory");
        // The longest path that fits, the first that does not, and one that no system takes.
        for length in [SOCKET_PATH - 1, SOCKET_PATH, 240] {
            let rest = length - short.socket_path().as_os_str().len() - "/".len();
            meet(&DataDir(short.0.join("x".repeat(rest))));
        }
        env::set_current_dir(before).expect("back");
        fs::remove_dir_all(short.0).expect("removed");
    }
}
