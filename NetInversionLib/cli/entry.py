"""Where the command begins: nothing is imported here that could fail without a sentence."""

import os
import signal
import sys


def main() -> int:
    """Run the command line of this process.

    Returns:
        The exit status: 0 if it went well, 1 if not, 2 for a wrong command line, 130 when stopped.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends a run like Ctrl-C
    try:
        from .program import main as program

        status = program()
    except KeyboardInterrupt:
        _say("netinversion: stopped")
        status = 130
    except ImportError as error:
        _say(
            f"netinversion: the Python package '{(error.name or 'unknown').split('.')[0]}' is"
            f" missing or does not load ({error}). Install it again."
        )
        status = 1
    return _closed(status)


def bids() -> int:
    """Run the command line of this process as that of a BIDS App: ``netinversion-bids``."""
    sys.argv.insert(1, "bids-app")
    return main()


def _closed(status: int) -> int:
    """The status, once all that was said has left; 1 if nobody reads it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # there is nothing left to stop
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        # Else Python would try again at its end, and print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return status or 1
    return status


def _say(line: str) -> None:
    try:
        print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass
