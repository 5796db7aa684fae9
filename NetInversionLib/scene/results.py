"""The bridge to the MRML scene: nodes in, volumes out; results in, nodes out.

Works inside Slicer and on a scene without the application (``slicer.mrmlScene`` is the scene in
both). Input nodes are never changed. What is written is written whole or not at all: after an error
the scene holds what it held before. Large things are written in steps (``write_result``), so that
an application can do it between two events.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import slicer

from ..core import words
from ..core.keys import Key
from ..core.results import Result
from ..core.steps import Steps
from ..core.volumes import Volume
from .display import sample, set_window, typical_largest
from .masks import write_mask
from .read import node_ijk_to_ras, units_of, world_matrix
from .runs import belongings, result_nodes
from .tables import (
    FACTS,
    TITLE,
    curve_to_nodes,
    reused_node,
    table_to_node,
    title_of,
    vtk_table,
    vtk_tables,
    with_parts,
)
from .write import (
    all_or_nothing,
    at_once,
    in_scene,
    new_node,
    remove_nodes,
    subject_hierarchy,
    volume_to_node,
    write_volume,
)


def show_difference(
    image: slicer.vtkMRMLNode,
    other: slicer.vtkMRMLNode,
    name: str,
    owner: str,
    key: str,
    window: slicer.vtkMRMLNode | None = None,
) -> slicer.vtkMRMLNode:
    """The volume node that holds ``image - other``, made or filled anew.

    They are two volumes of one run of a module.

    Args:
        owner, key: Under which it belongs to the run (``result_nodes``), as ``other`` does.
        window: A difference node whose window it takes; default is one that fits its values,
            symmetric around 0.

    Raises ValueError if the volumes differ in size.
    """
    arrays = [slicer.util.arrayFromVolume(node).astype(np.float32) for node in (image, other)]
    if arrays[0].shape != arrays[1].shape:
        raise ValueError(f"'{image.GetName()}' and '{other.GetName()}' differ in size")
    run = other.GetAttribute(f"{owner}.run")
    node = result_nodes(owner, run).get(key)
    if node is None:
        place = world_matrix(other) @ node_ijk_to_ras(other)
        node = volume_to_node(
            Volume(arrays[0] - arrays[1], place, name, units_of(other)), name, other, "difference"
        )
        node.SetAttribute(f"{owner}.key", str(key))
        node.SetAttribute(f"{owner}.run", run)
    else:
        slicer.util.updateVolumeFromArray(node, arrays[0] - arrays[1])
    node.SetName(name)
    largest = (
        window.GetDisplayNode().GetWindowLevelMax()
        if window is not None
        else typical_largest(sample(node))
    )
    set_window(node.GetDisplayNode(), -largest, largest)
    return node


# ------------------------------------------------------------------------------------------ results


@dataclass
class Written:
    """A result in the scene.

    ``nodes`` are by the result's keys; ``run`` is the identifier that all of them carry.
    """

    nodes: dict
    run: str


def add_result(
    result: Result,
    like: slicer.vtkMRMLNode | None = None,
    shown_as: dict | None = None,
    owner: str = "NetInversion",
    folder: str | None = None,
) -> Written:
    """Add a whole result to the scene beside ``like``, or, if anything fails, nothing of it.

    See ``write_result``.
    """
    return at_once(write_result(result, like, shown_as, owner, folder))


def write_result(
    result: Result,
    like: slicer.vtkMRMLNode | None = None,
    shown_as: dict | None = None,
    owner: str = "NetInversion",
    folder: str | None = None,
) -> Steps:
    """``add_result`` in steps of a few milliseconds, whose value is the ``Written`` result.

    If a step raises, or the generator is closed before its end, what was added is removed again.
    What others do to the scene between two steps stays; a node that they delete is missing from the
    value.

    The nodes are volumes, tables and charts by the result's keys, and "facts", a text with what is
    needed to run it again, as JSON. All of them are new: a run's nodes are its own, and can be
    removed with it (``remove_run``). Their names say first what they are, then of which input, from
    its second run on which run, and that it is not complete; in the user's language, so find nodes
    by ``result_nodes`` and not by name.

    Args:
        like: The input's node; the result gets its parent transform and place (``volume_to_node``).
        shown_as: By key, a node whose window and colours the image takes, or the key of an earlier
            image of the result.
        owner: Name of the module; with it the nodes are found again (``result_nodes``).
        folder: Name of a new folder beside ``like`` in the subject hierarchy for all nodes; None:
            no folder.
    """
    _refuse_double_keys(result)
    facts = json.dumps(result.facts, indent=1, default=_plain)
    named = _Names(result, like)
    nodes: dict[str, slicer.vtkMRMLNode] = {}
    added: list[slicer.vtkMRMLNode] = []
    place = _Place(like, named.of_run(folder) if folder else None)
    try:
        for key, volume in result.volumes.items():
            shown = (shown_as or {}).get(key)
            shown = nodes.get(shown) if isinstance(shown, str) else shown
            name, role = named(volume.name), result.roles.get(key)
            nodes[key] = yield from (
                write_mask(volume, name, like, added)
                if role == "mask"
                else write_volume(volume, name, like, role, shown, added)
            )
            nodes[key].SetAttribute(TITLE, volume.name)
            place.put([nodes[key]])
        for key, write in _writers(result, facts, like, named).items():
            with all_or_nothing(added):
                nodes[key] = write()
            place.put(with_parts(nodes[key]))
            yield True
        written = Written(
            {key: node for key, node in nodes.items() if in_scene(node)}, f"{time.time():.6f}"
        )
        _mark(written, owner, like, result.facts.get("complete", True), place)
    except BaseException:  # also GeneratorExit: closed
        remove_nodes(added[::-1])
        place.remove()
        raise
    return written


class _Names:
    """Names of a run's nodes: what each is, then of what, and which run; none of them is taken."""

    def __init__(self, result: Result, like: slicer.vtkMRMLNode | None):
        like = in_scene(like)
        self._source = f": {like.GetName()}" if like is not None else ""
        self._number = 1
        titles = [
            *(v.name for v in result.volumes.values()),
            *(t.title for t in result.tables.values()),
            *(c.title for c in result.curves.values()),
            FACTS,
        ]
        while any(slicer.mrmlScene.GetFirstNodeByName(self(title)) for title in titles):
            self._number += 1

    def __call__(self, title: str) -> str:
        return self.of_run(words.title(title) + self._source)

    def of_run(self, name: str) -> str:
        if self._number == 1:
            return name
        return words.tr("{name} (run {number})").format(name=name, number=self._number)


