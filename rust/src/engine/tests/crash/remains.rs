//! What a process leaves when it dies: two memory files and a device, at one moment.

use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};

use super::*;

/// Bytes of pool, table and device.
#[derive(Clone)]
pub(super) struct Remains {
    pub pool: Vec<u8>,
    pub table: Vec<u8>,
    pub device: Vec<u8>,
}

fn memory_file(dir: &Directory, what: &str) -> PathBuf {
    dir.0.join(format!("nbdswap-{:016x}.{what}", 7))
}

impl Remains {
    /// Puts the memory files into `dir`, where no engine uses them, and gives the device.
    pub fn lay_out(&self, dir: &Directory) -> Arc<SimDevice> {
        for (what, bytes) in [("pool", &self.pool), ("table", &self.table)] {
            let path = memory_file(dir, what);
            std::fs::write(&path, bytes).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        }
        Arc::new(SimDevice::from_image(self.device.clone(), 1))
    }
}

/// Looks at what a living process would leave, again and again.
pub(super) struct Sight {
    files: [File; 2],
    device: Arc<SimDevice>,
    device_changes: u64,
    pub last: Remains,
    scratch: Vec<u8>,
}

impl Sight {
    pub fn new(dir: &Directory, device: Arc<SimDevice>) -> Sight {
        let [pool, table] = ["pool", "table"].map(|what| memory_file(dir, what));
        Sight {
            last: Remains {
                pool: std::fs::read(&pool).unwrap(),
                table: std::fs::read(&table).unwrap(),
                device: device.image(),
            },
            files: [pool, table].map(|path| File::open(path).unwrap()),
            device_changes: device.changes(),
            device,
            scratch: Vec::new(),
        }
    }

    /// Looks again. False: nothing has changed.
    pub fn look(&mut self) -> bool {
        let mut changed = false;
        for (file, last) in self
            .files
            .iter()
            .zip([&mut self.last.pool, &mut self.last.table])
        {
            self.scratch.resize(last.len(), 0);
            file.read_exact_at(&mut self.scratch, 0).unwrap();
            if self.scratch != *last {
                std::mem::swap(&mut self.scratch, last);
                changed = true;
            }
        }
        let changes = self.device.changes();
        if changes != self.device_changes {
            self.device_changes = changes;
            self.last.device = self.device.image();
            changed = true;
        }
        changed
    }
}
