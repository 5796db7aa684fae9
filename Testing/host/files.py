"""``slicer.app.coreIOManager()``.

It reads and writes scenes, volumes, tables and transforms by MRML's own storage.
"""

from pathlib import Path

import slicer

SCENE = "SceneFile"
# file type: (node class, ends of file names)
TYPES = {
    "VolumeFile": (
        "vtkMRMLScalarVolumeNode",
        (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd", ".hdr", ".tif"),
    ),
    "TableFile": ("vtkMRMLTableNode", (".tsv", ".csv", ".txt")),
    "TransformFile": ("vtkMRMLTransformNode", (".tfm", ".h5", ".mat")),
    "TextFile": ("vtkMRMLTextNode", (".json",)),
}


def fileType(filename) -> str:
    name = str(filename).lower()
    if name.endswith((".mrml", ".mrb")):
        return SCENE
    for kind, (_, ends) in TYPES.items():
        if name.endswith(ends):
            return kind
    raise NotImplementedError(f"The test host reads no file such as {filename}")


def fileWriterFileType(node) -> str:
    for kind, (node_class, _) in TYPES.items():
        if node.IsA(node_class):
            return kind
    raise NotImplementedError(f"The test host writes no {node.GetClassName()}")


def registeredFileReaderCount(kind) -> int:
    return int(kind in TYPES or kind == SCENE)


def loadNodes(kind, properties, loaded=None, messages=None) -> bool:
    path = Path(properties["fileName"])
    if kind == SCENE:
        return _load_scene(path, clear=properties.get("clear", True))
    if not path.exists():
        return False
    name = properties.get("name") or path.name.split(".")[0]
    if kind == "VolumeFile":
        options = 1 if properties.get("labelmap") else 0
        node = slicer.modules.volumes.logic().AddArchetypeVolume(str(path), name, options)
        if node is not None and properties.get("show", True):
            slicer.util.setSliceViewerLayers(background=node, fit=True)
    else:
        node = slicer.mrmlScene.AddNewNodeByClass(TYPES[kind][0], name)
        storage = node.CreateDefaultStorageNode()
        storage.UnRegister(None)
        storage.SetFileName(str(path))
        if not storage.ReadData(node):
            slicer.mrmlScene.RemoveNode(node)
            return False
    if node is not None and loaded is not None:
        loaded.AddItem(node)
    return node is not None


def _load_scene(path: Path, clear: bool) -> bool:
    scene = slicer.mrmlScene
    if clear:
        scene.Clear(0)
    if path.suffix == ".mrb":
        return bool(scene.ReadFromMRB(str(path), False))
    scene.SetURL(str(path))
    return bool(scene.Import())


def saveNodes(kind, properties, messages=None) -> bool:
    path = Path(properties["fileName"])
    scene = slicer.mrmlScene
    if kind != SCENE:
        node = scene.GetNodeByID(properties["nodeID"])
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode(str(path))
        node.GetStorageNode().SetFileName(str(path))
        return bool(node.GetStorageNode().WriteData(node))
    if path.suffix == ".mrb":
        return bool(scene.WriteToMRB(str(path)))
    if path.suffix == ".mrml":
        scene.SetURL(str(path))
        return bool(scene.Commit())
    return bool(slicer.app.applicationLogic().SaveSceneToSlicerDataBundleDirectory(str(path), None))


def __getattr__(name):
    raise AttributeError(
        name if name.startswith("__") else f"coreIOManager().{name} is not in the test host"
    )
