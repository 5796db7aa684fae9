"""Slicer's SampleData module: registering sources and loading them by name.

As in Slicer, ``downloadSample`` follows ``uris``; a ``customDownloader`` is called only by the
source's button (``press``), and ``uris`` must be given all the same.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import slicer


@dataclass
class SampleDataSource:
    sampleName: str = None
    sampleDescription: str = None
    uris: object = None
    fileNames: object = None
    nodeNames: object = None
    checksums: object = None
    loadFiles: object = None
    customDownloader: object = None
    thumbnailFileName: str = None
    loadFileTypes: object = None
    loadFileProperties: dict = field(default_factory=dict)

    def __post_init__(self):
        many = isinstance(self.uris, (list, tuple))
        for name in ("uris", "fileNames", "nodeNames", "checksums", "loadFiles", "loadFileTypes"):
            value = getattr(self, name)
            if not many:
                value = [value]
            elif value is None or name == "loadFileTypes" and isinstance(value, str):
                value = [value] * len(self.uris)
            setattr(self, name, value)
        lists = (self.uris, self.fileNames, self.nodeNames, self.checksums)
        if self.uris == [None] or len({len(values) for values in lists}) > 1:
            raise ValueError(
                f"Sample '{self.sampleName}': uris, fileNames, nodeNames and checksums must be as"
                " many"
            )


class SampleDataLogic:
    @staticmethod
    def registerCustomSampleDataSource(
        category="Custom",
        sampleName=None,
        uris=None,
        fileNames=None,
        nodeNames=None,
        customDownloader=None,
        thumbnailFileName=None,
        loadFileTypes=None,
        loadFiles=None,
        loadFileProperties=None,
        checksums=None,
        loadFileType=None,
    ):
        if thumbnailFileName is not None and not os.path.isfile(thumbnailFileName):
            raise FileNotFoundError(f"Sample '{sampleName}' has no thumbnail {thumbnailFileName}")
        source = SampleDataSource(
            sampleName,
            sampleName,
            uris,
            fileNames,
            nodeNames,
            checksums,
            loadFiles,
            customDownloader,
            thumbnailFileName,
            loadFileTypes or loadFileType,
            loadFileProperties or {},
        )
        sources = vars(slicer.modules).setdefault("sampleDataSources", {}).setdefault(category, [])
        if source not in sources:
            sources.append(source)

    def sourceForSampleName(self, sampleName):
        sources = (
            s
            for category in vars(slicer.modules).get("sampleDataSources", {}).values()
            for s in category
        )
        return next((s for s in sources if s.sampleName == sampleName), None)

    def downloadFromSource(self, source):
        folder = Path(slicer.app.temporaryPath) / "cache"
        folder.mkdir(exist_ok=True)
        nodes, paths = [], []
        each = zip(
            source.uris, source.fileNames, source.nodeNames, source.checksums, source.loadFiles
        )
        for uri, name, node_name, checksum, load in each:
            path = folder / (name or Path(uri).name)
            if not slicer.util.downloadFile(uri, str(path), checksum):
                raise RuntimeError(f"Sample data {uri} could not be downloaded to {path}")
            paths.append(str(path))
            if node_name and load is not False:
                node = slicer.util.loadNodeFromFile(
                    str(path), None, dict(source.loadFileProperties, name=node_name)
                )
                nodes.append(node)
        return nodes or paths

    def downloadSamples(self, sampleName):
        source = self.sourceForSampleName(sampleName)
        return self.downloadFromSource(source) if source else []

    def downloadSample(self, sampleName):
        return self.downloadSamples(sampleName)[0]


if "SLICER_BASE_PYTHON" in os.environ:  # Slicer 5.12 has it, 5.10 has not
    SampleDataLogic.registerCustomSampleDataCategory = staticmethod(lambda category, title: None)


def downloadSample(sampleName):
    return SampleDataLogic().downloadSample(sampleName)


def downloadSamples(sampleName):
    return SampleDataLogic().downloadSamples(sampleName)


def press(sampleName):
    """What the source's button in the Sample Data module does."""
    source = SampleDataLogic().sourceForSampleName(sampleName)
    return (
        source.customDownloader(source)
        if source.customDownloader
        else SampleDataLogic().downloadFromSource(source)
    )
