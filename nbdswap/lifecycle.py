"""The order in which a server comes up and goes down.

Up: lock the state, protect the process (before any other thread), bind every socket, ask for room;
only then is state touched: take over, start the engine, say `ready`. A failure anywhere undoes
what was done before and leaves the last server's state as it was.

Down: accept nobody, tell clients in mid-handshake, let requests in flight finish, keep or forget
the state, remove sockets. Every step is taken in reverse by one ExitStack.

By an upgrade the program comes up in a process that is serving already: it finds the locks, the
sockets and the connections open (`handover`) and takes them where it would make new ones.

Not here: the time in between (`service`), when to go down (`stop_request`), what to keep
(`succession`).
"""

import asyncio
import os
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import uvloop

from nbdswap import systemd
from nbdswap.addresses import Address
from nbdswap.config import Config
from nbdswap.engine import OpenCore, core_of_extension
from nbdswap.errors import RefusedError, UpgradeError, UsageError
from nbdswap.handover import Handover, Predecessor, receive
from nbdswap.hardening import Kernel, die_with_parent, harden, is_orphan
from nbdswap.hugetlbfs import huge_pages
from nbdswap.listeners import Listener, adopt_all, bind_all, close_all
from nbdswap.logs import EventLog
from nbdswap.preflight import check_pidfile, check_room, check_succession
from nbdswap.service import Process, Service, say_what_is_unprotected
from nbdswap.state import State, StateDir
from nbdswap.stdio import Stdio, open_stdio
from nbdswap.store_key import check_key
from nbdswap.takeover import Takeover

log = EventLog("lifecycle")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How this one process is started; none of it belongs into a file."""

    fresh: bool = False
    """Forget what the last server left: every export starts empty."""
    stdio: bool = False
    """Serve the one client on standard input and output."""
    listen_was_asked_for: bool = False
    """A flag named an address."""
    pidfile: Path | None = None
    exit_with_parent: bool = False


def serve(
    config: Config,
    options: ServeOptions,
    *,
    open_core: OpenCore | None = None,
    kernel: Kernel | None = None,
) -> None:
    """Serves until told to stop; raises NbdswapError if it cannot start."""
    # Loaded first: a broken installation must not be found half-way up.
    open_core = open_core or core_of_extension()
    handover = receive(os.environ)
    parent = die_with_parent(signal.SIGTERM, kernel) if options.exit_with_parent else None
    if parent is not None and is_orphan(parent):
        log.info("the parent is gone, not starting")
        return
    with ExitStack() as undo:
        inherited, held, held_admin = _inherited(handover)
        undo.callback(close_all, inherited)
        if inherited and (options.listen_was_asked_for or options.stdio):
            raise UsageError("sockets were passed in, so --unix, --listen and --stdio cannot be")
        stdio = _open_stdio(undo) if options.stdio else None
        if options.pidfile is not None:
            check_pidfile(options.pidfile)
        state_dir = (
            StateDir.lock(config.state_dir)
            if handover is None
            else StateDir.take_over(config.state_dir, handover.lock_fd)
        )
        undo.callback(state_dir.forsake)
        populate = _populates(config, local=stdio is not None or bool(inherited))
        swappable_pool_bytes = _swappable_pool_bytes(config)
        protections = harden(
            config.hardening, populate=populate, pool_bytes=swappable_pool_bytes, kernel=kernel
        )
        say_what_is_unprotected(protections)
        listeners = inherited or bind_all(_addresses(config, stdio), held)
        undo.callback(close_all, listeners)
        admin = bind_all([config.admin] if config.admin is not None else [], held_admin)
        undo.callback(close_all, admin)
        # What our command line said of the first start is done.
        fresh = options.fresh and handover is None
        check_key(config)
        previous = _previous(state_dir, fresh=fresh)
        instance_before = previous.instance if previous else None
        for warning in check_room(config, instance_before, populate=populate):
            log.warning(warning)
        takeover = Takeover(
            open_core=open_core,
            config=config,
            state_dir=state_dir,
            previous=previous,
            populate=populate,
            store_fd=handover.store_fd if handover is not None else None,
        )
        process = Process(
            protections=protections,
            swappable_pool_bytes=swappable_pool_bytes,
            kernel=kernel,
            pidfile=options.pidfile,
            parent=parent,
            handover=handover,
        )
        service = Service(config, state_dir, takeover.run(fresh=fresh), process)
        undo.callback(service.close)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(service.run(listeners, admin, stdio))


def check_upgrade(config: Config, options: ServeOptions, text: str) -> None:
    """Raises NbdswapError if we could not take the place of the server that `text` describes.

    Touches nothing: that server goes on meanwhile.
    """
    core_of_extension()
    try:
        predecessor = Predecessor.decode(text)
    except ValueError as error:
        raise UpgradeError(f"what the running server says of itself: {error}") from None
    if options.stdio:
        raise UpgradeError("with --stdio there is nobody to take over from")
    if options.pidfile is not None:
        check_pidfile(options.pidfile)
    previous = StateDir.read_from(config.state_dir)
    check_succession(config, predecessor, previous)
    check_key(config)
    instance = previous.instance if previous else None
    populate = _populates(config, local=predecessor.sockets_passed_in)
    check_room(config, instance, populate=populate)
    addresses = [] if predecessor.sockets_passed_in else _addresses(config, None)
    addresses += [config.admin] if config.admin is not None else []
    close_all(bind_all(new for new in addresses if str(new) not in predecessor.listening))


def _inherited(
    handover: Handover | None,
) -> tuple[list[Listener], list[Listener], list[Listener]]:
    """Sockets that were passed in; others that the program before us had; its admin socket."""
    if handover is None:
        return adopt_all(systemd.inherited_sockets()), [], []
    passed_in = [listener for listener in handover.listeners if listener.asked is None]
    bound = [listener for listener in handover.listeners if listener.asked is not None]
    return passed_in, bound, list(handover.admin)


def _open_stdio(undo: ExitStack) -> Stdio:
    stdio = open_stdio()
    undo.callback(stdio.client.close)
    if stdio.bridge is not None:
        undo.callback(stdio.bridge.close)
    return stdio


def _previous(state_dir: StateDir, *, fresh: bool) -> State | None:
    try:
        return state_dir.read()
    except RefusedError as error:
        if not fresh:
            raise
        log.warning("replaced, as --fresh asks", problem=error)
        return None


def _addresses(config: Config, stdio: Stdio | None) -> list[Address]:
    if stdio is not None:
        return []
    addresses: list[Address] = [*config.listen.unix, *config.listen.tcp]
    if not addresses:
        raise UsageError("listen names no address, wanted a unix socket or HOST:PORT")
    return addresses


def _populates(config: Config, *, local: bool) -> bool:
    """Whether the pool is taken at start: always where a client may be on this very machine."""
    if config.pool.populate != "auto":
        return config.pool.populate == "on"
    return local or bool(config.listen.unix) or any(tcp.is_loopback for tcp in config.listen.tcp)


def _swappable_pool_bytes(config: Config) -> int:
    """What of the pool has to be locked: huge pages of hugetlbfs stay where they are."""
    in_huge_pages = config.memory_dir is not None and huge_pages(config.memory_dir) is not None
    return 0 if in_huge_pages else config.pool.bytes_max