def _refuse_double_keys(result: Result) -> None:
    keys = [*result.volumes, *result.tables, *result.curves, *(["facts"] if result.facts else [])]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(f"Keys used more than once in a result: {', '.join(twice)}")


def _writers(
    result: Result, facts: str, like: slicer.vtkMRMLNode | None, named: _Names
) -> dict[str, Callable]:
    """By key, a function that adds a table, curve or text to the scene and gives the node."""

    def text():
        node = reused_node(None, "vtkMRMLTextNode", named(FACTS), like)
        node.SetText(facts)
        return node

    def titled(write, content, node_name):
        node = write(content, node_name)
        node.SetAttribute(TITLE, content.title)
        return node

    for table in result.tables.values():
        vtk_table(table.columns)  # refuses uneven ones before anything is added
    for curve in result.curves.values():
        vtk_tables(curve)
    writers = {
        key: lambda table=table: titled(
            lambda t, name: table_to_node(t, None, like, name), table, named(table.title)
        )
        for key, table in result.tables.items()
    }
    writers |= {
        key: lambda curve=curve: titled(
            lambda c, name: curve_to_nodes(c, None, like, name)[0], curve, named(curve.title)
        )
        for key, curve in result.curves.items()
    }
    return {**writers, **({"facts": text} if result.facts else {})}


def _mark(
    written: Written, owner: str, like: slicer.vtkMRMLNode | None, complete: bool, place: _Place
) -> None:
    """Write on every node which one of which run it is, and what it is about.

    On its folder write which run's it is.
    """
    like = in_scene(like)
    for key, node in written.nodes.items():
        node.SetAttribute(f"{owner}.key", str(key))
        node.SetAttribute(f"{owner}.run", written.run)
        node.SetAttribute(f"{owner}.incomplete", None if complete else "1")
        node.SetNodeReferenceID(f"{owner}.input", like.GetID() if like is not None else None)
        if not complete:
            node.SetName(words.tr("{name} (incomplete)").format(name=node.GetName()))
    place.mark(f"{owner}.run", written.run)


