"""The step against plain Adam, without labels, and held by next to no latent speed: programs of a few contracts."""

import jax
import numpy as np
import optax
import pytest
from controller_runs import bits
from tiny_program import CLASSES, FEW, STEPS, batches, config, data, jit, moved, program

from topojax.atlas.controllers import make_control
from topojax.atlas.measure import make_settings
from topojax.atlas.objective import Objective
from topojax.atlas.optim import groups


@pytest.mark.slow
def test_a_constant_rate_without_caps_is_plain_adam_at_each_groups_share():
    c = config(FEW, optim__rate="constant", optim__schedule="none", optim__update_ratio=0.0, optim__latent_speed=0.0)
    c.model.covariant = True  # else the router has no parameters
    c.optim.learning_rate, c.optim.grad_clip = 3e-3, 0.1
    c.optim.group_rates.codes, c.optim.group_rates.decoder, c.optim.group_rates.router = 0.5, 2.0, 0.0
    c.hierarchy.action = "warn"
    shares = {"encoder": 1.0, "router": 0.0, "codes": 0.5, "decoder": 2.0, "heads": 1.0}
    made, model = program(c)
    system, rows = make_control(c, num_classes=CLASSES)
    gradient = jax.grad(Objective(c, model, rows).loss, has_aux=True)
    settings = make_settings(c, rows)
    train_step = jit(made.train_step)
    first = state = jit(made.init)()
    probe = made.probe_of(data())

    optimizers = {
        name: optax.chain(optax.clip_by_global_norm(0.1), optax.adam(3e-3, b2=0.95)) for name in ("atlas", "readout")
    }

    def split(params):
        atlas = dict(params["atlas"])
        return {"readout": atlas.pop("readout"), "atlas": atlas}

    share = split(jax.tree.map(shares.get, groups(state.params)))

    @jit
    def plain_adam(expected, moments, state, batch):
        control = state.control
        weights, length = system.weights(control), state.probed.geometry.length
        now = settings(system.targets(control), control.coupling.epsilon, length, weights)
        grads = split(gradient(state.params, state.spectral, weights, now, batch, batch.image)[0])
        out = {}
        for name, optimizer in optimizers.items():
            updates, moments[name] = optimizer.update(grads[name], moments[name], expected[name])
            updates = jax.tree.map(lambda part, u: part * u, share[name], updates)
            out[name] = optax.apply_updates(expected[name], updates)
        return out, moments, optax.tree.norm(grads["atlas"]) > 0.1

    expected = split(state.params)
    moments = {name: optimizers[name].init(expected[name]) for name in expected}
    any_clipped = False
    for batch in batches(2):
        expected, moments, clipped = plain_adam(expected, moments, state, batch)
        any_clipped |= bool(clipped)
        state, metrics = train_step(state, batch, probe)
        assert metrics["lr"] == np.float32(3e-3)
        assert metrics["lr_cap"] == 0
        for a, b in zip(jax.tree.leaves(split(state.params)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=4e-6)
    assert any_clipped
    assert moved(first, state) == {"encoder", "codes", "decoder", "heads"}


class Slow:
    """A program without labels for the atlas, with precisions, and next to no latent speed; two epochs."""

    def __init__(self):
        self.config = config((*FEW, "route", "sup_purity"), supervised__enabled=False, precision__enabled=True)
        self.config.optim.grad_clip = 0.01  # always at work: a shared norm would let labels scale the rest
        self.config.optim.latent_speed = 1e-3
        self.config.probe.every_steps = STEPS
        self.program, _ = program(self.config)
        self.train_step, self.first = jit(self.program.train_step), jit(self.program.init)()
        self.probe = self.program.probe_of(data())

    def run(self, shift):
        """States and metrics where every label, the probe's too, is another by `shift`."""

        def shifted(batch):
            return batch._replace(label=(batch.label + shift) % CLASSES)

        states, metrics = [self.first], []
        for batch in batches(2):
            state, out = self.train_step(states[-1], shifted(batch), shifted(self.probe))
            states.append(state)
            metrics.append(out)
        return states, metrics


@pytest.fixture(scope="module")
def slow():
    return Slow()


@pytest.mark.slow
def test_without_supervision_labels_reach_the_readout_alone(slow):
    assert [row.name for row in slow.program.rows] == list(FEW)
    ends = []
    for shift in (0, 1):
        states, metrics = slow.run(shift)
        assert set(states[0].params["precision"]) == {"recon", "vq"}
        assert "loss/route" not in metrics[-1]
        assert states[-1].params["precision"]["recon"] != 0
        ends.append(states[-1])
    atlas = [dict(state.params["atlas"]) for state in ends]
    readout = [a.pop("readout") for a in atlas]
    assert bits(atlas[0]) == bits(atlas[1])
    assert bits(ends[0].params["precision"]) == bits(ends[1].params["precision"])
    for part in ("control", "probed", "usage", "liveness"):
        assert bits(getattr(ends[0], part)) == bits(getattr(ends[1], part)), part
    assert bits(readout[0]) != bits(readout[1])


@pytest.mark.slow
def test_a_tiny_latent_speed_holds_the_rate(slow):
    states, metrics = slow.run(0)
    assert all(m["lr_cap"] in (0, 1, 2) for m in metrics[:STEPS])  # nothing measured yet
    fast = metrics[STEPS - 1]
    assert fast["probe/speed_mean"] > 2e-3
    allowed = fast["lr"] * 1e-3 / fast["probe/speed_mean"]  # η v_max / speed
    np.testing.assert_allclose(states[STEPS].probed.speed_cap, allowed, rtol=1e-5)
    for m in metrics[STEPS:]:
        assert m["lr_cap"] == 3
        np.testing.assert_allclose(m["lr"], allowed, rtol=1e-5)
    assert metrics[-1]["probe/speed_mean"] < 0.5 * fast["probe/speed_mean"]  # the same metric, at the slower rate
