"""Do denoisers keep low-contrast lesions? d' of a phantom's inserts before and after each.

python Testing/benchmarks/phantom.py [--doses 10 55 100] [--draws 64] [--models NAME ...]

FDA's low-contrast phantom (LCD_CT, CC0): water with inserts of 3, 5, 7 and 10 mm. Noise is
simulated from its truth, as strong and as fine as that of its own images without inserts; observers
learn from half of the draws and are judged on the other half, and on the phantom's own six images
with and six without inserts. Every insert is tried at every insert's contrast: 16 signals, of which
four are the truth's. Beside each network a Gaussian blur that leaves as much noise. Ranks: Spearman
with contrast x diameter (what white noise would give) of the four as they are and of all 16 (which
flatters: within a size the order comes by construction), and the share of pairs, of which one is
larger in neither contrast nor size, that d' has in order. Of four, chance has 1 in one of 24 cases.
"""

from __future__ import annotations

import argparse

import common
import numpy as np
import torch
from scipy import ndimage, stats

from NetInversionLib import models
from NetInversionLib.core import files
from NetInversionLib.evaluation.denoisers import network_method
from NetInversionLib.invariances import observer
from NetInversionLib.invariances.low_dose import FreshNoise, LowDoseSettings
from NetInversionLib.invariances.nulls import equal_blur

PHANTOM = common.DATA.parent / "low_contrast_phantom"
SHIPPED = common.ROOT / "Resources" / "Models"
MARGIN, HALF = 36, 15  # voxels around the inserts; around one insert, on either side
CUTOFFS = (0.0, 0.6, 0.7, 0.8, 0.9, 1.0)
AT_ONCE = 8
OBSERVERS = ("Hotelling", "matched filter")


class Phantom:
    """Truth, inserts and own images, cut out around the inserts; HU, (J, I)."""

    def __init__(self) -> None:
        if not PHANTOM.exists():
            raise SystemExit(f"{PHANTOM} is missing: set NETINVERSION_DATA to what holds it")
        volume = files.load(PHANTOM / "ground_truth.nii.gz")
        self.spacing_mm = volume.spacing_mm[:2]
        self.truth = volume.float32()[0]
        labels, count = ndimage.label(self.truth > 0)
        boxes = ndimage.find_objects(labels)
        j0, i0 = (min(box[axis].start for box in boxes) - MARGIN for axis in (0, 1))
        j1, i1 = (max(box[axis].stop for box in boxes) + MARGIN for axis in (0, 1))
        self.window = slice(j0, j1), slice(i0, i1)
        shapes, self.contrasts, self.diameters, self.centres = [], [], [], []
        for n in range(1, count + 1):
            insert = np.where(labels == n, self.truth, 0)
            contrast = float(insert.max())
            area = insert.sum() / contrast * self.spacing_mm[0] * self.spacing_mm[1]
            self.contrasts.append(contrast)
            self.diameters.append(2 * (area / np.pi) ** 0.5)
            j, i = ndimage.center_of_mass(insert)
            self.centres.append((i - i0, j - j0))
            shapes.append(insert[self.window] / contrast)
        self.shapes = np.stack(shapes)

    def own(self, dose: int, kind: str) -> np.ndarray:
        """The phantom's own images, (6, J, I), "present" or "absent"."""
        paths = sorted(PHANTOM.glob(f"dose_{dose:03d}_signal_{kind}_*.nii.gz"))
        return np.stack([files.load(path).float32()[0][self.window] for path in paths])

    def around(self, images: np.ndarray, insert: int) -> np.ndarray:
        """What an observer of one insert sees of images (N, J, I): (N, pixels)."""
        i, j = (round(x) for x in self.centres[insert])
        return images[:, j - HALF : j + HALF + 1, i - HALF : i + HALF + 1].reshape(len(images), -1)

    def channels(self, insert: int) -> np.ndarray:
        """Laguerre-Gauss channels of one insert, for what ``around`` gives."""
        side = 2 * HALF + 1
        centre = tuple(x - round(x) + HALF for x in self.centres[insert])
        size = self.diameters[insert]
        return observer.laguerre_gauss((side, side), centre, self.spacing_mm, size)


def simulated(phantom: Phantom, dose: int, draws: int) -> tuple[np.ndarray, float, float]:
    """Noise like that of the own images: (draws, J, I) HU, its strength and its kernel's cutoff."""
    own = phantom.own(dose, "absent")
    own = own - own.mean(0)  # what all have in common is no noise
    own *= (len(own) / (len(own) - 1)) ** 0.5
    water = torch.from_numpy(np.minimum(phantom.truth, 0))
    best = (np.inf, 0.0)
    for cutoff in CUTOFFS:
        noise = _drawn(water, phantom, cutoff, 2, 1)
        best = min(best, (abs(_grain(noise) - _grain(own)), cutoff))
    noise = _drawn(water, phantom, best[1], draws, 0)
    return noise * (own.std() / noise.std()), float(own.std()), best[1]


def _drawn(water, phantom: Phantom, cutoff: float, draws: int, seed: int) -> np.ndarray:
    how = LowDoseSettings(dose=1.0, views=360, cutoff=cutoff)
    fresh = FreshNoise(water, phantom.spacing_mm, how)
    return fresh.draw(draws, torch.Generator().manual_seed(seed), phantom.window).numpy()


def _grain(noise: np.ndarray) -> float:
    """Correlation of neighbours in a row or column."""
    pairs = ((noise[:, 1:], noise[:, :-1]), (noise[:, :, 1:], noise[:, :, :-1]))
    return float(np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs]))


