"""``python -m NetInversionLib.jobs``"""

import os
import sys

from .start import without_working_folder

if __name__ == "__main__":
    without_working_folder()
    from .worker import main

    code = main()
    sys.stderr.flush()
    os._exit(
        code
    )  # the result is safe: taking torch down in good order would only keep the user waiting
