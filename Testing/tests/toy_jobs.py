"""Jobs and processes that tests wait for."""

import time

import numpy as np

from NetInversionLib.core.volumes import Volume

OBLIQUE = np.array(
    [[0.3, -1 / 3, 0.1, -17.25], [1e-17, 2.5, 0.2, 1e6], [0.7, 0, np.pi, 0], [0, 0, 0, 1]]
)


def volume(array, **kwargs):
    return Volume(np.asarray(array), OBLIQUE, kwargs.pop("name", "a volume"), **kwargs)


def same_volume(a, b):
    assert a.array.dtype == b.array.dtype and a.array.shape == b.array.shape
    assert a.array.tobytes() == b.array.tobytes()
    assert np.array_equal(a.ijk_to_ras, b.ijk_to_ras) and a.ijk_to_ras.dtype == b.ijk_to_ras.dtype
    assert (a.name, a.units) == (b.name, b.units)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone before, or while it was read
        return False


def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
