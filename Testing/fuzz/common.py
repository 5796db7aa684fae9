"""What all fuzzing shares: mutants of good files, and a watch on time and memory.

Each mutant is read in a process of its own kind.

A mutant is made from a seed and its number alone, so that one that was found comes again:
``--first N --count 1``. Bytes are changed as damage changes them; or the header is rewritten as
whoever means harm would rewrite it, with right sums. Damage must be refused, or leave every value
as it was; what was rewritten with right sums may have other values, and must do no harm.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from NetInversionLib.models import header
from NetInversionLib.models.card import ModelError

SECONDS = 5.0
TIMES_THE_FILE = 2.0
# Python's own objects, and pages that the allocator takes before it needs them.
SLACK_BYTES = 16_000_000
GRACE_SECONDS = 10 * SECONDS  # of one mutant, on machines at work elsewhere
START_SECONDS = 600.0  # until the good files are made
MEMORY = Path("/proc/self/status")


@dataclass
class Base:
    """A good file.

    Attributes:
        name: For the report.
        data: Its bytes.
        value: What reading it gives.
        suffix: Of its file, where it is another than that of its kind.
    """

    name: str
    data: bytes
    value: Any
    suffix: str = ""


@dataclass
class Reading:
    """How a kind of file is read and judged.

    Attributes:
        bases: Makes the good files in a folder, or only some small ones.
        read: Gives what a file holds.
        same: Whether two of these are the same to the last bit.
        refusals: What ``read`` raises for a file that it refuses.
        suffix: Of the files.
        mutant: Changes the bytes of a good file, see ``mutant``, the default.
        most_bytes: Of memory that reading may take; None for twice the file.
    """

    bases: Callable[[Path, bool], list[Base]]
    read: Callable[[Path], Any]
    same: Callable[[Any, Any], bool]
    refusals: tuple[type[Exception], ...]
    suffix: str
    mutant: Callable[[bytes, np.random.Generator], tuple[bytes, bool]] | None = None
    most_bytes: int | None = None


# Mutants ------------------------------------------------------------------------------------------

ODD_VALUES = (
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    255,
    4096,
    2**31,
    2**63,
    10**30,
    0.5,
    -0.0,
    1e308,
    "",
    "x",
    "\x1b[31m",
    "\u202e",
    "y" * 5000,
    [],
    {},
    [[[[]]]],
    [1] * 2000,
    {"a": {"b": 1}},
)


def mutant(data: bytes, random: np.random.Generator) -> tuple[bytes, bool]:
    """Changed bytes, and whether they are damage (and not rewritten with right sums)."""
    kind = random.choice(["flip", "bytes", "block", "cut", "grow", "move", "length", "rewrite"])
    if kind == "rewrite":
        return rewritten(data, random)
    for _ in range(int(random.integers(1, 4)) if random.random() < 0.3 else 1):
        data = DAMAGE[kind](data, random)
    return data, True


def _place(data: bytes, random: np.random.Generator) -> int:
    """A place in a file, every other time in its header."""
    end = 8 + int.from_bytes(data[:8], "little") if len(data) > 8 else len(data)
    last = min(end, len(data)) if random.random() < 0.5 else len(data)
    return int(random.integers(max(1, last)))


def flip(data: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(data)
    changed[_place(data, random)] ^= 1 << int(random.integers(8))
    return bytes(changed)


def other_bytes(data: bytes, random: np.random.Generator) -> bytes:
    start = _place(data, random)
    count = int(random.integers(1, 9))
    return data[:start] + random.bytes(count) + data[start + count :]


def block(data: bytes, random: np.random.Generator) -> bytes:
    """A stretch is zero, or ones: a sector that was lost."""
    start = _place(data, random)
    count = min(len(data) - start, int(random.choice([16, 512, 4096])))
    return data[:start] + bytes([int(random.choice([0, 255]))]) * count + data[start + count :]


def cut(data: bytes, random: np.random.Generator) -> bytes:
    start = _place(data, random)
    if random.random() < 0.5:
        return data[:start]
    return data[:start] + data[start + int(random.integers(1, 65)) :]


def grow(data: bytes, random: np.random.Generator) -> bytes:
    start = len(data) if random.random() < 0.5 else _place(data, random)
    return data[:start] + random.bytes(int(random.integers(1, 65))) + data[start:]


def move(data: bytes, random: np.random.Generator) -> bytes:
    """One stretch is copied over another."""
    count = int(random.choice([8, 64, 512]))
    source, target = _place(data, random), _place(data, random)
    piece = data[source : source + count]
    return data[:target] + piece + data[target + len(piece) :]


def length(data: bytes, random: np.random.Generator) -> bytes:
    """Another length of the header."""
    told = int(random.choice([0, 1, 2, 100, 2**20, 2**31, 2**40, len(data)]))
    return told.to_bytes(8, "little") + data[8:]


DAMAGE = {
    "flip": flip,
    "bytes": other_bytes,
    "block": block,
    "cut": cut,
    "grow": grow,
    "move": move,
    "length": length,
}


def rewritten(data: bytes, random: np.random.Generator) -> tuple[bytes, bool]:
    """A header with other values, and its sums right again where it has any."""
    start = 8 + int.from_bytes(data[:8], "little")
    values = json.loads(data[8:start])
    texts = values["__metadata__"]
    name = next(iter(texts))
    inner = json.loads(texts[name])
    for _ in range(int(random.integers(1, 4))):
        _change(inner if random.random() < 0.7 else values, random)
    if isinstance(values.get("__metadata__"), dict):
        values["__metadata__"][name] = json.dumps(inner)
    text = json.dumps(values).encode()
    text += b" " * (-len(text) % 8)
    changed = len(text).to_bytes(8, "little") + text + data[start:]
    found = re.search(rb"[0-9a-f]{64} [0-9a-f]{64}", changed[: 8 + len(text)])
    if found is None:
        return changed, True
    try:
        return header.sealed(changed.replace(found[0], b"0" * 64 + b" " + b"0" * 64, 1)), False
    except ModelError:
        return changed, True


def _change(value: Any, random: np.random.Generator) -> None:
    """Another value, one less, or one more, at a random place of a tree."""
    while isinstance(value, (dict, list)) and len(value):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = keys[int(random.integers(len(keys)))]
        inner = value[key]
        if isinstance(inner, (dict, list)) and len(inner) and random.random() < 0.85:
            value = inner
            continue
        what = random.random()
        if what < 0.15:
            del value[key]
        elif what < 0.25 and isinstance(value, dict):
            value[f"{key}{random.choice(['x', '_', ' '])}"] = value.pop(key)
        elif what < 0.4 and isinstance(inner, (int, float)) and not isinstance(inner, bool):
            value[key] = inner + int(random.choice([-1, 1]))
        else:
            value[key] = ODD_VALUES[int(random.integers(len(ODD_VALUES)))]
        return


# The process that reads ---------------------------------------------------------------------------


def read_all(reading: Reading, first: int, last: int, seed: int, small: bool) -> None:
    """Read mutants; a line of JSON before and after each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bases = reading.bases(folder, small)
        for base in bases:  # what is loaded once is there now
            _judged(reading, folder, base, base.data, True)
        for number in range(first, last):
            random = np.random.default_rng([seed, number])
            base = bases[int(random.integers(len(bases)))]
            data, damaged = (reading.mutant or mutant)(base.data, random)
            print(json.dumps({"begins": number, "base": base.name}), flush=True)
            found = _judged(reading, folder, base, data, damaged)
            print(json.dumps({"number": number, "base": base.name, **found}), flush=True)


