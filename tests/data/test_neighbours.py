"""Neighbours: who they are, that labels have no say, and that a view is one of them."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_config import get_config

from topojax.config.recipes import unlabelled
from topojax.data import neighbours, sets
from topojax.data.neighbours import nearest, partners
from topojax.errors import UserError
from topojax.scoring.run import build
from topojax.types import Batch

POINTS = np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0], [0.0, 7.0], [0.0, 7.5]], np.float32)


def test_neighbours_by_hand():
    assert nearest(POINTS, 2).tolist() == [[1, 2], [0, 2], [1, 0], [4, 0], [3, 0]]


def test_neighbours_are_those_of_all_the_inputs():
    """The digits have 64 dimensions and the search sees 40: nine neighbours in ten are the same."""
    image = np.asarray(sets.load(get_config().data, seed=0).train.image)
    found = nearest(image, 4)
    distance = np.sum((image[:, None] - image[None]) ** 2, axis=-1) + 1e9 * np.eye(len(image))
    exact = np.argsort(distance, axis=1)[:, :4]
    assert np.mean([len(set(a) & set(b)) / 4 for a, b in zip(found, exact, strict=True)]) > 0.9


@pytest.mark.campaign
@pytest.mark.slow  # numba compiles
def test_neighbours_of_many_are_found_by_an_index():
    """Nine in ten of the exact ones, none of them the example itself, the same from memory and from the host."""
    c = get_config().data
    c.num_examples = None
    image = np.asarray(sets.load(c, seed=0).train.image)
    exact, found = nearest(image, 8), nearest(image, 8, exact_below=1000)
    assert found.shape == exact.shape
    assert found.dtype == np.int32
    assert (found != np.arange(len(image))[:, None]).all()
    assert np.mean([len(set(a) & set(b)) / 8 for a, b in zip(found, exact, strict=True)]) > 0.9
    c.mode = "host"
    assert np.array_equal(nearest(sets.load(c, seed=0, on_host=True).train.image, 8, exact_below=1000), found)


def test_copies_of_an_example_are_neighbours_but_not_itself():
    class Index:
        """What an index may say: itself not first, and nothing where it found none."""

        neighbor_graph = (np.array([[1, 0, 2], [1, 0, -1], [2, 0, 1]]), None)

        def __init__(self, points, n_neighbors, random_state):
            assert (len(points), n_neighbors) == (3, 3)

    assert neighbours._approximate(Index, POINTS[:3], 2).tolist() == [[1, 2], [0, 0], [0, 1]]


def test_without_the_index_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynndescent", None)
    line = r"neighbours of 5 examples needs the extra 'neighbours' .*: pip install 'topojax\[neighbours\]'"
    with pytest.raises(UserError, match=line):
        nearest(POINTS, 2, exact_below=5)


def test_labels_have_no_say():
    c = get_config().data
    c.neighbours = 3
    train = sets.load(c, seed=0).train
    assert train.neighbours.shape == (160, 3)
    assert train.neighbours.dtype == np.int32
    assert (train.neighbours != np.arange(160)[:, None]).all()
    assert np.array_equal(train.neighbours, nearest(np.asarray(train.image), 3))


@pytest.mark.parametrize("count", [160, 10**6])
def test_more_neighbours_than_examples_are_refused(count):
    c = get_config().data
    c.neighbours = count
    with pytest.raises(UserError, match=rf"data\.neighbours = {count}: .* below the 160 training examples"):
        sets.load(c, seed=0)


def test_partners_are_neighbours_and_change_with_the_step():
    split = Batch(jnp.asarray(POINTS), jnp.zeros(5, jnp.int32), jnp.asarray(nearest(POINTS, 2)))
    index = jnp.tile(jnp.arange(5), 40)
    first, again, later = (np.asarray(partners(jax.random.key(0), s, split, index)) for s in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, later)
    allowed = POINTS[np.asarray(split.neighbours)][np.asarray(index)]
    assert (first[:, None] == allowed).all(-1).any(1).all()
    assert len({tuple(p) for p in first[::5].tolist()}) == 2  # both of them, in time


def test_training_without_the_neighbours_it_asks_for_says_so():
    c = get_config()
    c.data.neighbours, c.contracts.orbit.enabled = 2, True
    train = sets.load(get_config().data, seed=0).train
    program = build(c, {"num_train": 160, "input_dim": 64, "image_shape": (8, 8, 1), "num_classes": 10})[1]
    with pytest.raises(ValueError, match=r"carry none: load them with topojax\.data\.load"):
        jax.eval_shape(program.epoch, jax.eval_shape(program.init), jax.tree.map(jnp.asarray, train))


@pytest.mark.slow
def test_orbit_compares_with_a_neighbour():
    """With no other change of view, orbit is 0 between an example and itself, and is not between neighbours."""
    c = get_config()
    for block in (c.augment, c.view):
        block.update({name: 0.0 for name in block})
    c.contracts.orbit.enabled, c.losses.orbit_distance = True, "kl"
    seen = {}
    for count in (0, 3):
        c.data.neighbours = count
        train = sets.load(c.data, seed=0).train
        about = {"num_train": 160, "input_dim": 64, "image_shape": (8, 8, 1), "num_classes": 10}
        program = build(c, about)[1]
        metrics = jax.jit(program.epoch)(jax.jit(program.init)(), jax.tree.map(jnp.asarray, train))[1]
        seen[count] = float(program.named(np.asarray(metrics))["loss/orbit"])
    assert seen[0] == pytest.approx(0, abs=1e-6)
    assert seen[3] > 1e-5


@pytest.mark.slow
def test_no_label_reaches_an_atlas_made_of_pairs():
    """Shuffled labels leave every parameter but the readout's as it was, bit for bit."""
    c = get_config()
    unlabelled(c)
    c.data.neighbours = 3
    train = jax.tree.map(jnp.asarray, sets.load(c.data, seed=0).train)
    about = {"num_train": 160, "input_dim": 64, "image_shape": (8, 8, 1), "num_classes": 10}
    program = build(c, about)[1]
    epoch, first = jax.jit(program.epoch), jax.jit(program.init)()
    mirrored = train.label[::-1]
    ours, shuffled = (epoch(first, train._replace(label=label))[0].params["atlas"] for label in (train.label, mirrored))
    assert not np.array_equal(ours["readout"]["logits"], shuffled["readout"]["logits"])
    for part in ("encoder", "decoder", "jump"):
        assert all(map(np.array_equal, jax.tree.leaves(ours[part]), jax.tree.leaves(shuffled[part])))


@pytest.mark.parametrize("columns", [0, 3])
def test_what_does_not_vary_warns_nobody(columns):
    image = np.zeros((12, 4), np.float32)
    image[:, :columns] = np.random.default_rng(0).normal(size=(12, columns))
    assert nearest(image, 2).shape == (12, 2)
