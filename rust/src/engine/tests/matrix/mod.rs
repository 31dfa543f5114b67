//! Every fault of the device met by every operation: what it comes to, that nothing else is lost, that
//! the counters name the cause, and that service returns. `--nocapture` prints the matrix.
//!
//! EIO, no space, and writes that fail half-way go on until the test ends them. A lost write, a
//! misdirected one and bit rot happen once, before the operation, to a segment that holds its page; for
//! what writes itself, to its first write. Cleaning moves what a segment lists and does not look for more,
//! as the scrub does. A server that cannot write the superblock does not start. A slow device answers when the operation has been waited for.

mod cell;

use cell::Cell;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Eio,
    NoSpace,
    Short,
    Lost,
    Misdirected,
    Rot,
    Slow,
}

use Trouble::*;

const TROUBLES: [Trouble; 7] = [Eio, NoSpace, Short, Lost, Misdirected, Rot, Slow];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    ClientWrites,
    ReadStored,
    PartialWrite,
    Discard,
    WriteBack,
    Cleaning,
    Scrub,
    Compaction,
    Adoption,
    Snapshot,
}

use Deed::*;

/// What each deed comes to. `EIO` and `ENOSPC` are what a client is told; `refused` is a server that
/// does not start; `kept` is a page that stays where it was; `found` is damage that was found; `waits`
/// is done when the device answers.
const WANTED: &str = "
                Eio         NoSpace     Short       Lost        Misdirected Rot         Slow
ClientWrites    ENOSPC      ENOSPC      ENOSPC      done        done        done        ENOSPC
ReadStored      EIO         right       right       EIO         EIO         EIO         EIO
PartialWrite    EIO         done        done        EIO         EIO         EIO         EIO
Discard         done        done        done        done        done        done        done
WriteBack       kept        kept        kept        done        done        done        waits
Cleaning        kept        kept        kept        done        done        found       waits
Scrub           unreadable  done        done        found       found       found       waits
Compaction      done        done        done        done        done        done        done
Adoption        refused     refused     refused     adopted     adopted     adopted     waits
Snapshot        done        done        done        done        done        done        done
";

const DEEDS: [Deed; 10] = [
    ClientWrites,
    ReadStored,
    PartialWrite,
    Discard,
    WriteBack,
    Cleaning,
    Scrub,
    Compaction,
    Adoption,
    Snapshot,
];

#[test]
fn every_fault_meets_every_operation() {
    let line = |first: &str, words: &[String]| {
        let words = words.iter().map(|word| format!("{word:<12}"));
        format!("{first:<16}{}", words.collect::<String>())
    };
    let mut lines = vec![line("", &TROUBLES.map(|trouble| format!("{trouble:?}")))];
    for deed in DEEDS {
        let words = TROUBLES.map(|trouble| {
            let mut cell = Cell::new(trouble, deed);
            cell.begin();
            let word = match trouble {
                Slow => cell.act_slowly(),
                _ => cell.act(),
            };
            cell.check_counters(word);
            cell.end();
            word.to_string()
        });
        lines.push(line(&format!("{deed:?}"), &words));
    }
    let found: Vec<_> = lines.iter().map(|line| line.trim_end()).collect();
    println!("{}", found.join("\n"));
    assert_eq!(found, WANTED.trim_matches('\n').lines().collect::<Vec<_>>());
}
