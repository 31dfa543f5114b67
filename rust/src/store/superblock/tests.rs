use super::*;

const KEY: Key = Key {
    id: 0x1122_3344_5566_7788,
    generation: 3,
};

/// The format on disk. If this changes, `VERSION` has to.
#[test]
fn the_bytes_of_version_3_are_these() {
    let mut block = [0xee; BLOCK_BYTES];
    let superblock = Superblock {
        key: KEY,
        segment_bytes: 1 << 20,
        capacity_bytes: 1 << 30,
        opens: 2,
        seal: None,
    };
    superblock.encode(&mut block);
    assert_eq!(
        block[..SUPERBLOCK_BYTES]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>(),
        "4e42445357415000030000000000100088776655443322110300000000000000\
         0000004000000000020000000000000000000000000000000000000000000000\
         00000000000000000000000000000000000000000000000087c26a361b628f71"
    );
    assert!(block[SUPERBLOCK_BYTES..].iter().all(|byte| *byte == 0));
    // One of version 2 says the same.
    block[8] = 2;
    block[CHECKSUM_AT..SUPERBLOCK_BYTES].copy_from_slice(&0x84fa_2dca_2a83_642e_u64.to_le_bytes());
    assert_eq!(Superblock::decode(&block), Ok(superblock));
}

#[test]
fn a_superblock_that_is_not_ours_is_refused_in_words() {
    let mut block = [0; BLOCK_BYTES];
    assert!(
        Superblock::decode(&block)
            .unwrap_err()
            .contains("begins with bytes")
    );
    let superblock = Superblock {
        key: KEY,
        segment_bytes: 8192,
        capacity_bytes: 0,
        opens: 1,
        seal: Some(Seal {
            salt: [7; SALT_BYTES],
            check: [9; CHECK_BYTES],
        }),
    };
    superblock.encode(&mut block);
    assert_eq!(Superblock::decode(&block), Ok(superblock));
    for at in 0..SUPERBLOCK_BYTES {
        block[at] ^= 0x10;
        let why = Superblock::decode(&block).unwrap_err();
        let word = match at {
            0..8 => "begins with bytes",
            8..12 => "wanted 2",
            _ => "checksum",
        };
        assert!(why.contains(word), "byte {at}: {why}");
        block[at] ^= 0x10;
    }
}
