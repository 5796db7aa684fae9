"""Runs as data: a request, run here or in a worker process."""

from ..door import door

__getattr__ = door(
    __name__,
    {
        "DISK_FULL": "errors",
        "GRAPHICS_MEMORY": "errors",
        "JobError": "errors",
        "KILLED": "errors",
        "LOST": "errors",
        "MEMORY": "errors",
        "explain": "errors",
        "explain_exit": "errors",
        "Request": "request",
        "ANALYSES": "request",
        "find_analysis": "request",
        "run_apart": "apart",
        "run_here": "request",
        "load_intermediate": "storage",
        "load_request": "storage",
        "load_result": "storage",
        "remove": "storage",
        "save_request": "storage",
        "environment": "start",
        "python_command": "start",
        "kill_tree": "worker",
        "main": "worker",
    },
)
