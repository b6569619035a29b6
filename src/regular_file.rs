//! Files that somebody else names, or may put something else in place of: only regular ones are read, without waiting for
//! anybody, and within a bound.

// What others wrote: no place in it is known to be there.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

use std::fs::{FileType, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::{O_NOCTTY, O_NONBLOCK};

/// More than any configuration, certificate or token has, in bytes; a ConfigMap holds no more.
pub const MOST: u64 = 1 << 20;

/// What the file has; an error if it is none, or has more than [`MOST`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    // To open a device may do something, to open a FIFO waits for who writes into it.
    check(path.metadata()?.file_type())?;
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK | O_NOCTTY).open(path)?;
    // The path may lead elsewhere by now.
    check(file.metadata()?.file_type())?;
    let mut content = Vec::new();
    file.take(MOST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MOST {
        return Err(refused(format!("larger than {} KiB", MOST >> 10)));
    }
    Ok(content)
}

/// The same, of text.
pub fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        refused(format!("not UTF-8: byte {place} is none of a text"))
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

    /// A folder that goes with the value.
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
    fn regular_files_are_read_also_behind_links() {
        let folder = Folder::new("links");
        std::fs::create_dir(folder.0.join("..first")).unwrap();
        folder.file("..first/text", b"text");
        // As Kubernetes mounts what may change.
        symlink("..first", folder.0.join("..data")).unwrap();
        symlink("..data/text", folder.0.join("text")).unwrap();
        assert_eq!(read_text(&folder.0.join("text")).unwrap(), "text");
        assert_eq!(read(&folder.file("empty", b"")).unwrap(), b"");
        let whole = vec![b'x'; MOST as usize];
        assert_eq!(read(&folder.file("whole", &whole)).unwrap(), whole);
    }

    #[test]
    fn nothing_else_is_and_nobody_is_waited_for() {
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
