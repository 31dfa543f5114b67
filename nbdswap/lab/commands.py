"""`nbdswap lab run`, `lab codecs`, `lab grab` and `nbdswap advise`: flags, files, what is printed.

Everything heavy is imported by the command that needs it: the server loads this module too.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nbdswap.errors import ConfigError, UsageError
from nbdswap.units import SizeError, parse_size

from .request import ADVICE_PAGE_SIZES, DEFAULT_CODECS, LabRequest

if TYPE_CHECKING:
    from rich.console import Console

    from .results import LabResults

STANDARD_OUTPUT = "-"
# No terminal has no columns: nothing is to be cut off there.
COLUMNS_WITHOUT_TERMINAL = 120
GRAB_SIZE = "12M"

OF_ALL_CODECS = (
    "Of all: an object is shorter than its page, or the page is kept as it is; a codec, level and\n"
    "page give one object, whatever was compressed before; a damaged object is refused or is some\n"
    "page."
)

# Files to read are not `readable` to typer: what cannot be read is refused in our own words.
Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE", help="Files of raw pages, also packed as .xz.", readable=False),
]
Codecs = Annotated[
    list[str] | None,
    typer.Option(
        "--codec",
        metavar="NAME[:LEVEL]",
        help=f"Repeatable; all: each at its default level; default: {', '.join(DEFAULT_CODECS)}.",
    ),
]
Zpools = Annotated[
    list[str] | None, typer.Option("--zpool", metavar="NAME", help="Repeatable; default: all.")
]
PageSizes = Annotated[
    list[str] | None,
    typer.Option("--page-size", metavar="SIZE", help="4K, 16K or 64K; repeatable."),
]
Stored = Annotated[
    str | None,
    typer.Option(
        "--stored",
        metavar="SIZE",
        help="Bytes of pages in each pool, the files repeated; default: the files, at least 64M.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="All random choices.")]


def run_command(  # noqa: PLR0913, PLR0917 -- one parameter a flag, as typer wants it
    files: Files,
    codec: Codecs = None,
    zpool: Zpools = None,
    page_size: PageSizes = None,
    frame_size: Annotated[
        list[str] | None,
        typer.Option(
            "--frame-size", metavar="SIZE", help="Unit of the pool; default: the page size."
        ),
    ] = None,
    stored: Stored = None,
    seed: Seed = 1,
    speed: Annotated[
        bool, typer.Option("--speed", help="Also overwrite as fast as it goes, on 1 and 2 threads.")
    ] = False,
    keep_dense: Annotated[
        bool,
        typer.Option(
            "--keep-dense",
            help="Move objects meanwhile, as a server does whose pool is nearly full.",
        ),
    ] = False,
    json_path: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="Write everything measured.")
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option("--plots", metavar="DIR", help="Draw PNG and SVG; needs the extra `plots`."),
    ] = None,
) -> None:
    """Measure codecs and zpools on pages: density, wear, times."""
    from .core import core_of_extension
    from .output import check_writable, make_directory, write_text
    from .plots import require_matplotlib, write_plots
    from .results import to_json
    from .tables import view

    request = LabRequest.of(
        core_of_extension(),
        codecs=codec,
        zpools=zpool,
        page_sizes=page_size,
        frame_sizes=frame_size,
        stored=stored,
        seed=seed,
        speed=speed,
        keep_dense=keep_dense,
    )
    # What would be in the way of writing is said before the run and not after it.
    if json_path not in {None, STANDARD_OUTPUT}:
        check_writable(Path(str(json_path)), overwrite=True)
    if plots is not None:
        require_matplotlib()
        make_directory(plots)
    results = _run(request, files, page_bytes_least=max(request.page_bytes))
    if json_path == STANDARD_OUTPUT:
        sys.stdout.write(to_json(results))
    else:
        _console().print(view(results))
        if json_path is not None:
            write_text(Path(json_path), to_json(results))
    if plots is not None:
        count = len(write_plots(results, plots))
        typer.echo(f"{count} plots in {plots}", err=json_path == STANDARD_OUTPUT)


def codecs_command() -> None:
    """List the codecs: levels, what each is good for, and what it guarantees."""
    from .core import core_of_extension

    for info in core_of_extension().codecs():
        low, high, default = (info[f"level_{which}"] for which in ("min", "max", "default"))
        levels = f"level {low}" if low == high else f"levels {low} to {high}, by default {default}"
        typer.echo(f"{info['name']}: {levels}\n  {info['about']}\n  {info['guarantees']}")
    typer.echo(OF_ALL_CODECS)


def grab_command(  # noqa: PLR0913, PLR0917 -- one parameter a flag, as typer wants it
    pid: Annotated[str, typer.Argument(metavar="PID", help="A process that you may read.")],
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="SIZE", help=f"How much to take; default: {GRAB_SIZE}."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Take all there is.")] = False,
    seed: Seed = 1,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="Default: NAME-PID.pages."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    """Sample the private memory of a live process into a file of pages (mode 0600)."""
    from .grab import GrabRequest, account, check_size, grab

    if not pid.isascii() or not pid.isdecimal():
        raise ConfigError("command line", f"PID is {pid}, wanted the number of a process")
    if size is not None and everything:
        raise UsageError("--size takes so much and --all everything: give one of them")
    size_bytes = None if everything else _size("--size", size or GRAB_SIZE)
    if size_bytes is not None:
        check_size(size_bytes)
    request = GrabRequest(pid=int(pid), size_bytes=size_bytes, seed=seed, out=out, force=force)
    typer.echo(account(grab(request)))


def advise_command(  # noqa: PLR0913, PLR0917 -- one parameter a flag, as typer wants it
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE", help="Files of raw pages, also packed as .xz.", readable=False
        ),
    ] = None,
    earlier: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RESULTS",
            help="A file of `lab run --json` instead.",
            readable=False,
        ),
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="Memory that the pool may take.")
    ] = None,
    swapped: Annotated[
        str | None, typer.Option("--swapped", metavar="SIZE", help="Data that the pool shall hold.")
    ] = None,
    prefer: Annotated[
        str, typer.Option("--prefer", metavar="WHAT", help="speed, balanced or density.")
    ] = "balanced",
    seed: Seed = 1,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say which codec, zpool and pool size suit your pages, and why."""
    from .advice import Prefer, advise
    from .core import core_of_extension
    from .results import read_results
    from .wording import as_json as advice_json
    from .wording import sentences

    if prefer not in set(Prefer):
        wanted = "speed, balanced or density"
        raise ConfigError("command line", f"--prefer is {prefer}, wanted {wanted}")
    if memory is not None and swapped is not None:
        raise UsageError("--memory is what the pool may take, --swapped what it shall hold: one")
    if bool(files) == (earlier is not None):
        raise UsageError("advise needs files of pages or --from, a file of `lab run --json`")
    sizes = {
        "memory_bytes": _pool_size("--memory", memory),
        "swapped_bytes": _pool_size("--swapped", swapped),
    }
    if earlier is not None:
        results = read_results(earlier)
        if not results.codecs:
            raise UsageError(f"{earlier}: holds no results, wanted a file of `lab run --json`")
    else:
        request = LabRequest.of(core_of_extension(), page_sizes=ADVICE_PAGE_SIZES, seed=seed)
        # With less than one larger page the smaller ones still have something to tell.
        results = _run(request, files or [], page_bytes_least=min(request.page_bytes))
    advice = advise(results, Prefer(prefer))
    if as_json:
        typer.echo(json.dumps(advice_json(advice, **sizes), indent=2))
    else:
        _print_words(sentences(results, advice, **sizes))


