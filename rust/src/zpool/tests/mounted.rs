//! A file system of a test's own, with so much memory and no more. It needs the right to mount.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::zpool::conformance::MemoryDir;

/// Unmounted when it is dropped.
pub struct Mounted(MemoryDir);

impl Mounted {
    /// A `tmpfs` or `hugetlbfs` of so many bytes. None, with the reason on standard error, where there
    /// can be none.
    pub fn new(kind: &str, bytes: usize, name: &str) -> Option<Mounted> {
        let dir = MemoryDir::within(&std::env::temp_dir(), name);
        let mount = Command::new("mount")
            .args(["-t", kind, "-o", &format!("size={bytes}"), "nbdswap-test"])
            .arg(dir.path())
            .output();
        let why = match mount {
            Ok(output) if output.status.success() => return Some(Mounted(dir)),
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        eprintln!("skipped: no {kind} can be mounted: {why}");
        None
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.file(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazy: what a test has mapped there may be dropped after this.
        let umount = Command::new("umount")
            .arg("--lazy")
            .arg(self.path())
            .status();
        assert!(umount.unwrap().success(), "a file system is left behind");
    }
}
