"""The rate as an optax transform: what it finds, what it survives, and what it works inside of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from topojax.control import at_least, contracts, nupi
from topojax.control.learning_rate import bound, cause, keep_finite, scale_by_governor, update_ratio

CURVATURE = jnp.logspace(-1, 2, 10)
GRADIENT = {"w": jnp.float32([3.0, 4.0])}
PARAMS = {"w": jnp.float32([6.0, 8.0])}


def excess(params):
    return 0.5 * jnp.sum(CURVATURE * params**2)


def noisy(params, key):
    """A quadratic whose data scatter: gradient and value are noisy, its minimum is at 0."""
    return excess(params - 0.1 * jax.random.normal(key, params.shape))


def chained(initial, **numbers):
    return optax.chain(keep_finite(optax.scale_by_adam()), scale_by_governor(initial, **{"window": 10, **numbers}))


def governed(state):
    return next(part for part in jax.tree.leaves(state, is_leaf=_is_governed) if _is_governed(part))


def _is_governed(node):
    return hasattr(node, "in_force")


def train(tx, *, steps=800, params=None, loss=noisy):
    """Parameters and state after training, and (value, rate in force) of each step."""

    def step(carry, k):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, jax.random.fold_in(jax.random.key(0), k))
        updates, state = tx.update(grads, state, params, value=value)
        return (optax.apply_updates(params, updates), state), (value, governed(state).in_force)

    params = jnp.ones(10) if params is None else params
    return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(steps))


@functools.cache
def _compiled(numbers):
    tx = scale_by_governor(**{"initial": 1.0, "maximum": 8.0, "window": 2, "cap": None, "alarm": 1e9, **dict(numbers)})
    return tx.init(PARAMS), jax.jit(lambda state, value: tx.update(GRADIENT, state, PARAMS, value=value))


def drive(losses, **numbers):
    """Feed windows of two values 1e-3 apart around each loss; rates and causes after each window, the last state."""
    state, update = _compiled(tuple(sorted(numbers.items())))
    rates, causes = [], []
    for loss in losses:
        for value in (loss - 5e-4, loss + 5e-4):
            _, state = update(state, jnp.float32(value))
        rates.append(float(state.search.rate))
        causes.append(cause(state))
    return rates, causes, state


# The rules, by hand. The mean of a window is known to 5e-4, a difference of two to 7e-4; three of them are 2.1e-3.


def test_it_grows_by_what_the_loss_says():
    # nothing seen, nothing seen: × 4 each; better by .1, .2 (more: × 2), .1 (less: × 2^¼)
    rates, causes, _ = drive([1.0, 1.0, 0.9, 0.7, 0.6], initial=0.01)
    assert rates == pytest.approx([0.04, 0.16, 0.32, 0.64, 0.64 * 2**0.25])
    assert causes == ["recover", "recover", "grow", "grow", "settle"]


def test_a_rise_that_the_cut_relieves_leaves_a_memory_of_the_rate():
    # 1 → 2 → 4 at better windows; the loss jumps: cut to 2; relieved: 4 was unstable, 0.7 · 4 · 1.03ⁿ bounds the rate
    rates, causes, state = drive([1.0, 0.9, 2.0, 0.8, 0.79, 0.78], initial=0.5, forget=1.0)
    assert rates == pytest.approx([2.0, 4.0, 2.0, 2 * 2**0.25, 2.8, 2.8])
    assert causes[2:4] == ["spike", "settle"]
    assert float(state.search.unstable) == 4.0


def test_a_rise_that_the_cut_does_not_relieve_is_not_the_rates_fault():
    # patience 3: cut at the rise, back to what it was three windows later; the new level is then the normal
    rates, causes, state = drive([1.0, 0.9, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0], initial=0.5)
    assert rates[:6] == pytest.approx([2.0, 4.0, 2.0, 2.0, 2.0, 4.0])
    assert causes[5] == "acquit"
    assert rates[-1] >= 4.0
    assert float(state.search.level) == pytest.approx(2.0, rel=1e-5)


def test_a_loss_that_runs_away_is_never_acquitted():
    # charged with 1.1; then 10, 100, … : each more than twice the last charge, × 1/8 each; the fall from 1e4 convicts 4
    rates, causes, state = drive([1.0, 0.9, 2.0, 10.0, 100.0, 9e3, 5e3], initial=0.5)
    assert causes[2:6] == ["spike"] * 4
    assert rates[2:6] == pytest.approx([2.0, 2 / 8, 2 / 64, 2 / 512])
    assert float(state.search.unstable) == 4.0
    assert int(state.search.trial) == 0


def test_a_loss_far_above_the_first_cuts_at_once():
    # the first window is 1 ± 7e-4; a loss of 1.1 is beyond 8 of these: × 1/8 at that step, the window begins anew
    _, _, state = drive([1.0, 0.9], alarm=8.0, initial=0.5)
    _, update = _compiled((("alarm", 8.0), ("initial", 0.5)))
    _, state = update(state, jnp.float32(1.1))
    assert float(state.search.rate) == 4.0 / 8
    assert float(state.in_force) == 4.0 / 8
    assert (cause(state), int(state.search.trial), int(state.window.counted)) == ("spike", 1, 0)
    # the loss falls below what it was charged with: that rate was unstable
    _, state = update(state, jnp.float32(0.9))
    assert float(state.search.unstable) == 4.0


def test_a_loss_that_rises_for_ever_cuts_less_and_less_often():
    rates, _, state = drive(list(np.linspace(1.0, 40.0, 120)), grow=1.0, initial=4.0)
    assert min(rates) == 2.0
    assert sum(rate == 2.0 for rate in rates) <= 21  # seven trials of three windows, trust 1, 2, 4, …, 64 between
    assert int(state.search.trust) >= 32


def test_a_plateau_brings_the_rate_down():
    rates, causes, _ = drive([1.0, 0.9] + [0.9] * 12, grow=1.0, plateau=5)
    assert causes[-1] == "plateau"
    assert rates[-1] == pytest.approx(0.25)


def test_nothing_grows_while_the_horizon_is_near():
    # 12 steps: the rate in force is η up to step 6, then η · (1 − t/12) / 0.5 at step t: 1/6 in the last, t = 11
    rates, causes, state = drive([1.0, 0.9, 0.8, 0.7, 0.6, 0.5], initial=0.1, horizon=12)
    assert rates[3:] == [rates[2]] * 3
    assert causes[3:] == ["horizon"] * 3
    assert float(state.in_force) == pytest.approx(rates[2] / 6)


def test_a_rate_beyond_the_cap_comes_down_to_it_at_once():
    # ‖θ‖ = 10, ‖u‖ = 5: the cap is 0.05 · 10 / 5 = 0.1
    rates, causes, state = drive([1.0], cap=update_ratio(0.05), first=1.0)
    assert rates == pytest.approx([0.4])  # the start is clipped to the cap and grows from there
    rates, causes, state = drive([1.0, 1.0], cap=update_ratio(0.05), first=1.0)
    assert (rates[-1], causes[-1], bound(state)) == (pytest.approx(0.1), "oversized", "cap")


def test_the_first_step_earns_its_size():
    state, update = _compiled((("cap", update_ratio(0.05)), ("first", 0.02)))
    updates, state = update(state, jnp.float32(1.0))
    np.testing.assert_allclose(updates["w"], -0.002 * GRADIENT["w"], rtol=1e-6)


# What it finds.


def test_it_ends_well_from_any_initial_rate_with_and_without_a_horizon():
    def final(initial, horizon):
        (params, _), _ = train(chained(initial, horizon=horizon, plateau=10))
        return excess(params)

    rates, horizons = jnp.logspace(-5, 2, 8), jnp.float32([800, np.inf])
    annealed, free = jax.jit(jax.vmap(jax.vmap(final, (0, None)), (None, 0)))(rates, horizons)
    start = float(excess(jnp.ones(10)))
    assert float(annealed.max()) < 5e-4 * start
    assert float(free.max()) < 1e-2 * start


def test_the_horizon_brings_the_rate_to_zero_and_says_so():
    (_, state), (_, rates) = jax.jit(lambda: train(chained(1e-2, horizon=800)))()
    assert 0 < float(rates[-1]) <= 2 / 800 * float(rates.max())
    assert np.all(np.diff(np.asarray(rates[700:])) <= 0)
    assert bound(state) == "horizon"


@pytest.mark.parametrize("judged", ("task", "merit"))
def test_contracts_that_raise_the_loss_do_not_bring_the_rate_down(judged):
    """The task wants θ = 0, the contract mean(θ) ≥ 2, so the task's loss rises as the multiplier does, to 10.72."""
    problem = contracts(mean=at_least(2.0, dual=nupi(kp=1.0, ki=0.05)))

    def run(initial):
        tx = chained(initial, window=40, horizon=2000)

        def step(carry, k):
            params, opt, duals = carry

            def objective(params):
                task, measured = noisy(params, jax.random.fold_in(jax.random.key(0), k)), {"mean": jnp.mean(params)}
                return problem.lagrangian(duals, task, measured), (task, measured)

            (_, (task, measured)), grads = jax.value_and_grad(objective, has_aux=True)(params)
            value = problem.merit(duals, task, measured) if judged == "merit" else task
            updates, opt = tx.update(grads, opt, params, value=value)
            return (optax.apply_updates(params, updates), opt, problem.update(duals, measured)), opt[1].search.rate

        start = jnp.full(10, 0.1)
        (params, *_), rates = jax.lax.scan(step, (start, tx.init(start), problem.init()), jnp.arange(2000))
        return excess(params), jnp.mean(params), rates[200:].min()

    task, mean, least = jax.jit(jax.vmap(run))(jnp.float32([1e-3, 1.0, 100.0]))
    optimum = 0.5 * 20.0**2 / float(jnp.sum(1 / CURVATURE))
    np.testing.assert_allclose(task, optimum, rtol=0.01)
    np.testing.assert_allclose(mean, 2.0, atol=0.01)
    assert float(least.min()) > 5e-3


