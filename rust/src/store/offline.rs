//! Looking at a store that no server has: nothing is taken over, and nothing is written unless a damaged
//! superblock is to be restored from its copy.
//!
//! Everything that the heads and summaries name is read and verified, dead records too: which of them a
//! page still points to, only the page table knows.
//! Locking: the file is locked as a server would, so that none can come up meanwhile.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::error::{Error, Result};

use super::ahead::Ahead;
use super::buffer::AlignedBuffer;
use super::cipher::{Cipher, MasterKey};
use super::device::{BLOCK_BYTES, Device};
use super::file_device::FileDevice;
use super::form::Form;
use super::geometry::{Geometry, SEGMENT_BYTES_MAX, SegmentIndex};
use super::log::{Reading, RecordRef, Store};
use super::precedence::Precedence;
use super::read::ReadBuffer;
use super::refusals::Refusals;
use super::segment::Segments;
use super::stats::Counters;
use super::superblock::{Superblock, SuperblockWriter, copy_at};

/// Damaged records that a report names; the names of the others are counted.
pub const DAMAGE_MAX: usize = 1000;

/// What the superblock and its copy say.
#[derive(Clone, Debug)]
pub struct Labels {
    /// Bytes of the file or device.
    pub bytes: u64,
    /// The superblock, or what is there instead.
    pub superblock: std::result::Result<Label, String>,
    /// Its copy, and where it is; None if none was found. Without a superblock it is the newest of all there are.
    pub copy: Option<(u64, Label)>,
}

/// A superblock in plain values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// The server instance.
    pub id: u64,
    /// Of the data.
    pub generation: u64,
    /// Bytes of a segment.
    pub segment_bytes: u32,
    /// Bytes of the device when it was last opened.
    pub capacity_bytes: u64,
    /// How often it was opened in this generation.
    pub opens: u64,
    /// Its records are sealed.
    pub is_encrypted: bool,
}

impl From<&Superblock> for Label {
    fn from(superblock: &Superblock) -> Label {
        Label {
            id: superblock.key.id,
            generation: superblock.key.generation,
            segment_bytes: superblock.segment_bytes,
            capacity_bytes: superblock.capacity_bytes,
            opens: superblock.opens,
            is_encrypted: superblock.seal.is_some(),
        }
    }
}

/// A record that does not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Byte of the file where it begins.
    pub offset: u64,
    /// Whose it is, counted over all exports.
    pub page: u32,
    /// What it was.
    pub kind: RecordKind,
    /// The device gave an error, not other bytes.
    pub is_unreadable: bool,
}

/// What a record is for; its owner knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// It holds a page.
    Object,
    /// It says of a page that it has no object.
    Mark,
    /// It says how far the log is known to be whole.
    Position,
}

/// What reading everything came to.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Segments that there is room for.
    pub segments: u32,
    /// Of these, the ones with a head of this generation.
    pub segments_written: u32,
    /// Of these, the ones whose list of records is damaged: they were searched one by one.
    pub summaries_damaged: u64,
    /// Segments that nothing can be had of, since both heads are damaged.
    pub heads_damaged: u64,
    /// Records of pages that verify, and the bytes of their objects.
    pub records: u64,
    /// See `records`.
    pub object_bytes: u64,
    /// Marks and positions that verify.
    pub marks: u64,
    /// Records of any kind that do not verify.
    pub records_damaged: u64,
    /// The first of these. Where the list of records is damaged too, one may be named as what it was by
    /// the list and as what it was by itself.
    pub damaged: Vec<Damage>,
    /// Names that were left out, as there are [`DAMAGE_MAX`] in `damaged`.
    pub damaged_left_out: u64,
    /// Records that a head counts and that nobody can name, as their summary is damaged too.
    pub records_missing: u64,
}

/// Reads the superblock and its copy.
///
/// # Errors
/// [`Error::Foreign`] for a file that another server has or that is no store's, [`Error::Io`].
pub fn inspect_store(path: &Path) -> Result<Labels> {
    Ok(look(&FileDevice::open_for_reading(path)?)?.0)
}

