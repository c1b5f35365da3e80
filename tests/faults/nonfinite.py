"""NaN and infinities in random leaves: batch, terms, gradients, signals, moments, baselines, all that lasts.

Into a batch, a term, a gradient or a signal: the step is taken, and afterwards nothing but counters, rate and what the
governor remembers may have changed; a signal that only one contract reads holds that contract's weight and no more.
Into the state: the step is skipped, the epoch's end says that the state is not sound, and the run goes back to the last
good state at a lower rate, as `training.loop` does. Each fault has an epoch of its own from the same good state, many
in a call of one compiled program; the last epoch of a block has none, and ends in the good state of the next block.
"""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import numpy as np

from tests.faults.counts import Counts

VALUES = (np.nan, np.inf, -np.inf)
PASSING = ("batch", "term", "gradient", "signal")
LASTING = ("params", "opt_state", "baselines", "spectral", "usage", "average", "isotropy", "bank")
KINDS = (*PASSING, *LASTING)
MASKED = ("params", "opt_state", "baselines", "spectral", "usage", "average", "liveness", "isotropy", "key", "probed")
AT_AN_END = {"probed", "params", "opt_state", "average", "liveness"}
"""What the end of an epoch may change though its last step was skipped: the probe, and what is revived."""
A_CALL = 10
"""Epochs of one call of the program."""
BLOCK = 25 * A_CALL - 1
"""Faults between two epochs without one."""


class Cases(NamedTuple):
    """Faults, an entry each."""

    kind: Any  # of KINDS, -1 none
    leaf: Any  # of that kind's leaves
    at: Any  # in [0, 1), where in the leaf
    value: Any
    batch: Any  # that the epoch begins with


def run(folder: pathlib.Path, count: int, seed: int) -> Counts:
    """Inject until there have been so many."""
    counts = Counts(folder, "non-finite values")
    stepper = Stepper()
    chance = np.random.default_rng([seed, counts["injected"]])
    good = undisturbed = stepper.first
    while counts["injected"] < count:
        cases = _cases(chance, stepper.leaves, stepper.batches)
        good, told = stepper.epochs(good, cases)
        for i in range(min(BLOCK, count - counts["injected"])):
            kind = KINDS[cases.kind[i]]
            counts["injected"] += 1
            counts[f"into {kind}"] += 1
            judge = _passed if kind in PASSING else _lasted
            judge(f"{kind} {cases.leaf[i]}", {name: value[i] for name, value in told.items()}, counts)
        lasting = {k: v[-1] for k, v in told.items()}
        if not (np.isfinite(lasting["task"]) and lasting["sound"]) or lasting["skipped"]:
            counts.broke("an epoch without a fault is not finite")
        undisturbed, _ = stepper.epochs(undisturbed, Cases(*(np.repeat(x[-1:], A_CALL) for x in cases)))
        _goes_on(stepper, good, cases, counts)
        counts.keep()
    counts["clean steps"] = int(good.step)
    if not bool(_same(good, undisturbed)):
        counts.broke("what was trained between the faults is not what is trained without them")
    return counts


def _cases(chance: np.random.Generator, leaves: dict[str, int], batches: int) -> Cases:
    kind = chance.integers(len(KINDS), size=BLOCK + 1)
    kind[-1] = -1
    leaf = np.array([chance.integers(leaves[KINDS[k]]) if k >= 0 else 0 for k in kind])
    at, value = chance.random(BLOCK + 1), chance.choice(VALUES, BLOCK + 1)
    numbers = (kind.astype(np.int32), leaf.astype(np.int32), at.astype(np.float32), value.astype(np.float32))
    return Cases(*numbers, chance.integers(batches, size=BLOCK + 1).astype(np.int32))


def _passed(what: str, told: dict[str, Any], counts: Counts) -> None:
    """A fault that was there for one step."""
    if not told["sound"]:
        counts.broke(f"{what} leaves the state not sound")
    if told["skipped"]:
        counts["skipped"] += 1
        changed = {name for name, same in zip(MASKED, told["same"], strict=True) if not same}
        if changed - (AT_AN_END if told["ends"] else set()):
            counts.broke(f"{what}: a skipped step has changed {sorted(changed)}")
    elif not what.startswith("signal"):
        counts.broke(f"{what}: a step that is not finite was taken")
    else:
        counts["held one weight"] += 1


def _lasted(what: str, told: dict[str, Any], counts: Counts) -> None:
    """A fault in the state: gone by itself at the end of the epoch, or seen there."""
    if told["sound"]:
        counts["outlived"] += 1  # a counter that starts anew, an average over which the next value has been written
    elif told["seen"]:
        counts["rolled back"] += 1
    else:
        counts.broke(f"{what}: a state that is not sound was not seen at the epoch's end")


def _goes_on(stepper: Any, good: Any, cases: Cases, counts: Counts) -> None:
    """What the run does with the others: back to its last good state, at a lower rate."""
    from topojax.training.recovery import lowered

    none = Cases(*(np.array(x[:A_CALL]) for x in cases))
    none.kind[:] = -1
    _, told = stepper.epochs(lowered(good, 0.5, 1e-6), none)
    counts["epochs gone on with"] += A_CALL
    if not told["sound"].all() or told["skipped"].any():
        counts.broke("the state that the run goes back to is not sound")


