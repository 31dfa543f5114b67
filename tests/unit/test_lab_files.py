"""Page files in, result files out: whole or not at all."""

import lzma
import os
import stat
from pathlib import Path
from typing import IO

import pytest

from nbdswap.errors import ExitCode, RefusedError, UsageError
from nbdswap.lab.output import PRIVATE_MODE, SHARED_MODE, check_writable, write_text, write_whole
from nbdswap.lab.pages import joined, left_out, read_files

ROOM = 1 << 20


def read(*paths: Path, memory_bytes: int = ROOM) -> bytes:
    """All pages of 4 KiB."""
    return joined(read_files(paths, page_bytes_least=4096, memory_bytes=memory_bytes), 4096)


def test_a_rest_of_one_file_does_not_shift_the_pages_of_the_next(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two.xz"
    one.write_bytes(b"1" * 4096 + b"rest")
    two.write_bytes(lzma.compress(b"2" * 8192 + b"rest"))
    assert read(one, two) == b"1" * 4096 + b"2" * 8192


def test_what_is_left_out_of_a_file_is_said(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(bytes(5000))
    two.write_bytes(bytes(16384))
    files = read_files([one, two], page_bytes_least=4096, memory_bytes=ROOM)
    assert list(left_out(files, [4096, 16384])) == [
        f"{one}: 904 bytes at its end, no whole page of 4K, are left out",
        f"{one}: 5,000 bytes at its end, no whole page of 16K, are left out",
    ]


def test_what_is_no_file_of_pages_is_refused(tmp_path: Path) -> None:
    def refusal(path: Path, **room: int) -> str:
        with pytest.raises(UsageError) as refused:
            read(path, **room)
        return str(refused.value).removeprefix(f"{path}: ")

    (tmp_path / "empty").touch()
    (tmp_path / "short").write_bytes(bytes(4095))
    (tmp_path / "cut.xz").write_bytes(lzma.compress(os.urandom(9000))[:-100])
    (tmp_path / "not.xz").write_bytes(b"no xz at all" * 1000)
    (tmp_path / "large").write_bytes(bytes(8192))
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "none") == "cannot be read: No such file or directory"
    assert refusal(tmp_path) == "a directory, wanted a file of pages"
    assert refusal(tmp_path / "pipe") == "no regular file, wanted a file of pages"
    assert refusal(Path("/dev/zero")) == "no regular file, wanted a file of pages"
    assert refusal(tmp_path / "empty") == "empty, wanted at least one page of 4K"
    assert refusal(tmp_path / "short") == "4,095 bytes, wanted at least one page of 4K"
    assert refusal(tmp_path / "cut.xz").startswith("cannot be unpacked: ")
    assert refusal(tmp_path / "not.xz").startswith("cannot be unpacked: ")
    assert refusal(tmp_path / "large", memory_bytes=8191).startswith("more than 8.00 KiB")


def test_a_file_is_written_with_its_mode_and_replaced_only_if_that_is_wanted(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"

    def write(file: IO[bytes]) -> None:
        file.write(b"new")

    write_whole(path, write, mode=PRIVATE_MODE, overwrite=False)
    assert stat.S_IMODE(path.stat().st_mode) == PRIVATE_MODE
    path.write_text("old")
    with pytest.raises(RefusedError, match="cannot be written: File exists"):
        write_whole(path, write, mode=PRIVATE_MODE, overwrite=False)
    assert path.read_text() == "old"
    write_whole(path, write, mode=SHARED_MODE)
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_what_fails_or_is_interrupted_leaves_nothing_and_harms_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def full(file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    def interrupted(file: IO[bytes]) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(RefusedError, match="No space left on device; nothing is left") as refused:
        write_whole(path, full, mode=SHARED_MODE)
    assert refused.value.exit_code == ExitCode.REFUSED
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, interrupted, mode=SHARED_MODE)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    write_text(link, "gone")
    assert stat.S_ISCHR(link.stat().st_mode)
    with pytest.raises(RefusedError, match="No space left on device"):
        write_text(Path("/dev/full"), "no room")


def test_what_would_fail_after_the_run_is_said_before_it(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.touch()
    check_writable(there, overwrite=True)
    check_writable(tmp_path / "new", overwrite=False)
    with pytest.raises(RefusedError, match="exists; --force overwrites it"):
        check_writable(there, overwrite=False)
    with pytest.raises(UsageError, match="a directory, wanted a file"):
        check_writable(tmp_path, overwrite=True)
    with pytest.raises(UsageError, match="there is no directory"):
        check_writable(tmp_path / "no" / "file", overwrite=True)
