//! The directory that a session works in, and the git repository around it, found without running git.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The number of bytes that are read of a file.
const MAX_FILE: u64 = 64 << 10;
/// The number of characters that are kept of a name or a branch.
pub const MAX_NAME: usize = 250;
/// The same of a path.
const MAX_PATH: usize = 1000;

/// The git repository and branch of a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Git {
    /// The absolute path of the common git directory: the same for all worktrees of a repository.
    pub repo: Option<String>,
    /// The branch, or the first 12 digits of the commit if no branch is checked out.
    pub branch: Option<String>,
}

/// Looks for a repository around `cwd`, without running git.
pub fn git(cwd: &Path) -> Git {
    let cwd = fs::canonicalize(cwd).unwrap_or_else(|_| cwd.to_owned());
    cwd.ancestors().find_map(|dir| git_at(&dir.join(".git"))).unwrap_or_default()
}

fn git_at(dot_git: &Path) -> Option<Git> {
    let dir = if dot_git.is_dir() {
        dot_git.to_owned()
    } else {
        // A worktree or a submodule.
        dot_git.parent()?.join(read(dot_git)?.strip_prefix("gitdir:")?.trim())
    };
    let head = read(dir.join("HEAD"))?;
    let common = read(dir.join("commondir")).map_or(dir.clone(), |common| dir.join(common.trim()));
    let common = fs::canonicalize(common).ok()?;
    Some(Git { repo: Some(shown(&common)), branch: branch(head.trim()) })
}

fn branch(head: &str) -> Option<String> {
    match head.strip_prefix("ref: refs/heads/") {
        Some(".invalid") => None, // written where refs are stored in another way
        Some(branch) => Some(branch.chars().take(MAX_NAME).collect()),
        None => head.get(..12).filter(|hash| hash.bytes().all(|b| b.is_ascii_hexdigit())).map(str::to_owned),
    }
}

/// A text in the environment; `None` if it is unset or empty.
pub fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A path in the environment; `None` if it is unset or empty.
pub fn path_var(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The working directory. If its path is too long for the system call, `PWD` may have it.
pub fn current_dir() -> PathBuf {
    std::env::current_dir().ok().or_else(|| path_var("PWD")).unwrap_or_else(|| "/".into())
}

/// A path as peers see it: its last [`MAX_PATH`] characters, which fit the wire.
pub fn shown(path: &Path) -> String {
    let path = path.to_string_lossy();
    path.chars().skip(path.chars().count().saturating_sub(MAX_PATH)).collect()
}

/// The beginning of a regular file as text.
pub fn read(path: impl AsRef<Path>) -> Option<String> {
    let bytes = read_limited(path, MAX_FILE).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Opens a file unless something else stands in its place. A link could lead anywhere, and opening a pipe could block.
///
/// # Errors
/// It cannot be opened, or is no regular file.
pub fn open_regular(options: &OpenOptions, path: &Path) -> io::Result<File> {
    if fs::symlink_metadata(path).is_ok_and(|there| !there.is_file()) {
        return Err(io::Error::other("it is not a regular file; remove it"));
    }
    options.open(path)
}

/// Opens or creates a private file, and locks it until it is closed. `None` if another process has locked it.
///
/// # Errors
/// It cannot be opened or locked, or is no regular file.
pub fn lock(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = open_regular(&options, path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// Whether a process has locked the file.
pub fn is_locked(path: &Path) -> bool {
    open_regular(OpenOptions::new().read(true), path).is_ok_and(|file| file.try_lock_shared().is_err())
}

/// The first `most` bytes of a regular file, without a byte order mark. Other files might never end, or block when they are opened.
///
/// # Errors
/// It cannot be read, or is no regular file.
pub fn read_limited(path: impl AsRef<Path>, most: u64) -> io::Result<Vec<u8>> {
    if !fs::metadata(&path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    if bytes.starts_with("\u{feff}".as_bytes()) {
        bytes.drain(..3); // Claude Code too accepts it in its settings
    }
    Ok(bytes)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::wire::MAX_LABEL;

    /// An empty directory for the one test of that name, which removes it.
    pub fn dir(test: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("relay-test-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).expect("a directory");
        fs::canonicalize(dir).expect("its path")
    }

    pub fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().expect("a parent")).expect("the parent");
        fs::write(path, text).expect("a file");
    }

    #[test]
    fn repositories() {
        let dir = dir("git");
        let (main, tree) = (dir.join("main"), dir.join("tree"));
        write(&main.join(".git/HEAD"), "ref: refs/heads/feature/x\n");
        write(&main.join(".git/worktrees/tree/HEAD"), "0123456789abcdef0123456789abcdef01234567\n");
        write(&main.join(".git/worktrees/tree/commondir"), "../..\n");
        write(&tree.join(".git"), "gitdir: ../main/.git/worktrees/tree\n");
        fs::create_dir_all(main.join("src/deep")).expect("directories");
        let repo = Some(main.join(".git").to_str().expect("text").to_owned());

        let expected = Git { repo: repo.clone(), branch: Some("feature/x".to_owned()) };
        assert_eq!(git(&main), expected);
        assert_eq!(git(&main.join("src/deep")), expected);
        assert_eq!(git(&tree), Git { repo, branch: Some("0123456789ab".to_owned()) });

        // A `.git` that is no repository is ignored.
        write(&main.join("src/.git"), "garbage");
        fs::create_dir(main.join("src/deep/.git")).expect("an empty .git");
        assert_eq!(git(&main.join("src/deep")), expected);
        fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn branches() {
        for (head, expected) in [
            ("ref: refs/heads/main", Some("main")),
            ("ref: refs/heads/.invalid", None),
            ("ref: refs/remotes/x", None),
            ("0123456789abcdef", Some("0123456789ab")),
            ("not a commit at all", None),
            ("ééééééé", None),
            ("", None),
        ] {
            assert_eq!(branch(head).as_deref(), expected, "{head}");
        }
    }

    #[test]
    fn long_and_odd_paths_are_shown_as_well_as_they_can_be() {
        use std::os::unix::ffi::OsStrExt;
        for part in ["x", "é", "😀"] {
            let long = shown(Path::new(&format!("/{}/end", part.repeat(MAX_LABEL))));
            assert!(long.ends_with("/end") && long.len() <= MAX_LABEL);
        }
        assert_eq!(shown(Path::new(std::ffi::OsStr::from_bytes(b"/a\xff/b"))), "/a\u{fffd}/b");
    }
}
