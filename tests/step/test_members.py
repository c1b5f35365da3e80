"""Members of one program are runs of their own; numbers are arguments, and each of them is read."""

import json
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval
from tiny_program import CLASSES, EVERYTHING, IMAGE, MANY, TRAIN, config, data, jit

from topojax.atlas.model import make_model
from topojax.config.numbers import READ_BY_EVALUATION, given, named, names_of, pack, stack
from topojax.step import population as together
from topojax.step.device_grid import grid
from topojax.step.numbered import make_numbered
from topojax.step.program import make_program
from topojax.step.state import TrainState


def program_of(c):
    model = make_model(c.model.to_dict(), input_dim=9, num_classes=CLASSES)
    return make_program(c, model, num_train=TRAIN, input_dim=9, num_classes=CLASSES, image_shape=IMAGE)


def everything(**fields):
    baselines = {"baselines__autoencoder": True, "baselines__vq": True}
    warm = {"contracts__diversity__target_rule": "warmup", "window__ground": "capacity", "view__scale": 0.1}
    moves = {f"augment__{name}": 0.1 for name in ("rotation", "shift", "scale", "noise_std")}
    more = {
        "optim__average": 0.9,
        "geometry__margins": False,
        "losses__metric_distance": "overlap",
        "model__discs": False,
    }
    return config(MANY, **{**EVERYTHING, **baselines, **warm, **moves, **more, **fields})


def unread(c, function):
    """Numbers of a configuration that a function of its program and state never reads."""
    own = c.to_dict()
    values = names_of(c)
    whole = pack(c)
    kinds = [isinstance(value_of(own, name), int) for name in values]

    def of_numbers(floats, ints):
        return function(program_of(given(c, floats, ints)))

    closed = jax.make_jaxpr(of_numbers)(list(whole.floats), list(whole.ints))
    _, used = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    ordered = [n for n, k in zip(values, kinds, strict=True) if not k]
    ordered += [n for n, k in zip(values, kinds, strict=True) if k]
    return {name for name, read in zip(ordered, used, strict=True) if not read}


def value_of(own, name):
    for part in name.split("."):
        own = own[part]
    return own


@pytest.mark.slow
def test_every_number_is_read_by_the_program():
    """What is listed as an argument and reaches nothing would be swept in vain."""
    c = everything()

    def used(program):
        state = program.init()
        return state, program.epoch(state, data())

    # A router of dot products has no parameters of the group's own.
    idle = {"optim.group_rates.router"}
    # Under a cosine no rate falls by `ending`, which still says when there is no more to gain.
    assert unread(c, used) <= idle | {"ending.floor"}
    plain = everything(window__ground="target", contracts__diversity__target_rule="absolute", optim__schedule="ending")
    assert unread(plain, used) <= idle | {"optim.warmup_epochs", "window.capacity_fraction", "window.capacity_floor"}


@pytest.mark.slow
def test_evaluation_reads_few_numbers():
    c = everything()
    state, few = program_of(c).init(), set(named(c, READ_BY_EVALUATION))
    read = set(names_of(c)) - unread(c, lambda program: program.evaluate(state, data()))
    assert {name for name in read if not name.startswith("contracts.")} <= few

    # All contracts lie in the same vectors: which of them are really read is told by the derivative.
    def total(floats, ints):
        found = program_of(given(c, floats, ints)).evaluate(state, data())
        return sum(jnp.sum(value * jnp.arange(1.0, value.size + 1).reshape(value.shape)) for value in found.values())

    numbers = pack(c)
    slopes = jax.jit(jax.grad(total))(list(numbers.floats), list(numbers.ints))
    floats = [name for name in names_of(c) if not isinstance(value_of(c.to_dict(), name), int)]
    moved = {name for name, slope in zip(floats, slopes, strict=True) if slope != 0}
    assert "supervised.temperature" in moved <= few


def conditionals(function, *arguments):
    """How many conditionals a program holds, at any depth."""
    found, waiting = 0, [jax.make_jaxpr(function)(*arguments).jaxpr]
    while waiting:
        for equation in waiting.pop().eqns:
            found += equation.primitive.name == "cond"
            for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
                value = getattr(value, "jaxpr", value)
                waiting += [value] if hasattr(value, "eqns") else []
    return found


def small(**fields):
    return config(("commitment", "diversity", "window", "orthogonality"), revival__dead_code=0.5, **fields)


