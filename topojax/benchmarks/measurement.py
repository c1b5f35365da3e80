"""The measurements of `speed.py` on one configuration, as one flat dict; what each key means is said there."""

import os
import pathlib
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from topojax.atlas.controllers import select_rows
from topojax.benchmarks import compiling, rates
from topojax.benchmarks.products import Product, counting
from topojax.benchmarks.scaling import scaling
from topojax.benchmarks.timed_epochs import Epochs, Loop, bare, forward, in_turn, start, trained
from topojax.benchmarks.timing import Patience, Quartiles, quartiles, repeated, seconds
from topojax.benchmarks.variants import constant_control, recon_vq
from topojax.config.validate import validate
from topojax.data import sets
from topojax.data.padding import BATCH_SIZE
from topojax.scoring.run import build
from topojax.scoring.scores import scores
from topojax.step.predict import predict
from topojax.storage.runtime import compile_program, versions
from topojax.types import Batch


class Effort(NamedTuple):
    """How much to measure."""

    patience: Patience
    share: float  # of a step's operations: the products that make it up are timed one by one
    window: float  # seconds of a loop of products
    starts: int  # cold ones, and warm ones
    factors: tuple[int, ...]  # on each size, for scaling
    scaling: Patience


FULL = Effort(Patience(7, 15, 60.0), 0.99, 0.02, 3, (2, 4), Patience(3, 9, 10.0))
QUICK = Effort(Patience(3, 3, 0.0), 0.9, 0.002, 1, (2,), Patience(2, 2, 0.0))


class Round(NamedTuple):
    """One repeat of everything, seconds."""

    epochs: dict[str, list[float]]  # program → its epochs, one interval of them
    evaluate: float  # the test split
    reference: float  # one reference product
    products: dict[Product, float]  # one of each product that dominates


def measure(config: Any, *, quick: bool = False, with_scaling: bool = False) -> dict[str, Any]:
    """Everything that `speed.py` prints.

    Args:
      config: a whole configuration.
      quick: few repeats.
      with_scaling: the cost against each size too.

    Returns:
      Names as in the docstring of `speed`, JSON-able; `spreads` maps names to [first quartile, third].

    Raises:
      UserError: a bad configuration or data set.
    """
    validate(config)
    effort = QUICK if quick else FULL
    dataset = sets.load(config.data, seed=config.seed)
    about = dataset.sizes()
    build(config, about)  # refuses what does not fit the data before anything is measured
    with tempfile.TemporaryDirectory(prefix="topojax") as folder:
        caches = [pathlib.Path(folder) / str(i) for i in range(effort.starts)]
        _say("starting cold and warm")
        cold = [compiling.start(config, about, cache) for cache in caches]
        warm = [compiling.start(config, about, cache) for cache in caches]
        with compiling.cache_in(caches[0]):
            found = _measure(config, about, dataset, effort)
            base = found.pop("base")
            if with_scaling:
                _say("scaling")
                found["scaling"] = scaling(config, about, base, factors=effort.factors, patience=effort.scaling)
    for name, starts in {"cold": cold, "warm": warm}.items():
        took = quartiles([one.seconds for one in starts])
        found[f"compile_s/{name}"] = took.median
        found["spreads"][f"compile_s/{name}"] = [took.low, took.high]
        for part in ("trace", "lower", "compile"):
            found[f"compile_s/{name}/{part}"] = quartiles([getattr(one, part) for one in starts]).median
    found["peak_mib/compiling"] = max(one.peak_mib for one in cold)
    return {
        **found,
        "versions": versions(),
        "config": _summary(config, about, dataset, base.loop),
        "machine": _machine(),
    }


def _measure(config: Any, about: dict[str, Any], dataset: sets.Dataset, effort: Effort) -> dict[str, Any]:
    """Everything that one process can measure; `base` are the controlled run's epochs."""
    train = jax.tree.map(jnp.asarray, dataset.train)
    loop = trained(config, about)
    _say("compiling the epoch")
    compiled, _ = compiling.compile_epoch(loop, about)
    full = Epochs(loop, compiled, compile_program(jax.jit(loop.init).lower())(), train)
    for _ in range(loop.interval):
        full.epoch()
    evaluate = _evaluation(config, about, dataset, full)
    evaluate()
    memory = _memory()

    _say("compiling what it is compared with, and counting matrix products")
    free = constant_control(config)
    compared = {
        "constant_control": trained(free, about),
        "bare": bare(free, about),
        "recon_vq": trained(recon_vq(config), about),
        "forward": forward(config, about),
    }
    with futures.ThreadPoolExecutor() as pool:
        counted = pool.submit(count, loop, full.carry, train)
        started = {
            name: pool.submit(start, other._replace(interval=loop.interval), train) for name, other in compared.items()
        }
        counts = counted.result()
        epochs = {"full": full} | {name: other.result() for name, other in started.items()}
    flops = {product: number * product.flops for product, number in counts.items()}
    timed = rates.dominant(flops, effort.share)
    timers = {product: rates.product_timer(product, window=effort.window) for product in timed}
    reference = timers.get(rates.REFERENCE) or rates.product_timer(rates.REFERENCE, window=effort.window)

    _say("timing")
    rounds = repeated(
        lambda: Round(
            in_turn(epochs), seconds(evaluate), reference(), {product: timer() for product, timer in timers.items()}
        ),
        effort.patience,
    )
    return {
        **_times(rounds, full, flops),
        "gflops/xla": _xla_flops(compiled),
        "products": _products(counts, [one.products for one in rounds]),
        **memory,
        "base": full,
    }


