"""A cohort shared out among the runs that write into one folder: every volume to one of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from .records import failed_record, finished, read_record

if TYPE_CHECKING:
    from .claims import Claims
    from .items import Item

LOOK_S = 1.0
"""Seconds between two looks at what other runs have."""
MOST_LOST = 3
"""Runs that a volume may cost: then it counts as failed, until the command is called again."""
LOST = (
    "The runs that had this volume ended {} times before it was done, most probably because memory"
    " or their time ran out. Give them more, then run the command again: finished volumes are kept."
)


class Shares:
    """The volumes that are left, one by one, to whoever asks for the next; also from many threads.

    It gives an item that this run has claimed and is to do, or the record of one that another run
    has done; and it waits while others have all that is left, since they may be killed.
    """

    def __init__(
        self,
        items: Sequence[Item],
        claims: Claims,
        log: Callable[[str], None] = lambda line: None,
    ):
        self._left = {item.source: item for item in items}
        self._claims, self._log = claims, log
        self._lock = threading.Lock()
        self._waiting = False

    def __iter__(self) -> Iterator[Item | dict]:
        return self

    def __next__(self) -> Item | dict:
        while not self._claims.over:
            found = self.at_once(1)
            if found:
                return found[0]
            if not self._left:
                break
            self._say_waiting()
            time.sleep(LOOK_S)
        raise StopIteration

    def at_once(self, most: int) -> list[Item | dict]:
        """So many as are to be had without waiting, ``most`` at most."""
        found: list[Item | dict] = []
        with self._lock:
            for item in list(self._left.values()):
                if len(found) == most:
                    break
                one = self._claimed(item)
                if one is not None:
                    del self._left[item.source]
                    found.append(one)
        return found

    def release(self, item: Item) -> None:
        """Its record is written, or it is given up."""
        self._claims.release(_name(item))

    def _claimed(self, item: Item) -> Item | dict | None:
        record = self._settled(item)
        if record:
            return record
        lost = self._claims.take(_name(item))
        if lost is None:
            return None
        record = self._settled(item)  # who had the claim until now has done it
        if not record and lost >= MOST_LOST:
            record = failed_record(item, LOST.format(lost))
        if record:
            self.release(item)
        return record or item

    def _settled(self, item: Item) -> dict | None:
        """The record of what needs not be done again: done, or failed in a run beside this one."""
        record = finished(item)
        if record:
            return record
        record = read_record(item) or {}
        beside = item.run and record.get("run") == item.run and record["status"] == "failed"
        return record if beside and record.get("fingerprint") == item.fingerprint else None

    def _say_waiting(self) -> None:
        with self._lock:
            if not self._waiting:
                self._waiting = True
                self._log(f"other runs have the {len(self._left)} volumes that are left; waiting")


def _name(item: Item) -> str:
    return item.record_file.stem