def sequence_of(images: str) -> Key:
    """Key of the sequence that holds images of a key such as "samples"."""
    images = Key.read(images)
    return Key(f"sequence of {images.kind}", network=images.network)


def add_browser(
    nodes: dict,
    sequences: dict[str, list[str]],
    titles: dict[str, str],
    owner: str,
    key: str = "browser",
) -> dict:
    """Volumes of a written result as Slicer Sequences with one browser.

    Gives the nodes by key with the change made.

    Of each sequence, a key and the keys of its images in order, all equally many: the images go
    into a sequence node, and one volume under the sequence's key shows what the browser, under
    ``key``, has selected. Where the application has no Sequences, or nothing is to be browsed, the
    nodes stay as they are. ``titles`` say by key what the images are, and what is browsed; the
    names go on as the images' do.
    """
    sequences = {
        key: members
        for key, members in sequences.items()
        if members and all(m in nodes for m in members)
    }
    if not sequences or not slicer.mrmlScene.GetClassNameByTag("SequenceBrowser"):
        return nodes
    found = dict(nodes)
    first = nodes[next(iter(sequences.values()))[0]]
    source = first.GetName().removeprefix(words.title(title_of(first)))
    marks = {mark: first.GetAttribute(mark) for mark in (f"{owner}.run", f"{owner}.incomplete")}

    def marked(node, own):
        found[own] = node
        for mark, value in {**marks, f"{owner}.key": str(own)}.items():
            node.SetAttribute(mark, value)
        return node

    with all_or_nothing():
        browser = marked(new_node("vtkMRMLSequenceBrowserNode", titles[key] + source), key)
        for images, members in sequences.items():
            sequence = marked(
                new_node(
                    "vtkMRMLSequenceNode",
                    words.tr("{images}, all").format(images=titles[images]) + source,
                ),
                sequence_of(images),
            )
            sequence.SetIndexName("number")
            sequence.SetIndexUnit("")
            for member in members:  # each gets the marks: showing it, the browser copies them too
                number = str(Key.read(member).number)
                sequence.SetDataNodeAtValue(marked(nodes[member], images), number)
            marked(nodes[members[0]], images)
            browser.AddSynchronizedSequenceNodeID(sequence.GetID())
            its_own = browser.GetProxyNode(sequence)  # which the application may have made at once
            browser.AddProxyNode(nodes[members[0]], sequence, False)
            if its_own is not None and its_own is not nodes[members[0]]:
                remove_nodes([its_own, *belongings(its_own)])
            browser.SetSaveChanges(sequence, False)
            browser.SetOverwriteProxyName(sequence, False)
    for images, members in sequences.items():
        found[images].SetName(titles[images] + source)
        remove_nodes(
            [own for member in members[1:] for own in (nodes[member], *belongings(nodes[member]))]
        )
        for member in members:
            del found[member]
    return found


class _Place:
    """A new folder beside a node in the subject hierarchy, made when it is first needed.

    Nothing without a hierarchy.
    """

    def __init__(self, like: slicer.vtkMRMLNode | None, name: str | None):
        self._like, self._name, self._folder = like, name, 0

    def put(self, nodes: list) -> None:
        hierarchy = subject_hierarchy()
        item = (
            hierarchy.GetItemByDataNode(self._like)
            if hierarchy is not None and in_scene(self._like)
            else 0
        )
        if not self._folder and item and self._name:
            name = hierarchy.GenerateUniqueItemName(self._name)
            self._folder = hierarchy.CreateFolderItem(hierarchy.GetItemParent(item), name)
        for node in nodes if self._folder else ():
            own = hierarchy.GetItemByDataNode(node)
            if own:
                hierarchy.SetItemParent(own, self._folder)

    def mark(self, attribute: str, value: str) -> None:
        if self._folder:
            subject_hierarchy().SetItemAttribute(self._folder, attribute, value)

    def remove(self) -> None:
        if self._folder and subject_hierarchy() is not None:
            subject_hierarchy().RemoveItem(self._folder, False, False)


def _plain(value):
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else str(value)
