"""``python -m animals_pl``."""

import sys

from animals_pl.cli import command

if __name__ == "__main__":
    sys.exit(command())
