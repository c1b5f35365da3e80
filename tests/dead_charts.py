"""A small atlas with moments in its optimizer, and what is dead in it, for tests of revival."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from golden_files import MODEL as ORIGINAL

from topojax.atlas.model import make_model
from topojax.atlas.optim import make_optimizer
from topojax.atlas.revival import Liveness, empty, revive

MODEL = ORIGINAL | {
    "hidden_dim": 16,
    "num_charts": 4,
    "codes_per_chart": 3,
    "rank": 4,
    "gate_bias_init": 1.0,
    "ball": True,
    "ball_scale": 1.5,
    "straight_through": "detached",
    "class_affinity": 4.0,
}
FREE = {"router_gain": 3.0, "key_offset": 0.1, "chart_gain": 5.0, "chart_bias": 0.3}
OPTIM = SimpleNamespace(rate="governor", grad_clip=1.0, b1=0.9, b2=0.999, eps=1e-8)
second_life = jax.jit(revive)


def names(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


@functools.cache
def made(covariant, **fields):
    model = make_model({**MODEL, "covariant": covariant, **fields}, input_dim=6, num_classes=3)
    return model, jax.jit(model.init)


def tiny(covariant=True, seed=0, **fields):
    model, init = made(covariant, **fields)
    atlas, spectral = init(jax.random.key(seed))
    return model, {"atlas": atlas, "precision": {"recon": jnp.zeros(())}}, spectral


def warm(params, steps=2):
    """An optimizer with moments everywhere, and its state."""
    optimizer = make_optimizer(OPTIM, steps_per_epoch=10)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for k in range(steps):
        grads = jax.tree.map(lambda p, k=k: np.cos(np.arange(p.size) + k).astype(np.float32).reshape(p.shape), params)
        _, state = update(grads, state, params)
    return optimizer, state, grads


def moments(opt_state, params):
    """The moments as trees of the params, zero and the count set apart."""
    out = {}
    for label, inner in opt_state.inner_states.items():
        adam = inner.inner_state[1]
        for name in ("mu", "nu"):
            at = 0
            for path, leaf in names(params).items():
                if ("readout" in path.split("/")) == (label == "readout"):
                    out[name, path] = np.asarray(getattr(adam, name)[at : at + leaf.size]).reshape(leaf.shape)
                    at += leaf.size
            assert at == getattr(adam, name).size
    return out


def seen(count, moment=None, log_router=None):
    """Liveness of given counts [N, K]."""
    count = jnp.asarray(count, jnp.float32)
    charts, codes = count.shape
    start = empty(charts, codes, 2)
    return Liveness(
        count,
        start.moment if moment is None else jnp.asarray(moment, jnp.float32),
        start.log_router if log_router is None else jnp.asarray(log_router, jnp.float32),
    )


USED = np.full((4, 3), 10.0)
FLAT = np.zeros((4, 3, 2, 2))


def one_dead_code():
    """Code 2 of chart 1 is dead; code 0 has the largest error: 10 points of variance 4 along x and 1 along y."""
    count, moment = USED.copy(), FLAT.copy()
    count[1, 2] = 0
    moment[1, 0] = np.diag([40.0, 10.0])
    moment[1, 1] = np.diag([0.0, 30.0])
    return seen(count, moment)


def one_dead_chart(log_router=None):
    """Chart 3 is dead; chart 1 has the largest scatter."""
    count, moment = USED.copy(), FLAT.copy()
    count[3] = 0
    moment[1] = np.diag([4.0, 1.0])
    moment[0] = np.diag([2.0, 2.0])
    return seen(count, moment, log_router)
