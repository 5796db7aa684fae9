"""``python -m NetInversionLib.cli``"""

import sys

from ..jobs.start import without_working_folder

if __name__ == "__main__":
    without_working_folder()
    from .entry import main

    sys.exit(main())
