"""A server comes up whole or not at all, and goes down as it was asked to."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nbdswap.errors import ExitCode
from nbdswap.mounts import file_system
from tests.unit.process import (
    ABORT,
    EXPORT_NAME,
    ServerProcess,
    attach,
    command,
    environment,
    negotiate,
    run,
    start,
    write_config,
)

# What a service manager does between fork and exec: the socket as descriptor 3, and for whom it is.
ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """See write_config."""
    return write_config(tmp_path)


def test_a_first_user_can_copy_what_is_printed(config: Path, tmp_path: Path) -> None:
    with start(config, "--pidfile", tmp_path / "pid") as server:
        path = tmp_path / "nbd.sock"
        assert server.until_ready() == [
            "# export swap (1M) as /dev/nbd0:",
            f"nbd-client -unix {path} /dev/nbd0 -N swap -b 4096",
            "mkswap /dev/nbd0",
            "swapon --discard=pages /dev/nbd0",
            f"ready unix:{path}",
        ]
        assert int((tmp_path / "pid").read_text()) == server.process.pid
        assert server.stop() == ExitCode.OK
    left = {entry.name for entry in tmp_path.iterdir()}
    assert left == {"memory", "state", "nbdswap.yaml"}
    assert not list((tmp_path / "memory").iterdir()), "nobody wrote, so nothing is kept"


def test_a_second_server_is_refused_and_the_first_goes_on(config: Path, tmp_path: Path) -> None:
    with start(config) as first:
        first.until_ready()
        second = run("serve", "-c", config)
        assert second.returncode == ExitCode.REFUSED
        assert second.stdout == ""
        lock = tmp_path / "state" / "lock"
        said = f"{lock.parent} is in use by another server, process {first.process.pid} ({lock})\n"
        assert second.stderr == said
        attach(tmp_path / "nbd.sock").close()


def test_an_address_in_use_leaves_nothing_behind(config: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path = tmp_path / "other.sock"
        refused = run("serve", "-c", config, "--unix", path, "--listen", f"127.0.0.1:{port}")
    assert refused.returncode == ExitCode.CANNOT_LISTEN
    assert refused.stderr == f"cannot listen on 127.0.0.1:{port}: Address already in use\n"
    assert {entry.name for entry in tmp_path.iterdir()} == {"memory", "nbdswap.yaml"}
    assert not list((tmp_path / "memory").iterdir())


def test_a_full_tmpfs_leaves_nothing_behind(tmp_path: Path) -> None:
    config = write_config(tmp_path, pool={"bytes_max": "8T"})
    refused = run("serve", "-c", config)
    assert refused.returncode == ExitCode.REFUSED
    assert "pool.bytes_max is 8.00 TiB and the page table" in refused.stderr
    assert {entry.name for entry in tmp_path.iterdir()} == {"memory", "nbdswap.yaml"}


def test_memory_on_a_disk_is_refused_and_nothing_left_behind(tmp_path: Path) -> None:
    found = file_system(tmp_path)
    if found == "tmpfs":
        pytest.skip("the directory for tests is on a tmpfs")
    config = write_config(tmp_path, memory_dir=str(tmp_path))
    refused = run("serve", "-c", config)
    assert refused.returncode == ExitCode.USAGE
    said = f"memory_dir: {tmp_path} is on {found or 'an unknown file system'}, wanted tmpfs or huge"
    assert refused.stderr.startswith(said)
    assert refused.stderr.count("\n") == 1
    assert {entry.name for entry in tmp_path.iterdir()} == {"memory", "nbdswap.yaml"}


def test_a_killed_server_is_followed_by_one_that_adopts(config: Path, tmp_path: Path) -> None:
    with start(config) as first:
        first.until_ready()
        client = attach(tmp_path / "nbd.sock")
        # The fake answers nothing, but `state.json` is written before the client is handed over.
        first.until_event("client attached")
        first.process.kill()
        first.process.wait()
        client.close()
    with start(config) as second:
        second.until_ready()
        second.until_event("adopted the memory of the last server")
        second.stop()


def test_data_that_is_gone_is_said_aloud_and_the_guide_knows(config: Path, tmp_path: Path) -> None:
    with start(config) as first:
        first.until_ready()
        client = attach(tmp_path / "nbd.sock")
        first.until_event("client attached")
        first.process.kill()
        first.process.wait()
        client.close()
    for path in (tmp_path / "memory").iterdir():
        path.unlink()
    with start(config) as second:
        assert "blkdiscard /dev/nbd0    # gives up the pages that were lost" in second.until_ready()
        second.until_event("DATA LOST")
        second.process.kill()
    with start(config, "--fresh") as third:
        assert not [line for line in third.until_ready() if line.startswith("blkdiscard")]
        third.stop()
        assert "DATA LOST" not in third.events


def test_volatile_exports_with_clients_are_given_up_at_the_second_signal(tmp_path: Path) -> None:
    volatile = [{"name": "swap", "size_bytes": "1M", "durability": "volatile"}]
    config = write_config(tmp_path, exports=volatile)
    with start(config) as server:
        server.until_ready()
        client = attach(tmp_path / "nbd.sock")
        server.until_event("client attached")
        server.process.send_signal(signal.SIGTERM)
        server.until_event("not stopping")
        assert server.stop() == ExitCode.OK
        assert client.recv(1) == b"", "the client is told by the end of the stream"
        client.close()
    assert not list((tmp_path / "memory").iterdir())


def test_a_server_ends_with_its_parent(config: Path) -> None:
    argv = command("serve", "-c", config, "--exit-with-parent")
    with ServerProcess(
        ["sh", "-c", '"$@" & echo $! >&2; read line', "sh", *argv], stdin=subprocess.PIPE
    ) as shell:
        shell.until_event("ready")
        shell.until_ready()
        shell.process.kill()
        shell.process.wait()
        shell.until_event("stopped memory=forgotten")


def test_the_service_manager_hears_of_start_and_stop(config: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(30)
        manager.bind(str(tmp_path / "notify"))
        with start(config, env=environment(NOTIFY_SOCKET=str(tmp_path / "notify"))) as server:
            assert manager.recv(200).startswith(b"READY=1\nSTATUS=")
            server.stop()
        assert manager.recv(200).startswith(b"STOPPING=1\n")


def test_sockets_of_the_service_manager_are_served(config: Path, tmp_path: Path) -> None:
    path = tmp_path / "activated.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        argv = [sys.executable, "-c", ACTIVATE, str(sock.fileno()), *command("serve", "-c", config)]
        with ServerProcess(argv, pass_fds=[sock.fileno()]) as server:
            assert server.until_ready()[-1] == f"ready unix:{path}"
            attach(path).close()
            server.stop()
            assert path.exists(), "the file is the service manager's"
        with ServerProcess([*argv, "--unix", str(path)], pass_fds=[sock.fileno()]) as refused:
            assert refused.wait() == ExitCode.USAGE
            assert "so --unix, --listen and --stdio cannot be" in refused.events


def test_one_client_on_a_socket(config: Path, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, start(config, "--stdio", stdin=theirs, stdout=theirs) as server:
        theirs.close()
        ours.settimeout(30)
        negotiate(ours)
        server.until_event("client attached")
        server.stop()
        assert ours.recv(1) == b""
    assert not (tmp_path / "nbd.sock").exists()


def test_one_client_on_two_pipes(config: Path) -> None:
    with start(config, "--stdio", stdin=subprocess.PIPE) as server:
        stdin, stdout = server.process.stdin, server.process.stdout
        assert stdin is not None
        assert stdout is not None
        assert stdout.read(18).startswith(b"NBDMAGICIHAVEOPT")
        stdin.write(EXPORT_NAME)
        stdin.flush()
        assert int.from_bytes(stdout.read(10)[:8], "big") == 1 << 20
        server.until_event("client attached")
        assert server.stop() == ExitCode.OK
        assert stdout.read() == b""


def test_the_server_of_one_client_ends_with_it(config: Path) -> None:
    with start(config, "--stdio", stdin=subprocess.PIPE) as server:
        assert server.process.stdin is not None
        server.process.stdin.write(ABORT)
        server.process.stdin.flush()
        assert server.wait() == ExitCode.OK


def test_standard_input_that_is_no_client_is_refused(config: Path) -> None:
    refused = run("serve", "-c", config, "--stdio")
    assert refused.returncode == ExitCode.USAGE
    assert refused.stderr.startswith("--stdio needs one socket or two pipes")


def test_status_tells_what_an_operator_asks(config: Path, tmp_path: Path) -> None:
    with start(config) as server:
        server.until_ready()
        admin = f"unix:{tmp_path / 'admin.sock'}"
        status = json.loads(run("status", "--json", "--admin", admin).stdout)
        table = run("status", "--admin", admin)
        server.stop()
    assert status["ready"]
    [export] = status["exports"]
    assert (export["name"], export["size_bytes"]) == ("swap", 1 << 20)
    assert {"zero", "same_filled", "pool", "raw", "store"} <= set(export["pages"])
    pool_keys = {"zpool", "codec", "limit_bytes", "used_bytes", "compressed_bytes", "logical_bytes"}
    assert pool_keys <= set(status["pool"])
    store_keys = {"path", "live_bytes", "used_bytes", "written_bytes", "capacity_bytes"}
    assert store_keys <= set(status["store"])
    assert table.returncode == ExitCode.OK
    assert all(word in table.stdout for word in ("swap", "zfit", "3.00", "write-back:"))


def test_a_running_server_is_changed_and_says_so(config: Path, tmp_path: Path) -> None:
    admin = f"unix:{tmp_path / 'admin.sock'}"
    with start(config) as server:
        server.until_ready()
        changed = run("set", "--zpool", "zsmalloc", "--codec", "zstd:7", "--admin", admin)
        refused = run("set", "--zpool", "zswap", "--admin", admin)
        table = run("status", "--admin", admin).stdout
        assert server.stop() == ExitCode.OK
    assert (changed.returncode, changed.stderr) == (ExitCode.OK, "")
    first, second, _, *keep = changed.stdout.splitlines()
    assert first == "zpool is zsmalloc, was zfit"
    assert second == "codec is zstd:7, was lz4:1"
    assert keep == ["pool:", "  zpool: zsmalloc", "  codec: zstd", "  codec_level: 7"]
    assert refused.returncode == ExitCode.USAGE
    assert refused.stderr == "zpool is zswap, wanted one of zfit, zsmalloc\n"
    assert "moving to zsmalloc: 30 in zfit; 3 moved so far" in " ".join(table.split())
    assert " changes: changed zpool=zsmalloc codec=zstd codec_level=7 " in server.events


@pytest.mark.parametrize("command", [["status"], ["set", "--codec", "lz4"]])
def test_no_server_is_one_line(command: list[str], tmp_path: Path) -> None:
    refused = run(*command, "--admin", f"unix:{tmp_path / 'nobody'}")
    assert refused.returncode == ExitCode.UNREACHABLE
    assert refused.stderr.startswith(f"no nbdswap answers on unix:{tmp_path}/nobody: ")
    assert refused.stderr.count("\n") == 1


def test_a_client_over_tcp_reaches_every_address_of_a_name(tmp_path: Path) -> None:
    config = write_config(tmp_path, listen={"unix": [], "tcp": ["localhost:0"]})
    with start(config) as server:
        _, *addresses = server.until_ready()[-1].split()
        assert addresses
        for address in addresses:
            host, _, port = address.rpartition(":")
            with socket.create_connection((host.strip("[]"), int(port)), 30) as client:
                negotiate(client)
        assert server.stop(signal.SIGINT) == ExitCode.OK


def test_the_process_is_alone_when_it_hardens(config: Path) -> None:
    """All threads of the server have to inherit its protections."""
    with start(config) as server:
        server.until_ready()
        threads = os.listdir(f"/proc/{server.process.pid}/task")  # noqa: PTH208
        assert len(threads) == 1, "something started a thread before the engine did"
        server.stop()