def _run(request: LabRequest, files: list[Path], *, page_bytes_least: int) -> "LabResults":
    from .core import core_of_extension
    from .environment import available_memory_bytes
    from .pages import left_out, read_files
    from .progress import shown
    from .run import run, step_count

    # They are in memory twice, here and in the core.
    page_files = read_files(
        files, page_bytes_least=page_bytes_least, memory_bytes=available_memory_bytes() // 2
    )
    for line in left_out(page_files, request.page_bytes):
        typer.echo(line, err=True)
    with shown(step_count(request)) as on_step:
        return run(core_of_extension(), request, page_files, command_line=sys.argv, on_step=on_step)


def _print_words(text: str) -> None:
    """Folded between words where somebody reads; whole lines for a file or a pipe."""
    if sys.stdout.isatty():
        _console().print(text, markup=False, highlight=False)
    else:
        typer.echo(text)


def _console() -> "Console":
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else COLUMNS_WITHOUT_TERMINAL)


def _size(flag: str, text: str) -> int:
    try:
        return parse_size(text)
    except SizeError as error:
        raise ConfigError("command line", f"{flag}: {error}") from None


def _pool_size(flag: str, text: str | None) -> int | None:
    if text is None:
        return None
    size_bytes = _size(flag, text)
    if not 1 << 20 <= size_bytes <= 1 << 54:
        raise ConfigError("command line", f"{flag} is {text}, wanted 1M to 16384T")
    return size_bytes
