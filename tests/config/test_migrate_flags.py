"""The original's flags: the table is complete, lines translate, and the report's own commands run."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import jax
import pytest

from topojax.config import command_line, migrate_flags, original_flags
from topojax.config.defaults import default_config
from topojax.config.io import flat
from topojax.config.validate import validate
from topojax.data import sets
from topojax.errors import UserError
from topojax.scoring.run import build

ROOT = pathlib.Path(__file__).parents[2]
LISTED = [
    line.split("\t")
    for line in (ROOT / "tests" / "original_flags.tsv").read_text().splitlines()
    if not line.startswith("#")
]
"""Name, type and default of every flag of the original program."""

REPORT = {
    "configs/mnist.py:report_3k": """--dataset mnist --epochs 3000 --lr 0.01 --lr_max 0.01 --disable_ae --disable_vq
        --save_every 50 --output_dir outputs/topoencoder_mnist_cpu_3k --device cpu --adaptive_lr true
        --lr_grounding_warmup_epochs 10 --use_scheduler false""",
    "configs/cifar10.py:report_3k": """--dataset cifar10 --epochs 3000 --save_every 50 --log_every 25 --device cpu
        --adaptive_lr true --use_scheduler false --lr 0.005 --lr_max 0.005 --kl_prior_weight 0.001
        --lr_grounding_warmup_epochs 200 --lr_unstable_patience 10 --output_dir outputs/topoencoder_cifar10_cpu_3k
        --mlflow true --mlflow_tracking_uri http://127.0.0.1:5000 --mlflow_experiment topoencoder
        --mlflow_run_name cifar10_adaptive_lr""",
    "configs/mnist.py:report_adaptive": """--dataset mnist --epochs 3000 --save_every 50 --log_every 25 --device cpu
        --adaptive_lr true --use_scheduler false --lr 0.0001 --lr_max 0.0001 --kl_prior_weight 0.001
        --lr_grounding_warmup_epochs 200 --lr_unstable_patience 10 --output_dir outputs/topoencoder_mnist_cpu_3k
        --mlflow true --mlflow_tracking_uri http://127.0.0.1:5000 --mlflow_experiment topoencoder
        --mlflow_run_name mnist_adaptive_lr""",
    "configs/mnist.py:report_lr7": """--dataset mnist --epochs 1250 --save_every 50 --log_every 25 --device cpu
        --adaptive_lr true --use_scheduler false --lr 0.001 --lr_max 0.05 --lr_grounding_warmup_epochs 50
        --lr_increase_factor 1.05 --lr_decrease_factor 0.8 --lr_unstable_patience 5 --lr_stable_patience 5
        --lr_loss_increase_tol 0.1 --output_dir outputs/topoencoder_mnist_cpu_adapt_lr7 --disable_ae --disable_vq
        --hidden_dim 64 --codes_per_chart 8""",
}
"""Configuration → the command of the design report (§6) that it stands for."""


def overrides(words):
    return [word for word in words if word.startswith("--config.")]


def configured(words):
    """The configuration that the words of a topojax command make."""
    start = next(word for word in words if word.startswith("--config=")).partition("=")[2]
    command = [sys.executable, "-m", *words[words.index("topojax") :], "--print_config"]
    out = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}
    )
    assert out.returncode == 0, out.stderr
    return start, json.loads(out.stdout)


def test_the_table_has_every_flag_of_the_original_with_its_default_and_no_other():
    assert [flag.name for flag in original_flags.FLAGS] == [name for name, _, _ in LISTED]
    for name, kind, default in LISTED:
        flag = original_flags.BY_NAME[name]
        assert flag.switch == (kind == "switch")
        if kind in ("int", "float") or default.startswith("'"):
            assert flag.default == (default.strip("'") if kind == "str" else float(default)), name
        elif kind == "true/false":
            assert flag.default is (default == "True"), name


@pytest.mark.parametrize("flag", original_flags.FLAGS, ids=lambda flag: flag.name)
def test_every_flag_becomes_fields_that_exist_or_says_why_not(flag):
    given = flag.default if flag.default is not None else "x"
    every = {f.name: f.default for f in original_flags.FLAGS}
    known = {name for name, _ in flat(default_config())}
    fields = flag.fields(given, every) if not isinstance(given, str) or given else flag.fields("x", every)
    assert set(fields) <= known
    for target in filter(None, flag.target.split(", ")):
        outside = target in ("--workdir", "JAX_PLATFORMS=")
        assert outside or target in fields or (target.startswith("contracts.") and fields), target
    assert flag.target or (len(flag.remark) > 20 and not fields)


def test_the_page_of_flags_is_current():
    assert (ROOT / "docs" / "flags.md").read_text() == migrate_flags.table()


@pytest.mark.parametrize("start", [start for start in REPORT if not start.endswith("lr7")])  # that one runs, below
def test_a_command_of_the_report_is_its_configuration(start):
    words, remarks = migrate_flags.migrate(REPORT[start].split())
    assert f"--config={start}" in words
    assert overrides(words) == (["--config.mlflow.enabled=true"] if "--mlflow" in REPORT[start] else [])
    assert remarks == []
    validate(command_line.load(str(ROOT / start)))


def test_the_report_resumes_to_2000_epochs_in_the_same_folder():
    line = REPORT["configs/mnist.py:report_lr7"].replace("--epochs 1250", "--epochs 2000")
    resumed, remarks = migrate_flags.migrate([*line.split(), "--resume", "outputs/x/topo_epoch_01200.pt"])
    first, _ = migrate_flags.migrate(REPORT["configs/mnist.py:report_lr7"].split())
    assert resumed == [*first, "--config.train.epochs=2000"]
    assert remarks == [
        "--resume: the same line goes on from its --workdir; `topojax import-torch` makes one of a .pt file"
    ]


def test_a_pasted_line_with_interpreter_environment_and_equals_signs_is_read():
    line = "PYTHONUNBUFFERED=1 uv run src/experiments/topoencoder_2d.py --dataset=mnist --epochs=7 --device=cuda:1"
    words, _ = migrate_flags.migrate(line.split())
    assert words[:2] == ["CUDA_VISIBLE_DEVICES=1", "JAX_PLATFORMS=cuda"]
    assert "--config.train.epochs=7" in overrides(words)


@pytest.mark.parametrize(
    "line, fields",
    [
        ("--lr 0.002", {"optim.learning_rate": 0.002, "optim.learning_rate_max": 0.002}),
        ("--adaptive_lr false", {"optim.rate": "constant", "optim.schedule": "cosine"}),
        ("--kl_prior_weight 0", {"contracts.prior_n.enabled": False, "contracts.prior_n.initial": 1.0}),
        ("--window_eps_ground 0.3", {"contracts.window.target": 0.3, "contracts.window.unit": "nat"}),
        ("--jump_warmup 10 --jump_ramp_end 40", {"gates.ramp_epochs": 30}),
        ("--lr 0.01 --classifier_lr 0.002", {"optim.group_rates.heads": 0.2}),
        ("--disable_supervised --seed 3", {"supervised.enabled": False, "seed": 3}),
        ("--disable_ae", {"baselines.autoencoder": False, "baselines.vq": True}),
        ("--adaptive_weights false", {"contracts.window.adaptive": False, "contracts.entropy.adaptive": False}),
        ("", {"seed": 42, "model.codes_per_chart": 21, "train.batch_size": 256, "contracts.window.target": 0.4}),
    ],
)
def test_the_printed_line_makes_the_configuration_that_was_meant(line, fields):
    words, _ = migrate_flags.migrate(line.split())
    config = command_line.load(next(word for word in words if word.startswith("--config=")).partition("=")[2])
    values = dict(flat(config))
    for name, text in (word.removeprefix("--config.").split("=") for word in overrides(words)):
        kind = type(values[name])
        values[name] = text == "true" if kind is bool else kind(text)
    assert {name: values[name] for name in fields} == fields


def test_all_defaults_of_the_original_make_a_valid_configuration_that_the_command_takes():
    words, _ = migrate_flags.migrate(["--dataset", "mnist"], defaults=True)
    assert len(overrides(words)) > 40
    _, config = configured(words)
    assert config["contracts"]["entropy"]["target"] == 0.5
    assert config["governor"]["grow"] == 1.02
    assert config["contracts"]["window"]["target_rule"] == "absolute"


@pytest.mark.parametrize(
    "line, said",
    [
        ("--datset mnist", r"--datset is no flag of the original program: did you mean --dataset\?"),
        ("--zzz", "--zzz is no flag of the original program: docs/flags.md lists them"),
        ("--epochs many", "argument --epochs: invalid int value: 'many'"),
        ("--adaptive_lr maybe", "'maybe' must be true or false"),
        ("--dataset fashion", "--dataset fashion: choose one of mnist, cifar10"),
        ("--epochs 0", r"config\.train\.epochs = 0: must lie in \[1, inf\)"),
    ],
)
def test_a_line_that_means_nothing_is_refused(line, said):
    with pytest.raises(UserError, match=said) as caught:
        migrate_flags.migrate(line.split())
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_command_prints_a_line_that_a_shell_runs_and_says_what_is_lost():
    line = ["--dataset", "mnist", "--vision_kernel_size", "7"]
    command = [sys.executable, "-m", "topojax", "migrate-flags", "--", *line]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert ended.returncode == 0
    assert re.match(r"# --vision_kernel_size: the front end `rotation` has one form", ended.stderr)
    words = shlex.split(ended.stdout.replace("\\\n", " "))
    assert configured(words)[1]["model"]["codes_per_chart"] == 21
    refused = subprocess.run([*command[:5], "--nope", "1"], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert len(refused.stderr.splitlines()) == 1


def documented_commands():
    """The report's commands as the documentation's table has them."""
    text = (ROOT / "docs" / "commands.md").read_text()
    return re.findall(r"`topojax train (--config=configs/\w+\.py:report_[^`]*)`", text)


def test_the_documentation_has_the_reports_commands():
    starts = [command.split()[0].removeprefix("--config=") for command in documented_commands()]
    assert set(starts) == set(REPORT)
    assert documented_commands()[-1].endswith("report_lr7 --config.train.epochs=2000")


def shortened(command, workdir, epochs):
    arguments = [word for word in command.split() if "train.epochs" not in word]
    return subprocess.run(
        [sys.executable, "-m", "topojax.train", *arguments, f"--workdir={workdir}", f"--config.train.epochs={epochs}"],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )


prepared = pytest.mark.skipif(
    not os.environ.get("TFDS_DATA_DIR"), reason="TFDS_DATA_DIR does not say where data sets are"
)


@pytest.mark.tf
@prepared
@pytest.mark.slow
@pytest.mark.parametrize("start", REPORT)
def test_the_documented_command_means_a_program_that_takes_its_data(start):
    """Traced, which takes seconds; what it costs is compiling, and each of them is a program of its own."""
    config = command_line.load(str(ROOT / start))
    dataset = sets.load(config.data, seed=config.seed)
    _, program = build(config, dataset.sizes())
    state = jax.eval_shape(program.init)
    after, metrics = jax.eval_shape(program.epoch, state, dataset.train)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert metrics.shape == (len(program.metric_names()),)


@pytest.mark.tf
@prepared
@pytest.mark.parametrize(
    "start",
    [pytest.param(one, marks=pytest.mark.slow if one.endswith("lr7") else pytest.mark.campaign) for one in REPORT],
)
def test_the_documented_command_trains_and_resumes(start, tmp_path):
    command = next(command for command in documented_commands() if command.split()[0] == f"--config={start}")
    for epochs in (1, 2):
        ended = shortened(command, tmp_path / "run", epochs)
        assert ended.returncode == 0, ended.stderr
        result = json.loads((tmp_path / "run" / "result.json").read_text())
        assert (result["epochs"], result["seed"]) == (epochs, 42)
        assert 0 < result["test/mse"] < 1
