"""The results that a scene holds: found again, read back, taken away whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import slicer
import vtk

from ..core.keys import Key
from ..core.results import Result, Table
from . import display
from .read import volume_from_node
from .tables import columns_of, curve_from_chart, title_of, with_parts
from .write import remove_nodes, subject_hierarchy


def result_nodes(owner: str, run: str) -> dict[str, Any]:
    """The nodes of a run of a module by their keys; empty if there is none."""
    nodes = slicer.mrmlScene.GetNodes() if run else ()
    found = {
        key_of(node, owner): node for node in nodes if node.GetAttribute(f"{owner}.run") == run
    }
    return {key: node for key, node in found.items() if key is not None}


def runs_of(owner: str) -> dict[str, dict]:
    """{run: its nodes by key} of a module in the scene, the newest first."""
    found: dict[str, dict] = {}
    for node in slicer.mrmlScene.GetNodes():
        run = node.GetAttribute(f"{owner}.run")
        key = key_of(node, owner)
        if run and key:
            found.setdefault(run, {})[key] = node
    return dict(sorted(found.items(), key=lambda item: float(item[0]), reverse=True))


def key_of(node: slicer.vtkMRMLNode, owner: str) -> Key | None:
    """What a node of a result is, also of a scene that an older version saved."""
    text = node.GetAttribute(f"{owner}.key")
    return Key.read(text) if text else None


def remove_run(owner: str, run: str) -> None:
    """Take all nodes of a run out of the scene, and nothing else.

    That is, what carries the run's mark, charts' lines and their tables, how the images are
    displayed and stored, the run's folder unless others have put something there, and colour tables
    that nothing shows any more.
    """
    if not run:
        return
    nodes = [
        node for node in slicer.mrmlScene.GetNodes() if node.GetAttribute(f"{owner}.run") == run
    ]
    nodes.sort(
        key=lambda node: not node.IsA("vtkMRMLSequenceBrowserNode")
    )  # which would make its volumes anew
    parts = [part for node in nodes for part in with_parts(node)]
    own = list(dict.fromkeys(one for part in parts for one in (part, *belongings(part))))
    tables = [
        table
        for role in {node.GetAttribute("NetInversion.role") for node in own}
        for table in display.color_tables(role)
    ]
    remove_nodes(own)
    _remove_folder(f"{owner}.run", run)
    shown = {node.GetColorNode() for node in slicer.util.getNodesByClass("vtkMRMLDisplayNode")}
    remove_nodes([table for table in tables if table not in shown])


def belongings(node: slicer.vtkMRMLNode) -> list[slicer.vtkMRMLNode]:
    """How a node is displayed (legends too) and where it is stored."""
    found = []
    if node.IsA("vtkMRMLDisplayableNode"):
        found += [node.GetNthDisplayNode(index) for index in range(node.GetNumberOfDisplayNodes())]
    if node.IsA("vtkMRMLStorableNode"):
        found += [node.GetNthStorageNode(index) for index in range(node.GetNumberOfStorageNodes())]
    return [own for own in found if own is not None]


def _remove_folder(attribute: str, value: str) -> None:
    hierarchy = subject_hierarchy()
    if hierarchy is None:
        return
    items = vtk.vtkIdList()
    hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), items, True)
    for item in [items.GetId(n) for n in range(items.GetNumberOfIds())]:
        if hierarchy.GetItemAttribute(
            item, attribute
        ) == value and not hierarchy.GetNumberOfItemChildren(item):
            hierarchy.RemoveItem(item, False, False)


# ------------------------------------------------------------------------------- results from nodes


def result_from_nodes(nodes: Mapping[str, Any]) -> Result:
    """The result that ``write_result`` wrote as these nodes, by key.

    It is there also after the scene was saved and opened again.

    What was removed from the scene meanwhile is missing. Raises VolumeError for an image that
    cannot be read any more.
    """
    result = Result()
    for key, node in nodes.items():
        if node.IsA("vtkMRMLVolumeNode"):
            result.volumes[key] = volume_from_node(node)
            if node.GetAttribute("NetInversion.role"):
                result.roles[key] = node.GetAttribute("NetInversion.role")
        elif node.IsA("vtkMRMLTableNode"):
            result.tables[key] = Table(title_of(node), columns_of(node))
        elif node.IsA("vtkMRMLPlotChartNode"):
            result.curves[key] = curve_from_chart(node)
        elif node.IsA("vtkMRMLTextNode"):
            result.facts = json.loads(node.GetText())
    return result


def has_data(node: slicer.vtkMRMLNode) -> bool:
    """Whether a node holds what it is there for: a scene can be saved without its nodes' data."""
    if node.IsA("vtkMRMLVolumeNode"):
        return node.GetImageData() is not None
    if node.IsA("vtkMRMLTableNode"):
        return node.GetTable() is not None and node.GetTable().GetNumberOfColumns() > 0
    if node.IsA("vtkMRMLTextNode"):
        return bool(node.GetText())
    return True
