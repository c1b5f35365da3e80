"""The map of gains agrees with Routh's criterion, with loops worked out by hand, and refuses what is no number."""

import jax.numpy as jnp
import numpy as np
import pytest

from topojax.benchmarks import gains
from topojax.errors import UserError


def residual(kp, ki, form="report", **plant):
    settings = {"form": form, "epochs": 200, "lag": 1.0, "gain": 1.0} | plant
    return np.asarray(gains.residual(jnp.array(kp), jnp.array(ki), **settings))


def test_the_report_form_settles_on_one_side_of_its_border_only():
    found = residual([1.0, 1.0, 0.2, 0.2], [0.3, 3.0, 0.06, 0.6])  # K_p against τ K_i
    assert list(found < gains.SETTLED) == [True, False, True, False]


def test_the_derivative_moves_the_border():
    assert residual([1.0], [1.5])[0] > gains.SETTLED
    assert residual([1.0], [1.5], kd=2.0)[0] < gains.SETTLED  # 1 (1 + 2) > 1.5


def test_without_gains_nothing_moves():
    # λ stays at 0.4, the signal comes to rest at 0.6, 0.1 above its target.
    assert residual([0.0], [0.0], form="incremental")[0] == pytest.approx(0.1, abs=1e-5)


@pytest.mark.slow
def test_the_whole_map(tmp_path, capsys):
    out = tmp_path / "map.png"
    assert gains.main(["--form=report", f"--out={out}"]) == 0
    words = capsys.readouterr().out
    share = float(words.split("% of them as Routh")[0].split()[-1])
    assert share > 90
    assert out.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match=r"--lag=0.0 must be > 0"):
        gains.main(["--lag=0"])
    with pytest.raises(UserError, match="cannot be written"):
        gains.main(["--epochs=1", f"--out={tmp_path / 'none' / 'map.png'}"])
