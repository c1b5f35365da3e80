"""A checkpoint of the original becomes a run: its outputs, its controllers, and training that goes on from it."""

import io
import json
import shutil
from unittest import mock

import golden_files
import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import optax
import original_file
import pytest

from topojax import commands
from topojax.atlas.controllers import make_control
from topojax.atlas.optim import labels
from topojax.config.defaults import default_config
from topojax.config.original_checkpoint import PARITY
from topojax.errors import UserError
from topojax.scoring.run import restore
from topojax.scoring.split import load_splits
from topojax.step.original_state import outweighed
from topojax.storage import workdir as workdirs
from topojax.storage.checkpoint import Checkpoints
from topojax.training import original_import, original_verify
from topojax.training.original_import import import_original


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """(workdir, lines) of the golden atlas's checkpoint."""
    folder = tmp_path_factory.mktemp("imported")
    original_file.save(folder / "topo_epoch_00003.pt", original_file.tree())
    reference = {"x": original_file.tensors()[1]["in/x"]}
    data = original_file.tensors()[1]
    names = ("K_chart", "K_code", "indices", "z_n", "z_geo", "x_hat", "cls_logits")
    np.savez(folder / "reference.npz", **reference, **{name: data[f"out/{name}"] for name in names})
    lines = import_original(folder / "topo_epoch_00003.pt", folder / "run", reference=folder / "reference.npz")
    return folder / "run", lines


@pytest.fixture(scope="module")
def run(imported):
    return restore(imported[0])


def test_the_atlas_is_the_originals(run):
    data = np.load(golden_files.FOLDER / "cov_sum.npz")
    encoding = run.encode(data["in/x"])
    for field, key in {"chart": "K_chart", "code": "K_code", "codes": "indices"}.items():
        np.testing.assert_array_equal(getattr(encoding, field), data[f"out/{key}"])
    for field in ("router", "z_geo", "z_n", "z_tex"):
        wanted = data[f"out/{field}"]
        np.testing.assert_allclose(getattr(encoding, field), wanted, atol=1e-5 * np.abs(wanted).max())
    x_hat = run.decode(encoding.z_geo, encoding.z_tex).x_hat
    np.testing.assert_allclose(x_hat, data["out/x_hat"], atol=1e-5 * np.abs(data["out/x_hat"]).max())


def test_a_kill_leaves_no_configuration_that_trains_anew(tmp_path, monkeypatch):
    """What stands in the folder while its checkpoint is written is not enough for `--config=…/config.py`."""
    there = []
    save = Checkpoints.save

    def seen(self, *given, **named):
        there.extend(path.name for path in (tmp_path / "run").iterdir())
        save(self, *given, **named)

    monkeypatch.setattr(Checkpoints, "save", seen)
    original_file.save(tmp_path / "file.pt", original_file.tree())
    import_original(tmp_path / "file.pt", tmp_path / "run")
    assert "provenance.json" in there
    assert not {"config.py", "config.json"} & set(there)
    assert (tmp_path / "run" / "config.py").exists()


