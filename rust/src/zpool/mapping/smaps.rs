//! What the system says of the memory behind a mapping.
//!
//! Locking: none, a file that is read.
#![deny(unsafe_code)]

/// Mapped by huge pages: of a tmpfs, of other files, of hugetlbfs.
const HUGE: [&str; 4] = [
    "ShmemPmdMapped:",
    "FilePmdMapped:",
    "Shared_Hugetlb:",
    "Private_Hugetlb:",
];

/// Bytes that are mapped by huge pages in the mapping that begins at this address. 0 where the system
/// does not tell.
pub fn huge_bytes(start: usize) -> u64 {
    std::fs::read_to_string("/proc/self/smaps").map_or(0, |text| huge_bytes_in(&text, start))
}

fn huge_bytes_in(smaps: &str, start: usize) -> u64 {
    let head = format!("{start:08x}-");
    let fields = smaps.lines().skip_while(|line| !line.starts_with(&head));
    // Fields begin with a capital letter, the head of the next mapping with an address.
    let fields = fields
        .skip(1)
        .take_while(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
    let huge_kib = fields.filter_map(|line| {
        let (name, value) = line.split_once(char::is_whitespace)?;
        let kib = value.trim().strip_suffix(" kB")?;
        HUGE.contains(&name).then(|| kib.parse::<u64>().ok())?
    });
    huge_kib.sum::<u64>() << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
7f0000000000-7f0000200000 ---p 00000000 00:00 0
Size:               2048 kB
ShmemPmdMapped:     4096 kB
VmFlags: mr mw me nr sd
7f0000200000-7f0020200000 rw-s 00000000 00:01 1024      /dev/shm/nbdswap-0000000000000007.pool
Size:             524288 kB
Rss:              524288 kB
AnonHugePages:         0 kB
ShmemPmdMapped:   522240 kB
FilePmdMapped:         0 kB
Shared_Hugetlb:     2048 kB
Private_Hugetlb:       0 kB
THPeligible:           0
VmFlags: rd wr sh mr mw me ms sd
7f0020200000-7f0040200000 rw-s 00000000 00:01 1024      /dev/shm/other
ShmemPmdMapped:     2048 kB
";

    #[test]
    fn the_fields_of_one_mapping_are_added() {
        assert_eq!(huge_bytes_in(SMAPS, 0x7f00_0020_0000), 524_288 << 10);
        assert_eq!(huge_bytes_in(SMAPS, 0x7f00_2020_0000), 2 << 20);
        assert_eq!(huge_bytes_in(SMAPS, 0x7f00_0010_0000), 0);
        assert_eq!(huge_bytes_in("", 0), 0);
    }
}
