"""Draws the pictures of the README and the tutorial.

They show the panel, the views and the plots of a run on real images.

    make screenshots
    python Testing/screenshots.py MRFlowHarmonize       of one module only
    python Testing/screenshots.py --first               only the first click of each

The first picture of a module shows its first click: Sample Data, the module, Apply, and nothing
else. The seconds from there to the result shown are printed, and more than 120 are a failure.

MRFlow Harmonize: the MNI152 T1 brain that nilearn carries, as another scanner might have shown it,
which is also the module's sample. Ideal Input: a CT with femoral heads in the folder
NETINVERSION_DATA (or ../shared/data), with Dixon images simulated from it; else the CT slice in
pydicom's test files. The network is the one that was not trained on that person. Invariances: a
slice of the chest CT in the same folder, which no shipped model was trained on, with low dose
simulated; else pydicom's slice.

All pictures go to Testing/output, those of the tutorial (of the real CTs in that folder) to
Resources/Screenshots as well.
"""

import os
import re
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT)]
_alone = (
    tempfile.TemporaryDirectory()
)  # a folder that holds this network only, so that the panel offers it first
shutil.copy(ROOT / "Testing" / "models" / "synthetic-ct-without-pelvis.safetensors", _alone.name)
os.environ["NETINVERSION_MODELS"] = os.pathsep.join(
    [_alone.name, os.environ.get("NETINVERSION_MODELS", "")]
)

import host  # noqa: E402

host.start()

import numpy as np  # noqa: E402
import slicer  # noqa: E402
from host import plots  # noqa: E402
from PIL import Image  # noqa: E402
from PySide6 import QtCore, QtGui  # noqa: E402

from NetInversionLib.core import files, volumes  # noqa: E402
from NetInversionLib.panel import placing, views  # noqa: E402
from NetInversionLib.scene import write  # noqa: E402

OUTPUT = ROOT / "Testing" / "output"
CHOSEN = ROOT / "Resources" / "Screenshots"
DOCS = ROOT / "Resources" / "Docs"
DATA = Path(os.environ.get("NETINVERSION_DATA", ROOT.parent / "shared" / "data")) / "ct"
if DATA.is_dir():
    os.environ["NETINVERSION_DATA"] = str(DATA.parent)  # Ideal Input's sample is made of it
VIEW = (400, 300)
TALL, TITLE = 400, 22  # width of a view beside the panel, height of its title
EVALUATIONS = 150


LONGEST = 120.0  # seconds from the first Apply to the result shown, on two cores


# What every module has


def first_click(name):
    """Sample Data, the module, Apply, and nothing else: (the panel, the result's nodes).

    It says how long that took.

    The picture NAME.png shows it, NAME-before.png and NAME-running.png the panel on the way.
    """
    import SampleData

    sample, wanted, progress = FIRST[name]
    host.load_module(name)
    SampleData.press(sample)
    widget = host.open_module(name)
    host.grab(widget.parent, OUTPUT / f"{name}-before.png")
    before = worked()
    nodes, seconds = run(widget, wanted, progress)
    print(
        f"{name}: {seconds:.0f} s from the first Apply to the result shown ({worked() - before:.0f}"
        " s of processor time)"
    )
    draw_beside(widget, nodes, CHARTS.get(name, ()))
    LATE.extend([f"{name}: {seconds:.0f} s"] if seconds > LONGEST else [])
    return widget, nodes


def worked():
    """Seconds of processor time of this program and of workers that have ended.

    A busy machine does not change them much.
    """
    parts = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in parts)


LATE = []  # modules whose first click took too long


def run(widget, wanted, progress, name=None):
    """Press Apply and wait for the end: (the result's nodes, seconds).

    Pictures show the panel on the way and after.

    ``name``: how the pictures' names begin, the module's own by default; ``wanted``: key of a node
    that the result has; ``progress``: of 1000, when the picture on the way is taken.
    """
    name = name or widget.moduleName
    began = time.monotonic()
    widget.ui.applyButton.click()
    host.wait(
        lambda: widget._going is None or widget.ui.progressBar.value > progress,
        1800,
        "A part of the run",
    )
    host.grab(widget.parent, OUTPUT / f"{name}-running.png")
    host.wait(lambda: widget._going is None, 1800, "The run")
    seconds = time.monotonic() - began
    host.wait(lambda: True)
    host.grab(widget.parent, OUTPUT / f"{name}-after.png")
    nodes = widget.logic.resultNodes(widget._parameterNode.run)
    if wanted not in nodes:
        raise SystemExit("The run failed:\n" + widget.ui.logText.toPlainText())
    return nodes, seconds


