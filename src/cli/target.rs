//! The destination of a file that the user requested: a path, or standard output, which is the only way out of a
//! container without `tar`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Names of standard output. Opening them again may be forbidden even if writing is allowed: a pipe belongs to the user
/// that made it.
const STDOUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

/// A file or stream to write to.
pub(super) struct Target {
    /// `None` for standard output.
    path: Option<PathBuf>,
    file: BufWriter<File>,
    /// True if it did not exist before.
    made: bool,
}

/// True if the path is standard output. Then nothing but the file may be written there.
pub(super) fn is_stdout(path: &Path) -> bool {
    STDOUT.iter().any(|name| path == Path::new(name))
}

/// The error that the file exists and must not be overwritten.
pub(super) fn exists(path: &Path) -> anyhow::Error {
    anyhow::anyhow!("{} exists: use --force to overwrite it, or `-` for standard output", path.display())
}

impl Target {
    /// Opens the file with this name. An existing file is left alone, unless `force` is set.
    pub(super) fn open(path: &Path, force: bool) -> Result<Target> {
        if is_stdout(path) {
            return Target::stdout();
        }
        let refused = |error: io::Error| match error.kind() {
            ErrorKind::AlreadyExists => exists(path),
            _ => anyhow::Error::new(error).context(format!("create {}", path.display())),
        };
        match path.metadata() {
            Ok(there) if there.is_dir() => bail!("{} is a folder: name a file in it", path.display()),
            // A pipe or a device is written to as it is; it holds nothing that could be lost.
            Ok(there) if !there.is_file() => {
                let file = OpenOptions::new().write(true).open(path).map_err(refused)?;
                Ok(Target::at(path, file, false))
            }
            Ok(_) if force => {
                let file = OpenOptions::new().write(true).open(path).map_err(refused)?;
                Ok(Target::at(path, file, false))
            }
            _ => {
                // The contents are private: data of packets and of the agent.
                let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
                Ok(Target::at(path, made.map_err(refused)?, true))
            }
        }
    }

    fn at(path: &Path, file: File, made: bool) -> Target {
        Target { path: Some(path.to_owned()), file: BufWriter::new(file), made }
    }

    fn stdout() -> Result<Target> {
        let stdout = io::stdout();
        if stdout.is_terminal() {
            bail!(
                "standard output is a terminal, and the file is binary: send it to a file or a pipe, as in \
                 netmon-cli … - >FILE (kubectl exec: without -t)"
            );
        }
        let file = stdout.as_fd().try_clone_to_owned().context("use standard output")?;
        Ok(Target { path: None, file: BufWriter::new(file.into()), made: false })
    }

    /// Truncates an existing file: from here on, its previous contents are lost.
    pub(super) fn begin(&mut self) -> Result<()> {
        if self.path.is_some() && !self.made && self.file.get_ref().metadata().is_ok_and(|file| file.is_file()) {
            self.file.get_ref().set_len(0).with_context(|| format!("overwrite {}", self.name()))?;
        }
        Ok(())
    }

    /// The name to show.
    pub(super) fn name(&self) -> String {
        self.path.as_ref().map_or_else(|| "standard output".to_owned(), |path| path.display().to_string())
    }

    /// Flushes and syncs the file after everything is written.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.file.flush()?;
        let file = self.file.get_ref();
        if file.metadata()?.is_file() { file.sync_all() } else { Ok(()) }
    }

    /// Abandons the file, and removes it if it is new.
    pub(super) fn give_up(self) {
        if let Some(path) = self.path.filter(|_| self.made) {
            // There is an error to report already.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that is deleted with this value.
    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn folder(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("netmon-target-{}-{name}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        Folder(folder)
    }

    fn put(mut target: Target, text: &str) {
        target.begin().unwrap();
        target.write_all(text.as_bytes()).unwrap();
        target.finish().unwrap();
    }

    #[test]
    fn an_existing_file_is_kept_unless_forced() {
        let folder = folder("force");
        let path = folder.0.join("a.tar.gz");
        put(Target::open(&path, false).unwrap(), "a long first one");
        let error = Target::open(&path, false).err().unwrap().to_string();
        assert!(error.contains("exists: use --force"), "{error}");
        // Nothing is lost before the first byte is written.
        Target::open(&path, true).unwrap().give_up();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a long first one");
        put(Target::open(&path, true).unwrap(), "short");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "short");
        // A link leads to another file.
        let link = folder.0.join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(Target::open(&link, false).is_err());
        Target::open(&folder.0.join("new"), false).unwrap().give_up();
        assert!(!folder.0.join("new").exists());
        let error = Target::open(&folder.0, true).err().unwrap().to_string();
        assert!(error.contains("is a folder"), "{error}");
    }

    #[test]
    fn devices_are_written_to() {
        put(Target::open(Path::new("/dev/null"), false).unwrap(), "away");
        Target::open(Path::new("/dev/null"), false).unwrap().give_up();
        assert!(Path::new("/dev/null").exists());
    }
}
