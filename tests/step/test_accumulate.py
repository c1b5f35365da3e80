"""A batch in parts is the batch: the gradient of what is linear in examples, the same measurements of all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_program import IMAGE, config, data, jit

from topojax.atlas.model import make_model
from topojax.config.validate import validate
from topojax.errors import UserError
from topojax.scoring.run import build
from topojax.step.program import make_program
from topojax.types import Batch

FEW = ("commitment", "jump")


def stepped(parts, enabled, **fields):
    """(state after one step on 24 points, its metrics), the batch in so many parts."""
    c = config(enabled, train__batch_size=24 // parts, train__accumulate=parts, **fields)
    model = make_model(c.model.to_dict(), input_dim=9, num_classes=3)
    program = make_program(c, model, num_train=26, input_dim=9, num_classes=3, image_shape=IMAGE)
    assert program.steps_per_epoch == 1
    train = data()
    return jit(program.train_step)(program.init(), Batch(train.image[:24], train.label[:24]), program.probe_of(train))


@pytest.fixture(scope="module")
def pair():
    fields = {"losses__likelihood": "fixed", "baselines__vq": True, "losses__told_share": 1.0}
    return [stepped(parts, FEW, **fields) for parts in (1, 3)]


@pytest.mark.slow
def test_gradients_of_means_are_those_of_the_whole_batch(pair):
    (whole, told), (parts, also) = pair
    for name in ("norm/gradient", "norm/direction", "loss/recon", "loss/total", "baseline/vq/vq", "loss/readout"):
        np.testing.assert_allclose(also[name], told[name], rtol=2e-5, err_msg=name)
    for a, b in zip(jax.tree.leaves(whole.opt_state), jax.tree.leaves(parts.opt_state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_what_is_measured_of_encodings_is_measured_of_all(pair):
    """I(X;K) of three parts is not the mean of theirs: it is that of the batch, as are usage and energies."""
    (whole, told), (parts, also) = pair
    for name in ("I_XK", "H_K", "H_K_given_X", "I_XK_usage", "energy", "varentropy"):
        np.testing.assert_allclose(also[f"signal/{name}"], told[f"signal/{name}"], rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(parts.usage.counts, whole.usage.counts, rtol=1e-5)
    assert float(parts.usage.counts.sum()) == pytest.approx(24)


@pytest.mark.slow
def test_what_is_not_linear_is_the_mean_of_the_parts():
    whole, parts = (stepped(n, ("commitment", "diversity"), losses__told_share=1.0)[1] for n in (1, 3))
    assert abs(float(whole["loss/diversity"]) - float(parts["loss/diversity"])) > 1e-6
    assert float(parts["loss/diversity"]) >= float(whole["loss/diversity"])  # entropy is concave


def test_sizes_that_do_not_fit_are_one_line():
    c = config(FEW)
    c.train.accumulate = 0
    with pytest.raises(UserError, match=r"config\.train\.accumulate = 0: must lie in \[1, inf\)"):
        validate(c)
    c.train.accumulate = 4
    about = {"num_train": 26, "input_dim": 9, "image_shape": IMAGE, "num_classes": 3}
    with pytest.raises(UserError, match=r"batch_size = 8, times config\.train\.accumulate = 4, exceeds the 26"):
        build(c, about)
    c.train.accumulate, c.mesh.data = 3, 3
    with pytest.raises(UserError, match=r"config\.mesh\.data = 3: must divide config\.train\.batch_size = 8"):
        validate(c)


@pytest.mark.slow
def test_parts_are_scanned_not_unrolled():
    """The program does not grow with their number."""
    sizes = []
    for parts in (2, 8):
        c = config(FEW, train__batch_size=24 // parts, train__accumulate=parts)
        model = make_model(c.model.to_dict(), input_dim=9, num_classes=3)
        program = make_program(c, model, num_train=26, input_dim=9, num_classes=3, image_shape=IMAGE)
        train = data()
        lowered = jax.jit(program.epoch).lower(jax.eval_shape(program.init), jax.tree.map(jnp.asarray, train))
        sizes.append(len(lowered.as_text().splitlines()))
    assert abs(sizes[1] - sizes[0]) < 50
