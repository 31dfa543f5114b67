//! Opening a store: whose file it is, and whether it begins anew or is taken over.
//!
//! What is not certainly ours is refused and not touched: the file named in a configuration may be
//! somebody's disk.
//! Locking: none, nobody else has the store yet.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};

use super::ahead::Ahead;
use super::buffer::AlignedBuffer;
use super::cipher::{Cipher, Encryption};
use super::device::{BLOCK_BYTES, Device};
use super::file_device::{FileDevice, FileOptions, Io};
use super::form::Form;
use super::geometry::{Geometry, SEGMENT_BYTES_DEFAULT};
use super::layout::Key;
use super::log::{Reading, Store};
use super::precedence::Precedence;
use super::refusals::Refusals;
use super::ring_device::{RingDevice, Rings};
use super::segment::{OPENS_MAX, RELIEF_SEGMENTS, Segments};
use super::stats::Counters;
use super::superblock::{Seal, Superblock, SuperblockWriter};
use super::traffic::{CountedDevice, Lines};

/// How much of both ends of a device must be zero before it counts as empty. Known file systems,
/// volume managers and partition tables leave a mark in one of the two.
const BLANK_BYTES: u64 = 128 << 10;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// What errors call the device; [`Store::open_file`] puts the path here.
    pub path: String,
    /// The server instance; a store of another one is refused.
    pub id: u64,
    /// Of the server's state. A new one is chosen, never used before, whenever the state begins
    /// anew: that is what makes all older records unreadable.
    pub generation: u64,
    /// Bytes of a segment.
    pub segment_bytes: u32,
    /// Take over the records of this generation instead of beginning anew.
    pub adopt: bool,
    /// With `adopt`: a device that is blank begins anew, since nothing is known to be on it.
    pub may_be_blank: bool,
    /// The pages of this generation are in memory: a device with its store that refuses to be written, or to become
    /// as large as it should be, is opened all the same ([`Store::refusals`]).
    pub may_refuse_writes: bool,
    /// Freed segments are kept until a sync, or a checkpoint, as a recovery from the log needs.
    pub keeps_freed: bool,
    /// Discard freed segments in [`Store::tidy`].
    pub punch: bool,
    /// Segments that only cleaning may use; at least 1, or a full store stays full. With `keeps_freed` there are
    /// some more, for relief.
    pub reserve_segments: u32,
    /// None: records are in clear. What is adopted must be as it is wanted.
    pub encryption: Option<Encryption>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            path: "the backing file".into(),
            id: 0,
            generation: 0,
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            adopt: false,
            may_be_blank: false,
            may_refuse_writes: false,
            keeps_freed: false,
            punch: true,
            reserve_segments: 2,
            encryption: None,
        }
    }
}

impl StoreOptions {
    /// May a device with this content be served although it takes no writes?
    fn may_do_without_writes(&self, content: &Content) -> bool {
        let is_ours = |found: &Superblock| {
            let Key { id, generation } = found.key;
            (id, generation) == (self.id, self.generation)
        };
        self.may_refuse_writes && matches!(content, Content::Ours(found) if is_ours(found))
    }
}

/// What a device holds.
enum Content {
    Blank,
    Ours(Superblock),
}

impl Store {
    /// Opens the store on a file or block device, which is created or resized as needed. A file
    /// that is adopted can grow but not shrink: what lies at its end may be alive.
    pub fn open_file(path: &Path, file: &FileOptions, options: StoreOptions) -> Result<Store> {
        Self::open_held_file(path, file, None, options)
    }

