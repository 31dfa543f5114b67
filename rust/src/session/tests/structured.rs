//! Structured replies: READ in chunks, errors with words, BLOCK_STATUS.

use super::*;
use crate::session::status::{EXTENTS_MAX, STATUS_PAGES_MAX};

fn read(client: &mut Client, flags: u16, offset: u64, length: u32) -> Vec<Chunk> {
    let bytes = client.request(CMD_READ, flags, offset, length);
    client.send(&bytes);
    client.take_chunks()
}

/// Puts a reply's chunks together; every byte must come exactly once.
fn assemble(chunks: &[Chunk], offset: u64, length: u32) -> Vec<u8> {
    let mut data = vec![None; length as usize];
    for (at, chunk) in chunks.iter().enumerate() {
        assert_eq!(
            chunk.done,
            at + 1 == chunks.len(),
            "only the last chunk is done"
        );
        let from = u64::from_be_bytes(chunk.payload[..8].try_into().unwrap()) - offset;
        let hole = [0; 1 << 17];
        let bytes = match chunk.kind {
            CHUNK_OFFSET_DATA => &chunk.payload[8..],
            CHUNK_OFFSET_HOLE => {
                let bytes = u32::from_be_bytes(chunk.payload[8..12].try_into().unwrap());
                &hole[..bytes as usize]
            }
            kind => panic!("chunk of kind {kind}"),
        };
        for (slot, byte) in data[from as usize..].iter_mut().zip(bytes) {
            assert_eq!(slot.replace(*byte), None, "a byte came twice");
        }
    }
    data.into_iter()
        .map(|byte| byte.expect("a byte is missing"))
        .collect()
}

fn error_chunk(errno: u32, why: &str) -> Vec<u8> {
    let mut payload = errno.to_be_bytes().to_vec();
    payload.extend((why.len() as u16).to_be_bytes());
    payload.extend(why.as_bytes());
    payload
}

#[test]
fn one_page_is_one_chunk() {
    let mut client = Client::structured();
    let data = pattern(PAGE, 1);
    client.write(4096, &data);
    client.take_chunks();
    let chunks = read(&mut client, 0, 4100, 200);
    assert_eq!(chunks.len(), 1);
    assert_eq!(assemble(&chunks, 4100, 200), data[4..204]);
}

#[test]
fn zeros_cost_no_bytes() {
    let mut client = Client::structured();
    let chunks = read(&mut client, 0, 4096, 4096);
    assert_eq!(chunks.len(), 1);
    assert_eq!(chunks[0].kind, CHUNK_OFFSET_HOLE);
    assert_eq!(assemble(&chunks, 4096, 4096), vec![0; 4096]);
}

#[test]
fn a_long_read_comes_in_chunks_that_cover_it_once() {
    let mut client = Client::structured();
    let data = pattern(1 << 20, 2);
    client.write(100, &data);
    client.take_chunks();
    let chunks = read(&mut client, 0, 100, 1 << 20);
    assert!(chunks.len() > 4, "{} chunks", chunks.len());
    assert!(assemble(&chunks, 100, 1 << 20) == data);
    client.check_at_rest();
}

#[test]
fn df_is_answered_in_one_chunk_of_any_length() {
    let mut client = Client::structured();
    let data = pattern(1 << 20, 3);
    client.write(100, &data);
    client.take_chunks();
    for length in [1, 4096, 64 << 10, 1 << 20] {
        let chunks = read(&mut client, FLAG_DF, 100, length);
        assert_eq!(chunks.len(), 1, "{length} bytes");
        assert!(assemble(&chunks, 100, length) == data[..length as usize]);
    }
    client.check_at_rest();
}

#[test]
fn a_refused_read_is_an_error_chunk_with_words() {
    let mut client = Client::structured();
    let chunks = read(&mut client, 0, SIZE, 4096);
    assert_eq!(chunks.len(), 1);
    assert_eq!(chunks[0].kind, CHUNK_ERROR);
    assert!(chunks[0].done);
    assert_eq!(
        chunks[0].payload,
        error_chunk(22, "beyond the end of the export")
    );
}