# What it survives.


def test_a_step_that_is_not_finite_is_not_taken_and_cuts_once():
    tx = chained(1e-2)
    params = jnp.ones(10)
    update = jax.jit(lambda grads, state, value: tx.update(grads, state, params, value=value))
    _, good = update(params, tx.init(params), 1.0)
    state = good
    for grads, value in ((params.at[3].set(jnp.nan), 1.0), (params, np.inf), (params.at[0].set(jnp.inf), np.nan)):
        updates, state = update(grads, state, value)
        assert not np.any(np.asarray(updates))
    assert (int(governed(state).failures_total), cause(state)) == (3, "non_finite")
    assert float(governed(state).search.rate) == pytest.approx(float(governed(good).search.rate) / 2)
    assert np.isfinite(np.asarray(state[0].mu)).all()
    updates, state = update(params, state, 1.0)
    assert np.isfinite(np.asarray(updates)).all()
    assert np.any(np.asarray(updates))
    assert int(governed(state).failures) == 0


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=6, max_size=6),
    st.floats(1e-8, 1e8),
)
def test_whatever_the_losses_the_rate_is_finite_within_its_bounds_and_each_step_within_the_cap(losses, scale):
    state, update = _compiled((("cap", update_ratio(0.05)), ("maximum", 8.0), ("minimum", 1e-4)))
    for loss in losses:
        updates, state = update(state, jnp.float32(loss))
        assert np.float32(1e-4) <= float(state.search.rate) <= 8.0
        assert float(optax.tree.norm(updates)) <= 0.05 * 10.0 * (1 + 1e-5)
        assert np.isfinite(float(state.in_force))


