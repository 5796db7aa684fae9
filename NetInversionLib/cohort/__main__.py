"""``python -m NetInversionLib.cohort``"""

import sys

from .local import main

if __name__ == "__main__":
    sys.exit(main())
