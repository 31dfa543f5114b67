"""The asyncio client over real sockets: against a toy server, nbdkit, and libnbd at the toy."""

import asyncio
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nbd_toy_server import ToyServer

from nbdswap.nbd import (
    Aborted,
    Client,
    CommandError,
    ConnectionLostError,
    Negotiated,
    Negotiator,
    OptionError,
    ProtocolError,
    connect,
)
from nbdswap.nbd.constants import (
    BASE_ALLOCATION,
    Command,
    CommandFlag,
    Error,
    Reply,
    TransmissionFlag,
)
from nbdswap.nbd.events import BlockSizesGiven, ExportListed, Extent

PAGE = bytes(range(256)) * 16


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run one test's coroutine; the limit is for a machine that is very busy."""

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(bounded())


def test_a_toy_server_is_negotiated_with_question_by_question(tmp_path: Path) -> None:
    async def test() -> None:
        toy = ToyServer()
        async with toy.listen(tmp_path / "s") as path:
            negotiator = await Negotiator.open_unix(path)
            assert await negotiator.list_exports() == [
                ExportListed("toy", "a toy"),
                ExportListed("other", ""),
            ]
            with pytest.raises(OptionError, match=r"GO refused with ERR_UNKNOWN: no export") as no:
                await negotiator.go("nope")
            assert no.value.error == Reply.ERR_UNKNOWN
            assert await negotiator.use_structured_replies()
            assert await negotiator.list_meta_contexts("toy") == [BASE_ALLOCATION]
            assert await negotiator.set_meta_contexts("toy", [BASE_ALLOCATION]) == {
                BASE_ALLOCATION: 1
            }
            details = await negotiator.info("toy")
            assert (details.name, details.description) == ("toy", "a toy")
            assert details.block_sizes == BlockSizesGiven(1, 4096, 64 << 20)
            client = await negotiator.go("toy")
            assert client.export == details
            assert client.contexts == {BASE_ALLOCATION: 1}
            status = await client.block_status(0, 8192)
            assert status == {BASE_ALLOCATION: (Extent(8192, 3),)}
            await client.disconnect()
            assert await toy.commands.get() == Command.BLOCK_STATUS
            assert await toy.commands.get() == Command.DISC

    run(test)


@pytest.mark.parametrize("structured", [False, True])
def test_many_tasks_share_one_connection(tmp_path: Path, structured: bool) -> None:
    async def test() -> None:
        toy = ToyServer()
        async with (
            toy.listen(tmp_path / "s") as path,
            await connect(path, structured_replies=structured) as client,
        ):
            toy.gate.clear()
            pages = {at: bytes([at >> 8]) * 512 for at in range(0, 32768, 512)}
            async with asyncio.TaskGroup() as tasks:
                for at, data in pages.items():
                    tasks.create_task(client.write(at, data))
                toy.gate.set()
            got = await asyncio.gather(*(client.read(at, 512) for at in pages))
            assert got == list(pages.values())
            assert bytes(toy.disk[:32768]) == b"".join(pages.values())

    run(test)


@pytest.mark.parametrize("structured", [False, True])
def test_an_error_leaves_the_connection_good(tmp_path: Path, structured: bool) -> None:
    async def test() -> None:
        async with (
            ToyServer().listen(tmp_path / "s") as path,
            await connect(path, structured_replies=structured) as client,
        ):
            with pytest.raises(CommandError, match="READ failed with EINVAL") as failed:
                await client.read(1 << 40, 512)
            assert (failed.value.errno, failed.value.errno_name) == (Error.EINVAL, "EINVAL")
            assert await client.read(0, 512) == bytes(512)

    run(test)


def test_a_command_that_is_given_up_does_not_disturb_the_next(tmp_path: Path) -> None:
    async def test() -> None:
        toy = ToyServer()
        async with toy.listen(tmp_path / "s") as path, await connect(path) as client:
            toy.gate.clear()
            given_up = asyncio.create_task(client.read(0, 4096))
            assert await toy.commands.get() == Command.READ
            given_up.cancel()
            await asyncio.wait({given_up})
            assert given_up.cancelled()
            toy.gate.set()
            assert await client.read(4096, 512) == bytes(512)

    run(test)


