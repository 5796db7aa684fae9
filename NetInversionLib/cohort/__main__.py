"""``python -m NetInversionLib.cohort``"""

import sys

from ..jobs.start import without_working_folder

if __name__ == "__main__":
    without_working_folder()
    from .local import main

    sys.exit(main())
