"""Which gains of a controller settle: a map of K_p and K_i, every point a closed loop, all of them one program.

  python -m topojax.benchmarks.gains --form=report --lag=2 --out=gains.png

The loop is a contract on a signal that answers its weight with a lag, in epochs:

  m' = (1 − g λ − m) / τ + noise,      e = m − target,      e > 0 raises λ

4,096 loops (64 × 64 gains, each axis evenly spaced in logarithm) are one `vmap` over the controller's gains, which are
leaves. The picture shows the RMS of e over the last quarter of the time, in logarithm; for the report's form the border
of Routh's criterion, K_p (1 + g K_d) = τ K_i, is drawn over it, and the share of points on which simulation and
criterion agree is printed. Dots are the gains of the contract table's own rows.
"""

import functools
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from topojax.atlas.table import TABLE
from topojax.commands import Parser
from topojax.control.pid import FORMS, pid, report_form_is_stable
from topojax.errors import UserError, run_process
from topojax.types import Array

SIZE = 64
LOW, HIGH = 1e-3, 10.0
"""Of both gains."""
TARGET = 0.5
STEPS = 20
"""Updates in an epoch."""
SETTLED = 1e-2
"""RMS of e, without noise, below which a loop has settled."""
_START = 0.4  # of λ: near the rest, where λ = 0.5 / g


@functools.partial(jax.jit, static_argnames=("form", "epochs"))
def residual(
    kp: Array, ki: Array, *, form: str, epochs: int, lag: float, gain: float, kd: float = 0.0, noise: float = 0.0
) -> Array:
    """RMS of the error over the last quarter of the time, for each pair of gains; shape of `kp`.

    Args:
      kp: K_p.
      ki: K_i, same shape.
      form: of the PID.
      epochs: of the simulation.
      lag: τ > 0 of the signal, epochs.
      gain: g > 0, what a unit of weight takes off the signal.
      kd: K_d.
      noise: standard deviation of e at each update.
    """
    keep = -jnp.expm1(-1.0 / (STEPS * lag))

    def loop(kp: Array, ki: Array) -> Array:
        control = pid(kp, ki, kd, form=form, initial=_START / gain, maximum=10.0 / gain)

        def step(carry: Any, key: Array) -> tuple[Any, Array]:
            state, signal = carry
            signal = signal + keep * (1.0 - gain * control.effective(state) - signal)
            error = signal - TARGET
            state, _ = control.update(state, error + noise * jax.random.normal(key), dt=1.0 / STEPS)
            return (state, signal), error

        keys = jax.random.split(jax.random.key(0), STEPS * epochs)
        _, errors = jax.lax.scan(step, (control.init(), jnp.float32(1.0 - _START)), keys)
        return jnp.sqrt(jnp.mean(errors[-len(errors) // 4 :] ** 2))

    return jax.vmap(loop)(kp.reshape(-1), ki.reshape(-1)).reshape(kp.shape)


def grid() -> tuple[np.ndarray, np.ndarray]:
    """K_p along the columns, K_i along the rows."""
    values = np.geomspace(LOW, HIGH, SIZE, dtype=np.float32)
    kp, ki = np.meshgrid(values, values)
    return kp, ki


def draw(found: np.ndarray, out: pathlib.Path, *, form: str, lag: float, gain: float, kd: float) -> None:
    """The map as a PNG.

    Args:
      found: of `residual` over `grid`.
      out: file.
      form: as in `residual`, and so the rest.
      lag: τ.
      gain: g.
      kd: K_d.
    """
    from topojax.tracking.canvas import import_matplotlib

    import_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.6), dpi=150, layout="constrained")
    axes = figure.subplots()
    values = np.geomspace(LOW, HIGH, SIZE)
    drawn = axes.pcolormesh(values, values, np.log10(np.maximum(found, 1e-6)), cmap="cividis", shading="nearest")
    axes.contour(values, values, found, levels=[SETTLED], colors="white", linewidths=1)
    if form == "report":
        axes.plot(values, values * (1 + gain * kd) / lag, color="white", linestyle="dashed", linewidth=1.2)
    rows = sorted({(row.kp, row.ki) for row in TABLE if row.mechanism == "pid"})
    axes.plot(*zip(*rows, strict=True), "o", color="#bd1f01", markersize=5)
    axes.set(xscale="log", yscale="log", xlim=(LOW, HIGH), ylim=(LOW, HIGH))
    axes.set_xlabel("$K_p$")
    axes.set_ylabel("$K_i$")
    axes.set_title(f"PID, form {form}: lag {lag:g} epochs, gain {gain:g}, $K_d$ {kd:g}", fontsize=10)
    figure.colorbar(drawn, label="log10 RMS error, last quarter of the time")
    try:
        figure.savefig(out)
    except (OSError, ValueError) as error:
        raise UserError(f"--out={out} cannot be written: {error}") from error


def agreement(found: np.ndarray, *, lag: float, gain: float, kd: float) -> float:
    """Share of the grid on which loop and Routh's criterion say the same of the report's form."""
    kp, ki = grid()
    return float(np.mean((found < SETTLED) == report_form_is_stable(kp, ki, lag, kd=kd, gain=gain)))


def main(argv: list[str]) -> int:
    """Simulate, print, draw."""
    parser = Parser(prog="python -m topojax.benchmarks.gains", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--form", choices=FORMS, default="report")
    parser.add_argument("--lag", type=float, default=1.0, help="of the signal, epochs")
    parser.add_argument("--gain", type=float, default=1.0, help="what a unit of weight takes off the signal")
    parser.add_argument("--kd", type=float, default=0.0)
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation of the error at an update")
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("gains.png"))
    given = parser.parse_args(argv)
    for name in ("lag", "gain", "epochs"):
        if not 0 < getattr(given, name) < float("inf"):
            raise UserError(f"--{name}={getattr(given, name)} must be > 0")
    plant = {"lag": given.lag, "gain": given.gain, "kd": given.kd}
    kp, ki = grid()
    found = np.asarray(residual(kp, ki, form=given.form, epochs=given.epochs, noise=given.noise, **plant))
    print(f"{found.size} loops, {np.mean(found < SETTLED):.1%} settle to an RMS error below {SETTLED:g}")
    if given.form == "report" and not given.noise:
        print(f"{agreement(found, **plant):.1%} of them as Routh's criterion says")
    draw(found, given.out, form=given.form, **plant)
    print(f"{given.out} is written")
    return 0


if __name__ == "__main__":
    run_process(lambda: main(sys.argv[1:]))
