//! What a process leaves when it dies: two memory files and a device, at one moment.

use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::*;
use crate::durable::Belief;
use crate::zpool::words::{HEADER_BYTES, NOTES};

/// Bytes of pool and table, and the device with what is not synced.
#[derive(Clone)]
pub(super) struct Remains {
    pub pool: Vec<u8>,
    pub table: Vec<u8>,
    pub device: Arc<PowerDevice>,
}

fn memory_file(dir: &Directory, what: &str) -> PathBuf {
    dir.0.join(format!("nbdswap-{:016x}.{what}", 7))
}

impl Remains {
    /// Puts the memory files into `dir`, where no engine uses them, and gives the device.
    pub fn lay_out(&self, dir: &Directory) -> Arc<PowerDevice> {
        for (what, bytes) in [("pool", &self.pool), ("table", &self.table)] {
            let path = memory_file(dir, what);
            std::fs::write(&path, bytes).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        }
        Arc::new(self.device.fork(1))
    }

    /// Changes what the next process is told of the log.
    pub fn tell(&mut self, change: impl FnOnce(Belief<'_>)) {
        let notes = &mut self.table[HEADER_BYTES - 8 * NOTES..HEADER_BYTES];
        let words = notes.as_chunks().0.iter().copied().map(u64::from_ne_bytes);
        let words: Vec<_> = words.map(AtomicU64::new).collect();
        change(Belief::new(&words));
        for (note, word) in notes.chunks_exact_mut(8).zip(&words) {
            note.copy_from_slice(&word.load(SeqCst).to_ne_bytes());
        }
    }
}

/// Looks at what a living process would leave, again and again.
pub(super) struct Sight {
    files: [File; 2],
    memory: [Vec<u8>; 2],
    device: Arc<PowerDevice>,
    device_changes: u64,
    scratch: Vec<u8>,
}

impl Sight {
    pub fn new(dir: &Directory, device: Arc<PowerDevice>) -> Sight {
        let paths = ["pool", "table"].map(|what| memory_file(dir, what));
        Sight {
            memory: paths.each_ref().map(|path| std::fs::read(path).unwrap()),
            files: paths.map(|path| File::open(path).unwrap()),
            device_changes: device.changes(),
            device,
            scratch: Vec::new(),
        }
    }

    /// Looks again. False: nothing has changed.
    pub fn look(&mut self) -> bool {
        let mut changed = false;
        for (file, last) in self.files.iter().zip(&mut self.memory) {
            self.scratch.resize(last.len(), 0);
            file.read_exact_at(&mut self.scratch, 0).unwrap();
            if self.scratch != *last {
                std::mem::swap(&mut self.scratch, last);
                changed = true;
            }
        }
        let changes = self.device.changes();
        changed |= changes != self.device_changes;
        self.device_changes = changes;
        changed
    }

    /// What there was at the last look, which was just now.
    pub fn remains(&self) -> Remains {
        let [pool, table] = self.memory.clone();
        Remains {
            pool,
            table,
            device: Arc::new(self.device.fork(1)),
        }
    }
}
