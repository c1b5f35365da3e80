"""What the data alone say of a run is no constant of its programs: runs on other splits share them."""

import jax
import numpy as np
import pytest
from tiny_program import CLASSES, FEW, IMAGE, TRAIN, config, data, jit

from topojax.atlas.model import make_model
from topojax.config.found import MEASURED
from topojax.config.io import flat
from topojax.config.numbers import described, names_of, pack
from topojax.scoring.run import build, numbered_of
from topojax.step.predict import Evaluation, compile_evaluate, predict

ABOUT = {"num_train": TRAIN, "input_dim": 9, "num_classes": CLASSES, "image_shape": IMAGE}
VIEWS = {"view__rotation": 0.1, "view__shift": 0.2, "view__scale": 0.05, "view__noise_std": 0.02}


def two():
    """Runs on two splits of the same data."""
    names = (*FEW, "route", "orbit")
    other = {"model__ball_scale": 3.5, "contracts__route__target": 0.3, "data__neighbours": 5}
    views = {name: 2 * value for name, value in VIEWS.items()}
    return config(names, data__neighbours=4, **VIEWS), config(names, **other, **views)


def test_all_that_is_found_in_data_is_out_of_the_key():
    one, other = two()
    differ = {name for name, value in flat(one) if value != dict(flat(other))[name]}
    assert set(MEASURED) <= differ
    assert described(one) == described(other)
    # In the shapes of the data: how many neighbours there are. All the rest are arguments.
    assert set(MEASURED) - set(names_of(one)) == {"data.neighbours"}


def test_encoding_takes_the_ball_from_the_weights():
    one, other = (make_model(c.model.to_dict(), input_dim=9, num_classes=CLASSES) for c in two())
    params, spectral = jit(one.init)(jax.random.key(0))
    x = data().image
    mine, theirs = (jit(model.normalise)(params, spectral)[0] for model in (one, other))
    encode = jit(one.encode)
    assert np.abs(encode(mine, x).v - encode(theirs, x).v).max() > 0.01
    constant = {**theirs, "encoder": {k: v for k, v in theirs["encoder"].items() if k != "ball_scale"}}
    for a, b in zip(encode(theirs, x), jit(other.encode)(constant, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert encode.lower(mine, x).as_text() == jit(other.encode).lower(theirs, x).as_text()


def test_normalising_weights_takes_it_as_an_argument():
    one, other = (make_model(c.model.to_dict(), input_dim=9, num_classes=CLASSES) for c in two())
    given = (*jax.eval_shape(one.init, jax.random.key(0)), np.float32(3.0))
    assert jax.jit(one.normalise).lower(*given).as_text() == jax.jit(other.normalise).lower(*given).as_text()


def test_evaluation_is_one_program_of_both():
    runs = [build(c, ABOUT)[1] for c in two()]
    state = jax.eval_shape(runs[0].init)
    lowered = [jax.jit(run.evaluate.of).lower(run.evaluate.numbers, state, data()).as_text() for run in runs]
    assert lowered[0] == lowered[1]


@pytest.mark.slow
def test_found_numbers_as_arguments_are_as_good_as_constants():
    first, second = two()
    first.data.neighbours = second.data.neighbours = 0  # of data that have none
    batch, numbers = data(), pack(second)
    alone = build(second, ABOUT)[1]
    state = jit(alone.init)()
    # The program of the first split, with the numbers of the second.
    shared = numbered_of(first, ABOUT)
    found, metrics = jit(shared.epoch)(numbers, jit(shared.init)(numbers), batch)
    wanted, told = jit(alone.epoch)(state, batch)
    np.testing.assert_allclose(metrics, told, rtol=1e-3, atol=1e-5)
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(wanted.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    split = jax.tree.map(np.asarray, batch)
    ours = predict(compile_evaluate(Evaluation(numbers, shared.evaluate), wanted, split), wanted, split)
    theirs = jit(lambda state: alone.evaluate(state, batch))(wanted)
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
