"""The command `nbdswap`: flags to configuration, errors to one line and an exit code.

What only some commands need is loaded by them: a server starts sooner without it, and clients wait
for that in an upgrade. Not here: what a flag means (`config`) and anything that happens after the
start (`lifecycle`).
"""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from nbdswap import __version__, logs
from nbdswap.addresses import Address, AddressError, parse_address
from nbdswap.config_file import Override, dump, load
from nbdswap.errors import EXIT_CODE_MEANINGS, ConfigError, ExitCode, NbdswapError, UsageError
from nbdswap.lab.commands import advise_command, codecs_command, grab_command, run_command
from nbdswap.lifecycle import ServeOptions, check_upgrade, serve
from nbdswap.machine import Machine
from nbdswap.store_commands import inspect_command, repair_command, verify_command
from nbdswap.successor import CHECK_FLAG

EXIT_CODES = "Exit codes: " + "; ".join(
    f"{code.value} {meaning}" for code, meaning in EXIT_CODE_MEANINGS.items()
)
DEFAULT_ADMIN = "127.0.0.1:10810"
RATE_INTERVAL_S = 1.0
INTERRUPTED_EXIT_CODE = 130

app = typer.Typer(
    name="nbdswap",
    help="Compressed swap storage served over NBD.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

lab = typer.Typer(help="Measure codecs and zpools on your own pages.", no_args_is_help=True)
lab.command("run", epilog=EXIT_CODES)(run_command)
lab.command("codecs", epilog=EXIT_CODES)(codecs_command)
lab.command("grab", epilog=EXIT_CODES)(grab_command)
app.add_typer(lab, name="lab", epilog=EXIT_CODES)
store = typer.Typer(
    help="Look at the store of a server that does not run, and repair it.", no_args_is_help=True
)
store.command("inspect", epilog=EXIT_CODES)(inspect_command)
store.command("verify", epilog=EXIT_CODES)(verify_command)
store.command("repair", epilog=EXIT_CODES)(repair_command)
app.add_typer(store, name="store", epilog=EXIT_CODES)
app.command("advise", epilog=EXIT_CODES)(advise_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nbdswap {__version__}")
        raise typer.Exit


@app.callback()
def _nbdswap(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


@app.command("serve", epilog=EXIT_CODES)
def serve_command(  # noqa: PLR0913, PLR0917 -- one parameter a flag, as typer wants it
    config_path: Annotated[
        Path | None, typer.Option("-c", "--config", metavar="FILE", help="Configuration in YAML.")
    ] = None,
    unix: Annotated[
        list[str] | None,
        typer.Option("-U", "--unix", metavar="PATH", help="Listen on a unix socket. Repeatable."),
    ] = None,
    listen: Annotated[
        list[str] | None,
        typer.Option("--listen", metavar="HOST:PORT", help="Listen on TCP. Repeatable."),
    ] = None,
    export: Annotated[
        list[str] | None,
        typer.Option("--export", metavar="NAME=SIZE", help="Offer an export. Repeatable."),
    ] = None,
    read_only: Annotated[
        bool, typer.Option("-r", "--read-only", help="Exports given by --export are read-only.")
    ] = False,
    pool_size: Annotated[
        str | None, typer.Option("--pool-size", metavar="BYTES", help="Memory for the pool.")
    ] = None,
    zpool: Annotated[
        str | None,
        typer.Option("--zpool", metavar="NAME", help="zblock, zsmalloc, zbud, z3fold or zfit."),
    ] = None,
    codec: Annotated[
        str | None,
        typer.Option(
            "--codec",
            metavar="NAME[:LEVEL]",
            help="lz4, lz4hc, zstd, lzo, deflate or none; without a level its default.",
        ),
    ] = None,
    store: Annotated[
        str | None, typer.Option("--store", metavar="PATH|none", help="Backing file.")
    ] = None,
    state_dir: Annotated[
        str | None, typer.Option("--state-dir", metavar="DIR", help="State and backing file.")
    ] = None,
    admin: Annotated[
        str | None,
        typer.Option("--admin", metavar="ADDR|none", help="HOST:PORT or unix:PATH for status."),
    ] = None,
    polling: Annotated[
        str | None,
        typer.Option("--polling", metavar="auto|off|US", help="Microseconds polled before sleep."),
    ] = None,
    log_format: Annotated[
        str | None, typer.Option("--log-format", metavar="NAME", help="text or json.")
    ] = None,
    stdio: Annotated[
        bool, typer.Option("--stdio", help="Serve one client on standard input and output.")
    ] = False,
    pidfile: Annotated[
        Path | None, typer.Option("--pidfile", metavar="FILE", help="Written when ready.")
    ] = None,
    exit_with_parent: Annotated[
        bool, typer.Option("--exit-with-parent", help="Stop when the parent process ends.")
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Forget what the last server left: everything reads zeros."),
    ] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Show the effective configuration and exit.")
    ] = False,
    check: Annotated[bool, typer.Option(CHECK_FLAG, hidden=True)] = False,
) -> None:
    """Serve exports to NBD clients. Flags override the file; sizes take K, M, G and T."""
    settings: list[tuple[str, str, Any]] = [
        *_listen_settings(unix, listen),
        ("exports", "--export", _exports(export, read_only=read_only)),
        ("pool.bytes_max", "--pool-size", pool_size),
        ("pool.zpool", "--zpool", zpool),
        *_codec_settings(codec),
        ("store.path", "--store", store),
        ("state_dir", "--state-dir", state_dir),
        # One client on a pipe is often one of many: they cannot all have the same port.
        ("admin", "--admin", admin or ("none" if stdio else None)),
        ("polling", "--polling", int(polling) if polling and polling.isdecimal() else polling),
        ("log.format", "--log-format", log_format),
    ]
    overrides = [Override(key, flag, value) for key, flag, value in settings if value is not None]
    config = load(config_path, overrides, Machine.here())
    if print_config:
        sys.stdout.write(dump(config))
        return
    if stdio and (unix or listen):
        raise UsageError("--stdio serves one client and does not listen: no --unix, no --listen")
    logs.configure(config.log.format, config.log.level)
    options = ServeOptions(
        fresh=fresh,
        stdio=stdio,
        listen_was_asked_for=bool(unix or listen),
        pidfile=pidfile,
        exit_with_parent=exit_with_parent,
    )
    if check:
        check_upgrade(config, options, sys.stdin.read())
        typer.echo(__version__)
        return
    serve(config, options)


@app.command("check", epilog=EXIT_CODES)
def check_command(
    config_path: Annotated[Path, typer.Argument(metavar="FILE", help="Configuration in YAML.")],
) -> None:
    """Check a configuration file and say what is wrong with it."""
    load(config_path, [], Machine.here())
    typer.echo(f"{config_path}: ok")


@app.command("status", epilog=EXIT_CODES)
def status_command(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, without rates.")] = False,
    classes: Annotated[
        bool, typer.Option("--classes", help="Also the pool's size classes; JSON has them always.")
    ] = False,
    admin: Annotated[
        str, typer.Option("--admin", metavar="ADDR", help="HOST:PORT or unix:PATH of the server.")
    ] = DEFAULT_ADMIN,
) -> None:
    """Show a running server: exports, tiers, ratio, write-back and rates over one second."""
    from rich.console import Console

    from nbdswap.admin_client import ask
    from nbdswap.status_view import view

    address = _admin_address(admin)
    status = ask(address)
    if as_json:
        typer.echo(json.dumps(status, indent=2))
        return
    time.sleep(RATE_INTERVAL_S)
    Console().print(view(ask(address), earlier=status, classes=classes))


@app.command("set", epilog=EXIT_CODES)
def set_command(
    codec: Annotated[
        str | None,
        typer.Option("--codec", metavar="NAME[:LEVEL]", help="Codec for new pages."),
    ] = None,
    zpool: Annotated[
        str | None, typer.Option("--zpool", metavar="NAME", help="Zpool for new pages.")
    ] = None,
    admin: Annotated[
        str, typer.Option("--admin", metavar="ADDR", help="HOST:PORT or unix:PATH of the server.")
    ] = DEFAULT_ADMIN,
) -> None:
    """Change codec or zpool of a running server, until it starts again."""
    from nbdswap.admin_client import change
    from nbdswap.status_view import change_view

    asked: dict[str, Any] = {} if zpool is None else {"zpool": zpool}
    if codec is not None:
        asked["codec"], level = _codec_and_level(codec)
        if level is not None:
            asked["codec_level"] = level
    if not asked:
        raise UsageError("nothing to set, wanted --codec or --zpool")
    typer.echo(change_view(change(_admin_address(admin), asked)))


@app.command("upgrade", epilog=EXIT_CODES)
def upgrade_command(
    admin: Annotated[
        str, typer.Option("--admin", metavar="ADDR", help="HOST:PORT or unix:PATH of the server.")
    ] = DEFAULT_ADMIN,
) -> None:
    """Replace a running server by the program that is installed now, under its clients."""
    from nbdswap.admin_client import upgrade
    from nbdswap.status_view import upgrade_view

    typer.echo(upgrade_view(upgrade(_admin_address(admin))))


def _admin_address(admin: str) -> Address:
    try:
        return parse_address(admin)
    except AddressError as error:
        raise UsageError(f"--admin: {error}") from None


def _listen_settings(
    unix: list[str] | None, listen: list[str] | None
) -> list[tuple[str, str, Any]]:
    """Flags name all addresses: with one given, those of the file and the defaults are off."""
    if not unix and not listen:
        return []
    return [("listen.unix", "--unix", unix or []), ("listen.tcp", "--listen", listen or [])]


def _codec_settings(flag: str | None) -> list[tuple[str, str, Any]]:
    """The codec and always a level: one in the file belongs to the codec in the file."""
    if flag is None:
        return []
    name, level = _codec_and_level(flag)
    return [
        ("pool.codec", "--codec", name),
        ("pool.codec_level", "--codec", "auto" if level is None else level),
    ]


def _codec_and_level(flag: str) -> tuple[str, int | str | None]:
    """NAME[:LEVEL]. A level that is no number is for those to refuse who know the codec."""
    name, colon, level = flag.partition(":")
    if not colon:
        return name, None
    return name, int(level) if level.removeprefix("-").isdecimal() else level


def _exports(flags: list[str] | None, *, read_only: bool) -> list[dict[str, Any]] | None:
    if not flags:
        if read_only:
            raise UsageError("--read-only belongs to --export; in a file it is a key of the export")
        return None
    exports = []
    for flag in flags:
        # From the right: a size has no equals sign, a name may have one.
        name, equals, size = flag.rpartition("=")
        if not equals:
            raise ConfigError("command line", f"--export is {flag}, wanted NAME=SIZE")
        exports.append({"name": name, "size_bytes": size, "read_only": read_only})
    return exports


def main() -> None:
    """Runs the command and ends the process: an expected error is one line, nothing more."""
    try:
        code = app(standalone_mode=False)
    except NbdswapError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    except typer.TyperException as error:
        sys.stderr.write(f"{error.format_message()} Try `nbdswap --help`.\n")
        sys.exit(ExitCode.USAGE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED_EXIT_CODE)
    sys.exit(code if isinstance(code, int) else ExitCode.OK)