def _judged(reading: Reading, folder: Path, base: Base, data: bytes, damaged: bool) -> dict:
    path = folder / f"mutant{base.suffix or reading.suffix}"
    path.write_bytes(data)
    before = _fresh_peak()
    start = time.process_time()
    try:
        value = reading.read(path)
        words = "same" if reading.same(value, base.value) else "other"
        if words == "other" and not damaged:
            words = "rewritten"
        text = ""
    except reading.refusals as error:
        words, text = "refused", str(error)
        if path.name not in text or not text.isprintable():
            words = "refused without a sentence"
    except BaseException as error:  # whatever else it raises is what is looked for
        words, text = "crash", f"{type(error).__name__}: {error}"
    took, grown = time.process_time() - start, _peak() - before
    faults = {
        "silent other value": words == "other",
        "crash": words == "crash",
        "no sentence": words == "refused without a sentence",
        "hang": took > SECONDS,
        "memory": grown > (reading.most_bytes or TIMES_THE_FILE * len(data) + SLACK_BYTES),
    }
    return {
        "words": words,
        "seconds": round(took, 3),
        "bytes": grown,
        "size": len(data),
        "faults": [name for name, is_so in faults.items() if is_so],
        "text": text[:300],
    }


def _fresh_peak() -> int:
    """Bytes that this process takes now, from where its peak is counted again."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    if not MEMORY.exists():
        return 0
    found = re.search(rf"{name}:\s+(\d+) kB", MEMORY.read_text())
    return 1024 * int(found[1]) if found else 0


# The process that watches -------------------------------------------------------------------------


def main(description: str, count: int, reading: Reading, script: str) -> int:
    """The command: reads its mutants, and says what came of them.

    Returns:
        The exit status: 0 where nothing was found.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--count", type=int, default=count, help=f"mutants (default {count})")
    parser.add_argument("--first", type=int, default=0, help="number of the first (default 0)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="mutants of small files only")
    parser.add_argument("--reads", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    last = options.first + options.count
    if options.reads:
        read_all(reading, options.first, last, options.seed, options.small)
        return 0
    found = watched(script, options.first, last, options.seed, options.small)
    return report(found, options.count)


def watched(script: str, first: int, last: int, seed: int, small: bool = False) -> list[dict]:
    """What became of every mutant; a process that dies or hangs is started again behind it."""
    found: list[dict] = []
    while first < last:
        process = _started(script, first, last, seed, small)
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_hand_on, args=(process, lines), daemon=True).start()
        now: dict = {"begins": first, "base": "?"}
        patience = START_SECONDS
        while True:
            try:
                line = lines.get(timeout=patience)
            except queue.Empty:
                process.kill()
                found.append({**now, "number": now["begins"], "words": "hang", "faults": ["hang"]})
                print(json.dumps(found[-1]), flush=True)
                break
            patience = GRACE_SECONDS
            if line is None:
                if process.wait() != 0 or now:
                    now = now or {"begins": first, "base": "?"}
                    died = {"words": "died", "faults": ["crash"], "text": f"exit {process.poll()}"}
                    found.append({**now, "number": now["begins"], **died})
                    print(json.dumps(found[-1]), flush=True)
                break
            told = json.loads(line)
            now = told if "begins" in told else {}
            if "number" in told:
                found.append(told)
                if told["faults"]:
                    print(json.dumps(told), flush=True)
        first = found[-1]["number"] + 1 if found else last
    return found


def _started(script: str, first: int, last: int, seed: int, small: bool) -> subprocess.Popen:
    words = ["--reads", "--first", str(first), "--count", str(last - first), "--seed", str(seed)]
    words += ["--small"] if small else []
    return subprocess.Popen(
        [sys.executable, script, *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _hand_on(process: subprocess.Popen, lines: queue.Queue) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)


def report(found: list[dict], count: int) -> int:
    words = Counter(one["words"] for one in found)
    print(f"{len(found)} of {count} mutants: " + ", ".join(f"{n} {w}" for w, n in words.items()))
    longest = max((one.get("seconds", 0) for one in found), default=0)
    beyond = max((one.get("bytes", 0) - 2 * one.get("size", 0) for one in found), default=0)
    print(f"longest {longest:.2f} s of processor time; at most {beyond / 1e6:.1f} MB beyond twice")
    print(
        "the file, Python's own objects among them" if MEMORY.exists() else "(memory not measured)"
    )
    faults = Counter(fault for one in found for fault in one["faults"])
    print("faults: " + (", ".join(f"{n} {name}" for name, n in faults.items()) or "none"))
    return 1 if faults or len(found) < count else 0
