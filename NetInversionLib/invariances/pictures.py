"""Pictures of invariances for their report: maps, samples, components, a lesion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..core import figures, volumes
from ..core import page as core_page
from ..core.figures import Box, Picture, Scale
from ..core.keys import SECOND, Key
from ..core.results import Result
from ..core.volumes import Region, Volume

NETWORKS = {"": "", SECOND: "second denoiser"}
"""Of the result's keys, as ``invariances.invariances`` makes them, with what they stand for."""
CONTEXT_VOXELS = 12  # around the region in the pictures
AIR_AND_LUNG_HU = -300.0
LESION_MM = 30.0  # half the side of the pictures of a lesion
SHOWN_COMPONENTS = 3
SMALL = 0.6  # regions below this share of the slice are shown on the whole of it, too


@dataclass(frozen=True)
class Shown:
    """The images of one denoiser by key without network, axes LPS.

    It knows the slice, the region, and what of it is shown.
    """

    result: Result
    network: str
    facts: Mapping
    images: Mapping[str, Volume]
    index: int
    region: Region
    box: Box
    grey: Scale

    @classmethod
    def of(cls, result: Result, network: str, facts: Mapping) -> Shown:
        """The slice inside the region with the largest standard deviation.

        It is of the denoiser whose keys have this network.
        """
        own: dict[str, Volume] = {
            Key.read(key).of(""): volume
            for key, volume in result.volumes.items()
            if Key.read(key).network == network
        }
        images = {key: volumes.reorient(volume, "LPS") for key, volume in own.items()}
        region = figures.inside(own["patient"], facts["settings"].get("region"))
        k0, k1, j0, j1, i0, i1 = region
        scores = np.zeros(k1 - k0)
        for key in ("std unproven", "std proven"):
            means = (
                images[key].array[k0:k1, j0:j1, i0:i1].mean(axis=(1, 2))
                if key in images
                else scores
            )
            scores = means if means.max() > 0 else scores
        index = k0 + int(np.argmax(scores))
        shape = images["patient"].shape
        calm = images.get("output", images["patient"]).array[index, j0:j1, i0:i1]
        return cls(
            result,
            network,
            facts,
            images,
            index,
            region,
            figures.box_of(region, figures.AXIAL, shape, CONTEXT_VOXELS),
            _window(calm),
        )

    def whole(self, key: str) -> figures.Slice:
        """The whole slice of an image."""
        return figures.cut(self.images[key], figures.AXIAL, self.index)

    def slice(self, key: str) -> figures.Slice:
        """The part that is shown of an image."""
        return self.whole(key).cropped(self.box)

    def values(self, key: str) -> np.ndarray:
        """An image's values in the region, [j, i]."""
        k0, k1, j0, j1, i0, i1 = self.region
        return self.images[key].array[self.index, j0:j1, i0:i1]

    @property
    def place(self) -> Box:
        """The region within the whole slice."""
        return figures.box_of(self.region, figures.AXIAL, self.images["patient"].shape)

    @property
    def frame(self) -> Box | None:
        """The region within what is shown, unless it is all of it."""
        inner = self.place
        if inner == self.box:
            return None
        return (
            inner[0] - self.box[0],
            inner[1] - self.box[0],
            inner[2] - self.box[2],
            inner[3] - self.box[2],
        )

    def key(self, *names: str) -> str | None:
        """The first of these keys that there is."""
        return next((name for name in names if name in self.images), None)

    def first(self, kind: str) -> str | None:
        """The image of a kind that is shown first.

        Of a scene it is the one that its browser shows ("samples"), of a fresh result the first one
        ("sample 1").
        """
        return self.key(f"{kind}s") or next(iter(self.numbered(kind)), None)

    def numbered(self, kind: str) -> list[Key]:
        """The keys of the images of a kind ("sample") that have numbers, rising."""
        found = {key.number: key for key in map(Key.read, self.images) if key.kind == kind}
        return [found[number] for number in sorted(n for n in found if n is not None)]

    def curve(self, key: str) -> str:
        """A curve of this denoiser, drawn."""
        curve = self.result.curves.get(Key(key, network=self.network))
        return core_page.picture(figures.plot(curve), curve.title) if curve is not None else ""


def maps(one: Shown) -> str:
    """Low dose, denoised, and both maps over the CT."""
    first = [Picture(one.slice("patient"), "Low dose", one.grey, box=one.frame)]
    whole, box = one.whole("patient"), one.place
    if (box[1] - box[0]) * (box[3] - box[2]) < SMALL * whole.array.size:
        first.insert(0, Picture(whole, "Low dose, the whole slice", one.grey, box=box))
    if "output" in one.images:
        first.append(Picture(one.slice("output"), "Denoised", one.grey, box=one.frame))
    keys = [key for key in ("std unproven", "std proven") if key in one.images]
    if not keys:
        return core_page.picture(figures.sheet([first]), "low dose and denoised image", _where(one))
    top = figures.reach(np.concatenate([one.values(key).ravel() for key in keys]))
    titles = {
        "std unproven": "Unproven: what was tried",
        "std proven": "Proven: what goes unnoticed",
    }
    second = [_over(one, key, titles[key], top) for key in keys]
    if "std proven" in one.images and one.values("std proven").any():
        second.append(
            _over(
                one,
                "std proven",
                "Proven, with a scale of its own",
                figures.reach(one.values("std proven")),
            )
        )
    caption = (
        _where(one)
        + "The maps lie over the low-dose image: standard deviation of the samples at each voxel. "
        "Unproven and "
        "proven have the same scale; the last picture shows the proven map again with a scale of "
        "its own."
    )
    return core_page.picture(
        figures.sheet([first, second]),
        "low dose, denoised, and the unproven and the proven standard deviation "
        "over the low-dose image",
        caption,
    )


