//! The protocol's rules, each as a situation and what has to be answered.

use super::*;
use crate::session::{DRAIN_BYTES_MAX, End, PAYLOAD_BYTES_MAX};

const OK: u32 = 0;
const EPERM: u32 = 1;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;

const FROZEN: ExportId = ExportId(1);
const SIMPLE: Negotiated = Negotiated {
    structured: false,
    base_allocation: None,
};

/// A command with flags, offset and length, and the error that it gets.
type Situation = (&'static str, u16, u16, u64, u32, u32);

fn check(client: &mut Client, situations: &[Situation]) {
    for &(what, command, flags, offset, length, wanted) in situations {
        assert_eq!(
            client.error_of(command, flags, offset, length),
            wanted,
            "{what}"
        );
        // The connection stays in step whatever was asked.
        assert_eq!(
            client.error_of(CMD_READ, 0, 0, 512),
            OK,
            "a read after: {what}"
        );
    }
    client.check_at_rest();
}

#[test]
fn requests_that_make_sense_succeed() {
    let page = PAGE as u32;
    check(
        &mut Client::simple(),
        &[
            ("read a page", CMD_READ, 0, 0, page, OK),
            ("read one byte at 1", CMD_READ, 0, 1, 1, OK),
            ("read across pages", CMD_READ, 0, 4000, 200, OK),
            ("read the last byte", CMD_READ, 0, SIZE - 1, 1, OK),
            ("read all", CMD_READ, 0, 0, SIZE as u32, OK),
            ("write a page", CMD_WRITE, 0, 0, page, OK),
            ("write 512 at 512", CMD_WRITE, 0, 512, 512, OK),
            ("write the last byte", CMD_WRITE, 0, SIZE - 1, 1, OK),
            ("write many pages", CMD_WRITE, 0, 100, 1 << 20, OK),
            ("trim a page", CMD_TRIM, 0, 0, page, OK),
            ("trim part of a page", CMD_TRIM, 0, 1, 100, OK),
            ("trim all", CMD_TRIM, 0, 0, SIZE as u32, OK),
            ("zero a page", CMD_WRITE_ZEROES, 0, 0, page, OK),
            (
                "zero parts of two pages",
                CMD_WRITE_ZEROES,
                0,
                100,
                page,
                OK,
            ),
            ("zero all", CMD_WRITE_ZEROES, 0, 0, SIZE as u32, OK),
            (
                "zero all without holes",
                CMD_WRITE_ZEROES,
                FLAG_NO_HOLE,
                0,
                SIZE as u32,
                OK,
            ),
            ("zero fast", CMD_WRITE_ZEROES, FLAG_FAST_ZERO, 0, page, OK),
            (
                "zero fast, no hole",
                CMD_WRITE_ZEROES,
                FLAG_FAST_ZERO | FLAG_NO_HOLE,
                0,
                9,
                OK,
            ),
            ("cache", CMD_CACHE, 0, 0, SIZE as u32, OK),
            ("flush", CMD_FLUSH, 0, 0, 0, OK),
            ("flush with offset and length", CMD_FLUSH, 0, 4096, 4096, OK),
        ],
    );
}

#[test]
fn fua_is_accepted_on_every_command() {
    for command in [
        CMD_READ,
        CMD_WRITE,
        CMD_FLUSH,
        CMD_TRIM,
        CMD_CACHE,
        CMD_WRITE_ZEROES,
    ] {
        let error = Client::simple().error_of(command, FLAG_FUA, 0, 4096);
        assert_eq!(error, OK, "command {command}");
    }
}

#[test]
fn beyond_the_end_is_enospc_for_writes_and_einval_for_others() {
    let page = PAGE as u32;
    let wraps = u64::MAX - 4095;
    check(
        &mut Client::simple(),
        &[
            ("read past the end", CMD_READ, 0, SIZE, 1, EINVAL),
            (
                "read half past the end",
                CMD_READ,
                0,
                SIZE - 512,
                1024,
                EINVAL,
            ),
            ("read that wraps", CMD_READ, 0, wraps, 8192, EINVAL),
            ("write past the end", CMD_WRITE, 0, SIZE, page, ENOSPC),
            (
                "write half past the end",
                CMD_WRITE,
                0,
                SIZE - 512,
                1024,
                ENOSPC,
            ),
            ("write that wraps", CMD_WRITE, 0, wraps, 8192, ENOSPC),
            ("trim past the end", CMD_TRIM, 0, SIZE, 1, EINVAL),
            ("trim that wraps", CMD_TRIM, 0, wraps, 8192, EINVAL),
            ("trim of 4 GiB", CMD_TRIM, 0, 0, u32::MAX, EINVAL),
            (
                "zero past the end",
                CMD_WRITE_ZEROES,
                0,
                SIZE - 1,
                2,
                ENOSPC,
            ),
            ("zero that wraps", CMD_WRITE_ZEROES, 0, wraps, 8192, ENOSPC),
            ("cache past the end", CMD_CACHE, 0, SIZE, 1, EINVAL),
        ],
    );
}

#[test]
fn length_zero_is_einval_but_for_flush() {
    for command in [CMD_READ, CMD_WRITE, CMD_TRIM, CMD_CACHE, CMD_WRITE_ZEROES] {
        check(
            &mut Client::simple(),
            &[("length 0", command, 0, 0, 0, EINVAL)],
        );
    }
}

#[test]
fn unknown_commands_and_flags_are_einval() {
    check(
        &mut Client::simple(),
        &[
            ("resize", 8, 0, 0, 4096, EINVAL),
            ("command 99", 99, 0, 0, 4096, EINVAL),
            ("unknown flag on read", CMD_READ, 1 << 9, 0, 4096, EINVAL),
            ("unknown flag on write", CMD_WRITE, 1 << 9, 0, 4096, EINVAL),
            ("payload length flag", CMD_WRITE, 1 << 5, 0, 4096, EINVAL),
            (
                "DF without structured replies",
                CMD_READ,
                FLAG_DF,
                0,
                4096,
                EINVAL,
            ),
            ("NO_HOLE on write", CMD_WRITE, FLAG_NO_HOLE, 0, 4096, EINVAL),
            (
                "NO_HOLE on cache",
                CMD_CACHE,
                FLAG_FUA | FLAG_NO_HOLE,
                0,
                4096,
                EINVAL,
            ),
            (
                "FAST_ZERO on trim",
                CMD_TRIM,
                FLAG_FAST_ZERO,
                0,
                4096,
                EINVAL,
            ),
            ("REQ_ONE on flush", CMD_FLUSH, FLAG_REQ_ONE, 0, 0, EINVAL),
            (
                "block status, no context",
                CMD_BLOCK_STATUS,
                0,
                0,
                4096,
                EINVAL,
            ),
        ],
    );
}

#[test]
fn changes_of_a_read_only_export_are_eperm() {
    check(
        &mut Client::on(FROZEN, SIMPLE),
        &[
            ("read", CMD_READ, 0, 0, 4096, OK),
            ("flush", CMD_FLUSH, 0, 0, 0, OK),
            ("cache", CMD_CACHE, 0, 0, 4096, OK),
            ("write", CMD_WRITE, 0, 0, 4096, EPERM),
            ("trim", CMD_TRIM, 0, 0, 4096, EPERM),
            ("zero", CMD_WRITE_ZEROES, 0, 0, 4096, EPERM),
        ],
    );
}

#[test]
fn payload_up_to_64_mib_is_carried_out_and_up_to_128_mib_read_away() {
    let mut client = Client::simple();
    assert_eq!(
        client.error_of(CMD_READ, 0, 0, PAYLOAD_BYTES_MAX + 1),
        EINVAL
    );
    // The export is smaller, so what tells the two apart is the error.
    assert_eq!(client.error_of(CMD_WRITE, 0, 0, PAYLOAD_BYTES_MAX), ENOSPC);
    assert_eq!(
        client.error_of(CMD_WRITE, 0, 0, PAYLOAD_BYTES_MAX + 1),
        EINVAL
    );
    assert_eq!(client.error_of(CMD_WRITE, 0, 0, DRAIN_BYTES_MAX), EINVAL);
    let bytes = client.request(CMD_WRITE, 0, 0, DRAIN_BYTES_MAX + 1);
    client.send(&bytes);
    assert_eq!(
        client.session.end(),
        Some(&End::WriteTooLong {
            bytes: DRAIN_BYTES_MAX + 1
        })
    );
}

#[test]
fn a_refused_write_leaves_the_page_alone() {
    let mut client = Client::simple();
    client.write(0, &[1; PAGE]);
    client.take_replies();
    assert_eq!(client.error_of(CMD_WRITE, FLAG_DF, 0, 4096), EINVAL);
    assert_eq!(client.pages.bytes(0), vec![1; PAGE]);
}

#[test]
fn a_wrong_magic_ends_the_connection() {
    let mut client = Client::simple();
    let mut bytes = client.request(CMD_FLUSH, 0, 0, 0);
    bytes.extend_from_slice(&[0x67; 28]);
    client.send(&bytes);
    assert_eq!(
        client.session.end(),
        Some(&End::BadMagic { found: 0x6767_6767 })
    );
    assert_eq!(
        client.take_replies().len(),
        1,
        "what came before is answered"
    );
}

#[test]
fn disc_has_no_reply_and_what_follows_is_ignored() {
    let mut client = Client::simple();
    let mut bytes = client.request(CMD_WRITE, 0, 0, 512);
    bytes.extend_from_slice(&[5; 512]);
    bytes.extend(client.request(CMD_DISC, 0, 0, 0));
    bytes.extend(client.request(CMD_WRITE, 0, 0, 512));
    bytes.extend_from_slice(&[6; 512]);
    client.send(&bytes);
    assert_eq!(client.session.end(), Some(&End::Disconnected));
    let replies = client.take_replies();
    assert_eq!(replies.len(), 1);
    assert_eq!((replies[0].cookie, replies[0].error), (1, OK));
    assert_eq!(client.pages.bytes(0)[..512], [5; 512]);
    assert!(client.session.input().is_none(), "no more input is wanted");
}

#[test]
fn trim_rounds_inwards_and_zeroes_does_not() {
    let mut client = Client::simple();
    client.write(0, &[9; 4 * PAGE]);
    client.take_replies();
    assert_eq!(client.error_of(CMD_TRIM, 0, 1, 3 * PAGE as u32), OK);
    assert_eq!(client.pages.bytes(0), vec![9; PAGE]);
    assert_eq!(client.pages.bytes(1), vec![0; PAGE]);
    assert_eq!(client.pages.bytes(2), vec![0; PAGE]);
    assert_eq!(client.pages.bytes(3), vec![9; PAGE]);
    assert_eq!(client.error_of(CMD_WRITE_ZEROES, 0, 1, 3 * PAGE as u32), OK);
    assert_eq!(client.pages.bytes(0)[..2], [9, 0]);
    assert_eq!(client.pages.bytes(3)[..2], [0, 9]);
    assert_eq!(client.error_of(CMD_TRIM, 0, 100, 200), OK);
    assert_eq!(
        client.pages.bytes(3)[..2],
        [0, 9],
        "less than a page is left alone"
    );
}

#[test]
fn lost_pages_are_eio_and_only_they() {
    let mut client = Client::simple();
    client.write(0, &[3; 3 * PAGE]);
    client.take_replies();
    client.pages.lose(1);
    assert_eq!(client.error_of(CMD_READ, 0, 0, 4096), OK);
    assert_eq!(client.error_of(CMD_READ, 0, 4096, 1), 5);
    assert_eq!(client.error_of(CMD_READ, 0, 0, 3 * 4096), 5);
    assert_eq!(
        client.error_of(CMD_WRITE, 0, 4100, 1),
        5,
        "the rest of the page is lost"
    );
    assert_eq!(
        client.error_of(CMD_WRITE, 0, 4096, 4096),
        OK,
        "a whole page makes it good"
    );
    assert_eq!(client.error_of(CMD_READ, 0, 4096, 1), OK);
}

#[test]
fn everything_is_counted_once() {
    use crate::session::metrics::{Op, OpSnapshot, sum_op};
    let mut client = Client::simple();
    client.error_of(CMD_READ, 0, 0, 4096);
    client.error_of(CMD_READ, 0, SIZE, 4096);
    client.error_of(CMD_WRITE, 0, 0, 512);
    client.pages.put_in_store(0);
    client.read(0, 100);
    client.fetch_all();
    let of = |op| sum_op([&*client.desk.shard].into_iter(), ExportId(0), op);
    assert_eq!(
        of(Op::Read),
        OpSnapshot {
            requests: 3,
            bytes: 4196,
            errors: [0, 0, 1, 0]
        }
    );
    assert_eq!(
        of(Op::Write),
        OpSnapshot {
            requests: 1,
            bytes: 512,
            errors: [0; 4]
        }
    );
    assert_eq!(client.desk.shard.requests.get(), 4);
}
