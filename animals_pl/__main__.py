"""``python -m animals_pl``."""

import sys
import warnings

from animals_pl.cli import main, show_warning

if __name__ == "__main__":
    warnings.showwarning = show_warning
    sys.exit(main())
