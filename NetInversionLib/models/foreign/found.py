"""What the probe found of a network, as a card keeps it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Probe:
    """What a network turned out to be.

    Attributes:
        dimensions: Spatial axes of its images, 2 or 3.
        inputs, outputs: Channels.
        separately: Whether each input is an argument of its own.
        side: A side of images that it takes, voxels.
        multiple: Sides that it takes are multiples of it.
        smallest: Shortest side that it takes.
        fixed: The only side that it takes, or None.
        magnification: Side of its output over side of its input.
        reach: How far an output voxel looks, voxels; None where it sees the whole image.
        repeatable: Whether the same input gives the same output (no dropout at work).
        alone: Whether an image's output does not depend on the others of a batch.
        batch: Whether it takes several images at once.
        gradient_error: Largest relative difference of input gradients from finite differences.
        double: Whether that was measured in float64.
        low, high: Of its output for inputs between 0 and 1.
        residual: Whether its output resembles its input: correlation of the two.
    """

    dimensions: int
    inputs: int
    outputs: int
    separately: bool
    side: int
    multiple: int
    smallest: int
    fixed: int | None
    magnification: float
    reach: int | None
    repeatable: bool
    alone: bool
    batch: bool
    gradient_error: float
    double: bool
    low: float
    high: float
    residual: float

    def sentences(self) -> list[str]:
        """What was found, a sentence each."""
        size = (
            f"It takes images of {self.fixed} voxels a side only."
            if self.fixed
            else f"Sides of its images are multiples of {self.multiple}, at least {self.smallest}."
        )
        reach = (
            "Every output voxel depends on the whole image."
            if self.reach is None
            else f"An output voxel looks {self.reach} voxels far."
        )
        found = [
            f"It takes {self.inputs} and gives {self.outputs} channels in {self.dimensions}-D.",
            size,
            reach,
            f"For inputs between 0 and 1 it gives {self.low:.3g} to {self.high:.3g}"
            f" (correlation with its input {self.residual:.2f}).",
            "Its input gradients agree with finite differences in"
            f" {'float64' if self.double else 'float32'} to {self.gradient_error:.1e}.",
        ]
        if self.magnification != 1:
            found.append(
                f"Its output has {self.magnification:g} times the voxels along each side; it is"
                " compared on the input's grid."
            )
        if not self.repeatable:
            found.append("It gives another output each time: dropout or noise is at work in it.")
        if not self.batch:
            found.append("It takes one image at a time.")
        elif not self.alone:
            found.append("Images of a batch influence each other; it is asked one at a time.")
        return found
