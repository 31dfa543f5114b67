//! A master key in a file of 32 bytes that is its owner's alone.
//!
//! Not here: other places of keys (`key_source`), what the key does (`cipher`).
//! Locking: none.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::hugetlbfs;

use super::cipher::KEY_BYTES;
use super::key_source::random_bytes;

/// Makes a file of such content that only this user can read: whole under its name, or not there.
pub type MakeFile = fn(&Path, &[u8]) -> Result<()>;

/// The key in a file. A file that is not there is made by `make`, with a new key.
///
/// # Errors
/// [`Error::Foreign`] for a file that is no key or that others may read, [`Error::Io`].
pub fn read_key(path: &Path, make: Option<MakeFile>) -> Result<[u8; KEY_BYTES]> {
    match (read(path), make) {
        (Err(Error::Io { source, .. }), Some(make)) if source.kind() == io::ErrorKind::NotFound => {
            let key = random_bytes()?;
            make(path, &key)?;
            Ok(key)
        }
        (read, _) => read,
    }
}

fn read(path: &Path) -> Result<[u8; KEY_BYTES]> {
    let foreign = |why: String| {
        Err(Error::Foreign {
            path: path.display().to_string(),
            why,
        })
    };
    let failed = |error: io::Error| Error::io("read the key of the store", 0, error);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let mut file = match open(path, flags, Mode::empty()) {
        Ok(descriptor) => File::from(descriptor),
        Err(Errno::NOENT) => {
            return Err(Error::io(
                "open the key of the store",
                0,
                io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("{} does not exist", path.display()),
                ),
            ));
        }
        Err(errno) => return foreign(format!("cannot be opened as a key: {errno}")),
    };
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return foreign("is no plain file, wanted a key of 32 bytes".into());
    }
    if found.mode() & 0o077 != 0 {
        let mode = found.mode() & 0o777;
        return foreign(format!(
            "has mode {mode:o}, wanted 600 or 400: others could read the key of the store"
        ));
    }
    let bytes = found.len();
    // On hugetlbfs no file is shorter than a huge page.
    let huge = hugetlbfs::page_bytes(&file).map_err(failed)?;
    if bytes != huge.unwrap_or(KEY_BYTES) as u64 {
        return foreign(format!(
            "is {bytes} bytes long, wanted a key of {KEY_BYTES} random bytes"
        ));
    }
    let mut key = [0; KEY_BYTES];
    file.read_exact(&mut key).map_err(failed)?;
    if key == [0; KEY_BYTES] {
        return foreign("holds zeros, wanted a key of random bytes".into());
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    struct Dir(PathBuf);

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn make(path: &Path, content: &[u8]) -> Result<()> {
        std::fs::write(path, content).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
        Ok(())
    }

    fn dir(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("nbdswap-key-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    #[test]
    fn a_key_that_was_made_is_read_by_the_next() {
        let dir = dir("made");
        let path = dir.0.join("key");
        assert!(matches!(read_key(&path, None), Err(Error::Io { .. })));
        let first = read_key(&path, Some(make)).unwrap();
        let second = read_key(&path, Some(make)).unwrap();
        assert_eq!(first, second);
    }

    #[test]
    fn what_is_no_key_is_refused_with_what_was_found_and_wanted() {
        let dir = dir("refused");
        let path = dir.0.join("key");
        let refuse = |bytes: &[u8], mode: u32| {
            std::fs::write(&path, bytes).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let words = read_key(&path, Some(make)).unwrap_err().to_string();
            assert!(words.starts_with(path.to_str().unwrap()), "{words}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "it was touched");
            words
        };
        assert!(refuse(&[1; 31], 0o600).contains("is 31 bytes long"));
        assert!(refuse(&[1; 33], 0o600).contains("is 33 bytes long"));
        assert!(refuse(&[1; 32], 0o640).contains("has mode 640"));
        assert!(refuse(&[1; 32], 0o604).contains("has mode 604"));
        assert!(refuse(&[0; 32], 0o600).contains("holds zeros"));
        let words = read_key(&dir.0, None).unwrap_err().to_string();
        assert!(words.contains("no plain file"), "{words}");
    }
}
