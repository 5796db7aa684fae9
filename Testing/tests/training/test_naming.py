"""A trained model is called as its maker says, or after its people and weights.

It is never called as a shipped one.
"""

import pytest
import torch
from toy_cards import make_card, make_network

from NetInversionLib import models
from NetInversionLib.training import naming

PEOPLE = ("ann", "bob", "cid", "dee")


def saved(path, people=PEOPLE[:2], seed=0, chosen=None, **card):
    made = make_card(trained_on=people, **card)
    return models.read_card(naming.save(path, make_network(seed), made, chosen))


def test_a_name_says_who_was_trained_on_and_a_version_follows_from_the_weights(tmp_path):
    one, again, other = (saved(tmp_path / "a.safetensors", seed=seed) for seed in (0, 0, 1))
    assert one.name == "tiny, trained on ann, bob" and one == again
    assert one.version != other.version and len(one.version) == 8
    assert saved(tmp_path / "a.safetensors", PEOPLE).name == "tiny, trained on 4 scans"


def test_what_the_user_chose_stays(tmp_path):
    chosen = {"name": "Ours", "version": "2.0", "sources": "our clinic"}
    card = saved(tmp_path / "a.safetensors", chosen=chosen)
    assert (card.name, card.version, card.sources) == ("Ours", "2.0", "our clinic")


@pytest.mark.parametrize("name", sorted(naming.shipped_names()))
def test_no_model_of_the_users_is_called_as_a_shipped_one(tmp_path, name):
    assert saved(tmp_path / "a.safetensors", name=name).name != name
    old = make_card(name=name)
    changed = naming.changed(make_network(1), old, "gate", {})
    assert changed["name"] == f"{name}, gate learnt anew" and changed["version"] != old.version
    assert naming.changed(make_network(), make_card(), "gate", {})["name"] == "tiny"
    assert naming.changed(make_network(), old, "gate", {"name": name})["name"] == name


def test_versions_tell_any_two_weights_apart():
    network = make_network()
    before = naming.version(network)
    with torch.no_grad():
        network.out.weight[0, 0] += 1e-6
    assert naming.version(network) != before
