//! Reads files whose paths or contents come from outside: only regular files, without blocking, and within a bound.

// Input from outside: no index may be assumed to be valid.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

use std::fs::{FileType, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::{O_NOCTTY, O_NONBLOCK};

/// Maximum size of a file in bytes: more than any configuration, certificate or token has. A ConfigMap holds no more
/// either.
pub const MOST: u64 = 1 << 20;

/// Reads a regular file.
///
/// # Errors
///
/// The file cannot be read, is not a regular file, or is larger than [`MOST`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a device may have effects, and opening a FIFO waits for a writer.
    check(path.metadata()?.file_type())?;
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK | O_NOCTTY).open(path)?;
    // The path may lead to another file by now.
    check(file.metadata()?.file_type())?;
    let mut content = Vec::new();
    file.take(MOST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MOST {
        return Err(refused(format!("larger than {} KiB", MOST >> 10)));
    }
    Ok(content)
}

/// Reads a regular file of UTF-8 text.
///
/// # Errors
///
/// As for [`read`]; or the file is not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        refused(format!("not UTF-8: byte {place} is invalid"))
    })
}

fn check(kind: FileType) -> io::Result<()> {
    let what = match kind {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    Err(refused(format!("{what}, and only regular files are read")))
}

fn refused(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    use nix::sys::stat::Mode;

    use super::*;

    /// A folder that is deleted with this value.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("netmon-regular-{}-{name}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Folder(path)
        }

        fn file(&self, name: &str, content: &[u8]) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, content).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn regular_files_are_read_through_links() {
        let folder = Folder::new("links");
        std::fs::create_dir(folder.0.join("..first")).unwrap();
        folder.file("..first/text", b"text");
        // The way in which Kubernetes mounts files that may change.
        symlink("..first", folder.0.join("..data")).unwrap();
        symlink("..data/text", folder.0.join("text")).unwrap();
        assert_eq!(read_text(&folder.0.join("text")).unwrap(), "text");
        assert_eq!(read(&folder.file("empty", b"")).unwrap(), b"");
        let whole = vec![b'x'; MOST as usize];
        assert_eq!(read(&folder.file("whole", &whole)).unwrap(), whole);
    }

    #[test]
    fn other_files_are_refused_without_blocking() {
        let folder = Folder::new("others");
        let fifo = folder.0.join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let socket = folder.0.join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let dangling = folder.0.join("dangling");
        symlink("nowhere", &dangling).unwrap();
        let endless = folder.0.join("endless");
        symlink("/dev/zero", &endless).unwrap();
        let large = folder.file("large", &vec![b'x'; MOST as usize + 1]);
        let bytes = folder.file("bytes", b"ab\xff");
        for (path, why) in [
            (fifo, "a FIFO, and only regular files are read"),
            (socket, "a socket, and only regular files"),
            (folder.0.clone(), "a directory, and only regular files"),
            (endless, "a device, and only regular files"),
            (dangling, "No such file"),
            (large, "larger than 1024 KiB"),
            (bytes, "not UTF-8: byte 2"),
        ] {
            let error = read_text(&path).unwrap_err().to_string();
            assert!(error.contains(why), "{}: {error}", path.display());
        }
    }
}
