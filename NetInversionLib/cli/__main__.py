"""``python -m NetInversionLib.cli``"""

import sys

from .entry import main, without_working_folder

if __name__ == "__main__":
    without_working_folder()
    sys.exit(main())
