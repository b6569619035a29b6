//! The file of the control socket.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The file of a socket. It is removed with the value.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl SocketFile {
    /// Makes the socket, and the folder for it. A socket that a dead agent left is replaced.
    ///
    /// # Errors
    ///
    /// Another agent answers on it, or it cannot be made.
    pub(super) fn bind(path: &Path) -> Result<(UnixListener, SocketFile)> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder {
            fs::create_dir_all(folder).with_context(|| format!("make the folder {}", folder.display()))?;
        }
        if UnixStream::connect(path).is_ok() {
            bail!("another agent answers on {}: stop it, or choose another path with --socket", path.display());
        }
        if fs::symlink_metadata(path).is_ok_and(|there| !there.file_type().is_socket()) {
            bail!("{} is there and no socket: choose another path with --socket", path.display());
        }
        // It is made under another name and renamed, so that nobody can connect before the mode is right.
        let aside = path.with_extension(format!("new-{}", std::process::id()));
        let _ = fs::remove_file(&aside);
        let made = (|| -> io::Result<(UnixListener, u64)> {
            let listener = UnixListener::bind(&aside)?;
            fs::set_permissions(&aside, fs::Permissions::from_mode(0o600))?;
            fs::rename(&aside, path)?;
            Ok((listener, fs::symlink_metadata(path)?.ino()))
        })();
        let (listener, inode) = made.map_err(|error| {
            let _ = fs::remove_file(&aside);
            anyhow::Error::new(error).context(format!("make the socket {}", path.display()))
        })?;
        Ok((listener, SocketFile { path: path.to_owned(), inode }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // An agent that came later may have replaced it.
        if fs::symlink_metadata(&self.path).is_ok_and(|there| there.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
