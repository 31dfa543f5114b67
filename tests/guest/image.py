"""The guest's kernel and first file system, from Debian packages of this machine's archive.

Nothing is installed: the kernel package is downloaded and unpacked, busybox and nbd-client are
copied from this machine, the test programs are compiled. What was downloaded is kept in the cache
directory (GUEST_CACHE, else `cache` beside this file); the rest is quick and made anew each time.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.guest.cpio import Archive

SOURCES = Path(__file__).parent / "guest"
PROGRAMS = ("memhog", "workset", "nbdkeep")
KERNELS = {
    "6.1-cloud": "linux-image-cloud-amd64",
    "6.1": "linux-image-amd64",
    "6.12-cloud": "linux-image-6.12-cloud-amd64",
    "6.12": "linux-image-6.12-amd64",
}
# What the guest loads, with what these depend on. A kernel may have some of them built in.
_MODULES = ("virtio_pci", "virtio_net", "nbd")
_MODULE_OPTIONS = {"nbd": "nbds_max=2 max_part=0"}


class GuestUnavailableError(Exception):
    """The guest cannot be made here; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Image:
    """What QEMU needs: the kernel, and the archive without the parameters of a run."""

    kernel: Path
    archive: bytes


def cache_directory() -> Path:
    return Path(os.environ.get("GUEST_CACHE") or Path(__file__).parent / "cache")


def build_image(kernel: str = "6.1-cloud") -> Image:
    """Downloads what the cache lacks and puts the image together."""
    unpacked = _unpacked_kernel(KERNELS[kernel])
    archive = Archive()
    for directory in ("dev", "proc", "sys", "tmp", "sbin", "etc"):
        archive.add_directory(directory)
    archive.add_device("dev/console", 5, 1)
    archive.copy("bin/busybox", _static_busybox())
    archive.add_link("bin/sh", "busybox")
    archive.copy("init", SOURCES / "init")
    _add_programs(archive)
    _add_nbd_client(archive)
    _add_modules(archive, unpacked)
    return Image(next(unpacked.glob("boot/vmlinuz-*")), archive.finish())


def _output_of(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError as error:
        raise GuestUnavailableError(f"{command[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        raise GuestUnavailableError(f"{' '.join(command)}: {error.stderr.strip()}") from error


def _unpacked_kernel(meta_package: str) -> Path:
    """The directory of the newest kernel that was fetched, or of one that is fetched now."""
    cache = cache_directory()
    known = sorted(cache.glob(f"{meta_package}/*/boot/vmlinuz-*"))
    if known:
        return known[-1].parent.parent
    depends = re.search(
        r"Depends: (linux-image-\S+)", _output_of("apt-cache", "depends", meta_package)
    )
    if depends is None:
        raise GuestUnavailableError(f"the archive has no {meta_package}; was `apt-get update` run?")
    package = depends[1]
    target = cache / meta_package / package
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        subprocess.run(
            ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package],
            check=False,
            cwd=scratch,
        )
        packages = list(Path(scratch).glob("*.deb"))
        if not packages:
            raise GuestUnavailableError(f"{package} could not be downloaded")
        unpacked = Path(scratch) / "unpacked"
        _output_of("dpkg-deb", "-x", str(packages[0]), str(unpacked))
        # Last, and at once: a download that was interrupted leaves nothing that looks whole.
        unpacked.rename(target)
    return target


def _static_busybox() -> Path:
    for path in (Path("/usr/bin/busybox"), Path("/bin/busybox")):
        # ldd fails for a file that needs no libraries; the guest has none.
        if (
            path.exists()
            and subprocess.run(["ldd", path], check=False, capture_output=True).returncode
        ):
            return path
    raise GuestUnavailableError("no static busybox (Debian package busybox-static)")


def _add_programs(archive: Archive) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for program in PROGRAMS:
            binary = Path(scratch) / program
            source = str(SOURCES / f"{program}.c")
            flags = ("-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s")
            _output_of("gcc", *flags, "-o", str(binary), source, "-lm")
            archive.copy(f"bin/{program}", binary)


def _add_nbd_client(archive: Archive) -> None:
    path = shutil.which("nbd-client", path="/usr/sbin:/sbin:/usr/bin")
    if path is None:
        raise GuestUnavailableError("nbd-client is not installed")
    archive.copy("bin/nbd-client", Path(path))
    for library in re.findall(r"(?:=> )?(/\S+) \(0x", _output_of("ldd", path)):
        archive.copy(library, Path(library).resolve())


def _add_modules(archive: Archive, unpacked: Path) -> None:
    """The modules and, in the order in which to load them, their list."""
    files = {
        re.sub(r"\.ko(\.xz)?$", "", path.name).replace("-", "_"): path
        for path in unpacked.rglob("*.ko*")
    }
    if "nbd" not in files:
        raise GuestUnavailableError(f"{unpacked.name} has no nbd module")
    ordered: dict[str, bytes] = {}

    def load(name: str) -> None:
        if name in ordered or name not in files:
            return
        data = files[name].read_bytes()
        if files[name].suffix == ".xz":
            data = lzma.decompress(data)
        depends = re.search(rb"\0depends=([^\0]*)\0", data)
        for other in depends[1].decode().replace("-", "_").split(",") if depends else []:
            load(other)
        ordered[name] = data

    for module in _MODULES:
        load(module)
    for name, data in ordered.items():
        archive.add_file(f"modules/{name}.ko", data)
    lines = [f"{name}.ko {_MODULE_OPTIONS.get(name, '')}\n" for name in ordered]
    archive.add_file("modules.list", "".join(lines).encode())