def test_a_disk_that_is_full_is_one_line_that_names_the_folder(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    original_file.save(tmp_path / "file.pt", original_file.tree())
    monkeypatch.setattr(original_import.np, "savez_compressed", full)
    assert commands.main(["import-torch", str(tmp_path / "file.pt"), f"--workdir={tmp_path / 'run'}"]) == 1
    assert capsys.readouterr().err == (
        f"topojax: error: --workdir={tmp_path / 'run'} cannot be written: No space left on device\n"
    )
    assert not (tmp_path / "run").exists()


class Killed(BaseException):
    """What no handler meets, where a process has been killed."""


def test_an_import_that_was_cut_off_is_begun_again(imported, tmp_path, monkeypatch):
    original_file.save(tmp_path / "file.pt", original_file.tree())
    run, rest = tmp_path / "run", tmp_path / "rest"

    def killed(self, epoch, *given, **named):
        (self.directory / f"{epoch}.orbax-checkpoint-tmp").mkdir()
        shutil.copytree(run, rest)  # as a kill would leave it
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", killed)
        with pytest.raises(Killed):
            import_original(tmp_path / "file.pt", run)
    assert not run.exists()
    assert {".lock", "provenance.json", "data.npz", "checkpoints"} <= {path.name for path in rest.iterdir()}
    import_original(tmp_path / "file.pt", rest)
    names = {path.name for path in rest.iterdir()}
    assert names == {path.name for path in imported[0].iterdir()}
    assert restore(rest).epoch == 3
    with pytest.raises(UserError, match="is not empty"):
        import_original(tmp_path / "file.pt", rest)


@pytest.mark.parametrize("files", [["data.npz"], [".lock", "data.npz"], [".lock", "provenance.json", "notes.txt"]])
def test_what_is_no_rest_of_an_import_is_left_alone(tmp_path, files):
    original_file.save(tmp_path / "file.pt", original_file.tree())
    (tmp_path / "run").mkdir()
    for name in files:
        (tmp_path / "run" / name).write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        import_original(tmp_path / "file.pt", tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == set(files)


def test_an_import_beside_another_leaves_that_alone(tmp_path):
    original_file.save(tmp_path / "file.pt", original_file.tree())
    with workdirs.claim(tmp_path / "run"):
        (tmp_path / "run" / "provenance.json").write_text("{}")
        with pytest.raises(UserError, match="another process"):
            import_original(tmp_path / "file.pt", tmp_path / "run")
        assert (tmp_path / "run" / "provenance.json").exists()


def test_every_switch_of_parity_stands_in_the_configuration(imported):
    saved = json.loads((imported[0] / "config.json").read_text())
    for name, value in PARITY.items():
        at = saved
        for part in name.split("."):
            at = at[part]
        assert at == value, name


def test_the_average_that_evaluation_reads_is_what_was_imported(run):
    for a, b in zip(jax.tree.leaves(run.state.average), jax.tree.leaves(run.state.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_moments_of_adam_find_their_places(run):
    """Each parameter of the file has its own number, and 4 steps of 30 where it had fewer."""
    tree = original_file.tree()
    names = [n for part in ("atlas", "jump", "supervised") for n in original_file.trained(tree["state"][part])]
    of = jax.tree.leaves(labels(run.state.params))
    leaves = jax.tree_util.tree_leaves_with_path(run.state.params)
    chosen = {
        "encoder.centers": ("encoder.chart_centers", 30),
        "decoder.render_2.bias": ("decoder.renderer.4.bias", 30),
        "jump.d": ("d", 4),
        "supervised.table": ("chart_to_class", 30),
    }
    (adam,) = (
        node
        for node in jax.tree.leaves(
            run.state.opt_state.inner_states["atlas"], is_leaf=lambda n: isinstance(n, optax.ScaleByAdamState)
        )
        if isinstance(node, optax.ScaleByAdamState)
    )
    assert adam.count == 30
    start, seen = 0, set()
    for (path, leaf), label in zip(leaves, of, strict=True):
        if label != "atlas":
            continue
        name = jax.tree_util.keystr(path, simple=True, separator=".").removeprefix("atlas.")
        if name in chosen:
            there, steps = chosen[name]
            number = names.index(there) + 1
            scale = [(1 - decay**30) / (1 - decay**steps) for decay in (0.9, 0.999)]
            np.testing.assert_allclose(adam.mu[start : start + leaf.size], number * scale[0], rtol=1e-5)
            np.testing.assert_allclose(adam.nu[start : start + leaf.size], number / 100 * scale[1], rtol=1e-5)
            seen.add(name)
        start += leaf.size
    assert seen == set(chosen)


def test_controllers_go_on_where_they_were(run):
    system, _ = make_control(run.config, num_classes=run.num_classes)
    control, weights = run.state.control, system.weights(run.state.control)
    states = original_file.tree()["metrics"]["adaptive_weight_state"]
    for name in ("consistency", "diversity", "separation", "disentangle", "sup_metric", "orbit"):
        assert weights[name] == pytest.approx(states[f"{name}_weight"]["value"]), name
    assert weights["prior_n"] == weights["prior_tex"] == pytest.approx(states["kl_prior_weight"]["value"])
    assert "entropy" not in weights  # it had no gradient there
    assert run.config.contracts.entropy.initial == pytest.approx(0.01)
    assert weights["jump"] == pytest.approx(0.5 * states["jump_weight"]["value"])  # half-way up from epoch 1 to 5
    assert control.governor.rate == pytest.approx(0.002)
    assert (int(control.governor.stable), int(control.governor.unstable)) == (2, 1)
    assert control.governor.information_ema == pytest.approx(0.5)
    assert not control.governor.loss_seen
    baseline = {row.name: float(control.bank.baseline[system.bank.slices[row.name].start]) for row in system.bank.rows}
    assert baseline["separation"] == pytest.approx(0.7)
    assert baseline["prior_n"] == pytest.approx(2.0)
    assert baseline["variance"] == pytest.approx(2.0 - 1.5)
    where = next(g.where for g in system.bank.groups if g.mechanism == "pid")
    group = control.bank.groups[next(i for i, g in enumerate(system.bank.groups) if g.mechanism == "pid")]
    place = list(where).index(system.bank.slices["diversity"].start)
    steps = run.program.steps_per_epoch
    wanted = 0.01 / steps * states["diversity_weight"]["integral"] / np.log(10)
    assert group.integral[place] == pytest.approx(wanted, rel=1e-5)


def test_epochs_data_and_history_are_carried_over(imported, run):
    workdir, lines = imported
    assert run.epoch == 3
    assert run.state.step == 3 * run.program.steps_per_epoch
    train, test = load_splits(run)
    tree = original_file.tree()
    np.testing.assert_array_equal(train.image, tree["data"]["X_train"].array)
    np.testing.assert_array_equal(test.label, tree["data"]["labels_test"])
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1]["loss/recon"] == 0.1
    assert rows[-1]["signal/task"] == pytest.approx(0.1 + 0.0125 / 1.25 + 1.0)
    assert json.loads((workdir / "provenance.json").read_text())["notes"] == lines[1:-7]
    assert any("random state" in line for line in lines)


@pytest.mark.slow
def test_training_goes_on_and_evaluation_follows(imported, tmp_path):
    import shutil

    from topojax.training.loop import train_and_evaluate

    workdir = tmp_path / "run"
    shutil.copytree(imported[0], workdir)
    config = restore(imported[0]).config
    config.data.name = str(imported[0] / "data.npz")
    config.train.epochs, config.log.every_epochs, config.log.progress = 5, 1, False
    state = train_and_evaluate(config, workdir)
    assert state.step == 5 * (int(restore(imported[0]).state.step) // 3)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert np.isfinite(rows[-1]["signal/task"])


@pytest.mark.slow
def test_jumps_of_rank_zero_are_points_that_training_may_leave(tmp_path):
    tree = original_file.tree(jump_global_rank=0)
    jump = tree["state"]["jump"]
    for name in list(jump):
        if name.startswith(("encoders", "decoders")):
            charts = jump[name].array.shape
            jump[name] = original_file.Tensor(np.zeros((0, 2) if "encoders" in name else (2, 0))[: charts[0]])
    points = np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)
    jump["c"], jump["d"] = original_file.Tensor(np.zeros((10, 0))), original_file.Tensor(points)
    names = [n for part in ("atlas", "jump", "supervised") for n in original_file.trained(tree["state"][part])]
    for name in original_file.trained(jump):
        zeros = original_file.Tensor(np.zeros(jump[name].array.shape))
        tree["optim"]["atlas"]["state"][names.index(name)] |= {"exp_avg": zeros, "exp_avg_sq": zeros}
    original_file.save(tmp_path / "old.pt", tree)
    lines = import_original(tmp_path / "old.pt", tmp_path / "run")
    assert any("rank 0" in line for line in lines)
    run = restore(tmp_path / "run")
    z = np.random.default_rng(1).normal(size=(3, 10, 2)).astype(np.float32)
    jumped = run.model.jump(run.weights, z)
    np.testing.assert_allclose(jumped, np.broadcast_to(points[None, None], jumped.shape), atol=1e-7)
    gradient = jax.grad(lambda w: run.model.jump(w, z).sum())(run.weights)["jump"]
    assert np.abs(gradient["down"]["kernel"]).max() > 1e-3


REFUSED = {
    "covariant_attn_tau_min": (0.02, "covariant_attn_tau_min = 0.02"),
    "covariant_attn_denom_min": (0.01, "covariant_attn_denom_min"),
    "vision_preproc": (True, "vision_preproc = True"),
    "soft_equiv_metric": (True, "soft_equiv_metric = True"),
    "covariant_attn_transport_eps": (0.01, "covariant_attn_transport_eps = 0.01: here it can be 0.001 alone"),
    "quantum_router": ("both\nways", r"options that do not exist here: quantum_router = 'both\\nways'"),
    "hidden_dim": (48, "hidden_dim = 48"),
    "latent_dim": ("two", "latent_dim = two"),
    "num_charts": (10**9, "num_charts = 1000000000"),
    "input_dim": (65, "input_dim = 65"),
    "covariant_attn_rank": (5, "q_gamma_out has shape"),
    "batch_size": (0, "batch_size"),
    "lr_min": (-1.0, "learning_rate_min"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_means_something_else_is_refused_and_nothing_is_written(tmp_path, name):
    value, message = REFUSED[name]
    original_file.save(tmp_path / "file.pt", original_file.tree(**{name: value}))
    with pytest.raises(UserError, match=message):
        import_original(tmp_path / "file.pt", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_options_that_do_not_exist_here_but_are_off_are_passed_over(imported, tmp_path):
    original_file.save(tmp_path / "file.pt", original_file.tree(quantum_router=False, other=0, third=None, text=""))
    import_original(tmp_path / "file.pt", tmp_path / "run")


def spoiled(tree, way, value):
    *ways, last = way.split("/")
    at = tree
    for part in ways:
        at = at[int(part) if part.isdecimal() else part]
    last = int(last) if last.isdecimal() else last
    if value is None:
        del at[last]
    else:
        at[last] = value
    return tree


ADAM = "optim/atlas/state/3"


@pytest.mark.parametrize(
    ("way", "value", "message"),
    [
        ("config", None, "no config"),
        ("config/hidden_dim", None, "its configuration has no hidden_dim"),
        ("state", "weights", "no config and state/atlas"),
        ("epoch", -1, "no epoch"),
        ("state/atlas/encoder.codebook", original_file.Tensor(np.full((10, 32, 2), np.nan)), "not finite"),
        ("state/atlas/encoder.codebook", original_file.Tensor(np.zeros((9, 32, 2))), r"encoder\.codebook has shape"),
        ("metrics/adaptive_lr_state/stable_steps", 1e300, "stable_steps = 1e.300, which no controller"),
        ("metrics/adaptive_lr_state/unstable_steps", -1, "unstable_steps = -1, which no controller"),
        ("metrics/adaptive_target_state/variance", 1e300, "variance = 1e.300, which no controller"),
        ("epoch", True, "epoch = True is no epoch"),
        ("epoch", 2**31, "no epoch"),
        (f"{ADAM}/step", original_file.Tensor(np.nan), "state/3/step has values that are not finite"),
        (f"{ADAM}/step", -1, "state/3/step = -1 is no number of steps"),
        (f"{ADAM}/step", 2.0**31, "is no number of steps"),
        (f"{ADAM}/step", 0.5, "is no number of steps"),
        (f"{ADAM}/exp_avg", original_file.Tensor(np.zeros(7)), r"state/3/exp_avg has shape \[7\]"),
        (f"{ADAM}/exp_avg", None, "state/3 has no exp_avg"),
        (f"{ADAM}", 5, "state/3 is no state of Adam"),
        ("optim/atlas/state/999", {"step": 1}, "state/999 is of no parameter"),
        ("metrics/adaptive_weight_state/window_weight/value", -1.0, "window_weight = -1"),
        ("state/atlas/encoder.codebook", np.zeros((10, 32, 2), np.int64), "holds int64, not floating-point numbers"),
        ("state/atlas/encoder.codebook", np.zeros((10, 32, 2), bool), "holds bool, not floating-point numbers"),
        (f"{ADAM}/exp_avg", np.zeros(7, np.int64), "state/3/exp_avg holds int64, not floating-point numbers"),
        ("config/batch_size", -3, r"file\.pt: config\.train\.batch_size = -3"),
        ("data/X_train", original_file.Tensor(np.zeros((5, 63))), "do not fit"),
        ("data/X_train", original_file.Tensor(np.full((96, 64), 2.0)), r"outside \[0, 1\]"),
    ],
)
def test_a_file_with_something_missing_or_wrong(tmp_path, way, value, message):
    original_file.save(tmp_path / "file.pt", spoiled(original_file.tree(), way, value))
    with pytest.raises(UserError, match=message):
        import_original(tmp_path / "file.pt", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def refused(tmp_path, tree, message):
    original_file.save(tmp_path / "file.pt", tree)
    with pytest.raises(UserError, match=message):
        import_original(tmp_path / "file.pt", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("value", "message"), [(-1.0, "below 0"), (np.inf, "not finite")])
def test_squares_of_adam_are_finite_and_not_negative(tmp_path, value, message):
    tree = original_file.tree()
    entry = tree["optim"]["atlas"]["state"][3]
    entry["exp_avg_sq"] = original_file.Tensor(np.full(entry["exp_avg_sq"].array.shape, value))
    refused(tmp_path, tree, f"state/3/exp_avg_sq has values .*{message}")


def test_a_file_without_examples_in_its_data_is_refused(tmp_path):
    tree = original_file.tree()
    tree["data"] |= {
        "X_train": original_file.Tensor(np.zeros((0, 64))),
        "labels_train": original_file.Tensor(np.zeros(0)),
    }
    refused(tmp_path, tree, "data/X_train holds no example")


@pytest.mark.parametrize(("weight", "enabled", "told"), [(0.7, True, 1), (0.7, False, 0), (0.03, True, 0)])
def test_a_prior_that_raises_the_task_loss_is_told(weight, enabled, told):
    """Of 4 dimensions and a commitment of 0.25 above 1.25 / 32."""
    config = default_config()
    config.model.latent_dim = 4
    config.contracts.commitment.initial = 0.25
    for name in ("prior_n", "prior_tex"):
        config.contracts[name].update(initial=weight, enabled=enabled)
    lines = outweighed(config)
    assert len(lines) == told
    assert all("weigh 0.7, above 0.039" in line and "--controllers=fresh" in line for line in lines)


def test_precisions_are_one_number_each_and_those_that_are_missing_are_told(tmp_path):
    tree = original_file.tree(use_learned_precisions=True)
    recon = original_file.Tensor(np.float32(0.5))
    tree["state"]["precisions"] = {"recon": recon}
    tree["optim"] = {}
    original_file.save(tmp_path / "some.pt", tree)
    lines = import_original(tmp_path / "some.pt", tmp_path / "some")
    assert "not in the file, so 0 at first: precisions of route, vq" in lines
    precisions = restore(tmp_path / "some").state.params["precision"]
    assert {name: float(value) for name, value in precisions.items()} == {"recon": 0.5, "route": 0.0, "vq": 0.0}
    tree["state"]["precisions"]["vq"] = original_file.Tensor(np.zeros(3))
    refused(tmp_path, tree, r"precisions/vq has shape \[3\], it is one number")


def test_weights_that_the_atlas_lacks_are_refused_and_those_without_a_place_are_told(tmp_path):
    tree = original_file.tree()
    tree["optim"] = {}
    tree["state"]["supervised"]["other\nhead"] = original_file.Tensor(np.zeros(3))
    tree["state"]["atlas"]["encoder.vision_preproc.0.weight"] = original_file.Tensor(np.zeros(3))
    original_file.save(tmp_path / "more.pt", tree)
    told = r"in the file, and without a place here: atlas/encoder.vision_preproc.0.weight, supervised/other\nhead"
    assert told in import_original(tmp_path / "more.pt", tmp_path / "more")
    del tree["state"]["atlas"]["encoder.val_proj.weight"]
    refused(tmp_path, tree, "lacks 1 weights of the atlas: encoder/value/kernel")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (10, "the label 10, state/supervised/chart_to_class has 10 classes"),
        (-1, "data/labels_test has values that are no labels"),
        (0.5, "data/labels_test has values that are no labels"),
        (np.nan, "data/labels_test has values that are not finite"),
    ],
)
def test_labels_are_integers_of_the_classes(tmp_path, label, message):
    tree = original_file.tree()
    tree["data"]["labels_test"] = np.full(len(tree["data"]["labels_test"]), label)
    refused(tmp_path, tree, message)


@pytest.mark.parametrize("shape", [(10, 0), (100,), (9, 10)])
def test_class_tables_have_a_row_a_chart(tmp_path, shape):
    tree = original_file.tree()
    tree["optim"] = {}
    tree["state"]["supervised"]["chart_to_class"] = original_file.Tensor(np.zeros(shape))
    refused(tmp_path, tree, r"state/supervised/chart_to_class has shape .*, not \[10, classes\]")


def test_steps_beyond_what_is_counted_are_refused(tmp_path):
    tree = original_file.tree(epoch=10**7 - 1, batch_size=1)
    data = tree["data"]
    data["X_train"] = original_file.Tensor(np.concatenate([data["X_train"].array] * 8)[:240])
    data["labels_train"] = np.concatenate([data["labels_train"]] * 8)[:240]
    refused(tmp_path, tree, "epoch = 9999999 of 240 steps is beyond")


def test_labels_alone_make_no_more_classes_than_examples(tmp_path):
    tree = original_file.tree()
    tree["state"] |= {"supervised": {}, "classifier": {}}
    tree["optim"] = {}
    tree["data"]["labels_test"] = np.full(len(tree["data"]["labels_test"]), 2**30)
    refused(tmp_path, tree, "the label 1073741824, more classes than its")


def ways(tree, prefix=()):
    """Every place of a nested dict."""
    for key, value in tree.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from ways(value, (*prefix, key))


JUNK = st.one_of(
    st.sampled_from(
        [None, True, -1, 0, 2**62, 1e300, float("nan"), float("-inf"), "", "x\ny", (), [], {}, b"\xff", {0: {}}]
    ),
    st.sampled_from([(0,), (1,), (3, 0), (2, 2, 2)]).map(lambda shape: original_file.Tensor(np.zeros(shape))),
    st.integers(),
    st.floats(),
    st.text(max_size=9),
)


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=25, deadline=None, phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate])
def test_junk_anywhere_is_one_line_or_passed_over(tmp_path_factory, data):
    """Up to where the model would be built."""
    tree = original_file.tree()
    for _ in range(data.draw(st.integers(1, 3))):
        *above, last = data.draw(st.sampled_from(list(ways(tree))))
        at = tree
        for key in above:
            at = at[key]
        at[last] = data.draw(JUNK)
    folder = tmp_path_factory.mktemp("junk")
    original_file.save(folder / "file.pt", tree)

    def stop(*_):
        raise UserError("as far as this")

    with mock.patch.object(original_import, "build", stop), pytest.raises(UserError) as caught:
        import_original(folder / "file.pt", folder / "run")
    assert "\n" not in str(caught.value)
    assert not (folder / "run").exists()


def test_a_reference_that_says_otherwise_is_refused(tmp_path):
    original_file.save(tmp_path / "file.pt", original_file.tree())
    data = original_file.tensors()[1]
    np.savez(tmp_path / "other.npz", x=data["in/x"], x_hat=data["out/x_hat"] * 1.01)
    with pytest.raises(UserError, match="x_hat: off by 9"):
        import_original(tmp_path / "file.pt", tmp_path / "run", reference=tmp_path / "other.npz")
    assert not (tmp_path / "run").exists()


def test_what_this_machine_rounds_is_not_held_against_a_checkpoint(tmp_path, run):
    """Off in float32 and right in float64 is right, and says so."""
    data = original_file.tensors()[1]
    np.savez(tmp_path / "reference.npz", x=data["in/x"], x_hat=data["out/x_hat"])
    computed = original_verify._computed

    def rounded(model):
        def outputs(params, spectral, x):
            found = computed(model)(params, spectral, x)
            return found | {"x_hat": found["x_hat"] * (1.001 if x.dtype == np.float32 else 1.0)}

        return outputs

    with mock.patch.object(original_verify, "_computed", rounded):
        (line,) = original_verify.verified(tmp_path / "reference.npz", run.model, run.state)
    assert line.endswith("allowed (in float64)")


def bytes_of(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def array_alone():
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 64)))
    return buffer.getvalue()


X, Y = np.zeros((2, 64), np.float32), np.zeros((2, 64), np.float32)
REFERENCES = {
    "truncated": (bytes_of(x=X, x_hat=Y)[:300], "not a whole .npz"),
    "empty": (b"", "not a whole .npz"),
    "npy": (array_alone(), "not a whole .npz"),
    "pickled": (bytes_of(x=np.array([{}])), "nothing pickled is read"),
    "texts": (bytes_of(x=X.astype(str), x_hat=Y), "x holds <U"),
    "text outputs": (bytes_of(x=X, x_hat=Y.astype(str)), "x_hat holds <U"),
    "not finite": (bytes_of(x=X, x_hat=Y + np.nan), "x_hat has values that are not finite"),
    "columns": (bytes_of(x=X[:, :63], x_hat=Y), r"x has shape \[2, 63\], the atlas takes \[n, 64\]"),
    "one-dimensional": (bytes_of(x=X[0], x_hat=Y), r"x has shape \[64\]"),
    "no rows": (bytes_of(x=X[:0], x_hat=Y[:0]), r"x has shape \[0, 64\]"),
    "no x": (bytes_of(x_hat=Y), "no inputs x"),
    "nothing to compare": (bytes_of(x=X), "nothing to compare beside x: known are K_chart, "),
    "unknown names": (bytes_of(x=X, xhat=Y), "nothing to compare beside x: known are K_chart, "),
}


@pytest.mark.parametrize("kind", REFERENCES)
def test_references_that_are_none_are_refused_before_anything_is_computed(tmp_path, run, kind):
    content, message = REFERENCES[kind]
    (tmp_path / "reference.npz").write_bytes(content)
    with mock.patch.object(original_verify, "_found"), pytest.raises(UserError, match=message) as caught:
        original_verify.verified(tmp_path / "reference.npz", run.model, run.state)
    assert "reference.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_that_a_reference_may_hold_are_those_that_are_computed(tmp_path, run):
    found = original_verify._found(run.model, run.state, X, np.float32)
    assert found.keys() == set(original_verify.NAMES)
    np.savez(tmp_path / "reference.npz", x=X, other=X, K_chart=found["K_chart"])
    lines = original_verify.verified(tmp_path / "reference.npz", run.model, run.state)
    assert lines == ["not compared, of unknown names: other", "K_chart: 0 of 2 differ"]


@pytest.mark.parametrize("name", ["file", "file/below", "a" * 300, f"new/{'a' * 300}", "/dev/null"])
def test_a_workdir_that_cannot_be_one(tmp_path, capsys, name):
    (tmp_path / "file").write_text("")
    assert commands.main(["import-torch", str(tmp_path / "none.pt"), f"--workdir={tmp_path / name}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--workdir=" in line or name == "file/below"  # which is found when it is made
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_command(tmp_path, capsys, imported):
    assert commands.main(["import-torch", str(tmp_path / "none.pt"), f"--workdir={tmp_path / 'run'}"]) == 2
    assert commands.main(["import-torch", str(tmp_path), f"--workdir={imported[0]}"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert "not empty" in told[1]
    assert not (tmp_path / "run").exists()
