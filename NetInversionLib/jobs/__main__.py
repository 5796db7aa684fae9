"""``python -m NetInversionLib.jobs``"""

import os
import sys

from .worker import main

if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(
        code
    )  # the result is safe: taking torch down in good order would only keep the user waiting