@pytest.mark.parametrize("size", [0, 1, 19, 20, 27, 100])
def test_a_server_that_dies_tells_everybody_who_waits(tmp_path: Path, size: int) -> None:
    async def test() -> None:
        toy = ToyServer()
        async with toy.listen(tmp_path / "s") as path:
            client = await connect(path)
            toy.break_after_bytes = size
            reads = [asyncio.create_task(client.read(at, 4096)) for at in (0, 4096, 8192)]
            results = await asyncio.gather(*reads, return_exceptions=True)
            assert [type(result) for result in results] == [ConnectionLostError] * 3
            with pytest.raises(ConnectionLostError):
                await client.flush()
            await client.disconnect()

    run(test)


def test_closing_tells_everybody_who_waits(tmp_path: Path) -> None:
    async def test() -> None:
        toy = ToyServer()
        async with toy.listen(tmp_path / "s") as path:
            client = await connect(path)
            toy.gate.clear()
            read = asyncio.create_task(client.read(0, 4096))
            assert await toy.commands.get() == Command.READ
            await client.close()
            with pytest.raises(ConnectionLostError):
                await read
            await client.close()
            toy.gate.set()

    run(test)


def test_a_block_that_raises_closes_without_a_farewell(tmp_path: Path) -> None:
    async def fail_inside(client: Client) -> None:
        async with client:
            await client.flush()
            raise ZeroDivisionError

    async def test() -> None:
        toy = ToyServer()
        async with toy.listen(tmp_path / "s") as path:
            client = await connect(path)
            with pytest.raises(ZeroDivisionError):
                await fail_inside(client)
            assert await toy.commands.get() == Command.FLUSH
            await toy.left.wait()
            assert toy.commands.empty()

    run(test)


def test_contexts_of_another_export_are_not_taken_along(tmp_path: Path) -> None:
    async def test() -> None:
        toy = ToyServer()
        async with toy.listen(tmp_path / "s") as path:
            negotiator = await Negotiator.open_unix(path)
            await negotiator.use_structured_replies()
            await negotiator.set_meta_contexts("other", [BASE_ALLOCATION])
            async with await negotiator.go("toy") as client:
                assert client.contexts == {}
            (result,) = toy.results
            assert isinstance(result, Negotiated)
            assert result.allocation_context_id is None

    run(test)


def test_aborting_and_the_old_export_name_work(tmp_path: Path) -> None:
    async def test() -> None:
        toy = ToyServer()
        async with toy.listen(tmp_path / "s") as path:
            await (await Negotiator.open_unix(path)).abort()
            assert toy.results == [Aborted()]
            async with await (await Negotiator.open_unix(path)).export_name("toy") as client:
                await client.write(512, PAGE)
                assert await client.read(512, 4096) == PAGE
            negotiator = await Negotiator.open_unix(path)
            with pytest.raises(ConnectionLostError):
                await negotiator.export_name("nope")
            await negotiator.close()

    run(test)


def test_an_unknown_export_closes_the_connection_it_was_asked_on(tmp_path: Path) -> None:
    async def test() -> None:
        async with ToyServer().listen(tmp_path / "s") as path:
            with pytest.raises(OptionError):
                await connect(path, "nope")

    run(test)


def test_what_is_not_an_nbd_server_is_refused(tmp_path: Path) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.org ESMTP\r\n")
        await reader.read()
        writer.close()

    async def test() -> None:
        path = str(tmp_path / "s")
        async with await asyncio.start_unix_server(greet, path):
            with pytest.raises(ProtocolError, match="NBDMAGIC"):
                await connect(path)

    run(test)