    /// The same with a predecessor's descriptor, as [`FileDevice::open_held`] takes it.
    ///
    /// Errors: as [`open`](Self::open), and [`Error::NotPermitted`] if [`Io::IoUring`] is wanted and the
    /// system does not allow it.
    pub fn open_held_file(
        path: &Path,
        file: &FileOptions,
        held: Option<OwnedFd>,
        mut options: StoreOptions,
    ) -> Result<Store> {
        options.path = path.display().to_string();
        let rings = match file.io {
            Io::Threads => Err("store.io is threads".into()),
            Io::Auto | Io::IoUring => Rings::new(file.readers),
        };
        // Before anything is touched.
        if let (Io::IoUring, Err(why)) = (file.io, &rings) {
            let why = format!("store.io is io_uring: {why}");
            return Err(Error::NotPermitted(why));
        }
        let mut device = FileDevice::open_held(path, file, held)?;
        // A new file has nothing to be looked at, and nothing to be taken over either.
        let is_looked_at = device.len() > 0 || options.adopt && !options.may_be_blank;
        let content = is_looked_at.then(|| inspect(&device, &options));
        let content = content.transpose()?;
        let mut refused = None;
        if !options.adopt || file.bytes > device.len() {
            let is_served = content.is_some_and(|content| options.may_do_without_writes(&content));
            match device.resize(file) {
                Err(error) if is_served => refused = Some(error),
                resized => resized?,
            }
        }
        device.go_direct(file);
        let descriptor = device.descriptor()?;
        let (device, reading): (Box<dyn Device>, _) = match rings {
            Ok(rings) => (
                Box::new(RingDevice {
                    file: device,
                    rings,
                }),
                Reading::IoUring,
            ),
            Err(why) => (Box::new(device), Reading::Threads(why)),
        };
        let mut store = Store::open(device, options)?;
        store.descriptor = Some(descriptor);
        store.refusals.size = refused;
        store.reading = reading;
        Ok(store)
    }

    /// Another descriptor of the backing file, open and locked, for the next process; None for a
    /// device that is no file.
    pub fn descriptor(&self) -> Result<Option<OwnedFd>> {
        let copy = self.descriptor.as_ref().map(OwnedFd::try_clone);
        copy.transpose()
            .map_err(|error| Error::io("copy the backing file's descriptor", 0, error))
    }

    /// Opens the store on a device: formats an empty one, begins ours anew under another
    /// generation, or, to `adopt`, takes over what the same generation left.
    ///
    /// Errors: [`Error::Foreign`] for what is not ours or cannot be adopted (nothing was touched),
    /// [`Error::Config`] for sizes that cannot work, [`Error::Io`].
    pub fn open(device: Box<dyn Device>, options: StoreOptions) -> Result<Store> {
        let StoreOptions {
            id,
            generation,
            segment_bytes,
            reserve_segments,
            ..
        } = options;
        if reserve_segments == 0 {
            return Err(Error::Config(
                "the store's reserve is 0 segments, must be 1 or more".into(),
            ));
        }
        let for_relief = if options.keeps_freed {
            RELIEF_SEGMENTS
        } else {
            0
        };
        let reserve_segments = reserve_segments + for_relief;
        let geometry = Geometry::new(device.len(), segment_bytes, reserve_segments)?;
        let content = inspect(&*device, &options)?;
        let key = Key { id, generation };
        let opens = match content {
            // Also when it begins anew with the generation that it had, which nobody should ask
            // for: no sequence may ever come back.
            Content::Ours(superblock) if superblock.key == key => superblock.opens + 1,
            _ => 1,
        };
        let (seal, cipher) = match &options.encryption {
            None => (None, None),
            Some(wanted) => {
                // A new beginning has new keys, whatever its generation.
                let salt = match &content {
                    Content::Ours(Superblock {
                        seal: Some(seal), ..
                    }) if options.adopt => seal.salt,
                    _ => wanted.salt,
                };
                let cipher = Cipher::new(&wanted.key, &salt, &key);
                let check = cipher.check();
                (Some(Seal { salt, check }), Some(Arc::new(cipher)))
            }
        };
        let superblock = Superblock {
            key,
            segment_bytes,
            capacity_bytes: device.len(),
            opens,
            seal,
        };
        let superblock = SuperblockWriter::new(superblock, matches!(content, Content::Blank));
        let counters = Counters::default();
        let mut refusals = Refusals::default();
        match superblock.write(&*device, &counters) {
            Err(error) if options.may_do_without_writes(&content) => {
                refusals.superblock = Some(error);
            }
            written => written?,
        }
        let lines = Arc::<Lines>::default();
        let segments = Segments::new(
            geometry.segments,
            reserve_segments,
            opens,
            options.keeps_freed,
        );
        if !options.adopt {
            segments.list_free(matches!(content, Content::Ours(_)));
        }
        Ok(Store {
            device: Box::new(CountedDevice::new(device, Arc::clone(&lines))),
            lines,
            descriptor: None,
            reading: Reading::Threads("the device is not a file".into()),
            geometry,
            form: Form { key, cipher },
            segments,
            superblock,
            refusals,
            counters,
            ahead: Ahead::default(),
            precedence: Precedence::default(),
            tombstones: (options.keeps_freed).then(|| Mutex::new(AlignedBuffer::new(BLOCK_BYTES))),
            punch: AtomicBool::new(options.punch),
            adopting: AtomicBool::new(options.adopt),
        })
    }
}

