"""Where the training split lies changes no digit of a run, also where a run goes on with it elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from controller_runs import bits
from tiny_config import get_config
from tiny_program import STEPS, Tiny, data

from topojax.data import feed
from topojax.data.fit import units
from topojax.data.rows import Given, Rows
from topojax.training import loop


def config(mode, **fields):
    c = get_config()
    c.data.mode, c.log.every_epochs = mode, 1
    c.baselines.vq = True
    c.data.neighbours, c.contracts.orbit.enabled = 3, True
    c.view.noise_std, c.augment.rotation = 0.1, 0.2
    c.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return c


def trained(path, mode, **fields):
    """(bits of the state, lines of metrics without times)"""
    state = loop.train_and_evaluate(config(mode, **fields), path)
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return bits(state.replace(key=jax.random.key_data(state.key))), [line.partition('"time/')[0] for line in lines]


@pytest.mark.slow
def test_memory_and_host_are_the_same_run_bit_for_bit(tmp_path, monkeypatch):
    """Five steps an epoch in chunks of two, pairs of neighbours, views, a baseline; stopped, and gone on elsewhere."""
    memory = trained(tmp_path / "memory", "memory")
    monkeypatch.setattr(feed, "BYTES", 2 * 32 * 64 * 2)
    assert trained(tmp_path / "host", "host") == memory
    trained(tmp_path / "both", "host", train__epochs=2)
    assert trained(tmp_path / "both", "memory", train__epochs=4) == memory


@pytest.mark.slow
def test_a_diagnosis_is_the_same_from_the_host():
    tiny, train = Tiny(), data()
    rows = Rows(Given(np.asarray(train.image)), units(np.asarray(train.image), pictures=False, shape="3x3"))
    made = feed.Feed(train._replace(image=rows), seed=tiny.config.seed, batch_size=8, probe_size=16)
    codebook = tiny.first.params["atlas"]["encoder"]["codebook"]
    tiny.first.params["atlas"]["encoder"]["codebook"] = codebook.at[0, 0, 0].set(jnp.nan)
    told = tiny.program.diagnosis.culprit(tiny.first, train)
    assert told is not None
    assert tiny.program.diagnosis.culprit_in(tiny.first, made.again(tiny.first.key, 0)) == told
    assert made.steps == STEPS
    made.close()
