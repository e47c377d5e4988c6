//! The hub's second socket, `peers/peers.sock`, which containers mount and SSH forwards; and the client whose hub runs
//! elsewhere.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use super::{Claim, DataDir, LOCK, make_private};
use crate::repository::path_var;
use crate::threads::within;

/// The directory of the second socket. It holds nothing else, so that it can be mounted: a mounted file would stay the
/// socket of a hub that has ended.
const DIRECTORY: &str = "peers";
/// The second socket.
const PEERS: &str = "peers/peers.sock";

/// Identifies a listener: device, inode and the time of the last change of its socket; `None` if there is no socket.
pub type Listener = Option<(u64, u64, i64, i64)>;

/// Connects within `limit`: `connect` blocks while the listener's backlog is full, and has no timeout of its own.
pub(super) fn dial(path: PathBuf, limit: Duration) -> io::Result<UnixStream> {
    within(limit, move || UnixStream::connect(path))
}

impl DataDir {
    /// The socket of a hub that runs elsewhere and cannot be started from here: `RELAY_SOCKET`, else `peers/peers.sock` if
    /// it was mounted, which is the case in a directory that never had a hub.
    pub fn elsewhere(&self) -> Option<PathBuf> {
        let is_there = |name: &str| fs::symlink_metadata(self.path().join(name)).is_ok();
        path_var("RELAY_SOCKET")
            .or_else(|| (is_there(PEERS) && !is_there(LOCK)).then(|| self.path().join(PEERS)))
    }

    /// The socket that clients connect to, for messages.
    pub fn client_socket(&self) -> PathBuf {
        self.elsewhere().unwrap_or_else(|| self.socket_path())
    }

    /// The listener that a client finds. It is another one after it was replaced.
    pub fn listener(&self) -> Listener {
        let socket = fs::symlink_metadata(self.client_socket()).ok()?;
        Some((socket.dev(), socket.ino(), socket.ctime(), socket.ctime_nsec()))
    }

    /// Whether a hub of this machine listens on its second socket: if the first is forwarded, none does.
    pub fn is_own_hub(&self) -> bool {
        self.elsewhere().is_none() && dial(self.peers_socket(), Duration::from_secs(1)).is_ok()
    }

    /// The second socket of this machine's hub.
    pub fn peers_socket(&self) -> PathBuf {
        self.of_machine(PEERS)
    }
}

impl Claim {
    /// Listens on the second socket. Its mode is 0600; or 0666 if the user has made its directory accessible to others,
    /// for containers with other user ids: the data directory around it stays closed. The file is left at exit, so that a
    /// mounted directory is known by it.
    pub fn bind_peers(&self) -> io::Result<UnixListener> {
        let directory = self.dir.path().join(DIRECTORY);
        make_private(&directory)?;
        let mode = if fs::symlink_metadata(directory)?.mode() & 0o001 == 0 { 0o600 } else { 0o666 };
        self.bind_as(PEERS, mode)
    }
}
