"""A module's sample in Slicer's Sample Data module, and the images that samples are made from."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import slicer

from ..core import files
from ..core.volumes import Volume
from ..models.card import Card
from ..scene import read


@dataclass(frozen=True)
class Source:
    """A file that Slicer downloads: its address, its name, its node's name, and its checksum."""

    uri: str
    file: str
    node: str
    sha256: str


def ct_chest() -> Source:
    """Slicer's own sample CTChest."""
    digest = "4507b664690840abb6cb9af2d919377ffc4ef75b167cb6fd0f747befdb12e38e"
    return Source(
        slicer.util.TESTING_DATA_URL + "SHA256/" + digest, "CT-chest.nrrd", "CTChest", digest
    )


def brain_template() -> Source:
    """The ICBM 152 template without skull, as nilearn distributes it."""
    file = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    return Source(
        "https://raw.githubusercontent.com/nilearn/nilearn/a5fa8b96e3765dccd2a20005aead0c4229fa7653"
        f"/nilearn/datasets/data/{file}",
        file,
        "MNI152 T1 brain",
        "421a10e872fd6cadae7f61d358dffbcc1795a497d61ee76c5dda2503e1a1e9e6",
    )


def register(name: str, thumbnail: Path, source: Source, load: Callable[[], object]) -> None:
    """Offer a sample in the Sample Data module, under the category NetInversion.

    Args:
        name: Of the sample.
        thumbnail: A picture file.
        source: What the sample is made from: Slicer wants a file even where ``load`` does the work.
        load: Adds the sample to the scene.
    """
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="NetInversion",
        sampleName=name,
        uris=source.uri,
        fileNames=source.file,
        nodeNames=source.node,
        checksums=f"SHA256:{source.sha256}",
        customDownloader=lambda _: load(),
        thumbnailFileName=str(thumbnail),
    )


def downloaded(name: str) -> Volume:
    """The image (K, J, I) of a sample that the Sample Data module downloads; no node stays."""
    import SampleData

    node = SampleData.SampleDataLogic().downloadSample(name)
    volume = read.volume_from_node(node)
    slicer.mrmlScene.RemoveNode(node)
    return volume


def sample_ct() -> Volume:
    """A CT (K, J, I), HU, for a first try.

    It is ``ct/pelvis.nii.gz`` in the folder that NETINVERSION_DATA names, or Slicer's own sample
    CTChest.
    """
    folder = os.environ.get("NETINVERSION_DATA")
    if folder:
        return files.load(Path(folder) / "ct" / "pelvis.nii.gz")
    return downloaded("CTChest")


def sample_brains(card: Card) -> list[Volume]:
    """Brains (K, J, I) without skull of one or two people that a model was not trained on.

    They are those that its card names as left out, in ``brain_t1/site_a`` of the folder that
    NETINVERSION_DATA names, or the template that Slicer downloads.
    """
    folder = os.environ.get("NETINVERSION_DATA")
    if folder:
        names = str(card.training.get("left out", "")).split(", ")[-2:]
        paths = [Path(folder) / "brain_t1" / "site_a" / f"{name}.nii.gz" for name in names]
        found = [files.load(path) for path in paths if path.is_file()]
        if found:
            return found
    import SampleData

    source = brain_template()
    made = SampleData.SampleDataSource(
        sampleName=source.node,
        uris=source.uri,
        fileNames=source.file,
        nodeNames=source.node,
        checksums=f"SHA256:{source.sha256}",
    )
    node = SampleData.SampleDataLogic().downloadFromSource(made)[0]
    volume = read.volume_from_node(node)
    slicer.mrmlScene.RemoveNode(node)
    return [volume]
