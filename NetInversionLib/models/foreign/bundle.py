"""MONAI bundles: their metadata fill the description, their own configuration makes the network."""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.text import shown
from ..card import ModelError
from .description import Description, Image
from .formats import checked_names, load_script, weights_of

if TYPE_CHECKING:
    from torch import nn

METADATA = "configs/metadata.json"
CONFIGURATIONS = ("configs/inference.json", "configs/inference.yaml", "configs/train.json")
NETWORK_KEYS = ("network_def", "network", "net")
MOST_BYTES = 16 << 20


def describe(path: Path | str) -> Description:
    """What a bundle's ``network_data_format`` says of its images. Nothing in it is run.

    Channels, value ranges, size rule and axes; MONAI's axes are i, j, k, by habit toward right,
    anterior, superior.

    Raises:
        ModelError: It has no such text, or it is damaged.
    """
    path = Path(path)
    try:
        metadata = json.loads(_text(path, METADATA))
        formats = metadata["network_data_format"]
        taken, given = (next(iter(formats[kind].values())) for kind in ("inputs", "outputs"))
        space = list(taken.get("spatial_shape") or ["*", "*", "*"])
        dimensions = len([size for size in space if size != 1])
        multiple, smallest = _size_rule(space)
        return Description(
            inputs=_images(taken, "input"),
            outputs=_images(given, "output"),
            name=str(metadata.get("name") or path.stem),
            orientation="RAS",
            axes="ijk",
            dimensions=2 if dimensions == 2 else 3,
            size_multiple=multiple,
            smallest_size=smallest,
            meaning="logits" if given.get("format") == "segmentation" else "image",
            trained_on=str(metadata.get("data_source") or "not told")[:2000],
            licence=str(metadata.get("copyright") or "not told")[:2000],
        )
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        StopIteration,
        RecursionError,
    ) as error:
        raise ModelError(
            f"{path.name}: its metadata.json has no network_data_format that can be read"
            f" ({shown(error)}). Describe the network's images yourself"
        ) from error


def _images(entry: dict, word: str) -> tuple[Image, ...]:
    """One image for each channel, by the names of ``channel_def``."""
    count = int(entry["num_channels"])
    if not 1 <= count <= 256:
        raise ValueError(f"num_channels is {count}")
    names = entry.get("channel_def") or {}
    units = "HU" if entry.get("format") == "hounsfield" else ""
    low, high = (float(v) for v in entry.get("value_range") or (0, 1))
    images = []
    for n in range(count):
        name = str(names.get(str(n)) or f"{word} {n + 1}")[:100]
        if word == "output":
            scaling: dict[str, Any] = {"scaling": "none", "low": low, "high": high}
        elif units == "HU" and high - low > 10:
            scaling = {"scaling": "none", "low": low, "high": high}
        else:
            scaling = {"scaling": "percentile", "percentiles": (0.0, 99.5), "to": (low, high)}
        images.append(Image(name if name != "image" else f"{word} image", units, **scaling))
    return tuple(images)


def _size_rule(space: list) -> tuple[int, int | None]:
    """(multiple, smallest) of sizes such as "16*n" or "2**p*n"; numbers are what it was trained on,
    and are probed.
    """
    multiple, smallest = 1, None
    for size in space:
        power = re.fullmatch(r"(\d+)\s*\*\*\s*p\s*\*\s*n", str(size))
        product = re.fullmatch(r"(\d+)\s*\*\s*n", str(size))
        found = power or product
        if found:
            multiple = max(multiple, min(int(found[1]), 1024))
    if multiple > 1:
        smallest = multiple
    return multiple, smallest


def load_network(path: Path | str) -> nn.Module:
    """The network of a bundle. It can run code: ask first.

    ``models/model.ts`` where there is one; else what its configuration names, made by MONAI, with
    the weights of ``models/model.pt``.

    Raises:
        ModelError: MONAI is missing, or the bundle is damaged.
    """
    path = Path(path)
    if path.is_dir():
        return _network_of(path)
    root = _root(path)
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)  # names were checked
        return _network_of(Path(folder) / root)


def _network_of(folder: Path) -> nn.Module:
    script, weights = folder / "models" / "model.ts", folder / "models" / "model.pt"
    if script.is_file():
        return load_script(script)
    try:
        from monai.bundle import ConfigParser
    except ImportError as error:
        raise ModelError(
            f"the bundle's network is made by the package monai, which is missing ({error}):"
            " install it, or take a bundle with models/model.ts"
        ) from error
    from .own import fill

    for name in CONFIGURATIONS:
        if not (folder / name).is_file():
            continue
        parser = ConfigParser()
        parser.read_config(str(folder / name))
        parser["bundle_root"] = str(folder)
        for key in NETWORK_KEYS:
            if parser.get(key) is None:
                continue
            try:
                network = parser.get_parsed_content(key)
            except Exception as error:  # noqa: BLE001 - whatever the bundle's code raises
                raise ModelError(f"the bundle's {key!r} cannot be made: {shown(error)}") from error
            fill(network, weights_of(weights), "the bundle's weights and its network")
            return network.eval()
    raise ModelError(f"the bundle names its network in none of {', '.join(CONFIGURATIONS)}")


def _root(path: Path) -> str:
    """The folder inside a zipped bundle that holds configs."""
    found = [name for name in checked_names(path) if name.endswith(METADATA)]
    if not found:
        raise ModelError(f"{path.name} holds no {METADATA}")
    return min(found, key=len)[: -len(METADATA)]


def _text(path: Path, name: str) -> bytes:
    if path.is_dir():
        file = path / name
        if not file.is_file() or file.stat().st_size > MOST_BYTES:
            raise ModelError(f"{path.name} has no readable {name}")
        return file.read_bytes()
    inner = _root(path) + name
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(inner).file_size > MOST_BYTES:
                raise ModelError(f"{path.name}: its {name} is too large")
            return archive.read(inner)
    except (zipfile.BadZipFile, OSError, RuntimeError, EOFError, NotImplementedError) as error:
        raise ModelError(f"{path.name} is damaged ({shown(error)}); get the file again") from error
    except Exception as error:  # noqa: BLE001 - zlib's own kind of error
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path.name} is damaged ({shown(error)}); get the file again") from error