/// What the device holds, if these options may open it.
fn inspect(device: &dyn Device, options: &StoreOptions) -> Result<Content> {
    let foreign = |why| {
        Err(Error::Foreign {
            path: options.path.clone(),
            why,
        })
    };
    let mut bytes = AlignedBuffer::new(BLANK_BYTES as usize);
    let whole = device.len() / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    if whole == 0 {
        return foreign(format!(
            "is {} bytes long, too short to be looked at",
            device.len()
        ));
    }
    let mut blank = |offset, length: u64| {
        let range = &mut bytes[..length as usize];
        let read = device.read_at(range, offset);
        read.map_err(|error| Error::io("read superblock", offset, error))?;
        Ok(range.iter().all(|byte| *byte == 0))
    };
    // The edges are looked at only if they matter: a bad block there must not keep us from ours.
    let edge = BLANK_BYTES.min(whole);
    let first_blank = blank(0, BLOCK_BYTES as u64)?;
    if first_blank && blank(0, edge)? && blank(whole - edge, edge)? {
        return match options.adopt && !options.may_be_blank {
            true => foreign("holds no store, wanted one to take over".into()),
            false => Ok(Content::Blank),
        };
    }
    if first_blank {
        return foreign("begins with zeros but is not empty".into());
    }
    let superblock = Superblock::decode(&bytes[..BLOCK_BYTES]);
    let superblock = match superblock {
        Ok(superblock) => superblock,
        Err(why) => return foreign(why),
    };
    let Key { id, generation } = superblock.key;
    if id != options.id {
        return foreign(format!(
            "belongs to instance {id:#x}, wanted {:#x}",
            options.id
        ));
    }
    if generation == options.generation && superblock.opens >= OPENS_MAX {
        return foreign(format!(
            "was opened {OPENS_MAX} times and needs a new generation"
        ));
    }
    if !options.adopt {
        return Ok(Content::Ours(superblock));
    }
    if generation != options.generation {
        return foreign(format!(
            "holds generation {generation}, wanted {}",
            options.generation
        ));
    }
    match (&superblock.seal, &options.encryption) {
        (None, None) => {}
        (None, Some(_)) => return foreign("is in clear, wanted it encrypted".into()),
        (Some(_), None) => return foreign("is encrypted, and no key was given".into()),
        (Some(seal), Some(wanted)) => {
            let cipher = Cipher::new(&wanted.key, &seal.salt, &superblock.key);
            if cipher.check() != seal.check {
                return foreign("is encrypted with another key than the one that was given".into());
            }
        }
    }
    if superblock.segment_bytes != options.segment_bytes {
        let (found, wanted) = (superblock.segment_bytes, options.segment_bytes);
        return foreign(format!("has segments of {found} bytes, wanted {wanted}"));
    }
    if superblock.capacity_bytes > device.len() {
        let (found, wanted) = (device.len(), superblock.capacity_bytes);
        return foreign(format!(
            "is {found} bytes long, wanted the {wanted} that it had"
        ));
    }
    Ok(Content::Ours(superblock))
}