def _times(rounds: Sequence[Round], full: Epochs, flops: Mapping[Product, float]) -> dict[str, Any]:
    """Medians and spreads; a ratio is that of medians, its spread and `paired` those of the rounds' own ratios."""
    names = rounds[0].epochs
    steps = {name: np.array([full.of_step(one.epochs[name]) for one in rounds]) for name in names}
    controlled = [one.epochs["full"] for one in rounds]
    found = {f"step_ms/{name}": quartiles(1e3 * each) for name, each in steps.items()}
    found["epoch_ms"] = quartiles(1e3 * np.concatenate(controlled))
    if full.loop.interval > 1:  # an interval begins with the epoch that probes
        found["probe_ms"] = quartiles([1e3 * (first - np.median(rest)) for first, *rest in controlled])
    found["evaluate_ms"] = quartiles([1e3 * one.evaluate for one in rounds])
    total = sum(flops.values())
    products = np.array([rates.attainable(flops, one.products) for one in rounds])
    found["gflops_per_s/reference"] = quartiles([rates.REFERENCE.flops / 1e9 / one.reference for one in rounds])
    found["gflops_per_s/step"] = quartiles(total / 1e9 / steps["full"])
    found["attainable_ms"] = quartiles(1e3 * products)
    medians = {name: q.median for name, q in found.items()}
    ratios = {
        "control_overhead": quartiles(steps["full"] / steps["constant_control"] - 1),
        "control_overhead/bare": quartiles(steps["full"] / steps["bare"] - 1),
        "attainable_fraction": quartiles(products / steps["full"]),
    }
    return {
        **medians,
        "control_overhead": medians["step_ms/full"] / medians["step_ms/constant_control"] - 1,
        "control_overhead/bare": medians["step_ms/full"] / medians["step_ms/bare"] - 1,
        "attainable_fraction": medians["attainable_ms"] / medians["step_ms/full"],
        "paired": {name: q.median for name, q in ratios.items()},
        "gflops/step": total / 1e9,
        "repeats": len(rounds),
        "spreads": {name: [q.low, q.high] for name, q in (found | ratios).items()},
    }


def count(loop: Loop, state: Any, train: Batch) -> dict[Product, float]:
    """Product → number of it in a step, mean over an interval that is run for it.

    Args:
      loop: the epoch.
      state: where it starts; not given up.
      train: the training split.
    """
    counted, products = counting(loop.epoch, state, train)
    compiled = compile_program(jax.jit(counted).lower(state, train))
    total = np.zeros(len(products), np.int64)
    for _ in range(loop.interval):
        (state, _), counts = compiled(state, train)
        total += np.asarray(counts)
    return {product: n / (loop.interval * loop.steps) for product, n in zip(products, total, strict=True) if n}


def _products(counts: Mapping[Product, float], timed: Sequence[Mapping[Product, float]]) -> list[dict[str, Any]]:
    """The products that were timed, the largest first."""
    total = sum(number * product.flops for product, number in counts.items())
    rows = []
    for product in timed[0]:
        each: Quartiles = quartiles([repeat[product] for repeat in timed])
        rows.append(
            {
                "shape": str(product),
                "per_step": counts[product],
                "share": counts[product] * product.flops / total,
                "us": 1e6 * each.median,
                "gflops_per_s": product.flops / each.median / 1e9,
            }
        )
    return rows


def _evaluation(config: Any, about: dict[str, Any], dataset: sets.Dataset, full: Epochs) -> Any:
    """() → scores of the test split, as a run computes them when it logs."""
    _, program = build(config, about)
    rows = min(BATCH_SIZE, len(dataset.test.label))
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype), Batch(*dataset.test))
    compiled = compile_program(jax.jit(program.evaluate).lower(full.carry[1], batch))
    return lambda: scores(predict(compiled, full.carry[1], dataset.test), np.asarray(dataset.test.label))


def _memory() -> dict[str, float]:
    found = {"peak_mib": compiling.peak_mib()}
    known = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in known:
        found["peak_mib/device"] = known["peak_bytes_in_use"] / 2**20
    return found


def _xla_flops(compiled: Any) -> float | None:
    try:
        return float(compiled.cost_analysis()["flops"]) / 1e9
    except (KeyError, TypeError, NotImplementedError, jax.errors.JaxRuntimeError):  # not every backend counts
        return None


def _summary(config: Any, about: dict[str, Any], dataset: sets.Dataset, loop: Loop) -> dict[str, Any]:
    return {
        "name": config.name,
        "data": config.data.name,
        "num_train": about["num_train"],
        "num_test": len(dataset.test.label),
        "input_dim": about["input_dim"],
        "batch_size": config.train.batch_size,
        "steps_per_epoch": loop.steps,
        "interval_epochs": loop.interval,
        **{f: config.model[f] for f in ("hidden_dim", "latent_dim", "num_charts", "codes_per_chart", "covariant")},
        "supervised": config.supervised.enabled,
        "contracts": [row.name for row in select_rows(config)],
    }


def _machine() -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "backend": device.platform,
        "device": device.device_kind,
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "architecture": platform.machine(),
        "load_1_min": os.getloadavg()[0],
    }


def _say(what: str) -> None:
    print(f"topojax: {what} …", file=sys.stderr, flush=True)