def _over(one: Shown, key: str, title: str, top: float) -> Picture:
    over = one.slice(key)
    seen = np.where(over.array > 0, over.array, np.nan)
    return Picture(
        one.slice("patient"),
        title,
        one.grey,
        (figures.replace(over, array=seen), Scale(0.0, top, "standard deviation (HU)", "spread")),
        one.frame,
    )


def samples(one: Shown) -> str:
    """A proposal, the sample that it became, and what each changes."""
    rows = []
    for kind, words in (("proposal", "Proposed change"), ("sample", "After projection: unnoticed")):
        key = one.first(kind)
        if key is not None:
            change = figures.replace(
                one.slice(key), array=one.slice(key).array - one.slice("patient").array
            )
            rows.append((one.slice(key), change, words))
    if not rows:
        return core_page.paragraph(
            "No sample is there as an image: none was to be kept, or none was accepted."
        )
    top = figures.reach(np.concatenate([change.array.ravel() for _, change, _ in rows]))
    sheet = []
    for image, change, words in rows:
        own = figures.reach(change.array)
        line = [
            Picture(image, f"{words}: the image", one.grey, box=one.frame),
            Picture(
                change,
                f"{words}: less the low dose",
                Scale(-top, top, "change (HU)", "RdBu_r"),
                box=one.frame,
            ),
        ]
        if own < 0.5 * top:
            line.append(
                Picture(
                    change,
                    "The same with a scale of its own",
                    Scale(-own, own, "change (HU)", "RdBu_r"),
                    box=one.frame,
                )
            )
        sheet.append(line)
    return core_page.picture(
        figures.sheet(sheet),
        "a proposed change and what is left of it when the network no longer notices",
        _where(one)
        + "In the changes red is brighter, blue darker and white unchanged; both have the same "
        "scale.",
    )


def principal_components(one: Shown) -> str:
    """The first components that are not zero."""
    keys = [key for key in one.numbered("component") if one.values(key).any()][:SHOWN_COMPONENTS]
    if not keys:
        return ""
    top = figures.reach(np.concatenate([one.values(key).ravel() for key in keys]))
    row = [
        Picture(
            one.slice(key),
            f"Component {key.number}, one standard deviation",
            Scale(-top, top, "change (HU)", "RdBu_r"),
            box=one.frame,
        )
        for key in keys
    ]
    return core_page.picture(
        figures.sheet([row]), "principal components of the accepted samples", _where(one)
    )


def lesion(one: Shown) -> str:
    """The nodule of which most stays unnoticed.

    It is shown as put in, and as what is left of it, around the point.
    """
    point = one.facts["settings"].get("lesion")
    if point is None or "lesion" not in one.images or "hidden lesion" not in one.images:
        return ""
    patient = one.images["patient"]
    i, j, k = np.linalg.solve(patient.ijk_to_ras, np.append(point, 1.0))[:3]
    reach = [max(8, round(LESION_MM / mm)) for mm in patient.spacing_mm[1::-1]]
    box = (
        max(0, round(j) - reach[0]),
        min(patient.shape[1], round(j) + reach[0] + 1),
        max(0, round(i) - reach[1]),
        min(patient.shape[2], round(i) + reach[1] + 1),
    )

    def cut(key: str) -> figures.Slice:
        return figures.cut(one.images[key], figures.AXIAL, round(k)).cropped(box)

    grey = _window(cut("patient").array)
    changes = {
        key: figures.replace(cut(key), array=cut(key).array - cut("patient").array)
        for key in ("lesion", "hidden lesion")
    }
    top = figures.reach(np.concatenate([change.array.ravel() for change in changes.values()]), 100)
    scale = Scale(-top, top, "change (HU)", "RdBu_r")
    rows: list[list[Picture | None]] = [
        [
            Picture(cut("patient"), "Low dose", grey),
            Picture(cut("lesion"), "With a nodule", grey),
            Picture(cut("hidden lesion"), "With what of it stays unnoticed", grey),
        ],
        [
            None,
            Picture(changes["lesion"], "The nodule", scale),
            Picture(changes["hidden lesion"], "What stays unnoticed", scale),
        ],
    ]
    return core_page.picture(
        figures.sheet(rows),
        "a nodule, and what of it the network does not notice",
        f"Axial slice at {cut('patient').position}, around the point; of all sizes and contrasts "
        f"the nodule of "
        "which most HU stay unnoticed. Both changes have the same scale.",
    )


def _window(hu: np.ndarray) -> Scale:
    """Grey levels for soft tissue and bone where there is some, else for all there is."""
    tissue = hu[hu > AIR_AND_LUNG_HU]
    values = tissue if tissue.size > 0.3 * hu.size else hu
    return Scale(*figures.window(values, 1, 99), "CT value (HU)")


def _where(one: Shown) -> str:
    return (
        f"Axial slice at {one.whole('patient').position}, the one with the largest standard "
        "deviation inside the region. "
    )
