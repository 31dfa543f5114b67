"""The running server, seen by other people's clients and by a plain socket."""
