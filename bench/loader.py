"""The load generator as run.py sees it: a child process that takes and gives lines of JSON.

Not here: which tests, in which order (run.py).
"""

import json
import subprocess
from pathlib import Path
from typing import Any

from servers import EXPORT, Server, process_cpu_seconds

PAGE_BYTES = 4096


class LoadError(Exception):
    """Wrong data, or a server that refused or fell silent."""


class Load:
    """The load generator, a child process that does what it is told."""

    def __init__(self, program: Path, sample: Path, seed: int) -> None:
        self._process = subprocess.Popen(
            [str(program), str(sample), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def cpu_seconds(self) -> float:
        """CPU time so far."""
        return process_cpu_seconds(self._process.pid)

    def new_image(self, server: str, image_bytes: int) -> int:
        """Makes an image for `server`; returns what lz4 makes of it, in bytes."""
        answer = self._ask(do="image", server=server, page_count=image_bytes // PAGE_BYTES)
        return int(answer["pool_bytes"])

    def pool_bytes(self, server: str) -> int:
        """What lz4 makes of what `server` holds now, in bytes."""
        return int(self._ask(do="size", server=server)["pool_bytes"])

    def test(self, server: Server, test: dict[str, Any]) -> dict[str, Any]:
        """Runs a test against `server`."""
        return self._ask(
            do="test",
            server=server.name,
            socket=str(server.plan.socket),
            export=EXPORT,
            test=test,
        )

    def _ask(self, **command: object) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(command) + "\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise LoadError("nbdload ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise LoadError(str(answer["error"]))
        return answer


def whole_image(action: str, block_bytes: int) -> dict[str, Any]:
    """A test that passes once over the whole image."""
    return {
        "action": action,
        "order": "sequential",
        "block_bytes": block_bytes,
        "depth": 16,
        "connections": 1,
        "seconds": None,
    }
