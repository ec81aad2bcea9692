"""``python -m animals_pl``."""

import sys
import threading
import warnings

from animals_pl.cli import main, show_thread_error, show_warning

if __name__ == "__main__":
    warnings.showwarning = show_warning
    threading.excepthook = show_thread_error
    sys.exit(main())
