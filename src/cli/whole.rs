//! Writes files that exist completely or not at all, and that only their owner can read.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::target::{Target, exists, is_stdout};

/// Numbers that are tried for a default name that exists already.
const NUMBERS: std::ops::RangeInclusive<u32> = 1..=999;

/// The destination of a file.
pub(super) enum Destination {
    /// A pipe, a device or standard output, which is written to as it is.
    Stream(Target),
    /// A file with this name; an existing one is replaced only with `force`.
    File { path: PathBuf, force: bool },
    /// A file with this name in the current folder, or if that exists, with a number before its first dot.
    Unnamed(&'static str),
}

impl Destination {
    /// The requested file, or else `name` in the current folder. Impossible destinations are reported before there is
    /// anything to write.
    pub(super) fn of(asked: Option<&Path>, name: &'static str, force: bool) -> Result<Destination> {
        let path = match asked {
            Some(path) => path,
            None if force => Path::new(name),
            None => return Ok(Destination::Unnamed(name)),
        };
        if is_stdout(path) {
            return Target::open(path, force).map(Destination::Stream);
        }
        match path.metadata() {
            Ok(there) if there.is_dir() => bail!("{} is a folder: name a file in it", path.display()),
            Ok(there) if !there.is_file() => Target::open(path, force).map(Destination::Stream),
            Ok(_) if !force => Err(exists(path)),
            // A link stays a link.
            Ok(_) => Ok(Destination::File { path: path.canonicalize().context(path.display().to_string())?, force }),
            Err(_) => {
                let folder = folder_of(path);
                anyhow::ensure!(folder.is_dir(), "create {}: there is no folder {}", path.display(), folder.display());
                Ok(Destination::File { path: path.to_owned(), force })
            }
        }
    }

    /// Writes the file; returns its name.
    pub(super) fn put(self, content: &[u8]) -> Result<String> {
        match self {
            Destination::Stream(mut target) => {
                let name = target.name();
                target.write_all(content).and_then(|()| target.finish()).with_context(|| format!("write {name}"))?;
                Ok(name)
            }
            Destination::File { path, force } => {
                let part = Part::write(&path, content)?;
                if force {
                    fs::rename(&part.0, &path).with_context(|| format!("create {}", path.display()))?;
                } else if !part.link(&path)? {
                    return Err(exists(&path));
                }
                Ok(path.display().to_string())
            }
            Destination::Unnamed(name) => {
                let hint = "use --output FILE for another place, or --output - for standard output";
                let part = Part::write(Path::new(name), content).context(hint)?;
                let (stem, ending) = name.split_once('.').unwrap_or((name, ""));
                let numbered = NUMBERS.map(|number| format!("{stem}-{number}.{ending}"));
                for name in std::iter::once(name.to_owned()).chain(numbered) {
                    if part.link(Path::new(&name))? {
                        return Ok(name);
                    }
                }
                bail!(
                    "{name} exists with all numbers up to {}: use --output FILE for another name, or --force to overwrite it",
                    NUMBERS.end()
                )
            }
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The file under a temporary name until it is complete. That name is removed with this value.
struct Part(PathBuf);

impl Part {
    fn write(path: &Path, content: &[u8]) -> Result<Part> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let part = folder_of(path).join(format!(".{name}.part-{}", std::process::id()));
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
        let mut file: File = made.with_context(|| format!("create {}", path.display()))?;
        let part = Part(part);
        file.write_all(content).and_then(|()| file.sync_all()).with_context(|| format!("write {}", path.display()))?;
        Ok(part)
    }

    /// Gives the file its final name; false if that exists.
    fn link(&self, path: &Path) -> Result<bool> {
        match fs::hard_link(&self.0, path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            // The file system has no links.
            Err(_) if path.symlink_metadata().is_ok() => Ok(false),
            Err(_) => {
                fs::rename(&self.0, path).with_context(|| format!("create {}", path.display()))?;
                Ok(true)
            }
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // The file may have its final name by now.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A folder that is deleted with this value.
    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn folder(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("netmon-whole-{}-{name}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        Folder(folder)
    }

    fn names(folder: &Folder) -> Vec<String> {
        let entries = fs::read_dir(&folder.0).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_existing_file_is_kept_unless_forced() {
        let folder = folder("force");
        let path = folder.0.join("a.tar.gz");
        let put =
            |force: bool, text: &str| Destination::of(Some(&path), "", force).and_then(|to| to.put(text.as_bytes()));
        put(false, "first").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = put(false, "second").unwrap_err().to_string();
        assert!(error.contains("exists: use --force"), "{error}");
        // A file that appears in the meantime is kept, too.
        let late = folder.0.join("late");
        let to = Destination::of(Some(&late), "", false).unwrap();
        fs::write(&late, "theirs").unwrap();
        assert!(to.put(b"ours").is_err());
        assert_eq!(fs::read_to_string(&late).unwrap(), "theirs");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        put(true, "third").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).unwrap(), "third");
        let link = folder.0.join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(Destination::of(Some(&link), "", false).is_err());
        Destination::of(Some(&link), "", true).unwrap().put(b"fourth").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "fourth");
        assert!(Destination::of(Some(&folder.0), "", true).is_err());
        assert!(Destination::of(Some(&folder.0.join("no/such")), "", true).is_err());
        assert_eq!(names(&folder), ["a.tar.gz", "late", "link"], "nothing else is left");
    }

    #[test]
    fn devices_are_written_to() {
        let to = |path: &str| Destination::of(Some(Path::new(path)), "", false).unwrap();
        to("/dev/null").put(b"away").unwrap();
        assert!(to("/dev/full").put(b"away").is_err());
    }
}
