"""A network from Python's console, with the volume nodes that it is asked about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import slicer

from NetInversionLib import models
from NetInversionLib.core import steps
from NetInversionLib.scene import read


def adopted(
    network: Any,
    description: Any,
    inputNodes: Any,
    targetNode: Any,
    log: Callable[[str], None],
) -> steps.Steps:
    """Steps whose value is a network of the user's own as a model.

    Args:
        network: A torch.nn.Module or a function of tensors.
        description: See NetInversionLib.models.adopt.
        inputNodes, targetNode: Volume nodes: a list in the network's order, a dictionary by name,
            or one.
        log: Receives what was found of the network.
    """
    given: dict[str, Any] = {}
    volumes: list[list[Any]] = []
    for kind, nodes in (("inputs", inputNodes), ("outputs", targetNode)):
        names, listed = _listed(nodes)
        if names:
            given[kind] = names
        images = []
        for node in listed:
            images.append((yield from read.read_volume(node)))
        volumes.append(images)
    if isinstance(description, Mapping) or description is None:
        description = {**given, **(description or {})}
    return models.adopt(network, description, *volumes, log=log)


def _listed(nodes: Any) -> tuple[list[str], list[Any]]:
    """(names where there are any, nodes)."""
    if isinstance(nodes, slicer.vtkMRMLNode) or nodes is None:
        return [], [nodes]
    if isinstance(nodes, Mapping):
        return list(nodes), list(nodes.values())
    return [], list(nodes) if isinstance(nodes, Sequence) else [nodes]
