"""``python -m animals_pl``."""

import sys

from animals_pl.cli import main

if __name__ == "__main__":
    sys.exit(main())
