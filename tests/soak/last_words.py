"""What a server of the soak says of itself when an answer was wrong, for who has to find out."""

import json

from nbdswap import admin_client
from nbdswap.addresses import Address
from nbdswap.errors import UnreachableError

# What happened before the last few events is in nobody's way.
LOG_CHARS_MAX = 8000


def last_words(admin: Address, log_text: str) -> str:
    """The numbers of pool, store and exports, if it still answers, and the end of its log."""
    try:
        status = admin_client.ask(admin)
    except UnreachableError as error:
        lines = [str(error)]
    else:
        status["pool"].pop("classes", None)
        lines = [f"{part}: {json.dumps(status[part])}" for part in ("pool", "store", "exports")]
    return "\n".join([*lines, log_text[-LOG_CHARS_MAX:]])