# What it works inside of.


def test_vmap_over_its_numbers_is_each_run_in_one_trace():
    traces = []

    def run(initial, maximum, ratio):
        traces.append(1)
        tx = chained(initial, maximum=maximum, cap=update_ratio(ratio))
        return train(tx, steps=60)[0][0]

    numbers = [(1e-3, 1.0, 0.05), (1e-1, 0.1, 0.1), (10.0, 100.0, 0.01)]
    together = jax.jit(jax.vmap(run))(*(jnp.float32(column) for column in zip(*numbers, strict=True)))
    assert len(traces) == 1
    for k, one in enumerate(numbers):
        np.testing.assert_allclose(together[k], jax.jit(run)(*one), rtol=2e-4)


def test_nothing_of_it_has_a_gradient():
    def after(initial, value):
        tx = scale_by_governor(initial, window=2)
        state = tx.init(PARAMS)
        for _ in range(3):
            updates, state = tx.update(GRADIENT, state, PARAMS, value=value)
        return updates["w"].sum()

    assert jax.grad(after, (0, 1))(1e-2, 3.0) == (0.0, 0.0)


def test_its_state_round_trips_through_a_checkpoint_bit_for_bit(tmp_path):
    (_, state), _ = jax.jit(lambda: train(chained(1e-2), steps=25))()
    with ocp.StandardCheckpointer() as saver:
        saver.save(tmp_path / "state", state)
        saver.wait_until_finished()
        back = saver.restore(tmp_path / "state", jax.eval_shape(lambda: state))
    assert jax.tree.structure(back) == jax.tree.structure(state)
    for mine, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(back), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_its_numbers_are_read_and_replaced_in_the_state():
    tx = chained(1e-2)
    state = tx.init(jnp.ones(10))
    assert float(optax.tree_utils.tree_get(state, "shrink")) == 0.5
    state = optax.tree_utils.tree_set(state, maximum=jnp.float32(1e-6))
    _, state = tx.update(jnp.ones(10), state, jnp.ones(10), value=1.0)
    assert float(governed(state).in_force) == np.float32(1e-6)


