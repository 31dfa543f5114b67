//! A master key in the kernel's keyring: 32 bytes under a name, in memory that nobody swaps out or
//! finds on a disk.
//!
//! Looked for in the keyring of the session and what it links, then in that of the user; see
//! keyrings(7). Not here: making keys, which is the operator's business.
//! Locking: none.

use std::io;

use linux_keyutils::{Key, KeyError, KeyRing, KeyRingIdentifier};
use rustix::io::Errno;

use crate::error::{Error, Result};

use super::cipher::KEY_BYTES;

/// The key of type `user` that has this name.
///
/// # Errors
/// [`Error::Foreign`] for a key that is not there, has run out or is no key of ours; [`Error::Io`] where
/// the system does not let us ask or read.
pub fn read_key(name: &str) -> Result<[u8; KEY_BYTES]> {
    let foreign = |why: String| {
        Err(Error::Foreign {
            path: format!("key of the store keyring:{name}"),
            why,
        })
    };
    // One byte more, so that a longer key shows.
    let mut bytes = [0; KEY_BYTES + 1];
    let found = match find(name).and_then(|key| key.read(&mut bytes)) {
        Ok(found) => found,
        Err(KeyError::KeyDoesNotExist | KeyError::KeyringDoesNotExist) => {
            return foreign("does not exist in the keyrings of this session and user".into());
        }
        Err(KeyError::KeyExpired) => return foreign("has expired".into()),
        Err(KeyError::KeyRevoked) => return foreign("was revoked".into()),
        Err(error) => return Err(Error::io("read the key of the store", 0, io_error(error))),
    };
    let Ok(key) = <[u8; KEY_BYTES]>::try_from(&bytes[..found.min(bytes.len())]) else {
        return foreign(format!(
            "is {found} bytes long, wanted {KEY_BYTES} random bytes"
        ));
    };
    if key == [0; KEY_BYTES] {
        return foreign("holds zeros, wanted random bytes".into());
    }
    Ok(key)
}

fn find(name: &str) -> std::result::Result<Key, KeyError> {
    let search = |ring| KeyRing::from_special_id(ring, false)?.search(name);
    match search(KeyRingIdentifier::Session) {
        Err(KeyError::KeyDoesNotExist | KeyError::KeyringDoesNotExist) => {
            search(KeyRingIdentifier::User)
        }
        found => found,
    }
}

/// In the system's words, as far as the library leaves them.
fn io_error(error: KeyError) -> io::Error {
    match error {
        KeyError::AccessDenied => Errno::ACCESS.into(),
        KeyError::PermissionDenied => Errno::PERM.into(),
        KeyError::OperationNotSupported => Errno::OPNOTSUPP.into(),
        KeyError::Unknown(errno) => io::Error::from_raw_os_error(errno),
        other => io::Error::other(format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key that is gone when the test is over.
    struct Planted(KeyRing, Key);

    impl Drop for Planted {
        fn drop(&mut self) {
            self.0.unlink_key(self.1).unwrap();
        }
    }

    /// None where the system has no keyrings for us, as in most containers.
    fn plant(name: &str, bytes: &[u8]) -> Option<Planted> {
        let session = KeyRing::from_special_id(KeyRingIdentifier::Session, false).ok()?;
        let key = session.add_key(name, bytes).ok()?;
        Some(Planted(session, key))
    }

    fn name(what: &str) -> String {
        format!("nbdswap-test-{}-{what}", std::process::id())
    }

    #[test]
    fn a_key_is_found_by_its_name() {
        let name = name("found");
        let Some(_planted) = plant(&name, &[7; KEY_BYTES]) else {
            return eprintln!("skipped: no keyrings here");
        };
        assert_eq!(read_key(&name).unwrap(), [7; KEY_BYTES]);
    }

    #[test]
    fn what_is_no_key_is_refused_with_what_was_found_and_wanted() {
        for (bytes, words) in [
            (vec![1; 31], "is 31 bytes long, wanted 32"),
            (vec![1; 33], "is 33 bytes long"),
            (vec![1; 100], "is 100 bytes long"),
            (vec![0; 32], "holds zeros"),
        ] {
            let name = name(&format!("bad-{}", bytes.len()));
            let Some(_planted) = plant(&name, &bytes) else {
                return eprintln!("skipped: no keyrings here");
            };
            let error = read_key(&name).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains(&name), "{error}");
        }
    }

    #[test]
    fn a_key_that_is_not_there_is_said_to_be_missing_or_out_of_reach() {
        let error = read_key(&name("missing")).unwrap_err();
        match &error {
            Error::Foreign { why, .. } => assert!(why.contains("does not exist"), "{why}"),
            Error::Io { .. } => {}
            other => panic!("{other}"),
        }
    }
}
