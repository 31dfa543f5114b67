"""Grabbing takes what it says from whom it says: real processes of the test's own."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbdswap.errors import ExitCode, NotPermittedError, RefusedError, UsageError
from nbdswap.lab import process_memory
from nbdswap.lab.grab import GrabRequest, account, check_size, grab
from nbdswap.lab.process_memory import ProcessMemory
from nbdswap.lab.sampling import GROUP_BYTES
from tests.unit.process import run

PATTERN_BYTES = 8 << 20
# Every page carries a mark and its own number, so a page tells where it came from.
CHILD = f"""
import mmap, sys
page, count = mmap.PAGESIZE, {PATTERN_BYTES} // mmap.PAGESIZE
memory = mmap.mmap(-1, page * count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(count):
    memory[at * page : (at + 1) * page] = (b"nbdswap page %08d " % at).ljust(page, b".")
never_touched = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
shared = mmap.mmap(-1, page * 64)
for at in range(64):
    shared[at * page : (at + 1) * page] = (b"shared page %08d " % at).ljust(page, b".")
print("ready", flush=True)
sys.stdin.read()
"""
PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    """A process with memory that can be recognized."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def request(
    pid: int, out: Path, size_bytes: int | None = 4 << 20, *, seed: int = 1, force: bool = False
) -> GrabRequest:
    """What to take."""
    return GrabRequest(pid=pid, size_bytes=size_bytes, seed=seed, out=out, force=force)


def pages_of(path: Path) -> list[bytes]:
    """What was grabbed."""
    data = path.read_bytes()
    assert len(data) % PAGE == 0
    return [data[at : at + PAGE] for at in range(0, len(data), PAGE)]


def numbers(pages: list[bytes]) -> list[int]:
    """Those of pages with the mark; each must be whole."""
    found = []
    for page in pages:
        if page.startswith(b"nbdswap page "):
            number = int(page[13:21])
            assert page == (b"nbdswap page %08d " % number).ljust(PAGE, b".")
            found.append(number)
    return found