class Stepper:
    """Epochs of a small program with every contract and both baselines, each with one fault in its first step.

    Attributes:
      first: a state at the beginning of an epoch.
      leaves: kind of fault → how many leaves it may lie in.
      batches: of an epoch.
      epochs: (state, Cases) → (state after the last case, what is told of each).
    """

    def __init__(self):
        import jax
        import jax.numpy as jnp
        from tiny_program import EVERYTHING, MANY, STEPS, batches, config, data, jit, program

        from topojax.types import Batch

        made, _ = program(config(MANY, **EVERYTHING, baselines__autoencoder=True, baselines__vq=True))
        self.leaves: dict[str, int] = {}
        fault: list[Any] = []  # of the step that is being traced
        poisoned = _poison(self.leaves, fault)
        epochs = _with_faults(made.diagnosis.epochs, poisoned)
        probe, given = made.probe_of(data()), list(batches(1))
        stacked = Batch(*(jnp.stack([getattr(b, name) for b in given]) for name in ("image", "label")))
        self.batches = len(given)

        def epoch(state: Any, case: Cases) -> Any:
            def step(state: Any, i: Any) -> Any:
                batch = jax.tree.map(lambda x: x[(case.batch + i) % self.batches], stacked)
                fault[:] = [case._replace(kind=jnp.where(i == 0, case.kind, -1))]
                parts = {name: poisoned(name, getattr(state, name)) for name in LASTING if name != "bank"}
                control = state.control._replace(bank=poisoned("bank", state.control.bank))
                state = state.replace(control=control, **parts)
                batch = batch._replace(image=poisoned("batch", batch.image))
                after, metrics = epochs.train_step(state, batch, probe)
                told = {
                    "skipped": metrics["guard/skipped"],
                    "seen": metrics["guard/unsound"],
                    "task": metrics["signal/task"],
                    "ends": after.step % STEPS == 0,
                    "same": jnp.stack([_same(getattr(state, name), getattr(after, name)) for name in MASKED]),
                }
                return after, told

            state, told = jax.lax.scan(step, state, jnp.arange(STEPS))
            first = jax.tree.map(lambda x: x[0], told)
            return state, first | {"seen": told["seen"].any(), "sound": state.sound()}

        def after_each(good: Any, cases: Cases) -> Any:
            return jax.lax.scan(lambda _, case: epoch(good, case), good, cases)

        compiled = jit(after_each)
        self.first = jit(made.init)()
        one = Cases(jnp.int32(0), jnp.int32(0), jnp.float32(0), jnp.float32(0), jnp.int32(0))
        jax.eval_shape(epoch, self.first, one)  # counts the leaves
        self.epochs = lambda state, cases: _by_calls(compiled, state, cases)


def _by_calls(compiled: Any, state: Any, cases: Cases) -> tuple[Any, dict[str, np.ndarray]]:
    """All cases from one state, some in each call: (state after the last case, what is told of each)."""
    told, last = [], state
    for start in range(0, len(cases.kind), A_CALL):
        last, found = compiled(state, Cases(*(x[start : start + A_CALL] for x in cases)))
        told.append({name: np.asarray(value) for name, value in found.items()})
    return last, {name: np.concatenate([each[name] for each in told]) for name in told[0]}


def _poison(leaves: dict[str, int], fault: list[Any]) -> Any:
    """(kind, tree) → the tree with the fault that is being traced, where it is of that kind; counts the leaves."""
    import jax
    import jax.numpy as jnp

    def poisoned(kind: str, tree: Any) -> Any:
        found, structure = jax.tree.flatten(tree)
        real = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) and leaf.size for leaf in found]
        places = [i for i, leaf in enumerate(found) if real[i]]
        leaves[kind] = len(places)
        (case,) = fault
        for number, place in enumerate(places):
            leaf = found[place]
            here = (case.kind == KINDS.index(kind)) & (case.leaf == number)
            flat = leaf.reshape(-1)
            at = jnp.minimum((case.at * flat.size).astype(jnp.int32), flat.size - 1)
            value = jnp.where(here, case.value, flat[at]).astype(leaf.dtype)
            found[place] = flat.at[at].set(value).reshape(leaf.shape)
        return jax.tree.unflatten(structure, found)

    return poisoned


def _with_faults(epochs: Any, poisoned: Any) -> Any:
    """Epochs whose terms, gradients and signals pass through `poisoned`."""
    from topojax.atlas.objective import Objective
    from topojax.step.update import Update

    class Terms(Objective):
        def terms(self, *arguments, **keywords):
            return poisoned("term", super().terms(*arguments, **keywords))

    class Gradients(Update):
        def gradient(self, *arguments, **keywords):
            losses, gradients = super().gradient(*arguments, **keywords)
            return losses, poisoned("gradient", gradients)

    update = epochs.update
    parts = {field.name: getattr(update, field.name) for field in dataclasses.fields(update)}
    parts["objective"] = Terms(update.objective.config, update.objective.model, update.objective.rows)
    parts["measure"] = lambda *arguments: poisoned("signal", update.measure(*arguments))
    return dataclasses.replace(epochs, update=Gradients(**parts))


def _same(before: Any, after: Any) -> Any:
    """Whether two trees are the same, bit for bit where NaN stands too."""
    import jax
    import jax.numpy as jnp

    def equal(a: Any, b: Any) -> Any:
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        both = (a == b) | ((a != a) & (b != b))
        return jnp.all(both)

    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return jnp.all(jnp.stack([equal(a, b) for a, b in pairs] or [jnp.bool_(True)]))