def test_members_are_computed_in_chunks():
    assert together.lay_out(6, chunk=0, own_data=False, mesh=None) == together.Layout(6, 6, False, None)
    assert together.lay_out(6, chunk=2, own_data=True, mesh=None).chunk == 2
    with pytest.raises(ValueError, match="must divide the 6 members"):
        together.lay_out(6, chunk=4, own_data=True, mesh=None)


@pytest.mark.slow
def test_conditionals_stay_conditionals():
    c = small()
    numbered = make_numbered(c, program_of)
    population = together.make_population(numbered, together.lay_out(2, chunk=0, own_data=False, mesh=None))
    one, two = pack(c), stack([c, c])
    alone = conditionals(numbered.epoch, one, jax.eval_shape(numbered.init, one), data())
    assert alone == conditionals(population.epoch, two, jax.eval_shape(population.init, two), data()) > 2


SCRIPT = """
    import json, sys
    import jax, numpy as np
    sys.path.insert(0, {tests!r})
    sys.path.insert(0, {step!r})
    from test_members import run_members
    print(json.dumps(run_members(**json.loads({arguments!r}))))
"""


def run_members(chunk=0, own_data=False):
    """Epochs' metrics of four members, and of the third alone."""
    configs = [small(seed=seed, optim__learning_rate=rate) for seed in (0, 1) for rate in (0.005, 0.01)]
    numbered = make_numbered(configs[0], program_of)
    layout = together.lay_out(4, chunk=chunk, own_data=own_data, mesh=grid(4, jax.devices()))
    population = together.make_population(numbered, layout)
    sets = [data(i if own_data else 0) for i in range(4)]
    split = jax.tree.map(lambda *parts: jnp.stack(parts), *sets) if own_data else sets[0]
    numbers = stack(configs)
    state = jax.jit(population.init)(numbers)
    epoch = jit(population.epoch)
    own = jax.jit(numbered.init)(pack(configs[2]))
    alone = jit(numbered.epoch)
    out = []
    for _ in range(2):
        state, metrics = epoch(numbers, state, split)
        own, expected = alone(pack(configs[2]), own, sets[2])
        out.append([np.asarray(metrics)[2].tolist(), np.asarray(expected).tolist()])
    taken = together.member(state, 2)
    assert int(taken.step) == int(own.step)
    return {"devices": layout.devices, "chunk": layout.chunk, "metrics": out}


@pytest.mark.parametrize(
    ("devices", "arguments", "wanted"),
    [
        pytest.param(1, {"own_data": True}, (1, 4), marks=pytest.mark.campaign),
        pytest.param(1, {"chunk": 2}, (1, 2), marks=pytest.mark.campaign),
        pytest.param(2, {"own_data": True, "chunk": 1}, (2, 1), marks=pytest.mark.campaign),
    ],
)
def test_a_member_is_its_solo_run(devices, arguments, wanted):
    tests = os.path.dirname(os.path.dirname(__file__))
    code = SCRIPT.format(tests=tests, step=os.path.dirname(__file__), arguments=json.dumps(arguments))
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert (found["devices"], found["chunk"]) == wanted
    for member, alone in found["metrics"]:
        np.testing.assert_allclose(member, alone, rtol=1e-4, atol=1e-5)


def test_a_copied_member_keeps_its_own_randomness():
    rest = dict.fromkeys(
        ("spectral", "opt_state", "control", "usage", "liveness", "probed", "isotropy", "baselines"), ()
    )
    weights = jnp.arange(6.0).reshape(3, 2)
    keys = jax.random.split(jax.random.key(0), 3)
    state = TrainState(step=jnp.int32(7), params={"w": weights}, average={}, key=keys, **rest)
    moved = together.copied(state, jnp.array([2, 1, 2]))
    np.testing.assert_array_equal(moved.params["w"], weights[np.array([2, 1, 2])])
    np.testing.assert_array_equal(jax.random.key_data(moved.key), jax.random.key_data(keys))
    own = [together.member(state, i) for i in range(3)]
    assert [int(one.step) for one in own] == [7, 7, 7]
    np.testing.assert_array_equal(own[1].params["w"], weights[1])
    back = together.stacked(own)
    np.testing.assert_array_equal(back.params["w"], weights)
    assert back.step.shape == moved.step.shape == ()
