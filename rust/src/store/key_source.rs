//! Where a store's master key comes from: a file, the kernel's keyring, or chance.
//!
//! Chance comes in here, at start, and not in the store. Not here: what the key does (`cipher`).
//! Locking: none.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use ring::rand::{SecureRandom, SystemRandom};

use crate::error::{Error, Result};

use super::cipher::{Encryption, KEY_BYTES, MasterKey, SALT_BYTES};
use super::key_file::{self, MakeFile};
use super::keyring;

/// A place of a key that others made or may make.
#[derive(Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A file of 32 bytes.
    File(PathBuf),
    /// The name of a key of type `user` in a keyring, see keyrings(7).
    Keyring(String),
}

impl KeySource {
    /// `file:PATH` or `keyring:NAME`; [`Error::Config`] for anything else.
    pub fn parse(text: &OsStr) -> Result<KeySource> {
        let bytes = text.as_bytes();
        if let Some(path) = bytes.strip_prefix(b"file:") {
            return Ok(KeySource::File(OsStr::from_bytes(path).into()));
        }
        let name = text.to_str().and_then(|text| text.strip_prefix("keyring:"));
        match name {
            Some(name) => Ok(KeySource::Keyring(name.into())),
            None => Err(Error::Config(format!(
                "the key of the store is {}, wanted file:PATH or keyring:NAME",
                text.display()
            ))),
        }
    }

    /// The key, with a new salt. A file that is not there is made by `make`, with a new key.
    ///
    /// # Errors
    /// [`Error::Foreign`] for what is no key or a file that others may read, [`Error::Io`].
    pub fn read(&self, make: Option<MakeFile>) -> Result<Encryption> {
        let key = match self {
            KeySource::File(path) => key_file::read_key(path, make)?,
            KeySource::Keyring(name) => keyring::read_key(name)?,
        };
        salted(key)
    }
}

/// A new key that is nowhere but in the memory of this process, with a new salt.
///
/// # Errors
/// [`Error::Io`] if the system gives no random bytes.
pub fn draw_key() -> Result<Encryption> {
    salted(random_bytes()?)
}

fn salted(key: [u8; KEY_BYTES]) -> Result<Encryption> {
    Ok(Encryption {
        key: MasterKey::new(key),
        salt: random_bytes::<SALT_BYTES>()?,
    })
}

/// Bytes that nobody can guess; [`Error::Io`] if the system gives none.
pub(super) fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => {
            let why = std::io::Error::other("the system gives no random bytes");
            Err(Error::io("draw random bytes", 0, why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_file_or_a_name_in_the_keyring() {
        let parse = |text: &[u8]| KeySource::parse(OsStr::from_bytes(text));
        let path = |bytes| PathBuf::from(OsStr::from_bytes(bytes));
        for (text, wanted) in [
            (&b"file:/a:b"[..], KeySource::File(path(b"/a:b"))),
            (b"file:/\xff", KeySource::File(path(b"/\xff"))),
            (b"keyring:a:b", KeySource::Keyring("a:b".into())),
        ] {
            assert_eq!(parse(text).unwrap(), wanted);
        }
        for text in [&b""[..], b"file", b"/a", b"keyrings:a", b"keyring:\xff"] {
            let words = parse(text).unwrap_err().to_string();
            assert!(
                words.contains("wanted file:PATH or keyring:NAME"),
                "{words}"
            );
        }
    }

    #[test]
    fn no_key_and_no_salt_is_drawn_twice() {
        let (first, second) = (draw_key().unwrap(), draw_key().unwrap());
        assert_ne!(first.key.bytes(), second.key.bytes());
        assert_ne!(first.salt, second.salt);
        let shown = format!("{first:?}");
        assert!(
            !shown.contains(&format!("{:?}", &first.key.bytes()[..3])),
            "{shown}"
        );
    }
}
