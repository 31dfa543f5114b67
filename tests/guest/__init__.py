"""A real Linux guest that swaps to the server; see README.md here."""
