"""`python -m nbdswap` is the command `nbdswap`."""

from nbdswap.cli import main

if __name__ == "__main__":
    main()
