"""What a signal to stop means: the first may be refused, the second is obeyed, a third hurries.

A stop of a volatile export with clients attached throws their memory away, so it has to be asked
for twice. Other stops lose nothing and are obeyed at once.
"""

import asyncio
from collections.abc import Callable

from nbdswap.logs import EventLog

log = EventLog("lifecycle")


class StopRequest:
    """Signals of one server, in the order in which they come."""

    def __init__(
        self,
        stop: Callable[[], None],
        volatile_clients: Callable[[], list[str]],
        parent_is_gone: Callable[[], bool],
    ) -> None:
        self._stop = stop
        self._volatile_clients = volatile_clients
        self._parent_is_gone = parent_is_gone
        self._warned = False
        self._obeyed = False
        self.hurried = asyncio.Event()
        """Set when requests in flight shall not be waited for."""

    def ask(self, signal_name: str) -> None:
        """A signal came."""
        if self._obeyed:
            self.hurried.set()
            return
        at_stake = self._volatile_clients()
        # Nobody is left to ask a second time when it is the parent's end that sent the signal.
        if at_stake and not self._warned and not self._parent_is_gone():
            self._warned = True
            log.warning(
                "not stopping: clients are attached to volatile exports and would lose their "
                "swapped pages; `swapoff` them first, or send the signal again",
                signal=signal_name,
                exports=",".join(at_stake),
            )
            return
        self._obeyed = True
        log.info("stopping", signal=signal_name)
        self._stop()
