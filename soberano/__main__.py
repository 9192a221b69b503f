"""`python -m soberano` is the command `soberano`."""

import sys

from soberano.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
