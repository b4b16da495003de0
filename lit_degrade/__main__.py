"""`python -m lit_degrade`."""

import sys

from lit_degrade.cli import main

if __name__ == "__main__":
    sys.exit(main())
