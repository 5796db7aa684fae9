"""What a scanner's settings buy of the free-voxel gain, and in what time, on one held-out region.

"Free" is the search of that name. Beside the table: the best protocol and whether bone must be
enhanced, in words, and the plot of error against scan time (Testing/output/protocol.png).

python Testing/benchmarks/protocol.py [--person pelvis] [--evaluations 100]
"""

from __future__ import annotations

import argparse
import time

import common

from NetInversionLib.core import figures
from NetInversionLib.ideal_input import ideal_input
from NetInversionLib.ideal_input.settings import PRESETS, Settings


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--person", choices=common.PEOPLE, default="pelvis")
    parser.add_argument("--evaluations", type=int, default=100)
    options = parser.parse_args()
    volumes, body = common.case_volumes(options.person)
    settings = Settings(
        **PRESETS["free"],
        max_evaluations=options.evaluations,
        region=common.regions(body, 1)[0],
        context=0,
        validity=False,
    )
    began = time.perf_counter()
    result = ideal_input(volumes, {"network": common.held_out_model(options.person)}, settings)
    seconds = time.perf_counter() - began
    columns = result.tables["acquirable"].columns
    facts = result.facts
    lines = [f"{options.person}, {seconds:.0f} s in all. {facts['protocol']}", ""]
    lines += [facts.get("bone", "There is no bone in this region."), ""]
    lines += ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in zip(*columns.values()):
        cells = [f"{cell:.3g}" if isinstance(cell, float) else cell for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    words = {key: facts[key] for key in ("protocol", "bone") if key in facts}
    common.write("protocol", {"columns": columns, "seconds": seconds, **words}, lines)
    picture = figures.plot(result.curves["scan time"])
    (common.OUTPUT / "protocol.png").write_bytes(picture)


if __name__ == "__main__":
    main()