/// Reads and verifies every record. `key`: for a store that is encrypted. `kind_of` says of a page's number
/// and a codec what their record is for.
///
/// # Errors
/// [`Error::Foreign`] for a file that cannot be read as a store (damaged superblock, wrong or missing
/// key, in use), [`Error::Io`].
pub fn verify_store(path: &Path, key: Option<&MasterKey>, kind_of: KindOf<'_>) -> Result<Verdict> {
    Ok(verify(Store::open_offline(path, key)?, kind_of))
}

/// What a record of that page and codec is for.
pub type KindOf<'a> = &'a dyn Fn(u32, u8) -> RecordKind;

impl Store {
    /// A store that is only read: what a server would adopt can be searched and read.
    ///
    /// # Errors
    /// As [`verify_store`].
    pub fn open_offline(path: &Path, key: Option<&MasterKey>) -> Result<Store> {
        let device = FileDevice::open_for_reading(path)?;
        let superblock = look(&device)?.1;
        let superblock = superblock.map_err(|why| foreign(path, why))?;
        open_offline(Box::new(device), path, &superblock, key)
    }
}

/// Restores the superblock from its copy, or the copy from the superblock. `dry_run`: says what it would
/// do. None: both are whole and the same, or neither is.
///
/// # Errors
/// As [`inspect_store`].
pub fn repair_store(path: &Path, dry_run: bool) -> Result<Option<&'static str>> {
    let device = FileDevice::open_for_reading(path)?;
    let (labels, superblock) = look(&device)?;
    let (block_at, from, what) = match (&superblock, &labels.copy) {
        (Ok(whole), Some((_, copy))) if *copy == Label::from(whole) => return Ok(None),
        // A copy of a newer opening is no damage: the next opening writes both.
        (Ok(whole), Some((_, copy))) if copy.generation >= whole.key.generation => return Ok(None),
        (Ok(whole), _) => (copy_at(whole.segment_bytes), 0, "write the copy anew"),
        (Err(_), Some((at, _))) => (0, *at, "restore the superblock from its copy"),
        (Err(_), None) => return Ok(None),
    };
    let mut block = AlignedBuffer::new(BLOCK_BYTES);
    read(&device, &mut block, from)?;
    drop(device);
    if !dry_run {
        let device = FileDevice::open_existing(path)?;
        device
            .write_at(&block, block_at)
            .and_then(|()| device.sync())
            .map_err(|source| Error::io("write superblock", block_at, source))?;
    }
    Ok(Some(what))
}

fn foreign(path: &Path, why: String) -> Error {
    Error::Foreign {
        path: path.display().to_string(),
        why,
    }
}

fn read(device: &dyn Device, bytes: &mut [u8], at: u64) -> Result<()> {
    let read = device.read_at(bytes, at);
    read.map_err(|source| Error::io("read superblock", at, source))
}

type Found = std::result::Result<Superblock, String>;

/// The superblock and its copy. Without the one, the other is looked for wherever it can be, and of several
/// the newest is taken.
fn look(device: &dyn Device) -> Result<(Labels, Found)> {
    let bytes = device.len();
    let mut block = AlignedBuffer::new(BLOCK_BYTES);
    let superblock = match bytes >= BLOCK_BYTES as u64 {
        true => match read(device, &mut block, 0) {
            Ok(()) => Superblock::decode(&block),
            Err(error) => Err(format!("cannot be read: {error}")),
        },
        false => Err(format!("is {bytes} bytes long, too short for a store")),
    };
    let places = match &superblock {
        Ok(found) => copy_at(found.segment_bytes)..=copy_at(found.segment_bytes),
        Err(_) => BLOCK_BYTES as u64..=copy_at(SEGMENT_BYTES_MAX),
    };
    // A copy of segments of another size stays behind when the file is made a store anew: the newest counts.
    let mut copy: Option<(u64, Label)> = None;
    for at in places
        .step_by(BLOCK_BYTES)
        .take_while(|at| at + BLOCK_BYTES as u64 <= bytes)
    {
        if read(device, &mut block, at).is_ok()
            && let Ok(found) = Superblock::decode(&block)
            && copy_at(found.segment_bytes) == at
        {
            let age = |label: &Label| (label.generation, label.opens);
            let found = Label::from(&found);
            if copy.is_none_or(|(_, other)| age(&other) < age(&found)) {
                copy = Some((at, found));
            }
        }
    }
    let label = superblock.as_ref().map(Label::from).map_err(String::clone);
    let labels = Labels {
        bytes,
        superblock: label,
        copy,
    };
    Ok((labels, superblock))
}

