"""One picture of a run: the atlas drawn in its own latent plane, and what it reconstructs.

  python -m topojax.picture --workdir=runs/digits

writes <workdir>/atlas.png. With two latent dimensions nothing has to be projected: the axes are the coordinates.
"""

import argparse
import pathlib
import sys

import numpy as np
from numpy.typing import ArrayLike

from topojax.errors import exit_status


def draw(workdir: str | pathlib.Path) -> pathlib.Path:
    """Draw test points by label and by chart, chart centres, and reconstructions by the decoder's own routing.

    Args:
      workdir: of a run with at least one checkpoint and its data at hand.

    Returns:
      The path of the PNG.

    Raises:
      UserError: nothing to restore, or the data are gone.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from topojax import data
    from topojax.run import restore

    run = restore(workdir)
    test = data.load(run.config.data, seed=run.config.seed).test
    encoding = run.encode(test.image)
    decoding = run.decode(encoding.z_geo, encoding.z_tex)
    centers = np.asarray(run.state.params["atlas"]["encoder"]["centers"])
    z = encoding.z_geo if encoding.z_geo.shape[1] > 1 else np.pad(encoding.z_geo, ((0, 0), (0, 1)))

    figure, axes = plt.subplots(1, 3, figsize=(15, 5), layout="constrained")
    for axis, colour, title in ((axes[0], test.label, "label"), (axes[1], encoding.chart, "chart")):
        axis.scatter(z[:, 0], z[:, 1], c=colour, cmap="tab10", s=6, alpha=0.7, linewidths=0)
        axis.set(title=f"test points by {title}", xlabel="z₁", ylabel="z₂", aspect="equal")
    if centers.shape[1] > 1:
        for chart, center in enumerate(centers):
            axes[1].annotate(str(chart), center[:2], ha="center", va="center", weight="bold")
    if run.image_shape is None:
        points = decoding.x_hat
        axes[2].scatter(test.image[:, 0], test.image[:, 1], s=6, c="0.7", label="input")
        axes[2].scatter(points[:, 0], points[:, 1], s=6, c=encoding.chart, cmap="tab10", label="reconstruction")
        axes[2].legend()
    else:
        axes[2].imshow(_pairs(test.image, decoding.x_hat, test.label, run.image_shape), cmap="gray_r", vmin=0, vmax=1)
        axes[2].set_axis_off()
    error = float(np.mean((decoding.x_hat - test.image) ** 2))
    axes[2].set_title(f"inputs and reconstructions, MSE {error:.4f}")
    path = pathlib.Path(workdir) / "atlas.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _pairs(x: ArrayLike, x_hat: ArrayLike, labels: ArrayLike, shape: tuple[int, int, int]) -> np.ndarray:
    """First example of every class above its reconstruction, in one image."""
    first = [int(np.flatnonzero(labels == label)[0]) for label in np.unique(np.asarray(labels))]
    rows = [np.concatenate(list(np.asarray(images)[first].reshape(-1, *shape)), axis=1) for images in (x, x_hat)]
    return np.clip(np.concatenate(rows), 0.0, 1.0).squeeze()


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m topojax.picture", description="Draw the atlas of a run.")
    parser.add_argument("--workdir", required=True, help="where the run lives")
    arguments = parser.parse_args()
    return exit_status(lambda: print(draw(arguments.workdir)))


if __name__ == "__main__":
    sys.exit(main())