def methods(phantom: Phantom, noise: np.ndarray, names: list[str]) -> dict:
    """By name functions of images (N, J, I), HU: doing nothing, networks, and their blurs."""
    found = {"doing nothing": lambda images: images}
    flat = torch.zeros(1, 1, *noise.shape[1:])
    for name in names:
        denoise = network_method(models.load(SHIPPED / f"ct-denoiser-{name}.safetensors"))
        blur = equal_blur(_Batch(denoise), flat, torch.from_numpy(noise[:1])[None])
        found[name] = lambda images, run=denoise: np.stack([run(image, 0.0) for image in images])
        found[f"blur of {blur.sigma:.2f} voxels, as {name}"] = lambda images, run=blur: run(
            torch.from_numpy(images)[:, None]
        )[:, 0].numpy()
    return found


class _Batch(torch.nn.Module):
    """A method as a network of images (1, 1, H, W), HU."""

    def __init__(self, denoise):
        super().__init__()
        self.denoise = denoise

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.denoise(x[0, 0].numpy(), 0.0))[None, None]


def dprimes(phantom: Phantom, method, noise: np.ndarray, dose: int) -> dict:
    """By observer: d' and error of every insert (rows) at every contrast, and on own images."""
    inserts = range(len(phantom.shapes))
    absent = method(noise)
    own = [method(phantom.own(dose, kind)) for kind in ("absent", "present")]
    learn, judge = slice(0, None, 2), slice(1, None, 2)
    figures = {name: np.zeros((len(inserts), len(inserts), 2)) for name in OBSERVERS}
    ours = {name: [] for name in OBSERVERS}
    for turn in inserts:  # every insert has another's contrast; in the first turn its own
        strength = np.roll(phantom.contrasts, -turn)[:, None, None]
        present = method((noise + (phantom.shapes * strength).sum(0)).astype(np.float32))
        for n in inserts:
            seen = [phantom.around(images, n).astype(np.float64) for images in (absent, present)]
            makers = observer.hotelling(phantom.channels(n)), observer.matched_filter
            for name, make in zip(OBSERVERS, makers):
                template = make(*(images[learn] for images in seen))
                found = observer.judged(template, *(images[judge] for images in seen))
                figures[name][n, (n + turn) % len(inserts)] = found.dprime, found.error
                if turn == 0:
                    real = [phantom.around(images, n).astype(np.float64) for images in own]
                    one = observer.judged(template, *real)
                    ours[name].append((one.dprime, one.error))
    return {name: {"all": figures[name], "own": np.array(ours[name])} for name in OBSERVERS}


def ranks(phantom: Phantom, found: np.ndarray) -> tuple[float, float, float]:
    """Of d' of every insert at every contrast, (inserts, contrasts), three figures of its order.

    Spearman with contrast x diameter of the inserts as they are and of all signals, and the share
    of ordered pairs that d' has in order.
    """
    own = spearman(phantom, np.einsum("nn->n", found))
    diameters, contrasts = np.meshgrid(phantom.diameters, phantom.contrasts, indexing="ij")
    rho = stats.spearmanr((diameters * contrasts).ravel(), found.ravel()).statistic
    size, contrast, seen = (values.ravel() for values in (diameters, contrasts, found))
    larger = (size[:, None] >= size) & (contrast[:, None] >= contrast)
    np.fill_diagonal(larger, False)
    return own, float(rho), float((seen[:, None] > seen)[larger].mean())


def spearman(phantom: Phantom, dprime: np.ndarray) -> float:
    """Of d' of the inserts as they are with contrast x diameter."""
    product = np.multiply(phantom.diameters, phantom.contrasts)
    return float(stats.spearmanr(product, dprime).statistic)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--doses", type=int, nargs="+", default=[10, 55, 100])
    parser.add_argument("--draws", type=int, default=64)
    shipped = ["level-cnn10", "level-redcnn", "cnn10", "wganvgg"]
    parser.add_argument("--models", nargs="+", default=shipped)
    options = parser.parse_args()
    if options.draws < 2 * observer.FEWEST_DRAWS:
        parser.error(f"--draws must be at least {2 * observer.FEWEST_DRAWS}")
    phantom = Phantom()
    inserts = [f"{d:.0f} mm {c:g} HU" for d, c in zip(phantom.diameters, phantom.contrasts)]
    order = ["Spearman of these four", "of all 16", "pairs in order"]
    head = ["dose", "method", *inserts, *order]
    lines, facts = [], {}
    for dose in options.doses:
        noise, strength, cutoff = simulated(phantom, dose, options.draws)
        said = f"{dose} %: {strength:.1f} HU, cutoff {cutoff:g}"
        for name, method in methods(phantom, noise, options.models).items():
            found = dprimes(phantom, method, noise, dose)
            facts[f"{dose} {name}"] = {
                who: {part: values.tolist() for part, values in one.items()}
                for who, one in found.items()
            }
            for who, one in found.items():
                own = [f"{d:.2f} ± {e:.2f}" for d, e in np.einsum("nnx->nx", one["all"])]
                four, rho, pairs = ranks(phantom, one["all"][..., 0])
                ordered = f"{four:.1f} | {rho:.2f} | {100 * pairs:.0f} %"
                lines.append(f"| {said} | {name}, {who} | {' | '.join(own)} | {ordered} |")
                real = [f"{d:.1f} ± {e:.1f}" for d, e in one["own"]]
                four = spearman(phantom, one["own"][:, 0])
                lines.append(f"| | own 6 + 6 images | {' | '.join(real)} | {four:.1f} | | |")
            print("\n".join(lines[-4:]), flush=True)
    top = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    common.write("phantom", facts, top + lines)


if __name__ == "__main__":
    main()
