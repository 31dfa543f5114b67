"""One run of the guest: QEMU without KVM, a program that swaps, and its report.

The guest reaches the server's TCP port on this machine's loopback as 10.0.2.2. QEMU is a child
of this process and ends with it.
"""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.guest.cpio import Archive
from tests.guest.image import GuestUnavailableError, Image
from tests.guest.report import Report

QEMU = "qemu-system-x86_64"
# Without a known processor feature set the emulation would follow the host's.
_PROCESSOR = "qemu64,+rdrand,+ssse3,+sse4.1,+sse4.2,+popcnt"
_KERNEL_ARGUMENTS = (
    # ramfs: pages of a tmpfs could be swapped out, and the client with them.
    "console=ttyS0,115200 quiet rootfstype=ramfs rdinit=/init panic=-1 printk.devkmsg=on nokaslr "
    "mitigations=off audit=0 apparmor=0 tsc=reliable no_timer_check random.trust_cpu=on "
    "random.trust_bootloader=on zswap.enabled=0 hung_task_panic=0"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestSettings:
    """What to run in the guest, and against which server."""

    port: int
    export: str = ""
    connections: int = 1
    client: str = "nbd-client"
    """nbdkeep goes on with a server that was away."""
    ram_mib: int = 128
    program: str = "memhog"
    touch_mib: int = 288
    rounds: int = 1
    seed: int = 1
    free: bool = True
    """memhog gives half of its memory back, sees zeroes there and fills it again."""
    discard: bool = True
    min_free_kb: int = 8192
    """Below about 2048, swap over TCP can hang such a small guest; see README.md."""
    timeout_s: float = 300.0

    def program_arguments(self) -> list[str]:
        common = ["--seed", str(self.seed), "--out", "/dev/ttyS1"]
        if self.program == "workset":
            lives = 4 + 5 * self.rounds
            sizes = ["--processes", "4", "--mib", str(self.touch_mib // 4), "--lives", str(lives)]
            return [*sizes, *common]
        sizes = ["--mib", str(self.touch_mib), "--rounds", str(self.rounds), "--progress", "2"]
        return [*sizes, *common, *([] if self.free else ["--no-free"])]

    def parameters(self) -> bytes:
        """The file that the guest's init reads."""
        values = {
            "GS_PORT": self.port,
            "GS_EXPORT": self.export,
            "GS_CONNECTIONS": self.connections,
            "GS_CLIENT": self.client,
            "GS_DISCARD": int(self.discard),
            "GS_MIN_FREE_KB": self.min_free_kb,
            "GS_PROGRAM": self.program,
            "GS_ARGUMENTS": shlex.join(self.program_arguments()),
        }
        return "".join(f"{name}={shlex.quote(str(v))}\n" for name, v in values.items()).encode()


@dataclass(frozen=True, slots=True)
class Hook:
    """Something to do once, on this machine, when the guest has got to `percent` of `phase`."""

    phase: str
    percent: int
    action: Callable[[], object]


def run_guest(settings: GuestSettings, image: Image, hooks: Sequence[Hook] = ()) -> Report:
    """Boots the guest, waits for its end and judges it. Hooks hold up nothing but progress."""
    if shutil.which(QEMU) is None:
        raise GuestUnavailableError(f"{QEMU} is not installed (Debian package qemu-system-x86)")
    report = Report()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nbdswap-guest.") as name:
        directory = Path(name)
        overlay = Archive()
        overlay.add_file("params", settings.parameters())
        (directory / "initrd").write_bytes(image.archive + overlay.finish())
        qemu_log = directory / "qemu.log"
        with qemu_log.open("wb") as errors:
            qemu = subprocess.Popen(
                _command(settings, image, directory),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        late = threading.Event()
        timer = threading.Timer(settings.timeout_s, _stop, (qemu, late))
        timer.start()
        try:
            _follow(qemu, report, list(hooks))
            status = qemu.wait()
        finally:
            timer.cancel()
            timer.join()
            qemu.kill()
            qemu.communicate()
        why = None
        if late.is_set():
            why = f"no end after {settings.timeout_s:.0f} s"
        elif status != 0:
            why = f"QEMU ended with status {status}: {qemu_log.read_text()[-300:]}"
        report.seconds = time.monotonic() - start
        report.finish((directory / "console").read_text(errors="replace"), why)
    return report


def _stop(qemu: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    qemu.send_signal(signal.SIGKILL)


def _follow(qemu: subprocess.Popen[bytes], report: Report, hooks: list[Hook]) -> None:
    """Reads what the guest says until it ends."""
    assert qemu.stdout is not None
    for line in qemu.stdout:
        progress = report.take_line(line.decode(errors="replace").strip())
        if progress is None:
            continue
        phase, percent = progress
        due = [hook for hook in hooks if hook.phase == phase and hook.percent <= percent]
        for hook in due:
            hooks.remove(hook)
            hook.action()


def _command(settings: GuestSettings, image: Image, directory: Path) -> list[str]:
    devices = [
        *(
            "-chardev",
            f"file,id=console,path={directory / 'console'}",
            "-serial",
            "chardev:console",
        ),
        *("-chardev", "stdio,id=events,signal=off", "-serial", "chardev:events"),
        *("-netdev", "user,id=net,ipv6=off", "-device", "virtio-net-pci,netdev=net,romfile="),
    ]
    # One processor: with more than the host has to spare the guest spins for one that is not
    # running, and gets ten times slower.
    return [
        *(QEMU, "-machine", "pc", "-accel", "tcg,thread=multi,tb-size=192", "-cpu", _PROCESSOR),
        *("-smp", "1", "-m", f"{settings.ram_mib}M", "-nodefaults", "-no-user-config"),
        *("-display", "none", "-no-reboot", "-kernel", str(image.kernel)),
        *("-initrd", str(directory / "initrd"), "-append", _KERNEL_ARGUMENTS),
        *devices,
    ]
