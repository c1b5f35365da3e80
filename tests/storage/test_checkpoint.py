"""Checkpoints: bit for bit, whole or not at all, and clear about what is wrong with one."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from controller_runs import bits

from topojax.errors import UserError
from topojax.storage.checkpoint import Checkpoints, describe, digest, reason


class Toy(NamedTuple):
    params: dict
    step: jax.Array
    flags: tuple
    key: jax.Array


def toy(seed=0):
    values = np.random.default_rng(seed).standard_normal((3, 2)).astype(np.float32)
    # A denormal, an infinity, a NaN with a payload: bits that arithmetic would change.
    odd = np.array([1e-42, np.inf, 0], np.float32)
    odd.view(np.uint32)[2] = 0x7FC00123
    params = {"w": jnp.array(values), "odd": jnp.array(odd), "none": jnp.zeros((0, 2))}
    return Toy(params, jnp.int32(seed), (jnp.array(True),), jax.random.key(seed))


ABSTRACT = jax.eval_shape(toy)


def key_bits(state):
    return bits(state._replace(key=jax.random.key_data(state.key)))


@pytest.fixture
def store(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    yield checkpoints
    checkpoints.close()


def test_saves_leave_nothing_in_memory(store):
    def saved(epochs):
        for epoch in epochs:
            store.save(epoch, toy(1), {}, loss=0.5)
        gc.collect()
        return sum(type(found) is list for found in gc.get_objects())

    before = saved(range(1, 6))
    assert saved(range(6, 26)) <= before + 60  # it was 24 a save


def test_the_whole_state_comes_back_bit_for_bit(store, tmp_path):
    store.save(3, toy(1), {"note": [1, None]}, loss=0.5)
    reader = Checkpoints(tmp_path, read_only=True)
    state, meta = reader.restore(ABSTRACT)
    reader.close()
    assert key_bits(state) == key_bits(toy(1))
    assert jax.tree.structure(state) == jax.tree.structure(toy(1))
    assert [leaf.dtype for leaf in jax.tree.leaves(state)] == [leaf.dtype for leaf in jax.tree.leaves(toy(1))]
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state._replace(key=())))
    assert meta["note"] == [1, None]
    # The restored key goes on as the saved one would have.
    assert (jax.random.bits(state.key) == jax.random.bits(toy(1).key)).all()


def test_the_latest_and_the_best_are_kept_also_by_the_next_process(tmp_path):
    losses = {1: 3.0, 2: 1.0, 3: None, 4: 2.0, 5: 1.5, 6: 7.0}
    for epoch, loss in losses.items():  # a manager for each: what is kept is decided from the disk
        store = Checkpoints(tmp_path, keep=2)
        store.save(epoch, toy(epoch), {}, loss=loss)
        store.close()
    store = Checkpoints(tmp_path, keep=2)
    assert store.epochs() == [2, 5, 6]
    assert store.best() == 2
    assert int(store.restore(ABSTRACT)[0].step) == 6
    assert int(store.restore(ABSTRACT, 2)[0].step) == 2
    store.close()


def test_nothing_there(store, tmp_path):
    with pytest.raises(UserError, match="nothing has been saved there yet"):
        store.restore(ABSTRACT)
    with pytest.raises(UserError, match=r"no checkpoint in .*elsewhere"):
        Checkpoints(tmp_path / "elsewhere", read_only=True)
    assert not (tmp_path / "elsewhere").exists()


def test_an_epoch_without_checkpoint_is_answered_with_those_there_are(store):
    store.save(2, toy(), {}, loss=1.0)
    store.save(4, toy(), {}, loss=0.5)
    with pytest.raises(UserError, match=r"no checkpoint of epoch 3 .*there are 2, 4"):
        store.restore(ABSTRACT, 3)


def test_another_program_is_named_by_its_leaves(store):
    store.save(1, toy(), {}, loss=1.0)
    wider = ABSTRACT._replace(params={**ABSTRACT.params, "w": jax.ShapeDtypeStruct((3, 4), jnp.float32)})
    with pytest.raises(UserError, match=r"params\.w: saved float32\[3, 2\], wanted float32\[3, 4\]$"):
        store.restore(wider)
    extra = ABSTRACT._replace(flags=(*ABSTRACT.flags, jax.ShapeDtypeStruct((), jnp.float32)))
    with pytest.raises(UserError, match=r"flags\.1: saved nothing, wanted float32\[\]"):
        store.restore(extra)
    fewer = ABSTRACT._replace(params={})
    with pytest.raises(UserError, match=r"params\.\w+: saved .*, wanted nothing"):
        store.restore(fewer)
    other = {name: jax.ShapeDtypeStruct((), jnp.int32) for name in "abcde"}
    with pytest.raises(UserError, match=r"a: saved nothing.*c: saved nothing, wanted int32\[\] and 8 more"):
        store.restore(other)


# Reads that are still under way when the first of them fails find orbax's event loop closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", ["truncate", "delete", "flip"])
def test_a_damaged_checkpoint_is_an_error_and_the_one_before_still_works(tmp_path, damage, capsys):
    store = Checkpoints(tmp_path, keep=3)
    store.save(1, toy(1), {}, loss=2.0)
    store.save(2, toy(2), {}, loss=1.0)
    store.close()
    # Every place where values may lie.
    for path in (tmp_path / "checkpoints" / "2" / "state").rglob("d/*"):
        content = bytearray(path.read_bytes())
        if damage == "delete":
            path.unlink()
        elif damage == "truncate":
            path.write_bytes(content[: len(content) // 2])
        else:
            content[len(content) // 2] ^= 0x10
            path.write_bytes(content)
    store = Checkpoints(tmp_path, keep=3)
    with pytest.raises(UserError, match=r"checkpoints/2 cannot be read .*: there are 1$"):
        store.restore(ABSTRACT)
    assert key_bits(store.restore(ABSTRACT, 1)[0]) == key_bits(toy(1))
    store.close()

    reader = Checkpoints(tmp_path, read_only=True)
    state, _ = reader.newest(lambda epoch: reader.restore(ABSTRACT, epoch))
    reader.close()
    assert key_bits(state) == key_bits(toy(1))
    assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / "checkpoints" / "2").is_dir()

    # Who trains on moves it out of the way, and can save that epoch again.
    store = Checkpoints(tmp_path, keep=3)
    assert int(store.newest(lambda epoch: store.restore(ABSTRACT, epoch))[0].step) == 1
    assert (tmp_path / "damaged" / "2").is_dir()
    store.save(2, toy(3), {}, loss=1.0)
    assert int(store.restore(ABSTRACT)[0].step) == 3
    store.close()


def test_contents_that_do_not_match_their_digest_are_refused(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr("topojax.storage.checkpoint.digest", lambda state: "0" * 64)
        store.save(1, toy(), {}, loss=1.0)
    with pytest.raises(UserError, match=r"do not match their digest.*start anew"):
        store.restore(ABSTRACT)
    store.close()


def test_what_a_library_says_ends_before_the_names_of_its_functions():
    said = "NOT_FOUND: Error opening\n the array. See full TensorStore details: <bound method pybind11_detail of X>"
    assert reason(ValueError(said)) == "NOT_FOUND: Error opening the array"
    assert reason(ValueError("a" * 300)) == "a" * 199 + "…"
    assert reason(ValueError("[Errno 28] No space left on device: and more")) == "No space left on device"


def test_damaged_metadata_is_an_error(tmp_path):
    store = Checkpoints(tmp_path, keep=1)
    store.save(1, toy(), {}, loss=1.0)
    store.close()
    for path in (tmp_path / "checkpoints" / "1" / "meta").rglob("*metadata"):
        path.write_text('{"leaves": {')
    store = Checkpoints(tmp_path, keep=1)
    with pytest.raises(UserError, match="checkpoints/1 cannot be read"):
        store.newest(lambda epoch: store.restore(ABSTRACT, epoch))
    assert store.epochs() == [1]  # the only one stays where it is
    store.close()


def test_another_number_in_the_metadata_is_noticed(tmp_path):
    store = Checkpoints(tmp_path, keep=1)
    store.save(1, toy(), {"num_train": 160}, loss=1.0)
    assert store.meta()["num_train"] == 160
    store.close()
    for path in (tmp_path / "checkpoints" / "1" / "meta").rglob("*metadata"):
        path.write_text(path.read_text().replace("160", "161"))
    store = Checkpoints(tmp_path, keep=1)
    with pytest.raises(UserError, match="do not match their digest"):
        store.meta()
    store.close()


@pytest.mark.parametrize("damaged", [b"", b'{"los', b'{"loss": 1\xff}', b'{"lost": 1}', b"[1]", b'{"loss": NaN}', None])
def test_a_loss_that_cannot_be_read_makes_no_best_and_costs_nothing_else(damaged, tmp_path, capfd):
    store = Checkpoints(tmp_path, keep=2)
    for epoch in (1, 2):
        store.save(epoch, toy(epoch), {}, loss=1.0 / epoch)
    store.close()
    for name in ("metrics/metrics", "_CHECKPOINT_METADATA"):
        if damaged is None:
            (tmp_path / "checkpoints" / "2" / name).unlink()
        else:
            (tmp_path / "checkpoints" / "2" / name).write_bytes(damaged)
    store = Checkpoints(tmp_path, keep=2)
    assert store.best() == 1
    assert key_bits(store.newest(lambda epoch: store.restore(ABSTRACT, epoch))[0]) == key_bits(toy(2))
    store.save(3, toy(3), {}, loss=2.0)
    assert (store.epochs(), store.best()) == ([1, 2, 3], 1)
    store.close()
    assert capfd.readouterr().err == ""


def test_a_checkpoint_that_claims_far_more_than_it_holds_is_not_read(store):
    store.save(1, {"a": jnp.zeros(4)}, {}, loss=1.0)
    huge = {"a": jax.ShapeDtypeStruct((2**40,), jnp.float32)}
    with pytest.raises(UserError, match="claims 4398046511104"):
        store._no_larger(huge, 1)


def test_digest_and_description_see_every_leaf():
    assert digest(toy(0)) == digest(toy(0))
    assert digest(toy(0)) != digest(toy(0)._replace(key=jax.random.key(1)))
    assert digest(toy(0)) != digest(toy(0)._replace(step=jnp.int32(1)))
    assert describe(toy())["params.none"] == "float32[0, 2]"
    assert describe(toy())["key"] == "key<fry>[]"
    assert describe(toy()) == describe(ABSTRACT)


KILLED = """
    import os, pathlib, sys
    import jax.numpy as jnp
    from topojax.storage.checkpoint import Checkpoints

    store = Checkpoints(pathlib.Path(sys.argv[1]), keep=3)
    store.save(1, {"a": jnp.ones(4)}, {}, loss=1.0)
    calls_left = int(sys.argv[2])

    def deadly(rename):
        def call(*args, **kwargs):
            global calls_left
            calls_left -= 1
            if calls_left < 0:
                os.kill(os.getpid(), 9)
            return rename(*args, **kwargs)
        return call

    os.rename, os.replace = deadly(os.rename), deadly(os.replace)
    store.save(2, {"a": jnp.full(4, 2.0)}, {}, loss=0.5)
    print("survived")
