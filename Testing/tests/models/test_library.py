"""Which models are there for a task, and which one is taken where nobody names one."""

import hashlib
from dataclasses import replace

import pytest
from toy_cards import make_card, make_network

from NetInversionLib import models
from NetInversionLib.models import card as models_card
from NetInversionLib.models import library
from NetInversionLib.models.foreign import description


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two models for harmonization, one for images and a file that is none; by name."""
    for name, task in (
        ("a", models.IMAGE_TO_IMAGE),
        ("b", models.HARMONIZATION),
        ("c", models.HARMONIZATION),
    ):
        path = tmp_path / f"{name}.safetensors"
        models.save(path, make_network(), replace(make_card(), orientation="LPS", task=task))
    (tmp_path / "0 broken.safetensors").write_bytes(b"no model")
    monkeypatch.setattr(library, "model_folders", lambda: [tmp_path])
    return tmp_path


def harmonizes(card):
    return card.task == models.HARMONIZATION


def test_what_fits_is_listed_in_order_and_a_broken_file_is_not(folder):
    assert [path.name[0] for path in models.usable(lambda card: True)] == ["a", "b", "c"]
    assert [path.name[0] for path in models.usable(harmonizes)] == ["b", "c"]


def test_the_first_that_fits_is_the_default(folder):
    assert models.default_model(harmonizes, "none") == folder / "b.safetensors"


def test_the_denoiser_that_is_taken_is_better_than_doing_nothing():
    """By its own card, in soft tissue and in the body: on average by far, and in most kinds.

    Where little noise is added, the noise that people's normal dose has itself counts as much.
    """
    taken = models.default_model(lambda card: card.task == models.DENOISING, "none")
    assert taken.name == library.FIRST[0] and {p.name for p in library.shipped()} > {*library.FIRST}
    for tissue in ("soft", "body"):
        pairs = [
            (float(figures[0]), float(figures[1].strip("(,)")))
            for key, said in models.read_card(taken).quality.items()
            if key.startswith(tissue) and "RMSE (HU; doing nothing" in key
            for figures in [said.split()]
        ]
        assert len(pairs) == 9
        assert sum(own for own, nothing in pairs) < 0.6 * sum(nothing for own, nothing in pairs)
        assert sum(own < nothing for own, nothing in pairs) >= 6


def test_those_that_come_first_do_so_in_their_order(folder):
    for name in library.FIRST:
        models.save(folder / name, make_network(), replace(make_card(), task=models.DENOISING))
    names = [path.name for path in models.list_models()]
    assert names[:2] == list(library.FIRST) and sorted(names[2:]) == names[2:]


def test_without_one_that_fits_the_sentence_is_said(folder):
    with pytest.raises(models.ModelError, match="^name one with --model$"):
        models.default_model(lambda card: card.task == models.DENOISING, "name one with --model")


def test_the_default_sampler_is_the_first_that_was_made_for_the_denoiser(folder):
    denoiser = folder / "a.safetensors"
    assert library.default_sampler(denoiser) is None
    made_for = {"denoiser SHA-256": hashlib.sha256(denoiser.read_bytes()).hexdigest()}
    for name, training in (("s", {}), ("t", made_for), ("u", made_for)):
        card = make_card(training=training, task=models.SAMPLING)
        models.save(folder / f"{name}.safetensors", make_network(), card)
    assert [path.stem for path in library.samplers_for(denoiser)] == ["t", "u"]
    assert library.default_sampler(denoiser) == folder / "t.safetensors"


def test_tasks_have_one_name():
    """The names stand in files of years: none may change, and no two may be alike."""
    tasks = (
        models_card.IMAGE_TO_IMAGE,
        models_card.DENOISING,
        models_card.SAMPLING,
        models_card.HARMONIZATION,
        models_card.FEATURES,
    )
    assert tasks == (
        "image-to-image",
        "denoising",
        "invariance sampling",
        "harmonization",
        "features",
    )
    assert description.DENOISING == models.DENOISING