def test_tcp_is_as_good_as_a_unix_socket() -> None:
    async def test() -> None:
        toy = ToyServer()
        async with await asyncio.start_server(toy.serve, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            async with await connect(address) as client:
                await client.write(0, PAGE)
                assert await client.read(0, 4096) == PAGE

    run(test)


# ---------------------------------------------------------------- nbdkit


ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


@asynccontextmanager
async def nbdkit(directory: Path, *arguments: str) -> AsyncIterator[str]:
    """nbdkit with these arguments on a unix socket; gone afterwards."""
    program = shutil.which("nbdkit")
    if program is None:
        pytest.skip("nbdkit is not installed")
    path = str(directory / "kit")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        # By socket activation the socket listens before nbdkit runs: nobody has to wait for it.
        descriptor = listener.fileno()
        command = (program, "--exit-with-parent", *arguments)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ACTIVATE, str(descriptor), *command, pass_fds=[descriptor]
        )
    try:
        yield path
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@pytest.mark.parametrize("structured", [False, True])
def test_nbdkit_keeps_what_is_written(tmp_path: Path, structured: bool) -> None:
    async def test() -> None:
        async with (
            nbdkit(tmp_path, "memory", "16M") as path,
            await connect(path, structured_replies=structured) as client,
        ):
            assert client.export.size_bytes == 16 << 20
            assert TransmissionFlag.CAN_MULTI_CONN in client.export.flags
            assert (TransmissionFlag.SEND_DF in client.export.flags) == structured
            places = range(0, 1 << 20, 4096)
            pages = [at.to_bytes(8) * 512 for at in places]
            await asyncio.gather(*map(client.write, places, pages))
            assert await asyncio.gather(*(client.read(at, 4096) for at in places)) == pages
            await client.write(8 << 20, PAGE * 512, fua=True)
            assert await client.read(8 << 20, 2 << 20) == PAGE * 512
            await client.trim(0, 4096, fua=True)
            await client.write_zeroes(4096, 4096, flags=CommandFlag.NO_HOLE)
            await client.cache(0, 8192)
            await client.flush()
            assert await client.read(0, 8192) == bytes(8192)

    run(test)


def test_nbdkit_tells_holes_from_data(tmp_path: Path) -> None:
    async def test() -> None:
        async with nbdkit(tmp_path, "memory", "16M") as path, await connect(path) as client:
            await client.write(32768, bytes([1]) * 32768)
            (extents,) = (await client.block_status(0, 1 << 20)).values()
            assert extents[:2] == (Extent(32768, 3), Extent(32768, 0))
            one = await client.block_status(0, 65536, flags=CommandFlag.REQ_ONE)
            assert one == {BASE_ALLOCATION: (Extent(32768, 3),)}

    run(test)


def test_nbdkit_fails_as_it_should(tmp_path: Path) -> None:
    async def test() -> None:
        async with nbdkit(tmp_path, "memory", "1M") as path, await connect(path) as client:
            for command, errno_name in [
                (client.read(1 << 20, 4096), "EINVAL"),
                (client.write(1 << 20, PAGE), "ENOSPC"),
                (client.trim(1 << 20, 4096), "EINVAL"),
                (client.command(99), "EINVAL"),
            ]:
                with pytest.raises(CommandError) as failed:
                    await command
                assert failed.value.errno_name == errno_name
            assert await client.read(0, 4096) == bytes(4096)

    run(test)


def test_nbdkit_answers_questions(tmp_path: Path) -> None:
    async def test() -> None:
        async with nbdkit(tmp_path, "-e", "swap", "memory", "1M") as path:
            negotiator = await Negotiator.open_unix(path)
            assert [export.name for export in await negotiator.list_exports()] == [""]
            assert (await negotiator.info("swap")).size_bytes == 1 << 20
            assert await negotiator.use_structured_replies()
            assert await negotiator.list_meta_contexts("swap") == [BASE_ALLOCATION]
            await negotiator.abort()

    run(test)


# ---------------------------------------------------------------- libnbd at our handshake


def test_libnbd_understands_our_handshake(tmp_path: Path) -> None:
    program = shutil.which("nbdinfo")
    if program is None:
        pytest.skip("nbdinfo is not installed")

    async def ask(*arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            program, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        return output.decode()

    async def test() -> None:
        async with ToyServer().listen(tmp_path / "s") as path:
            uri = f"nbd+unix:///toy?socket={path}"
            (toy,) = json.loads(await ask("--json", "--no-content", uri))["exports"]
            assert toy["export-name"] == "toy"
            assert toy["description"] == "a toy"
            assert toy["export-size"] == 64 << 10
            assert toy["contexts"] == [BASE_ALLOCATION]
            assert (toy["block_size_minimum"], toy["block_size_maximum"]) == (1, 64 << 20)
            assert toy["can_df"]
            assert toy["can_multi_conn"]
            listed = json.loads(await ask("--json", "--list", "--no-content", uri))["exports"]
            assert [export["export-size"] for export in listed] == [64 << 10] * 2

    run(test)