#[test]
fn other_commands_are_answered_simply() {
    let mut client = Client::structured();
    client.write(0, &[1; 100]);
    client.write(SIZE, &[1; 100]);
    let errors: Vec<(u16, Vec<u8>)> = client
        .take_chunks()
        .into_iter()
        .map(|chunk| (chunk.kind, chunk.payload))
        .collect();
    assert_eq!(
        errors,
        [(u16::MAX, vec![0, 0, 0, 0]), (u16::MAX, vec![0, 0, 0, 28])]
    );
}

#[test]
fn an_unreadable_page_is_named_and_the_connection_goes_on() {
    let mut client = Client::structured();
    client.write(0, &[1; 64 * PAGE]);
    client.take_chunks();
    client.pages.lose(50);
    let chunks = read(&mut client, 0, 100, 60 * PAGE as u32);
    let last = chunks.last().unwrap();
    assert_eq!(last.kind, CHUNK_ERROR_OFFSET);
    assert!(last.done);
    let mut wanted = error_chunk(5, "unreadable page");
    wanted.extend((50 * PAGE as u64).to_be_bytes());
    assert_eq!(last.payload, wanted);
    assert_eq!(client.session.end(), None);
    client.check_at_rest();
}

fn extents(client: &mut Client, flags: u16, offset: u64, length: u32) -> Vec<(u32, u32)> {
    let bytes = client.request(CMD_BLOCK_STATUS, flags, offset, length);
    client.send(&bytes);
    let chunks = client.take_chunks();
    assert_eq!(chunks.len(), 1);
    assert_eq!((chunks[0].kind, chunks[0].done), (CHUNK_BLOCK_STATUS, true));
    assert_eq!(chunks[0].payload[..4], CONTEXT.to_be_bytes());
    let word = |raw: &[u8]| u32::from_be_bytes(raw.try_into().unwrap());
    let pairs = chunks[0].payload[4..].chunks(8);
    pairs
        .map(|raw| (word(&raw[..4]), word(&raw[4..])))
        .collect()
}

#[test]
fn block_status_merges_neighbours_and_keeps_to_the_request() {
    let mut client = Client::structured();
    client.write(2 * PAGE as u64, &[1; 2 * PAGE]);
    let bytes = client.request(CMD_WRITE_ZEROES, FLAG_NO_HOLE, 4 * PAGE as u64, PAGE as u32);
    client.send(&bytes);
    client.take_chunks();
    client.pages.put_in_store(3);
    let page = PAGE as u32;
    let wanted = [(2 * page - 100, 3), (2 * page, 0), (page, 2), (page + 1, 3)];
    assert_eq!(extents(&mut client, 0, 100, 6 * page - 99), wanted);
    assert_eq!(
        extents(&mut client, FLAG_REQ_ONE, 100, 6 * page - 99),
        wanted[..1]
    );
    assert_eq!(
        extents(&mut client, FLAG_REQ_ONE | FLAG_FUA, 2 * 4096, 1),
        [(1, 0)]
    );
}

#[test]
fn block_status_is_bounded() {
    const { assert!(STATUS_PAGES_MAX > PAGES as usize, "the export is one reply") };
    let mut client = Client::structured();
    for page in (0..PAGES).step_by(2) {
        client.write(u64::from(page) * PAGE as u64, &[1; PAGE]);
    }
    client.take_chunks();
    let found = extents(&mut client, 0, 0, SIZE as u32);
    assert_eq!(found.len(), EXTENTS_MAX.min(PAGES as usize));
    assert_eq!(
        extents(&mut client, FLAG_REQ_ONE, 0, SIZE as u32),
        [(4096, 0)]
    );
}