/// A store that reads only: every segment with a head of its generation can be listed and read.
fn open_offline(
    device: Box<dyn Device>,
    path: &Path,
    superblock: &Superblock,
    key: Option<&MasterKey>,
) -> Result<Store> {
    let cipher = match (&superblock.seal, key) {
        (None, _) => None,
        (Some(_), None) => return Err(foreign(path, "is encrypted, and no key was given".into())),
        (Some(seal), Some(key)) => {
            let cipher = Cipher::new(key, &seal.salt, &superblock.key);
            if cipher.check() != seal.check {
                let why = "is encrypted with another key than the one that was given";
                return Err(foreign(path, why.into()));
            }
            Some(Arc::new(cipher))
        }
    };
    let geometry = Geometry::new(device.len(), superblock.segment_bytes, 1)?;
    Ok(Store {
        device,
        lines: Arc::default(),
        geometry,
        form: Form {
            key: superblock.key,
            cipher,
        },
        segments: Segments::new(geometry.segments, 1, superblock.opens, false),
        // Never written: this one only reads.
        superblock: SuperblockWriter::new(*superblock, false),
        refusals: Refusals::default(),
        counters: Counters::default(),
        ahead: Ahead::default(),
        precedence: Precedence::default(),
        tombstones: None,
        punch: AtomicBool::new(false),
        adopting: AtomicBool::new(true),
        descriptor: None,
        reading: Reading::Threads("nothing is in a hurry".into()),
    })
}

fn verify(store: Store, kind_of: KindOf<'_>) -> Verdict {
    let mut buffer = ReadBuffer::new();
    let mut records: Vec<RecordRef> = Vec::with_capacity(store.records_max());
    let mut verdict = Verdict {
        segments: store.segments(),
        ..Verdict::default()
    };
    for segment in (0..store.segments()).map(SegmentIndex) {
        let Ok(Some(head)) = store.head_at(segment, &mut buffer.bytes) else {
            continue;
        };
        store.segments.found(segment, head.sequence, head.shape);
        verdict.segments_written += 1;
        records.clear();
        let lists_damaged = store.summary_errors();
        // Blocks that cannot be read hide records, which are missing then.
        let _ = store.segment_records(segment, &mut buffer, &mut |record| records.push(record));
        let damage = |record: &RecordRef, is_unreadable| Damage {
            offset: record.location.offset(),
            page: record.page,
            kind: kind_of(record.page, record.codec),
            is_unreadable,
        };
        let mut missing = u64::from(head.shape.records) - records.len() as u64;
        if store.summary_errors() > lists_damaged {
            let unnamed = store.hidden_records(segment, &mut buffer, &mut |record| {
                verdict.name(damage(&record, false));
            });
            let named = missing - unnamed.unwrap_or(missing);
            verdict.records_damaged += named;
            missing -= named;
        }
        verdict.records_missing += missing;
        store.read(&mut buffer, &records, &mut |index, object| {
            let record = &records[index];
            match object {
                Ok(object) if kind_of(record.page, record.codec) == RecordKind::Object => {
                    verdict.records += 1;
                    verdict.object_bytes += object.len() as u64;
                }
                Ok(_) => verdict.marks += 1,
                Err(error) => {
                    verdict.records_damaged += 1;
                    let is_unreadable = !matches!(error, Error::Corrupt { .. });
                    verdict.name(damage(record, is_unreadable));
                }
            }
        });
    }
    verdict.damaged.sort_by_key(|damage| damage.offset);
    verdict.summaries_damaged = store.summary_errors();
    verdict.heads_damaged = store.heads_damaged();
    verdict
}

impl Verdict {
    fn name(&mut self, damage: Damage) {
        if self.damaged.len() < DAMAGE_MAX {
            self.damaged.push(damage);
        } else {
            self.damaged_left_out += 1;
        }
    }
}
