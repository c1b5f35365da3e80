"""The shipped configurations: one set of numbers for all data."""

import importlib.util
import pathlib

import pytest

from topojax.config import io
from topojax.config.defaults import default_config
from topojax.config.recipes import unlabelled
from topojax.data.manifolds import MANIFOLDS

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
SIZES = {
    "model.hidden_dim",
    "model.num_charts",
    "model.codes_per_chart",
    "model.latent_dim",
    "train.epochs",
    "train.batch_size",
}
SHIPPED = [("digits", ""), ("digits", "unsupervised"), *(("mnist", v) for v in ("subset", "full", "unsupervised"))]
SHIPPED += [("cifar10", ""), ("cifar10", "subset"), *(("manifolds", name) for name in MANIFOLDS)]


def shipped(name, variant):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


def numbers(config):
    """Numeric fields but sizes, the data and the seed; a switch is none."""
    return {
        field: value
        for field, value in io.flat(config)
        if isinstance(value, int | float) and not isinstance(value, bool)
        if field not in SIZES and field != "seed" and not field.startswith("data.")
    }


@pytest.mark.parametrize("name, variant", SHIPPED)
def test_no_number_differs_between_them_but_sizes(name, variant):
    config, one = shipped(name, variant), default_config()
    if not config.supervised.enabled:
        unlabelled(one)
    assert numbers(config) == numbers(one)


def test_without_labels_it_is_the_weights_of_pairs_and_of_usage_that_differ():
    config = default_config()
    unlabelled(config)
    differing = {name for name, value in numbers(config).items() if value != numbers(default_config())[name]}
    assert differing == {"contracts.orbit.target", "contracts.diversity.initial"}
    assert len(numbers(config)) > 200
