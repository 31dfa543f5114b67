"""nbdswap: compressed swap storage served over NBD."""
