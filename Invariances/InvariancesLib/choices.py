"""What the panel's choices mean, and what is wrong with them.

It is the part of the logic that answers the panel before a run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import qt
import slicer

from NetInversionLib import models
from NetInversionLib.core import steps, volumes
from NetInversionLib.core.results import Result
from NetInversionLib.core.text import readable
from NetInversionLib.core.volumes import Region
from NetInversionLib.invariances import choices, latest, layers
from NetInversionLib.invariances import settings as invariances_settings
from NetInversionLib.models import library
from NetInversionLib.models.card import Card
from NetInversionLib.panel import choices as panel_choices
from NetInversionLib.panel import logic, pictures, placing
from NetInversionLib.panel.words import tr as _
from NetInversionLib.scene import masks
from NetInversionLib.scene import read as scene_read

from .views import shownView

SEGMENTATION = "segmentation"
"""Node reference of the parameter node: a segmentation or a label map."""
SECONDS_PER_VOXEL = 4.6e-7
"""Forwards, on the machine that NetInversionLib.jobs.speed speaks of."""
NOISE_SLICES = 4
"""Of so many the noise is measured while the panel is used."""


class Choices(logic.ModuleLogic):
    """Answers for a parameter node and the chosen denoiser's card.

    ``node`` is an InvariancesParameterNode, ``card`` the card.
    """

    def __init__(self) -> None:
        logic.ModuleLogic.__init__(self)
        # What ``around`` and ``noise`` were asked last, and their answers.
        self._around: tuple[Any, Any] = (None, None)
        self._noise: tuple[Any, Any] = (None, None)

    def segmentation(self, node: Any) -> slicer.vtkMRMLNode | None:
        """The chosen segmentation or label map."""
        return node.parameterNode.GetNodeReference(SEGMENTATION)

    def samplers(self, path: str | None) -> dict[Path, Card]:
        """{path: card} of the samplers that were made for a denoiser's file."""
        return library.samplers_for(path) if path and _isFile(path) else {}

    def defaultSampler(self, path: str | Path | None) -> Path | None:
        """The sampler that is taken for a denoiser's file where none is named; None without one."""
        return library.default_sampler(path) if path and _isFile(path) else None

    def samplerPath(self, node: Any, path: str | None) -> str | None:
        """Path of the sampler that a parameter node names for a denoiser; None without one.

        ``path`` is the denoiser's.
        """
        return next(
            (str(found) for found in self.samplers(path) if found.name == node.sampler), None
        )

    def layers(self, path: str, sampler: str | None = None) -> dict[str, str]:
        """{name: title} of the output and of a model's layers, in the order of execution.

        Those of the publications have a star; those that the sampler (a file) has a flow for say
        so.
        """
        titles = {"output": _("The denoised image (output)"), **layers.layer_titles(path)}
        flows = layers.layers_with_flow(path, sampler)
        return {
            name: title + (", " + _("VAE + flow") if name in flows else "")
            for name, title in titles.items()
        }

    def layersWithFlow(self, path: str, sampler: str | None) -> set[str]:
        """All names of the layers that a sampler (a file, or None) has a flow for."""
        return layers.layers_with_flow(path, sampler)

    def layerProblem(self, path: str, layer: str, flow: bool) -> str:
        """Why a layer of the denoiser at ``path`` cannot be looked at; "" if it can.

        Args:
            flow: Whether the first sampler that fits has to have a flow for it.
        """
        from NetInversionLib.networks.layers import LayerError

        try:
            names = layers.names_of(path, layer)
            known = names
            if flow:
                sampler = self.defaultSampler(path)
                known = layers.layers_with_flow(path, str(sampler) if sampler else None)
        except LayerError as error:
            return str(error)
        except (ValueError, RuntimeError):
            return ""  # the network cannot be used, or not on one image: the run says why
        if known & names:
            return ""
        return _(
            "The sampler of '{model}' has no flow for layer '{name}', only for {others}: choose"
            " one of these, or noise or texture as proposals."
        ).format(model=models.read_card(path).name, name=layer, others=", ".join(sorted(known)))

    def problems(self, node: Any, card: Card | None) -> list[str]:
        """All reasons why Apply cannot be pressed, in words."""
        if node is None:
            return [_("Wait until the scene is open.")]
        if card is None:
            return [self.card(self.modelPath(node))[1]]
        return [*self._volumeProblems(node), *self._settingProblems(node)]

    def _volumeProblems(self, node: Any) -> list[str]:
        if node.lowDose is None:
            return [_("Choose a low-dose CT.")]
        try:
            self.region(node)
        except ValueError as error:
            return [str(error)]
        return self._lesionProblems(node)

    def _lesionProblems(self, node: Any) -> list[str]:
        if node.lesionNode is None:
            return []
        if not node.lesionNode.GetNumberOfControlPoints():
            return [
                _("Place a point in '{name}', or choose no lesion.").format(
                    name=node.lesionNode.GetName()
                )
            ]
        try:
            choices.voxel_of(
                scene_read.grid_from_node(node.lowDose), placing.point_of(node.lesionNode)
            )
        except volumes.VolumeError as error:
            return [str(error)]
        return []

    def _settingProblems(self, node: Any) -> list[str]:
        found = []
        if not (node.flow or node.noise or node.texture):
            found.append(_("Choose at least one kind of proposals: VAE + flow, noise or texture."))
        found += self._samplerProblems(node)
        if not self._tolerance(node) > 0:
            found.append(
                _(
                    "What counts as unnoticed must be above 0: at exactly the same output nothing"
                    " can change. Choose a fraction of the noise, 1 HU say."
                )
            )
        if max(node.projected, node.shown) > node.samples:
            found.append(_("Not more samples can be projected or shown than are tried."))
        if node.secondModel:
            problem = self.card(self.secondPath(node))[1]
            found += [problem] if problem else []
        return found + self._textProblems(node)

    def _textProblems(self, node: Any) -> list[str]:
        """Of the lesions' sizes and contrasts, which are typed."""
        found = []
        for name, text, problem in (
            (
                "lesion_diameters_mm",
                node.diameters,
                _("Write the lesion sizes (Advanced) as numbers with commas between, all above 0."),
            ),
            (
                "lesion_contrasts_hu",
                node.contrasts,
                _(
                    "Write the lesion contrasts (Advanced) as numbers with commas between, none of"
                    " them 0."
                ),
            ),
        ):
            try:
                invariances_settings.Settings.from_json({name: numbers(text)})
            except ValueError:
                found.append(problem)
        return found

    def _tolerance(self, node: Any) -> float:
        """What counts as unnoticed, HU or per cent; automatic, it is above 0."""
        if node.layer != "output":
            return node.layerTolerance
        return 1.0 if node.automatic else node.epsilon

    def _samplerProblems(self, node: Any) -> list[str]:
        if node.sampler and not self.samplerPath(node, self.modelPath(node)):
            return [
                _(
                    "The sampler '{name}' is not there, or was made for another denoiser. Choose"
                    " another, or none."
                ).format(name=node.sampler)
            ]
        if node.flow and not node.sampler:
            return [
                _(
                    "Choose a sampler for the proposals VAE + flow, or choose noise or texture."
                    " 'netinversion train cinn' makes one for a denoiser."
                )
            ]
        if node.flow and node.secondModel and not self.samplers(self.secondPath(node)):
            return [
                _(
                    "There is no sampler for the second denoiser: choose noise or texture, or no"
                    " second denoiser."
                )
            ]
        return []

    def sliceCount(self, node: Any) -> int:
        """How many axial slices the chosen volume has; 0 if none is chosen."""
        return panel_choices.slice_count(node.lowDose)

    def around(self, node: Any) -> choices.Around:
        """The square around the view's centre (NetInversionLib.invariances.choices.Around).

        VolumeError if there is no volume.
        """
        grid, image = scene_read.grid_from_node(node.lowDose), node.lowDose.GetImageData()
        point = placing.point_in(grid, placing.view_centre(shownView()))
        asked = (
            node.lowDose.GetID(),
            image.GetMTime(),
            grid.ijk_to_ras.tobytes(),
            tuple(point),
            node.tile,
        )
        if (
            self._around[0] != asked
        ):  # looking for the body takes its time, and the panel asks often
            ct = grid.with_array(slicer.util.arrayFromVolume(node.lowDose))
            self._around = asked, choices.region_around(ct, point, tile=node.tile)
        return self._around[1]

    def regionWords(self, node: Any) -> str:
        """Where the input may change, where the panel's other choices do not say it already."""
        if node.region.name != "AROUND" or node.lowDose is None:
            return ""
        try:
            return self.around(node).words
        except volumes.VolumeError:  # Apply says it
            return ""

    def toleranceWords(self, node: Any) -> str:
        """What counts as unnoticed, where it is not what the slider says."""
        if node.layer != "output":
            return _("{share:g} % of the layer's size (Advanced)").format(share=node.layerTolerance)
        if not node.automatic:
            return ""
        noise = self.noise(node)
        if noise is None:
            return _("a tenth of the image's noise")
        return _("{epsilon} HU, a tenth of the noise ({noise} HU)").format(
            epsilon=readable(noise / 10, 2), noise=readable(noise, 2)
        )

    def noise(self, node: Any) -> float | None:
        """Noise of the slices that are looked at, HU.

        None if there is no volume, or there are too many slices to look now.
        """
        try:
            grid, box = scene_read.grid_from_node(node.lowDose), self.region(node)
        except volumes.VolumeError:
            return None
        axis = volumes.axis_toward(grid, "S")[0]
        first, last = box[2 * axis : 2 * axis + 2] if box else (0, grid.shape[axis])
        if last - first > NOISE_SLICES:
            return None
        asked = (node.lowDose.GetID(), node.lowDose.GetImageData().GetMTime(), first, last)
        if self._noise[0] != asked:
            slices = np.moveaxis(slicer.util.arrayFromVolume(node.lowDose), axis, 0)[first:last]
            self._noise = asked, choices.image_noise(slices.astype(np.float32))
        return self._noise[1]

    def region(self, node: Any) -> Region | None:
        """(k0, k1, j0, j1, i0, i1) in the volume's voxels, or None for all of it.

        VolumeError if it is outside.
        """
        grid = scene_read.grid_from_node(node.lowDose)
        if node.region.name == "AROUND":
            return self.around(node).region
        return panel_choices.region_of(node, grid, shownView())

    def settings(self, node: Any) -> dict[str, Any]:
        """The fields of NetInversionLib.invariances.settings.Settings that the panel shows."""
        kinds = {"cinn": node.flow, "noise": node.noise, "texture": node.texture}
        return dict(
            region=self.region(node),
            region_from=self.regionWords(node),
            layer=node.layer,
            samples=node.samples,
            projected=node.projected,
            shown=node.shown,
            proposals=[kind for kind, wanted in kinds.items() if wanted],
            epsilon_hu=None if node.automatic else node.epsilon,
            epsilon_layer=node.layerTolerance / 100,
            components=node.components,
            spectrum=[node.layer] if node.spectrum else [],
            texture_hu=node.textureHu,
            dose=node.dose,
            photons=1000 * node.photons,
            structure_mm=node.structureMm,
            tile=node.tile,
            lesion_diameters_mm=numbers(node.diameters),
            lesion_contrasts_hu=numbers(node.contrasts),
            draws=node.draws,
            max_evaluations=node.maxEvaluations,
            seed=node.seed,
            device=node.device,
        )

    def imageSteps(
        self,
        volume: volumes.Volume,
        settings: dict[str, Any],
        segmentation: slicer.vtkMRMLNode | None,
        normalDose: slicer.vtkMRMLNode | None,
    ) -> steps.Steps:
        """Steps whose value are a request's images by role.

        Args:
            volume: The low-dose CT [k, j, i], what is needed of it.
            settings: Fields of Settings; the segments' names are added.
            segmentation: Segmentation or label map node, if there is one.
            normalDose: The CT at normal dose, if there is one.
        """
        images = {"low_dose": volume}
        if segmentation is not None:
            segments, settings["segments"] = masks.segments_from_node(segmentation, volume)
            images["segments"] = segments
        if normalDose is not None:
            normal = yield from scene_read.read_volume(normalDose)
            images["normal_dose"] = volumes.resample(normal, volume)
        return images

    def stepsFromParameterNode(self, node: Any) -> steps.Steps:
        """Steps whose value is the request that the panel shows."""
        path = self.modelPath(node)
        return self.requestSteps(
            node.lowDose,
            model=path,
            settings=self.settings(node),
            normalDose=node.normalDose,
            segmentation=self.segmentation(node),
            point=node.lesionNode,
            secondModel=node.secondModel,
            sampler=self.samplerPath(node, path),
        )

    def cost(self, node: Any) -> float:
        """What a run costs, see NetInversionLib.invariances.choices.network_voxels."""
        grid, settings = scene_read.grid_from_node(node.lowDose), self.settings(node)
        box = settings["region"] or panel_choices.whole(grid)
        sizes = [high - low for low, high in zip(box[::2], box[1::2])]
        axis = volumes.axis_toward(grid, "S")[0]
        image, region = (tuple(np.delete(of, axis).tolist()) for of in (grid.shape, sizes))
        if node.lesionNode is not None:
            settings["lesion"] = placing.point_of(node.lesionNode)
        chosen = invariances_settings.Settings.from_json(settings)
        paths = filter(None, (self.modelPath(node), self.secondPath(node)))
        cards = filter(None, (self.card(path)[0] for path in paths))
        return sum(
            choices.network_voxels(image, region, sizes[axis], chosen, choices.pass_of(card))
            for card in cards
        )

    def estimateText(self, node: Any, card: Card) -> str:
        """Time of the run in words; it is learnt from earlier runs of the same network."""
        return self.timeText(
            *self.secondsFor(card, node.device, self.cost(node), SECONDS_PER_VOXEL), node.device
        )

    def preview(self, result: Result) -> qt.QPixmap:
        """A picture of both maps of the slice, and of the denoiser, that is being worked on."""
        network, maps = latest.maps_of_newest_slice(result)
        titles = {"unproven": _("Unproven, HU"), "proven": _("Proven, HU")}
        if network:
            titles = {
                "unproven": _("Unproven, HU, second denoiser"),
                "proven": _("Proven, HU, second denoiser"),
            }
        shown = {titles[kind]: values for kind, values in maps.items()}
        return pictures.mapsPicture(shown, max(float(values.max()) for values in maps.values()))


def numbers(text: str) -> list[float]:
    """The text "3, 5" as [3.0, 5.0]; ValueError if that is not what it is."""
    return [float(word) for word in text.split(",")]


def _isFile(path: Any) -> bool:
    """Whether a model is a file; one that was handed over in memory is not."""
    return isinstance(path, (str, os.PathLike)) and os.path.isfile(path)
