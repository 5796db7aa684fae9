"""Networks that the user added: kept in a folder each, under their names, deleted as a whole."""

import os
import time

import pytest
import test_cinn
import test_download
import test_vae
import torch

from NetInversionLib import cli, models, networks
from NetInversionLib.models import ModelError
from NetInversionLib.models.foreign import download, formats, published, shelf

weights = test_download.weights


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("NETINVERSION_SETTINGS", str(tmp_path / "settings"))


def came_in(name):
    place = shelf.begin()
    (place / f"{name}.network").write_text("{}")
    (place / f"{name}.pt").write_bytes(bytes(1000))
    return place / f"{name}.network"


def test_a_network_takes_its_name_at_the_end_and_no_other_ones():
    first = came_in("net")
    assert shelf.folders() == [] and shelf.entries() == {}
    kept = [shelf.keep(made) for made in (first, came_in("net"), came_in("downloads"))]
    assert [path.name for path in kept] == ["net.network", "net-2.network", "downloads-2.network"]
    assert [path.parent.name for path in kept] == ["net", "net-2", "downloads-2"]
    assert (kept[1].parent / "net.pt").is_file()  # the card names its file, which stays as it is
    assert shelf.entries()[kept[0].parent] == 1002
    assert set(models.model_folders()) >= {path.parent for path in kept}
    shelf.delete(kept[0].parent)
    assert not kept[0].parent.exists() and kept[1].exists()
    assert {path.parent.name for path in kept[1:]} == {
        path.name for path in shelf.folder().iterdir()
    }


def test_only_what_is_listed_is_deleted(tmp_path):
    for path in (tmp_path, shelf.folder(), shelf.folder() / ".." / "other"):
        with pytest.raises(ModelError, match="none of the networks that you added"):
            shelf.delete(path)
    (tmp_path / "net.network").write_text("{}")
    with pytest.raises(ModelError, match="did not come in"):
        shelf.keep(tmp_path / "net.network")
    shelf.drop(tmp_path)
    assert tmp_path.is_dir()


def test_what_never_came_in_is_removed_after_a_day():
    young, old = shelf.begin(), shelf.begin()
    before = time.time() - 2 * shelf.LEFT_S
    os.utime(old, (before, before))
    shelf.begin()
    assert young.is_dir() and not old.exists()
    shelf.drop(young)
    assert not young.exists()


def test_the_command_lists_and_deletes(capsys):
    shelf.keep(came_in("net"))
    shelf.downloads().mkdir()
    (shelf.downloads() / "cnn10.pt.part").write_bytes(bytes(2_000_000))
    assert cli.main(["models", "delete"]) == 0
    told = capsys.readouterr().out
    assert "net: 0.0 MB" in told and "cnn10.pt.part: 2.0 MB" in told
    assert cli.main(["models", "delete", "cnn10.pt.part"]) == 0
    assert cli.main(["models", "delete", "net"]) == 0 and shelf.entries() == {}
    assert cli.main(["models", "delete", "net"]) == 1
    assert "none of the networks" in capsys.readouterr().err


def test_the_command_looks_before_it_fetches(weights, monkeypatch, capsys):
    monkeypatch.setitem(download.WEIGHTS, "cnn10", weights)
    assert cli.main(["models", "download", "cnn10", "--look"]) == 0
    told = capsys.readouterr().out
    assert weights.url in told and "1.0 MB" in told and weights.sha256 in told
    assert test_download.Handler.asked == [] and shelf.entries() == {}
    with pytest.raises(ModelError, match="cnn10-vae' is no network by itself"):
        published.make_ready("cnn10-vae")


@pytest.mark.skipif(
    formats.torch_is_unsafe(), reason="checkpoints: PyTorch before 2.6 opens none safely"
)
def test_a_sampler_is_made_ready_with_its_denoiser(tmp_path, monkeypatch):
    """Three files, one kept denoiser, one sampler that knows it; nothing else stays."""
    torch.manual_seed(0)
    kind = test_vae.PUBLISHED_KIND
    states = {
        "cnn10": networks.build("cnn10").state_dict(),
        "cnn10-vae": test_vae.as_published(test_vae.as_if_trained(kind)),
        "cnn10-cinn": test_cinn.published_state(
            channels=kind["latents"], size=kind["size"], downs=2
        ),
    }

    def fetched(weights, folder, report, overwrite=False):
        folder.mkdir(parents=True, exist_ok=True)
        report(1.0, "all of it")
        torch.save({"model_state_dict": states[weights.file[:-3]]}, folder / weights.file)
        return folder / weights.file

    monkeypatch.setattr(published, "download", fetched)
    told = []
    made = published.make_ready("cnn10-sampler", lambda *said: told.append(said))
    assert [round(fraction, 2) for fraction, _ in told] == [0.33, 0.67, 1.0]
    assert {path.name for path in shelf.entries()} == {"cnn10", made.parent.name}
    assert not list(shelf.downloads().iterdir())
    denoiser = models.load(shelf.folder() / "cnn10" / "cnn10.safetensors")
    assert models.read_card(made).training["denoiser SHA-256"] == denoiser.sha256
    monkeypatch.setattr(published, "download", lambda *of, **more: tmp_path / "nowhere.pt")
    with pytest.raises(ModelError):
        published.make_ready("redcnn")
    assert len(shelf.entries()) == 2 and len(list(shelf.folder().iterdir())) == 3
