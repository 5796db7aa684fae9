"""A cohort on a Dask cluster."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from .. import jobs
from .items import text_hash
from .records import failed_record, work

if TYPE_CHECKING:
    from .items import Item
    from .shares import Shares


MOST = 1_000_000
"""Volumes that are handed to a cluster at once."""
WORKERS_LOST = (
    "The cluster's workers that had this volume ended one after the other, most probably because"
    " memory or their time ran out. Give the workers more memory, then run the command again:"
    " finished volumes are kept."
)
CLUSTER_LOST = (
    "The connection to the cluster was lost. Run the command again: finished volumes are kept."
)


@dataclass(frozen=True)
class Scheduler:
    """Where a Dask scheduler listens.

    "tcp://host:8786", or "tls://host:8786" with the three PEM files.
    """

    address: str
    tls_ca_file: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None


# Workers of a cluster -----------------------------------------------------------------------------


def run_on_cluster(shares: Shares, scheduler: Scheduler) -> Generator[dict, None, None]:
    """Do on the cluster's workers what other runs have not claimed, then what they leave.

    A worker's death puts its volume back on Dask's list. One whose record was lost with it is not
    done again.
    """
    with _client(scheduler) as client:
        for first in shares:  # it waits, where others have all that is left
            found = [first, *shares.at_once(MOST)]
            yield from (one for one in found if isinstance(one, dict))
            yield from _done(client, [one for one in found if not isinstance(one, dict)])


def _done(client, items: list[Item]) -> Iterator[dict]:
    """The records of items, as the cluster's workers do them."""
    waiting = {}
    for item in items:
        key = f"{item.analysis}-{text_hash(json.dumps(asdict(item), sort_keys=True))[:32]}"
        waiting[key] = item, client.submit(work, asdict(item), key=key, pure=False)
    for future in _distributed().as_completed(
        [future for _, future in waiting.values()], loop=client.loop
    ):
        item, _ = waiting.pop(future.key)
        record = _outcome(item, future)
        future.release()  # else its record would stay on the worker, and die with it
        yield record


def _client(scheduler: Scheduler):
    distributed = _distributed()
    security = None
    files = {
        "tls_ca_file": scheduler.tls_ca_file,
        "tls_client_cert": scheduler.tls_cert,
        "tls_client_key": scheduler.tls_key,
    }
    if any(files.values()):
        missing = [path for path in files.values() if path and not os.path.isfile(path)]
        if missing:
            raise ValueError(f"there is no file {missing[0]}")
        security = distributed.Security(
            require_encryption=True, **{key: path for key, path in files.items() if path}
        )
    _require_address(scheduler)
    try:
        return distributed.Client(scheduler.address, security=security, set_as_default=False)
    except (OSError, TimeoutError, asyncio.TimeoutError) as error:  # two types until Python 3.11
        raise ConnectionError(
            f"no Dask scheduler answers at {scheduler.address}: is the address right, the scheduler"
            f" running, and do both sides use TLS or neither? ({error})"
        ) from error


def _require_address(scheduler: Scheduler) -> None:
    """Raise ValueError for an address that no scheduler has."""
    protocol, found, rest = scheduler.address.partition("://")
    if not found or not rest or protocol not in ("tcp", "tls", "ws", "wss", "inproc", "ucx"):
        raise ValueError(
            f"{scheduler.address} is no scheduler's address; write one such as tcp://host:8786"
        )
    given = (scheduler.tls_ca_file, scheduler.tls_cert, scheduler.tls_key)
    if protocol in ("tls", "wss") and not any(given):
        raise ValueError(
            f"{scheduler.address} needs certificates: --tls-ca-file, --tls-cert and --tls-key"
        )


def _distributed():
    try:
        import distributed
    except ImportError as error:
        raise RuntimeError(
            "runs on a cluster need the Python package 'distributed', here and on the workers: "
            f"pip install 'netinversion[cluster]' ({error})"
        ) from error
    return distributed


def _outcome(item: Item, future) -> dict:
    if future.cancelled() or future.status == "lost":
        return failed_record(item, CLUSTER_LOST)
    if future.status != "error":
        return future.result()
    error = future.exception()
    if isinstance(error, ImportError):
        return failed_record(
            item,
            f"The cluster's workers lack something ({error}). Install 'netinversion[cluster]' where"
            " they run.",
        )
    lost = type(error).__name__ == "KilledWorker"
    return failed_record(
        item, WORKERS_LOST if lost else f"On the cluster: {jobs.explain(error)}", str(error)
    )