def test_what_is_grabbed_is_the_processes_and_no_more_than_asked_for(
    child: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    path = tmp_path / "a.pages"
    grabbed = grab(request(child.pid, path))
    pages = pages_of(path)
    assert len(pages) * PAGE == grabbed.taken_bytes == 4 << 20
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    marked = numbers(pages)
    # The mapping of the mark is most of what the process has.
    assert len(marked) > len(pages) // 4
    assert len(set(marked)) == len(marked)
    assert not any(page.startswith(b"shared page") for page in pages)
    found = grabbed.survey
    assert found.resident_bytes >= PATTERN_BYTES
    assert found.not_resident_bytes >= 64 << 20
    assert {"file-backed", "shared"} <= set(found.left_out)
    assert grabbed.vanished_bytes == 0


def test_larger_pages_are_real(child: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    path = tmp_path / "a.pages"
    grab(request(child.pid, path))
    pages, group = pages_of(path), (16 << 10) // PAGE
    groups = [numbers(pages[at : at + group]) for at in range(0, len(pages), group)]
    whole = [found for found in groups if len(found) == group]
    assert whole
    for found in whole:
        assert found == list(range(found[0], found[0] + group))


def test_the_same_seed_takes_the_same_pages_and_all_takes_all(
    child: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    taken = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        grab(request(child.pid, tmp_path / name, seed=seed))
        # The rest of its memory it may be using.
        taken.append(numbers(pages_of(tmp_path / name)))
    assert taken[0] == taken[1]
    assert taken[0] != taken[2]
    grab(request(child.pid, tmp_path / "all", None))
    # A mapping need not begin or end at a multiple of 16 KiB.
    assert len(set(numbers(pages_of(tmp_path / "all")))) >= PATTERN_BYTES // PAGE - 8


def test_the_account_says_what_was_done(child: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    path = tmp_path / "a.pages"
    result = run("lab", "grab", child.pid, "--size", "64K", "-o", path)
    assert (result.returncode, result.stderr) == (ExitCode.OK, "")
    assert f"process {child.pid} (python" in result.stdout
    assert f"taken: 64.00 KiB, {(64 << 10) // PAGE} pages of" in result.stdout
    assert "the process was not stopped" in result.stdout
    assert "private data as it is (mode 0600): remove it" in result.stdout
    assert path.stat().st_size == 64 << 10
    again = run("lab", "grab", child.pid, "-o", path)
    assert again.returncode == ExitCode.REFUSED
    assert again.stderr == f"{path}: exists; --force overwrites it, -o names another file\n"
    assert run("lab", "grab", child.pid, "-o", path, "--force").returncode == ExitCode.OK
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_process_that_ends_meanwhile_leaves_no_file(
    child: "subprocess.Popen[bytes]", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ProcessMemory.read

    def read_and_end(memory: ProcessMemory, address: int, size_bytes: int) -> bytes:
        data = read(memory, address, size_bytes)
        child.kill()
        child.wait()
        return data

    monkeypatch.setattr(ProcessMemory, "read", read_and_end)
    with pytest.raises(RefusedError, match="ended meanwhile; nothing is left"):
        grab(request(child.pid, tmp_path / "a"))
    assert list(tmp_path.iterdir()) == []


def test_pages_that_vanish_count_as_asked_for(
    child: "subprocess.Popen[bytes]", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def nothing(_memory: ProcessMemory, _address: int, size_bytes: int) -> bytes:
        asked.append(size_bytes)
        return bytes(GROUP_BYTES) if len(asked) == 1 else b""

    monkeypatch.setattr(ProcessMemory, "read", nothing)
    grabbed = grab(request(child.pid, tmp_path / "a", 1 << 20))
    assert sum(asked) == 1 << 20
    assert (grabbed.taken_bytes, grabbed.vanished_bytes) == (GROUP_BYTES, (1 << 20) - GROUP_BYTES)
    assert "vanished meanwhile: 1008.00 KiB" in account(grabbed)


def test_a_full_disk_is_one_line(child: "subprocess.Popen[bytes]") -> None:
    result = run("lab", "grab", child.pid, "-o", "/dev/full", "--force")
    assert (result.returncode, result.stdout) == (ExitCode.REFUSED, "")
    assert result.stderr == (
        "/dev/full: cannot be written: No space left on device; nothing is left\n"
    )


def test_who_cannot_be_read_is_told(
    child: "subprocess.Popen[bytes]", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(pid: int) -> Exception:
        with pytest.raises((UsageError, NotPermittedError)) as refused:
            grab(request(pid, tmp_path / "a"))
        return refused.value

    assert "this very command" in str(refusal(os.getpid()))
    child.kill()
    # Ended, but not waited for.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert "has no memory of its own" in str(refusal(child.pid))
    child.wait()
    assert "there is none, wanted one that runs" in str(refusal(child.pid))
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_may_not_be_read_says_what_would_help(
    child: "subprocess.Popen[bytes]", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = os.open

    def refusing(name: Any, *arguments: Any, **keywords: Any) -> int:
        if name == "maps":
            raise PermissionError(13, "Permission denied")
        return real_open(name, *arguments, **keywords)

    yama = tmp_path / "ptrace_scope"
    monkeypatch.setattr(process_memory, "YAMA", yama)
    monkeypatch.setattr(os, "open", refusing)
    plain = "wanted its user, root, or CAP_SYS_PTRACE"
    for capable, scope, said in (
        (True, "1", "CAP_SYS_PTRACE is not enough: a security module or a container protects it"),
        (False, "0", plain),
        (False, "1", f"{plain}; kernel.yama.ptrace_scope is 1: only parents may"),
    ):
        yama.write_text(f"{scope}\n")
        monkeypatch.setattr(process_memory, "has_ptrace_capability", lambda has=capable: has)
        with pytest.raises(NotPermittedError) as refused:
            ProcessMemory(child.pid)
        assert str(refused.value).endswith(f"may not be read: Permission denied; {said}")
        assert refused.value.exit_code == ExitCode.NOT_PERMITTED


def test_a_size_below_the_shortest_run_is_refused() -> None:
    check_size(32 << 10)
    with pytest.raises(UsageError, match="--size is 32767, wanted at least 32K"):
        check_size((32 << 10) - 1)


def test_a_name_is_made_a_file_name(
    child: "subprocess.Popen[bytes]", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evil = property(lambda _: "../a b\n", lambda *_: None)
    monkeypatch.setattr(ProcessMemory, "name", evil, raising=False)
    grabbed = grab(GrabRequest(pid=child.pid, size_bytes=32 << 10, seed=1, out=None, force=False))
    assert str(grabbed.path) == f"_a_b_-{child.pid}.pages"
    assert grabbed.path.stat().st_size == 32 << 10
