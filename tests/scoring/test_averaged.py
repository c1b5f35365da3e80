"""Contracts held against the parameters that scores are of."""

import dataclasses

import jax
import pytest
from tiny_config import get_config

import topojax
from topojax.scoring import audit
from topojax.scoring.averaged import measured
from topojax.scoring.split import load_splits


@pytest.mark.slow
def test_what_is_held_is_the_average_on_examples_that_are_not_moved(tmp_path):
    c = get_config()
    c.train.epochs, c.optim.average, c.augment.noise_std = 3, 4.0, 0.2
    topojax.train_and_evaluate(c, tmp_path)
    run = topojax.restore(tmp_path)
    train = load_splits(run)[0]
    held = {name: value for name, value in measured(run, train).items() if name.endswith("/error")}
    assert len(held) > 4

    def of(**fields):
        found = measured(dataclasses.replace(run, state=run.state.replace(**fields)), train)
        return {name: found[name] for name in held}

    # The parameters of training say nothing, nor does the noise on its examples; those of the average do.
    shrunk = jax.tree.map(lambda x: 0.5 * x, run.state.params)
    assert of(params=shrunk) == held
    assert of(average=shrunk) != held
    run.config.augment.noise_std = 0.0
    assert of() == held
    # What training told of its last epoch is another epoch's, of other parameters.
    assert (
        audit.show(tmp_path, averaged=True)
        .split("\n")[0]
        .endswith("averaged parameters, training examples as they are")
    )
    assert audit.show(tmp_path).split("\n")[3:] != audit.show(tmp_path, averaged=True).split("\n")[3:]