def draw_beside(widget, nodes, charts=()):
    """Panel and views as they stand side by side in Slicer.

    The layout's slice views stand in rows of three, then the charts with these keys, which lie
    behind no tabs, and the table.
    """
    name = widget.moduleName
    panel = QtGui.QImage(str(OUTPUT / f"{name}-after.png"))
    shown = [tag for tag in slicer.views.slice_views_of_layout() if tag not in BEHIND_TABS]
    below = [nodes[key] for key in charts] + [
        slicer.mrmlScene.GetNodeByID(
            slicer.mrmlScene.GetSingletonNode(
                f"{name}Table", "vtkMRMLTableViewNode"
            ).GetTableNodeID()
        )
    ]
    rows = -(-(len(shown) + len(below)) // 3)
    cell = (TALL, max(panel.height() // rows, 300) - TITLE)
    for tag in shown:
        slicer.app.layoutManager().sliceWidget(tag).sliceLogic().ResizeSliceNode(*cell)
    widget.showResult()  # in views of this size
    host.render_slice_views(OUTPUT / f"{name}-views.png", shown, size=cell, columns=3)
    views = QtGui.QImage(str(OUTPUT / f"{name}-views.png"))
    left, step = panel.width() + 6, (TALL + 4, cell[1] + plots_below())
    sheet = QtGui.QImage(
        left + 3 * step[0] - 4,
        max(panel.height(), rows * step[1]),
        QtGui.QImage.Format.Format_RGB32,
    )
    sheet.fill(QtGui.QColor("#303030"))
    painter = QtGui.QPainter(sheet)
    painter.fillRect(0, 0, panel.width(), sheet.height(), panel.pixelColor(2, 2))
    painter.drawImage(0, 0, panel)
    painter.drawImage(left, 0, views)
    for place, node in enumerate(below, 3 * rows - len(below)):
        rect = QtCore.QRect(left + place % 3 * step[0], place // 3 * step[1], TALL, step[1] - 4)
        (plots.draw_chart if node.IsA("vtkMRMLPlotChartNode") else plots.draw_table)(
            painter, rect, node
        )
    painter.end()
    sheet.save(str(OUTPUT / f"{name}.png"))


def plots_below():
    """Pixels of a row beside its views: their bar, and what keeps them apart."""
    return host.rendering.BAR + 4


BEHIND_TABS = ("InvariancesFloor",)
CHARTS = {"MRFlowHarmonize": ("histograms", "tone curve")}


# Ideal Input


def real_ct():
    """(volume, options of the sample, whether it is the one of the tutorial)."""
    path = DATA / "pelvis.nii.gz"
    if path.is_file():
        pelvis = volumes.reorient(files.load(path), "LPS")
        femoral_heads = volumes.crop(pelvis, (9, 27, 0, pelvis.shape[1], 0, pelvis.shape[2]))
        return femoral_heads, {"slices": 3}, True
    return small_ct(), {"slices": 1, "spacing_mm": 1.5}, False


def small_ct():
    """The slice of pydicom's test files."""
    from pydicom.data import get_testdata_file

    one_file = OUTPUT / "dicom"
    one_file.mkdir(parents=True, exist_ok=True)
    shutil.copy(get_testdata_file("CT_small.dcm"), one_file)
    return files.load(one_file)


def draw_results(widget, nodes):
    """The images by start, the outputs, the plots."""
    for role in ("in_phase", "fat_fraction", "water_fraction"):
        images = [
            {"background": widget._selectors[role].currentNode(), "title": "Patient (simulated)"}
        ] + [
            {"background": nodes[f"ideal {role} {start}"], "title": f"Ideal from {start}"}
            for start in ("patient", "zeros", "noise")
        ]
        host.render_slice_views(OUTPUT / f"IdealInput-starts-{role}.png", images, size=(270, 240))
    target = widget._selectors["ct"].currentNode()
    window = nodes["output ct patient"].GetDisplayNode()
    target.GetDisplayNode().SetAutoWindowLevel(0)
    target.GetDisplayNode().SetWindowLevelMinMax(
        window.GetWindowLevelMin(), window.GetWindowLevelMax()
    )
    host.render_slice_views(
        OUTPUT / "IdealInput-outputs.png",
        [
            {"background": target, "title": "Target: CT"},
            {"background": nodes["output ct own"], "title": "Synthetic CT, patient's input"},
            {"background": nodes["output ct patient"], "title": "Synthetic CT, ideal input"},
        ],
        size=VIEW,
    )
    for name in ("convergence", "spectrum patient"):
        host.render_plot(nodes[name], OUTPUT / f"IdealInput-{name.split()[0]}.png", (560, 340))


def draw_thumbnail(widget):
    """The sample's picture in the Sample Data module.

    It shows the simulated in-phase image on the left, the CT on the right.
    """
    halves = []
    for role, low, high in (("in_phase", 0, 1300), ("ct", -200, 500)):
        image = slicer.util.arrayFromVolume(widget._selectors[role].currentNode())[0]
        halves.append(np.clip(255 * (image - low) / (high - low), 0, 255).astype(np.uint8))
    middle = halves[0].shape[1] // 2
    pixels = np.ascontiguousarray(np.hstack([halves[0][:, :middle], halves[1][:, middle:]]))
    picture = QtGui.QImage(
        pixels.data, *pixels.shape[::-1], pixels.shape[1], QtGui.QImage.Format.Format_Grayscale8
    )
    sheet = QtGui.QImage(280, 260, QtGui.QImage.Format.Format_Grayscale8)
    sheet.fill(0)
    smooth = QtCore.Qt.TransformationMode.SmoothTransformation
    picture = picture.scaled(280, 260, QtCore.Qt.AspectRatioMode.KeepAspectRatio, smooth)
    painter = QtGui.QPainter(sheet)
    painter.drawImage(0, (260 - picture.height()) // 2, picture)
    painter.end()
    sheet.save(str(ROOT / "IdealInput" / "Resources" / "Icons" / "IdealInputSample.png"))


# What the tutorial shows of each table: its columns, and only the rows that have these words in
# these columns.
SHOWN = {
    "error": (
        ("input", "MAE everything (HU)", "MAE bone (HU)", "MAE soft tissue (HU)", "MAE fat (HU)"),
        {},
    ),
    "change": (
        (
            "channel",
            "tissue",
            "mean change (normalised)",
            "gradient-energy ratio",
            "correlation with the patient's own",
        ),
        {"start": ["the patient's images"], "tissue": ["bone", "soft tissue"]},
    ),
    "swap back": (
        ("channel put back", "MAE (HU)", "share of the gain lost (%)"),
        {"start": ["the patient's images"]},
    ),
    "validity": (("input", "MAE (HU)"), {}),
}


def markdown(table, columns, only) -> str:
    """Some columns (or all) and rows of a table node as Markdown."""
    headings = [table.GetColumnName(c) for c in range(table.GetNumberOfColumns())]
    columns = columns or headings
    cells = [
        dict(zip(headings, (table.GetCellText(row, c) for c in range(len(headings)))))
        for row in range(table.GetNumberOfRows())
    ]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in cells:
        if all(row[column] in words for column, words in only.items()):
            lines.append("| " + " | ".join(_rounded(row[column]) for column in columns) + " |")
    return "\n".join(lines)


def _rounded(text):
    if text == "nan":
        return ""
    try:
        return f"{float(text):.3g}" if abs(float(text)) < 1000 else f"{float(text):.0f}"
    except ValueError:
        return text.replace("_", " ")


def print_tables(nodes, shown, page=None):
    """The numbers beside the pictures.

    They go into the tutorial too, between <!-- name --> and <!-- /name -->.
    """
    text = page.read_text() if page else ""
    for key, (columns, only) in shown.items():
        table = markdown(nodes[key], columns, only)
        print(f"\n{nodes[key].GetName()}\n{table}")
        text = re.sub(
            rf"(<!-- {key} -->\n).*?(<!-- /{key} -->)",
            lambda m, t=table: f"{m[1]}{t}\n{m[2]}",
            text,
            flags=re.S,
        )
    if page:
        page.write_text(text)


def publish(source, target):
    """A small copy: 128 greys for the images and 128 colours for the rest.

    They are the colours that cover the rest best, without dithering.
    """
    image = Image.open(source).convert("RGB")
    colours = image.quantize(128, Image.Quantize.MAXCOVERAGE).getpalette()[: 3 * 128]
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours + [level for grey in range(0, 256, 2) for level in 3 * [grey]])
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(target, optimize=True)


def ideal_input():
    widget, nodes = first_click("IdealInput")
    slicer.mrmlScene.Clear(0)
    ct, options, chosen = real_ct()
    widget.logic.addSample(ct, **options)
    widget.initializeParameterNode()
    widget.ui.regionSelector.setCurrentIndex(0)  # all slices, not only the displayed one
    widget.ui.startZerosCheckBox.checked = True
    widget.ui.startNoiseCheckBox.checked = True
    widget.ui.evaluationsSpinBox.value = EVALUATIONS
    widget.ui.presetSelector.setCurrentIndex(1)  # free: the tutorial explains what it finds
    nodes, _seconds = run(widget, "error", 600, "IdealInput-detailed")
    draw_results(widget, nodes)
    print_tables(nodes, SHOWN, DOCS / "IdealInput.md" if chosen else None)
    if not chosen:
        return []
    draw_thumbnail(widget)
    return [
        "IdealInput",
        "IdealInput-before",
        "IdealInput-running",
        "IdealInput-outputs",
        "IdealInput-starts-in_phase",
        "IdealInput-starts-fat_fraction",
        "IdealInput-spectrum",
    ]


# MRFlow Harmonize

HARMONIZED = {
    "summary": (
        (
            "image",
            "Wasserstein distance to the target",
            "bits/dim",
            "contrast white/grey",
            "contrast grey/CSF",
            "edge agreement with the source",
        ),
        {},
    ),
    "baselines": (
        (
            "method",
            "Wasserstein distance to the target",
            "bits/dim",
            "contrast white/grey",
            "edge agreement with the source",
        ),
        {},
    ),
}


def keep_template_here():
    """Have the sample made of the file that nilearn carries.

    It is the one that Sample Data downloads.
    """
    import nilearn.datasets

    file = (
        Path(nilearn.datasets.__file__).parent
        / "data"
        / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    )
    host.load_module("MRFlowHarmonize")
    from NetInversionLib.panel import samples

    samples.downloaded = lambda name: files.load(file)


def harmonize():
    keep_template_here()
    widget, nodes = first_click("MRFlowHarmonize")
    source = widget.logic.sourceOf(nodes)
    models = [
        str(path) for path, card in widget.logic.models().items() if card.arguments["corrector"]
    ]
    if not models:
        raise SystemExit("No model is there that can harmonize.")
    widget.ui.modelSelector.setCurrentIndex(widget.ui.modelSelector.findData(models[0]))
    widget.ui.baselinesCheckBox.checked = True
    nodes, _seconds = run(widget, "harmonized", 300, "MRFlowHarmonize-detailed")
    for key in ("multiplicative field", "additive field"):
        views.show_legend(nodes[key])
    host.render_slice_views(
        OUTPUT / "MRFlowHarmonize-fields.png",
        [
            {
                "background": nodes["harmonized"],
                "foreground": nodes[key],
                "foreground_opacity": 0.7,
                "title": title,
            }
            for key, title in (
                ("multiplicative field", "Field that multiplies"),
                ("additive field", "Field that is added"),
                ("change", "Change over the result"),
            )
        ],
        size=(300, 300),
    )
    for name in ("histograms", "tone curve"):
        host.render_plot(
            nodes[name], OUTPUT / f"MRFlowHarmonize-{name.replace(' ', '-')}.png", (560, 340)
        )
    print_tables(nodes, HARMONIZED, DOCS / "MRFlowHarmonize.md")
    widget.logic.saveReport(nodes, OUTPUT / "MRFlowHarmonize-report.html")
    print(source.GetName(), widget.logic.facts(nodes)["verdict"])
    return [
        "MRFlowHarmonize",
        "MRFlowHarmonize-before",
        "MRFlowHarmonize-fields",
        "MRFlowHarmonize-histograms",
        "MRFlowHarmonize-tone-curve",
    ]


# Invariances

PROVEN = {
    "proof": (
        ("accepted (%)", "input change before (HU)", "input change after (HU)", "survived (%)"),
        {},
    ),
    "bands": ((), {}),
    "components": ((), {}),
    "lesions": ((), {}),
    "spectrum": ((), {}),
}
ROI_VOXELS = 126


def invariances():
    chosen = (DATA / "chest_b40f.nii.gz").is_file()
    ct = volumes.reorient(files.load(DATA / "chest_b40f.nii.gz") if chosen else small_ct(), "LPS")
    middle = ct.shape[0] // 2
    ct = volumes.crop(ct, (middle, middle + 1, 0, ct.shape[1], 0, ct.shape[2]))
    first_click("Invariances")
    slicer.mrmlScene.Clear(0)
    widget = host.open_module("Invariances")
    node = widget._parameterNode
    node.normalDose = write.volume_to_node(ct, "Chest CT" if chosen else "CT", role="ct")
    widget.ui.simulateButton.click()
    node.region = node.region.ROI
    node.roiNode, node.lesionNode = marks(ct)
    node.spectrum = True
    nodes, _seconds = run(widget, "std proven", 300, "Invariances-detailed")
    draw_maps(nodes)
    for name in ("detectability", "gains"):
        host.render_plot(nodes[name], OUTPUT / f"Invariances-{name}.png", (560, 340))
    print_tables(
        nodes,
        {key: columns for key, columns in PROVEN.items() if key in nodes},
        DOCS / "Invariances.md" if chosen else None,
    )
    return (
        [
            "Invariances",
            "Invariances-before",
            "Invariances-running",
            "Invariances-maps",
            "Invariances-detectability",
            "Invariances-gains",
        ]
        if chosen
        else []
    )


OWN_CODE = """
import torch
from torch import nn


class MyNet(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x):
        return x + self.last(torch.relu(self.first(x)))
"""


def own_network():
    """The form that adds a network, and the panel with it; the network is a small random one."""
    import torch

    folder = Path(tempfile.gettempdir()) / "my_networks"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.environ["NETINVERSION_SETTINGS"] = str(folder / "settings")
    (folder / "my_net.py").write_text(OWN_CODE)
    shapes = {"first": (8, 1, 3, 3), "last": (1, 8, 3, 3)}
    state = {f"{name}.weight": 0.1 * torch.randn(shape) for name, shape in shapes.items()}
    state |= {f"{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}
    torch.save(state, folder / "my_net.pt")
    widget = host.open_module("IdealInput")
    selector = widget.ui.modelSelector
    selector.setCurrentIndex(selector.findText("Add a network..."))
    form = widget.addNetwork
    form.fileEdit.currentPath = str(folder / "my_net.pt")
    form.codeEdit.currentPath = str(folder / "my_net.py")
    form.classEdit.text = "MyNet"
    form.inputsEdit.text, form.outputsEdit.text = "T1-weighted", "CT (HU) -1000..2000"
    form.takenSelector.setCurrentIndex(form.takenSelector.findData("z-score"))
    form.givenSelector.setCurrentIndex(form.givenSelector.findData("unit"))
    form.trustCheckBox.checked = True
    form.addButton.click()
    host.wait(lambda: form.useButton.isVisibleTo(form.dialog), 300, "The import")
    host.grab(form.dialog, OUTPUT / "OwnNetwork-form.png")
    form.useButton.click()
    host.grab(widget.parent, OUTPUT / "OwnNetwork-panel.png")
    host.unload_module("IdealInput")  # which is opened anew for its own pictures
    shutil.rmtree(folder)
    return ["OwnNetwork-form", "OwnNetwork-panel"]


EXAMPLE = "Example: Deep cascade"


def examples():
    """Both panels with an example, its sample and the answer; the person was not trained on."""
    wanted = {
        "IdealInput": ("error", ("convergence",)),
        "Invariances": ("hallucination", ("answers",)),
    }
    for name, (key, charts) in wanted.items():
        widget = host.open_module(name)
        selector = widget.ui.modelSelector
        texts = [selector.itemText(place) for place in range(selector.count)]
        chosen = next(place for place, text in enumerate(texts) if text.startswith(EXAMPLE))
        selector.setCurrentIndex(chosen)
        nodes, seconds = run(widget, key, 300)
        print(f"{name}, {EXAMPLE}: {seconds:.0f} s from Apply to the result shown")
        draw_beside(widget, nodes, charts)
        shutil.move(OUTPUT / f"{name}.png", OUTPUT / f"Examples-{name}.png")
        host.unload_module(name)
        slicer.mrmlScene.Clear(0)
    return [f"Examples-{name}" for name in wanted]


def marks(ct):
    """A region of interest around the middle of a one-slice CT's body, and its middle point."""
    j, i = np.argwhere(ct.array[0] > -500).mean(0)
    region = [0, 1]
    for centre, size in zip((j, i), ct.shape[1:]):
        half = min(ROI_VOXELS, size) // 2
        region += [round(centre) - half, round(centre) + half]
    roi = placing.place_box(None, "Region", ct, tuple(region))
    point = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Lesion")
    point.AddControlPoint((ct.ijk_to_ras @ [i, j, 0, 1])[:3])
    return roi, point


def draw_maps(nodes):
    """What was asked about, the share of the changes that survived, and both maps over the CT."""
    patient = nodes["patient"]
    maps = {
        "share survived": "Share that survived",
        "std unproven": "Unproven",
        "std proven": "Proven",
    }
    views.show_legend(nodes["share survived"])  # the panel shows the other two itself
    host.render_slice_views(
        OUTPUT / "Invariances-maps.png",
        [
            {"background": patient, "title": "Low dose (simulated)"},
            {"background": nodes["output"], "title": "Denoised"},
            *(
                {
                    "background": patient,
                    "foreground": nodes[key],
                    "foreground_opacity": 0.7,
                    "title": title,
                }
                for key, title in maps.items()
            ),
        ],
        size=(300, 300),
        columns=3,
    )


FIRST = {
    "IdealInput": ("IdealInputDixon", "error", 600),
    "MRFlowHarmonize": ("MRFlowHarmonizeBrain", "harmonized", 300),
    "Invariances": ("InvariancesLowDoseCT", "std proven", 300),
}  # sample, a key of the result, when it is half done
# One's own network comes first: its panel is to show no earlier run.
MODULES = {
    "OwnNetwork": own_network,
    "IdealInput": ideal_input,
    "MRFlowHarmonize": harmonize,
    "Invariances": invariances,
    "Examples": examples,
}


def main():
    CHOSEN.mkdir(parents=True, exist_ok=True)
    names = [name for name in sys.argv[1:] if name != "--first"]
    for name in names or MODULES:
        if "--first" in sys.argv and name in FIRST:
            if name == "MRFlowHarmonize":
                keep_template_here()
            first_click(name)
            published = [name, f"{name}-before", f"{name}-running"]
        else:
            published = MODULES[name]()
        if host.errors:
            raise SystemExit("\n".join(host.errors))
        for picture in published:
            publish(OUTPUT / f"{picture}.png", CHOSEN / f"{picture}.png")
        slicer.mrmlScene.Clear(0)
        print(f"\nPictures of {name} are in {OUTPUT}" + (f" and {CHOSEN}" if published else ""))
    if LATE:
        raise SystemExit(f"The first click took longer than {LONGEST:.0f} s: {', '.join(LATE)}")


if __name__ == "__main__":
    main()
