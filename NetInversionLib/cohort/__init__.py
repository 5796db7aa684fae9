"""Many volumes, on this machine or a cluster, each on record."""

from ..door import door

__getattr__ = door(
    __name__,
    {
        "CLUSTER_LOST": "cluster",
        "Scheduler": "cluster",
        "WORKERS_LOST": "cluster",
        "plan": "items",
        "main": "local",
        "failed_record": "records",
        "read_record": "records",
        "work": "records",
        "counts": "runs",
        "prepare": "runs",
        "run": "runs",
        "summarize": "runs",
    },
)
