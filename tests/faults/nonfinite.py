"""NaN and infinities in random leaves: batch, terms, gradients, signals, moments, baselines, all that lasts.

Into a batch, a term, a gradient or a signal: the step is taken, and afterwards nothing but counters, rate and what the
governor remembers may have changed; a signal that only one contract reads holds that contract's weight and no more.
Into the state: the step is skipped, the epoch's end says that the state is not sound, and the run goes back to the last
good state at a lower rate, as `training.loop` does. After each hundred, an epoch without a fault must be finite.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from tests.faults.counts import Counts

VALUES = (np.nan, np.inf, -np.inf)
PASSING = ("batch", "term", "gradient", "signal")
LASTING = ("params", "opt_state", "baselines", "spectral", "usage", "average", "bank")
MASKED = ("params", "opt_state", "baselines", "spectral", "usage", "average", "liveness", "isotropy", "key", "probed")


def run(folder: pathlib.Path, count: int, seed: int) -> Counts:
    """Inject until there have been so many."""
    from tiny_program import batches

    counts = Counts(folder, "non-finite values")
    stepper = _Stepper()
    chance = np.random.default_rng([seed, counts["injected"]])
    clean = list(batches(1))
    good = stepper.first
    for batch in clean * 3:
        good, _ = stepper.clean(good, batch)
    at_first = float(stepper.clean(good, clean[0])[1]["task"])
    while counts["injected"] < count:
        for _ in range(min(100, count - counts["injected"])):
            kind = (*PASSING, *LASTING)[chance.integers(len(PASSING) + len(LASTING))]
            inject = _into_step if kind in PASSING else _into_state
            inject(stepper, good, clean[chance.integers(len(clean))], kind, chance, counts)
            counts["injected"] += 1
            counts[f"into {kind}"] += 1
        for batch in clean:
            good, told = stepper.clean(good, batch)
            if not (np.isfinite(told["task"]) and told["sound"]):
                counts.broke("a step without a fault is not finite")
        counts.keep()
    last = float(stepper.clean(good, clean[0])[1]["task"])
    counts["clean steps"] = int(good.step)
    print(f"task loss {at_first:.3g} before, {last:.3g} after {counts['clean steps']} steps between the faults")
    if not last < 1.1 * at_first:
        counts.broke("training has not gone on")
    return counts


def _into_step(stepper: Any, good: Any, batch: Any, kind: str, chance: Any, counts: Counts) -> None:
    value = VALUES[chance.integers(3)]
    if kind == "batch":
        image = np.array(batch.image)
        image[tuple(chance.integers(n) for n in image.shape)] = value
        _, told = stepper.clean(good, batch._replace(image=image))
    else:
        poison = np.zeros(stepper.sizes[kind], np.float32)
        poison[chance.integers(len(poison))] = value
        _, told = stepper.poisoned(good, batch, {kind: poison}, float(chance.random()))
    if not told["sound"]:
        counts.broke(f"{kind} leaves the state not sound")
    if told["skipped"]:
        counts["skipped"] += 1
        changed = [name for name, same in zip(MASKED, told["same"], strict=True) if not same]
        if (changed and not told["ends"]) or set(changed) - {"probed", "params", "opt_state", "average", "liveness"}:
            counts.broke(f"{kind}: a skipped step has changed {changed}")
    elif kind != "signal":
        counts.broke(f"{kind}: a step that is not finite was taken")
    else:
        counts["held one weight"] += 1


def _into_state(stepper: Any, good: Any, batch: Any, kind: str, chance: Any, counts: Counts) -> None:
    import jax
    import jax.numpy as jnp

    from topojax.training.recovery import lowered

    part = good.control.bank if kind == "bank" else getattr(good, kind)
    leaves, tree = jax.tree.flatten(part)
    places = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size]
    place = places[chance.integers(len(places))]
    array = np.array(leaves[place])
    array[tuple(chance.integers(n) for n in array.shape)] = VALUES[chance.integers(3)]
    bad = jax.tree.unflatten(tree, [*leaves[:place], jnp.asarray(array), *leaves[place + 1 :]])
    control = good.control._replace(bank=bad) if kind == "bank" else good.control
    state = good.replace(control=control) if kind == "bank" else good.replace(**{kind: bad})
    for _ in range(stepper.steps):  # the end of an epoch is among them
        state, told = stepper.clean(state, batch)
    if told["sound"]:
        counts["outlived"] += 1  # a counter that starts anew, an average over which the next value has been written
        return
    state = lowered(good, 0.5, 1e-6)  # what the run does, from its last checkpoint
    state, told = stepper.clean(state, batch)
    counts["rolled back"] += 1
    if not told["sound"] or told["skipped"]:
        counts.broke(f"{kind}: the state that the run goes back to is not sound")


class _Stepper:
    """One step of a small program with every contract and both baselines, compiled with and without a poison."""

    def __init__(self):
        import jax
        import jax.numpy as jnp
        from tiny_program import EVERYTHING, MANY, STEPS, config, data, jit, program

        from topojax.atlas.objective import Objective
        from topojax.step.epoch import Epochs
        from topojax.step.update import Update

        made, _ = program(config(MANY, **EVERYTHING, baselines__autoencoder=True, baselines__vq=True))
        poison: dict[str, Any] = {}  # of the step that is being traced
        sizes = self.sizes = {}

        def added(kind: str, tree: Any, position: Any = 0.0) -> Any:
            leaves, structure = jax.tree.flatten(tree)
            sizes[kind] = len(leaves)
            if kind not in poison:
                return tree

            def with_one(leaf: Any, value: Any) -> Any:
                flat = leaf.reshape(-1)
                return flat.at[(position * flat.size).astype(jnp.int32)].add(value).reshape(leaf.shape)

            position = jnp.asarray(position)
            return jax.tree.unflatten(structure, [with_one(*pair) for pair in zip(leaves, poison[kind], strict=True)])

        class Terms(Objective):
            def terms(self, *arguments, **keywords):
                return added("term", super().terms(*arguments, **keywords), poison.get("position", 0.0))

        class Gradients(Update):
            def gradient(self, *arguments, **keywords):
                losses, gradients = super().gradient(*arguments, **keywords)
                return losses, added("gradient", gradients, poison.get("position", 0.0))

        epochs: Epochs = made.diagnosis.epochs
        update = epochs.update
        parts = {field.name: getattr(update, field.name) for field in dataclasses.fields(update)}
        objective = Terms(update.objective.config, update.objective.model, update.objective.rows)
        parts |= {
            "objective": objective,
            "measure": lambda *arguments: added("signal", update.measure(*arguments), poison.get("position", 0.0)),
        }
        epochs = dataclasses.replace(epochs, update=Gradients(**parts))
        probe = made.probe_of(data())

        def step(state: Any, batch: Any, with_poison: dict[str, Any]) -> Any:
            poison.clear()
            poison.update(with_poison)
            after, metrics = epochs.train_step(state, batch, probe)
            told = {
                "skipped": metrics["guard/skipped"],
                "sound": after.sound(),
                "task": metrics["signal/task"],
                "ends": after.step % STEPS == 0,
                "same": jnp.stack([_same(getattr(state, name), getattr(after, name)) for name in MASKED]),
            }
            return after, told

        compiled = jit(step)
        self.steps = STEPS
        self.first = jit(made.init)()
        jax.eval_shape(step, self.first, data()._replace(image=data().image[:8], label=data().label[:8]), {})
        zeros = {kind: np.zeros(size, np.float32) for kind, size in sizes.items()} | {"position": np.float32(0)}
        self.clean = lambda state, batch: compiled(state, batch, zeros)
        self.poisoned = lambda state, batch, bad, position: compiled(
            state, batch, {**zeros, **bad, "position": np.float32(position)}
        )


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