"""


@pytest.mark.parametrize("renames", [0, 2])
def test_a_kill_while_saving_leaves_the_checkpoint_before(tmp_path, renames):
    """Killed at the first, and at a later, rename of the save: what is there is whole, the run goes on."""
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), str(renames)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ})
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    store = Checkpoints(tmp_path, keep=3)
    assert store.epochs() == [1]
    abstract = {"a": jax.ShapeDtypeStruct((4,), jnp.float32)}
    assert store.restore(abstract)[0]["a"].tolist() == [1.0] * 4
    store.save(2, {"a": jnp.full(4, 2.0)}, {}, loss=0.5)
    assert store.restore(abstract)[0]["a"].tolist() == [2.0] * 4
    store.close()


REFUSED = """
import pathlib, resource, sys
import numpy as np
from topojax.errors import Stopped
from topojax.storage.checkpoint import Checkpoints

checkpoints = Checkpoints(pathlib.Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    checkpoints.save(1, {f"leaf{i}": np.random.rand(10_000) for i in range(40)}, {}, loss=None)
except Stopped as stopped:
    print(stopped)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits are the system's")
def test_a_save_that_the_system_refuses_is_one_line_and_no_words_of_libraries(tmp_path):
    command = [sys.executable, "-c", REFUSED, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("cannot save epoch 1 in ")
    assert ended.stdout.count("\n") == 1
