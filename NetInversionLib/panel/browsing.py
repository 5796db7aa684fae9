"""Numbered images of a result, such as samples, that are browsed: as a sequence or one by one.

Images of a kind "samples" have keys "sample 3", or "sample 3 second" for the kind "samples second".
Where the application has Sequences they are in a sequence node under "sequence of samples", and
one volume under "samples" shows the selected one (``scene.results.add_browser``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import slicer

from ..core.keys import Key
from ..scene import results

MOST = 100
"""Highest number of an image that is kept."""

Nodes = Mapping[str, Any]
"""The nodes of a result by their keys."""


def numbers(nodes: Nodes, kind: str) -> list[int]:
    """The numbers of the images of a kind that are not in a sequence yet, rising."""
    known = {key.number for key in map(Key.read, nodes) if key.number is not None}
    return sorted(number for number in known if Key.read(kind).member(number) in nodes)


def sequence_keys(kind: str, of: list[int]) -> list[Key]:
    """The keys of the images of a kind with these numbers."""
    return [Key.read(kind).member(number) for number in of]


def singles(nodes: Nodes, kind: str) -> list[Key]:
    """Keys of the images of a kind that are not in a sequence, by number."""
    return [key for key in sequence_keys(kind, list(range(1, MOST + 1))) if key in nodes]


def count(nodes: Nodes, kind: str) -> int:
    """How many images of a kind there are."""
    sequence = nodes.get(results.sequence_of(kind))
    return sequence.GetNumberOfDataNodes() if sequence is not None else len(singles(nodes, kind))


def number_at(nodes: Nodes, kind: str, place: int) -> int | None:
    """The number of the image at a place (from 1) among those of a kind; None if there is none."""
    sequence = nodes.get(results.sequence_of(kind))
    if sequence is not None and place <= sequence.GetNumberOfDataNodes():
        return int(sequence.GetNthIndexValue(place - 1))
    single = singles(nodes, kind)
    return single[place - 1].number if place <= len(single) else None


def shown(nodes: Nodes, kind: str, place: int) -> Any:
    """The volume node that shows the image at a place (from 1); None if there is none."""
    if kind in nodes:
        return nodes[kind]
    single = singles(nodes, kind)
    return nodes[single[min(len(single), place) - 1]] if single else None


def select(browser: Any, place: int) -> None:
    """Have a browser node (or None) show the images at a place (from 1)."""
    if browser is not None:
        browser.SetSelectedItemNumber(place - 1)
        slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)


def browsed(nodes: dict, titles: Mapping[str, str], owner: str, browser: str) -> dict:
    """Put the images of some kinds, equally many of each, into sequences with one browser.

    Args:
        nodes: Of a result that was just written, by key.
        titles: By kind what its images are; by ``browser`` what is browsed.
        owner: Name of the module.
        browser: Key of the browser node.

    Returns:
        The nodes by key with the change made.
    """
    kinds = [kind for kind in titles if kind != browser]
    of = numbers(nodes, kinds[0])
    sequences: dict[str, list[str]] = {kind: [*sequence_keys(kind, of)] for kind in kinds}
    return results.add_browser(nodes, sequences, dict(titles), owner, browser)


def show_sum(nodes: Nodes, image: Any, change: Any, amount: float, owner: str, title: str) -> Any:
    """The volume node that shows ``image + amount * change``: made with ``title``, or filled anew.

    Args:
        nodes: The result's nodes; the made one has the key that ``SUM`` is.
        image, change: Volume nodes of one size.
        owner: Name of the module.
    """
    node = nodes.get(SUM)
    if node is None:
        volumes = slicer.modules.volumes.logic()
        node = volumes.CloneVolume(slicer.mrmlScene, image, title)
        node.SetAttribute(f"{owner}.key", str(SUM))
        node.SetAttribute(f"{owner}.run", image.GetAttribute(f"{owner}.run"))
    base, added = (slicer.util.arrayFromVolume(volume) for volume in (image, change))
    slicer.util.updateVolumeFromArray(node, base + amount * added)
    return node


SUM = Key("shown component")
"""Key of the volume that ``show_sum`` makes."""
