"""The modules on real images, without the Slicer application.

They run through their own logic and a real MRML scene.

    python Testing/demo.py                  Ideal Input: a CT slice that the pydicom package
                                            carries, Dixon images simulated from it. Invariances:
                                            the same slice at a simulated low dose. MRFlow
                                            Harmonize: the MNI152 T1 brain that nilearn carries, as
                                            another scanner might have shown it
    python Testing/demo.py --data FOLDER    your own volumes (NIfTI, NRRD, MetaImage, DICOM):
                                            in_phase, fat_fraction, water_fraction and ct by file
                                            name, or any CTs, from which Dixon images are
                                            simulated; and the first brain-extracted MR, under
                                            any name, that the harmonization takes

Writes a scene that Slicer opens, figures and a table to Testing/output/demo.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "Testing")]

import host  # noqa: E402

host.start()

import slicer  # noqa: E402

from NetInversionLib.core import files as core_files  # noqa: E402
from NetInversionLib.core import scans, volumes  # noqa: E402
from NetInversionLib.core.progress import Progress  # noqa: E402
from NetInversionLib.core.results import Table  # noqa: E402
from NetInversionLib.harmonize import reading, simulated_scanners  # noqa: E402
from NetInversionLib.ideal_input import dixon  # noqa: E402
from NetInversionLib.scene import write  # noqa: E402

OUTPUT = ROOT / "Testing" / "output" / "demo"
ROLES = (*dixon.CHANNELS, "ct")
SLICES = 5  # of the user's volumes, from the middle: a demo is short
MODEL_SPACING_MM = 1.5  # the finest that the reference network was trained on
MOST = 3  # of the user's CTs, and of the MR volumes that are tried


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with your own volumes")
    parser.add_argument("--evaluations", type=int, default=150)
    options = parser.parse_args()
    try:
        cases, brains = own(options.data) if options.data else packaged()
    except ValueError as error:
        sys.exit(f"demo: {error}")
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir(parents=True)
    done = 0
    for name, case in cases:
        done += tried(show, name, case, options.evaluations)
        done += tried(find_invariances, name, case["ct"])
    for brain in brains:
        if tried(harmonize, brain):
            done += 1
            break
    if not done:
        sys.exit("demo: nothing could be computed from these volumes; the lines above say why")
    scene = save_scene()
    print(
        f"\nScene:   {scene}  (open it in Slicer: File > Add Data)\nFigures: {OUTPUT}/*.png\n"
        "Research use only, not for diagnosis."
    )


def tried(run, *arguments) -> bool:
    """Whether a run gave a result; why not is printed."""
    try:
        return run(*arguments) is not False
    except (ValueError, RuntimeError, MemoryError) as error:
        print(f"\nNo result: {error}")
        return False


def packaged():
    return [packaged_case()], [packaged_brain()]


def packaged_case():
    from pydicom.data import get_testdata_file

    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(get_testdata_file("CT_small.dcm", download=False), folder)
        ct = replace(core_files.load(folder), name="CT")
    return "vertebra", simulated(at_model_spacing(ct))


def packaged_brain() -> volumes.Volume:
    import nilearn.datasets

    folder = Path(nilearn.datasets.__file__).parent / "data"
    template = core_files.load(folder / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
    return simulated_scanners.sample(replace(template, name="MNI152 T1 brain"))


def own(folder: Path):
    """Cases (name, volumes by role) and MR volumes of a folder; what cannot be read is named.

    A case is made of four volumes that are called after their roles, else of each CT with simulated
    Dixon images; of many volumes the first are taken.

    Raises:
        ValueError: There is nothing that could be tried.
    """
    paths = own_files(folder)
    dixon_case = set(ROLES) <= set(paths)
    by_role, cts, brains = {}, {}, []
    for name, path in paths.items():
        wanted = name in ROLES if dixon_case else len(cts) < MOST
        if not wanted and len(brains) == MOST:
            continue
        try:
            volume = volumes.check(core_files.load(path))
        except ValueError as error:
            print(f"Passed over: {error}")
            continue
        if dixon_case and name in ROLES:
            by_role[name] = volume
        elif looks_like_ct(volume):
            if wanted:
                cts[name] = middle(volume)
        elif len(brains) < MOST:
            brains.append(volume)
    if not (by_role or cts or brains):
        raise ValueError(f"no volume in '{folder}' could be read")
    if len(by_role) == len(ROLES):
        ct = middle(by_role["ct"])
        aligned = {role: volumes.resample(volume, ct) for role, volume in by_role.items()}
        return [(folder.resolve().name, aligned)], brains
    return [(name, simulated(at_model_spacing(ct))) for name, ct in cts.items()], brains


def own_files(folder: Path) -> dict[str, Path]:
    """Scans by name, those called T1 first."""
    listed = scans.find(folder)
    for path, reason in listed.left_out.items():
        print(f"Passed over: {path} ({reason})")
    if not listed.scans:
        raise ValueError(f"'{folder}' holds no volumes ({', '.join(core_files.READABLE)}, DICOM)")
    names = {path: core_files.scan_name(path) for path in listed.scans}
    count = Counter(names.values())
    found = {
        name if count[name] == 1 else path.relative_to(folder).as_posix().replace("/", " "): path
        for path, name in names.items()
    }
    return dict(sorted(found.items(), key=lambda item: ("t1" not in item[0].lower(), item[0])))


def looks_like_ct(volume: volumes.Volume) -> bool:
    return volume.units == "HU" or (volume.array.min() < -500 and volume.array.max() > 200)


def middle(volume: volumes.Volume) -> volumes.Volume:
    axis = volumes.axis_toward(volume, "S")[0]
    region = [bound for size in volume.shape for bound in (0, size)]
    size = volume.shape[axis]
    first = max(0, (size - SLICES) // 2)
    region[2 * axis : 2 * axis + 2] = first, min(size, first + SLICES)
    return volumes.crop(volume, tuple(region))


def at_model_spacing(ct: volumes.Volume) -> volumes.Volume:
    """``ct`` with in-plane voxels of at least the finest size that the network knows."""
    import numpy as np

    axis = 2 - volumes.axis_toward(ct, "S")[0]
    spacing = np.array(ct.spacing_mm)
    wanted = np.where(np.arange(3) == axis, spacing, np.maximum(spacing, MODEL_SPACING_MM))
    if np.allclose(spacing, wanted):
        return ct
    matrix = ct.ijk_to_ras.copy()
    matrix[:3, :3] *= wanted / spacing
    size = np.maximum(1, np.floor(np.array(ct.shape[::-1]) * spacing / wanted)).astype(int)
    grid = volumes.Volume(np.zeros(size[::-1], np.uint8), matrix, ct.name)
    return volumes.resample(ct, grid)


def simulated(ct: volumes.Volume) -> dict[str, volumes.Volume]:
    return {**dixon.simulate_dixon(ct), "ct": ct}


def show(name: str, case: dict[str, volumes.Volume], evaluations: int) -> None:
    """Put the case into the scene, run the module's logic on it, and show what came out.

    The table is printed and the figures are drawn.
    """
    nodes = {
        role: write.volume_to_node(
            volume, f"{name} {volume.name}", role="ct" if role == "ct" else "input"
        )
        for role, volume in case.items()
    }
    host.load_module("IdealInput")
    from IdealInput import IdealInputLogic  # as in Slicer's Python console

    logic = IdealInputLogic()
    began = time.perf_counter()
    output = logic.run(
        {role: nodes[role] for role in dixon.CHANNELS},
        nodes["ct"],
        progress=Lines(),
        starts=["patient", "zeros", "noise"],
        max_evaluations=evaluations,
        knobs=len(case["ct"].array) == 1,
    )
    print(
        f"\n{name}: {output.facts['grid']}, {time.perf_counter() - began:.0f} s, Dixon images "
        f"{'simulated from the CT' if 'simulated' in case['in_phase'].name else 'your own'}"
    )
    print_table(
        output.result.tables["error"],
        columns=(
            "input",
            "MAE everything (HU)",
            "share of the patient's own error (%)",
            "values outside [0, 1] (%)",
        ),
    )
    for table in ("swap back", "acquirable"):
        if table in output.result.tables:
            print_table(output.result.tables[table])
    for start in ("patient", "zeros", "noise"):
        keys = [f"{kind} {role} {start}" for kind in ("ideal", "change") for role in dixon.CHANNELS]
        host.render_slice_views(
            OUTPUT / f"{name} from {start}.png",
            [*(nodes[role] for role in dixon.CHANNELS), *(output.nodes[key] for key in keys)],
            columns=3,
        )
    keys = ["output ct own", "error ct own", "output ct patient", "error ct patient"]
    host.render_slice_views(
        OUTPUT / f"{name} synthetic CT.png", [nodes["ct"], *(output.nodes[key] for key in keys)]
    )
    for key, chart in output.charts.items():
        host.render_plot(chart, OUTPUT / f"{name} {key}.png")
    logic.saveReport(output.nodes, OUTPUT / f"{name} ideal input.html")


def find_invariances(name: str, ct: volumes.Volume) -> bool:
    """Simulate a low-dose CT, look for what may change in its middle slice unnoticed.

    The maps and samples are drawn.
    """
    host.load_module("Invariances")
    from Invariances import InvariancesLogic  # as in Slicer's Python console

    logic = InvariancesLogic()
    if not logic.models():
        print("\nInvariances: no denoiser is there.")
        return False
    normal = write.volume_to_node(ct, f"{name} CT, normal dose", role="ct")
    low, middle = logic.simulateLowDose(normal), ct.shape[0] // 2
    region = (
        middle,
        middle + 1,
        *(bound for n in ct.shape[1:] for bound in (max(0, n // 2 - 48), min(n, n // 2 + 48))),
    )
    output = logic.run(
        low, progress=Lines(), proposals=["cinn"], samples=64, projected=8, region=region
    )
    print_table(
        output.result.tables["proof"],
        columns=(
            "slice",
            "accepted (%)",
            "input change before (HU)",
            "input change after (HU)",
            "survived (%)",
        ),
    )
    print_table(output.result.tables["bands"])
    images = [
        output.nodes[key]
        for key in ("output", "vae floor", "std unproven", "std proven")
        if key in output.nodes
    ]
    host.render_slice_views(OUTPUT / f"{name} invariances.png", [normal, low, *images], columns=3)
    logic.saveReport(output.nodes, OUTPUT / f"{name} invariances.html")
    return True


def harmonize(brain: volumes.Volume) -> bool:
    """Put the brain into the scene and harmonize it; False without an image.

    What changed is printed, the figures are drawn and the report is written.
    """
    host.load_module("MRFlowHarmonize")
    from MRFlowHarmonize import MRFlowHarmonizeLogic  # as in Slicer's Python console

    logic = MRFlowHarmonizeLogic()
    model = next(
        (path for path, card in logic.models().items() if card.arguments["corrector"]), None
    )
    if model is None:
        print("\nMRFlow Harmonize: no model is there that can harmonize.")
        return False
    source = write.volume_to_node(brain, role="input")
    began = time.perf_counter()
    output = logic.run(source, model=model, progress=Lines())
    print(
        f"\n{brain.name}: {output.facts['grid']}, {time.perf_counter() - began:.0f} s,"
        f" {reading.verdict_text(output.facts)}"
    )
    if "harmonized" not in output.nodes:
        return False
    for table in ("summary", "verdict"):
        if table in output.result.tables:
            columns = ("check", "value", "from", "to", "passed") if table == "verdict" else None
            print_table(output.result.tables[table], columns, digits=3)
    images = [
        output.nodes[key]
        for key in ("harmonized", "change", "multiplicative field")
        if key in output.nodes
    ]
    host.render_slice_views(OUTPUT / "harmonized.png", [source, *images], columns=2)
    for key, chart in output.charts.items():
        host.render_plot(chart, OUTPUT / f"harmonized {key}.png")
    logic.saveReport(output.nodes, OUTPUT / "harmonized.html")
    return True


def print_table(table: Table, columns=None, digits: int = 2) -> None:
    names = list(columns or table.columns)
    rows = [
        names,
        *zip(
            *(
                [f"{v:.{digits}f}" if isinstance(v, float) else str(v) for v in table.columns[n]]
                for n in names
            )
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*rows)]
    print(f"\n{table.title}")
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def save_scene() -> Path:
    path = OUTPUT / "NetInversion demo.mrb"
    if not slicer.mrmlScene.WriteToMRB(str(path), None):
        sys.exit(f"demo: could not write {path}; is the disk full?")
    return path


class Lines(Progress):
    """Progress as lines on the terminal, one for each tenth."""

    shown = -1

    def report(self, fraction, message):
        if int(10 * fraction) > self.shown:
            self.shown = int(10 * fraction)
            print(f"{100 * fraction:3.0f} %  {message}", flush=True)

    def log(self, message):
        print(f"       {message}", flush=True)


if __name__ == "__main__":
    main()