def test_it_works_with_accumulated_gradients():
    # two micro-steps of half the gradient each: the state moves at the second alone
    tx = optax.MultiSteps(chained(1e-2), every_k_schedule=2)
    params = jnp.ones(10)
    state = tx.init(params)
    for k in range(4):
        updates, state = tx.update(params, state, params, value=1.0)
        assert int(governed(state).steps) == (k + 1) // 2
        assert bool(np.any(np.asarray(updates))) == (k % 2 == 1)


def test_it_works_under_schedule_free_averaging():
    tx = optax.contrib.schedule_free(chained(1e-3), learning_rate=1.0)
    (params, state), _ = jax.jit(lambda: train(tx))()
    average = optax.contrib.schedule_free_eval_params(state, params)
    assert float(excess(average)) < 0.02 * float(excess(jnp.ones(10)))


def test_it_works_in_an_nnx_optimizer():
    model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, chained(1e-2), wrt=nnx.Param)
    x = jax.random.normal(jax.random.key(0), (64, 2))

    @nnx.jit
    def step(model, optimizer):
        value, grads = nnx.value_and_grad(lambda model: jnp.mean((model(x)[:, 0] - x[:, 0]) ** 2))(model)
        optimizer.update(model, grads, value=value)
        return value

    first, *_, last = (float(step(model, optimizer)) for _ in range(150))
    assert last < 0.05 * first


def test_updates_keep_their_types_and_structure():
    tx = scale_by_governor(1e-2)
    params = {"half": jnp.ones(3, jnp.bfloat16), "none": None, "full": (jnp.ones(2), jnp.float32(1.0))}
    updates, state = tx.update(params, tx.init(params), params, value=jnp.bfloat16(1.0))
    assert jax.tree.map(lambda leaf: leaf.dtype, updates) == jax.tree.map(lambda leaf: leaf.dtype, params)
    assert jax.eval_shape(tx.update, params, state, params, value=1.0)[1] == jax.eval_shape(lambda: state)


@pytest.mark.parametrize("missing", ({"params": None}, {"value": None}))
def test_what_is_missing_is_named_when_traced(missing):
    tx = chained(1e-2)
    given = {"params": jnp.ones(10), "value": 1.0} | missing
    with pytest.raises(ValueError, match=f"scale_by_governor needs {next(iter(missing))}"):
        jax.eval_shape(lambda: tx.update(jnp.ones(10), tx.init(jnp.ones(10)), **given))


@pytest.mark.parametrize(
    "numbers, message",
    (
        ({"initial": -1.0}, "initial must lie in .* got -1.0"),
        ({"minimum": 0.0}, "minimum must be > 0, got 0.0"),
        ({"maximum": 1e-9}, "minimum must be <= maximum, got 1e-08 > 1e-09"),
        ({"window": 1}, r"window must lie in \[2, inf\], got 1"),
        ({"grow": 0.5}, r"grow must lie in \[1, inf\], got 0.5"),
        ({"shrink": 0.0}, "shrink must be > 0, got 0.0"),
        ({"cooling": 1.5}, r"cooling must lie in \[0, 0.9\], got 1.5"),
        ({"horizon": 0}, "horizon must be > 0, got 0"),
        ({"plateau": -1}, "plateau must be >= 0, got -1"),
        ({"initial": [1e-3, 1e-2]}, r"initial must be a number, got shape \(2,\); to try many, jax.vmap"),
    ),
)
def test_bad_numbers_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        scale_by_governor(**{"initial": 1e-3, **numbers})


def test_a_number_that_it_does_not_have_is_named():
    with pytest.raises(TypeError, match=r"no number 'patient'; it has .*patience"):
        scale_by_governor(1e-3, patient=3)
    with pytest.raises(ValueError, match=r"ratio must be > 0, got 0.0"):
        update_ratio(0.0)


def test_a_cap_that_is_a_number_and_a_state_without_a_governor_are_named():
    with pytest.raises(TypeError, match="update_ratio"):
        scale_by_governor(1e-3, cap=0.05)
    with pytest.raises(KeyError, match="no governor"):
        cause(optax.adam(1e-3).init(jnp.ones(2)))
    many = jax.vmap(lambda rate: scale_by_governor(rate).init(jnp.ones(2)))(jnp.ones(3))
    with pytest.raises(ValueError, match="take one out"):
        cause(many)
