//! Every fault of the device met by every operation: what it comes to, that nothing else is lost, that
//! the counters name the cause, and that service returns. `--nocapture` prints the matrix.
//!
//! Errors of reads, of writes and discards, no space, and writes that fail half-way go on until the test
//! ends them. A sync fails once: that is how the kernel tells it. A lost write, a misdirected one and bit
//! rot happen once, before the operation, to a segment that holds its page; for what writes itself, to
//! its first write. A slow device lets the first who asks wait, a silent one everybody for as long as
//! they do.
//!
//! Some pages are in a durable export. After a flush, and at the end of each cell, it is looked at what
//! loss of the host would leave. A discard is followed by the flush that makes it lasting, the pool is
//! compacted in the course of write-back, and reading ahead begins after three pages in order. Cleaning
//! moves what a segment lists and does not look for more, as the scrub does. A server that
//! cannot write or sync the superblock takes over all the same, and none recovers so, nor from a device that
//! cannot be read. A snapshot is here because who looks at a device that fails must not wait for it: it asks
//! nothing of it.

mod cell;
mod deeds;
mod waiting;

use cell::Cell;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Nothing,
    ReadError,
    WriteError,
    SyncError,
    NoSpace,
    Short,
    Lost,
    Misdirected,
    Rot,
    Slow,
    Silent,
}

use Trouble::*;

const TROUBLES: [Trouble; 11] = [
    Nothing,
    ReadError,
    WriteError,
    SyncError,
    NoSpace,
    Short,
    Lost,
    Misdirected,
    Rot,
    Slow,
    Silent,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    ClientWrites,
    ReadStored,
    ReadAhead,
    PartialWrite,
    Discard,
    Flushing,
    WriteBack,
    Cleaning,
    Punch,
    Scrub,
    Compaction,
    Adoption,
    Recovery,
    Snapshot,
}

use Deed::*;

/// What each deed comes to. `EIO` and `ENOSPC` are what a client is told; `ahead` is a page that was there
/// before it was asked for; `refused` is a server that does not start; `kept` is a page that stays where
/// it was; `found` is damage that was found; `unpunched` is a segment that the device keeps; `older` is what loss of the host makes of some flushed pages,
/// unnoticed: what they were before, or zeros if that is gone too; `waits` is done when the device
/// answers.
const WANTED: &str = "
             Nothing     ReadError   WriteError  SyncError   NoSpace     Short       Lost        Misdirected Rot         Slow        Silent
ClientWrites done        done        ENOSPC      done        ENOSPC      ENOSPC      done        done        done        done        ENOSPC
ReadStored   right       EIO         right       right       right       right       EIO         EIO         EIO         right       EIO
ReadAhead    ahead       EIO         ahead       ahead       ahead       ahead       EIO         EIO         EIO         ahead       EIO
PartialWrite done        EIO         done        done        done        done        EIO         EIO         EIO         done        EIO
Discard      done        done        EIO         EIO         ENOSPC      EIO         older       older       done        done        EIO
Flushing     done        done        EIO         EIO         ENOSPC      EIO         older       older       done        done        EIO
WriteBack    done        done        kept        done        kept        kept        done        done        done        done        waits
Cleaning     done        kept        kept        done        kept        kept        done        done        found       done        waits
Punch        done        done        unpunched   done        done        done        done        done        done        done        waits
Scrub        done        unreadable  done        done        done        done        found       found       found       done        waits
Compaction   done        done        kept        done        kept        kept        done        done        done        done        waits
Adoption     adopted     refused     adopted     adopted     adopted     adopted     adopted     adopted     adopted     adopted     waits
Recovery     recovered   refused     refused     refused     refused     refused     older       older       recovered   recovered   waits
Snapshot     done        done        done        done        done        done        done        done        done        done        done
";

const DEEDS: [Deed; 14] = [
    ClientWrites,
    ReadStored,
    ReadAhead,
    PartialWrite,
    Discard,
    Flushing,
    WriteBack,
    Cleaning,
    Punch,
    Scrub,
    Compaction,
    Adoption,
    Recovery,
    Snapshot,
];

#[test]
fn every_fault_meets_every_operation() {
    let line = |first: &str, words: &[String]| {
        let words = words.iter().map(|word| format!("{word:<12}"));
        format!("{first:<13}{}", words.collect::<String>())
    };
    let mut lines = vec![line("", &TROUBLES.map(|trouble| format!("{trouble:?}")))];
    for deed in DEEDS {
        let words = TROUBLES.map(|trouble| {
            let mut cell = Cell::new(trouble, deed);
            cell.begin();
            let word = match trouble {
                Slow => cell.act_slowly(),
                Silent => cell.act_in_silence(),
                _ => cell.act(),
            };
            cell.check_counters(word);
            cell.end(word);
            word.to_string()
        });
        let [fine, .., slow, _] = &words;
        assert_eq!(fine, slow, "{deed:?}: a slow device changes nothing");
        lines.push(line(&format!("{deed:?}"), &words));
    }
    let found: Vec<_> = lines.iter().map(|line| line.trim_end()).collect();
    println!("{}", found.join("\n"));
    assert_eq!(found, WANTED.trim_matches('\n').lines().collect::<Vec<_>>());
}
