"""Kept programs: the same numbers as without, no second trace, and no trust in a file that is not whole."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_config import get_config

from topojax.config.numbers import pack
from topojax.data import sets
from topojax.errors import UserError
from topojax.scoring.run import numbered_of
from topojax.storage.footprint import Footprint, require_fit
from topojax.storage.program_cache import compile_epoch
from topojax.types import Batch


def toy():
    """A program of two lines, with a key in its state as the real one has."""

    def init():
        return {"key": jax.random.key(0), "w": jnp.ones(3)}

    def epoch(numbers, state, batch):
        key, noise = jax.random.split(state["key"])
        w = state["w"] + numbers[0] * jax.random.normal(noise, (3,)) * batch.image.mean()
        return {"key": key, "w": w}, jnp.stack([w.sum(), batch.label.mean()])

    program = SimpleNamespace(init=init, epoch=epoch, metric_names=lambda: ("sum", "label"), numbers=jnp.ones(1))
    return program, Batch(jnp.linspace(0.0, 1.0, 12).reshape(4, 3), jnp.arange(4))


def real():
    config = get_config()
    dataset = sets.load(config.data, seed=config.seed)
    numbers = pack(config)
    numbered = numbered_of(config, dataset.sizes())
    program = SimpleNamespace(**numbered._asdict() | {"init": lambda: numbered.init(numbers)}, numbers=numbers)
    return program, jax.tree.map(jnp.asarray, dataset.train)


@pytest.fixture(scope="module", params=[toy, pytest.param(real, marks=pytest.mark.slow)])
def run(request):
    return request.param()


def epoch_of(run, described="a", cached=True, counts=None):
    program, batch = run
    if counts is not None:
        whole = program.epoch
        program = SimpleNamespace(
            init=program.init,
            metric_names=program.metric_names,
            numbers=program.numbers,
            epoch=lambda *args: (counts.append(1), whole(*args))[1],
        )
    state = jax.jit(program.init)()
    return (
        compile_epoch(program, program.numbers, state, batch, described=described, cached=cached),
        state,
        batch,
        program.numbers,
    )


def leaves(epoch, state, batch, numbers):
    state, metrics = epoch.run(numbers, jax.tree.map(jnp.copy, state), batch)
    keys = jax.tree.map(
        lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x, state
    )
    return [np.asarray(x).tobytes() for x in jax.tree.leaves((keys, metrics))]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "topojax" / "programs"


def test_a_kept_program_is_not_traced_again_and_computes_the_same(run, folder):
    traces = []
    plain = epoch_of(run, cached=False)
    assert not folder.exists()
    first = epoch_of(run, counts=traces)
    again = epoch_of(run, counts=traces)
    assert len(traces) == 1
    assert len(list(folder.glob("*.program"))) == 1
    assert plain[0].names == first[0].names == again[0].names
    assert leaves(*plain) == leaves(*first) == leaves(*again)


def test_another_description_and_a_damaged_file_are_traced_anew(run, folder):
    traces = []
    epoch_of(run, counts=traces)
    epoch_of(run, described="b", counts=traces)
    assert len(traces) == 2
    for file in folder.glob("*.program"):
        file.write_bytes(file.read_bytes()[:-100])
    epoch, state, batch, numbers = epoch_of(run, counts=traces)
    assert len(traces) == 3
    assert np.isfinite(epoch.run(numbers, state, batch)[1]).any()
    heads = [json.loads(file.read_bytes().split(b"\n", 2)[1]) for file in folder.glob("*.program")]
    assert all(head["names"] == list(epoch.names) for head in heads)


def test_neither_another_head_nor_another_program_is_taken(run, folder):
    """A program whose metrics have swapped names, and one of another run under its name, would give other numbers."""
    traces = []
    names = epoch_of(run, counts=traces)[0].names
    (file,) = folder.glob("*.program")
    whole = file.read_bytes()
    swapped = whole.replace(json.dumps(names[0]).encode(), b'"\x00"', 1).replace(
        b'"\x00"', json.dumps(names[1]).encode()
    )
    for content in (swapped, whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(content)
        assert epoch_of(run, counts=traces)[0].names == names
    assert len(traces) == 3
    epoch_of(run, described="another", counts=traces)
    (other,) = set(folder.glob("*.program")) - {file}
    other.write_bytes(file.read_bytes())
    epoch_of(run, described="another", counts=traces)
    assert len(traces) == 5


def test_a_cache_that_cannot_be_written_is_only_slow(run, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    epoch, state, batch, numbers = epoch_of(run)
    assert len(epoch.run(numbers, state, batch)[1]) == len(epoch.names)


def test_a_program_that_cannot_be_kept_trains_all_the_same(run, folder, monkeypatch):
    """`jax.export` wants flatbuffers, which a bare installation may lack."""

    def missing(*_, **__):
        raise ModuleNotFoundError("No module named 'flatbuffers'")

    plain = epoch_of(run, cached=False)
    monkeypatch.setattr(jax.export, "export", missing)
    assert leaves(*epoch_of(run)) == leaves(*plain)
    assert not list(folder.glob("*"))


def test_other_numbers_are_given_to_the_program_that_is_kept(folder):
    program, batch = toy()
    traces = []
    epoch, state, _, numbers = epoch_of((program, batch), counts=traces)
    again = epoch_of((program, batch), counts=traces)
    assert len(traces) == 1
    assert leaves(epoch, state, batch, 2 * numbers) != leaves(epoch, state, batch, numbers)
    assert leaves(epoch, state, batch, 2 * numbers) == leaves(again[0], state, batch, 2 * numbers)


def test_a_program_that_would_not_fit_is_refused_with_the_chunk_that_would():
    needs = Footprint(held=100 * 2**20, temporary=800 * 2**20)
    sizes = {"size": 16, "local": 16, "devices": 1, "chunk": 8}
    require_fit(needs, 900 * 2**20, **sizes)
    require_fit(None, 1, **sizes)
    require_fit(needs, None, **sizes)
    with pytest.raises(UserError, match=r"16 members takes 900 MiB, and there are 600.*chunk=4 would fit"):
        require_fit(needs, 600 * 2**20, **sizes)  # 100 + 800/2 = 500
    with pytest.raises(UserError, match="take fewer members"):
        require_fit(needs, 150 * 2**20, **sizes)  # one at a time still takes 200
