"""A run of this version for tests/storage/test_layouts.py, as <version>.tar.gz and, what it says of some rows, .npz.

python tests/layouts/make.py     # from a checkout of that version, on a CPU
"""

import os
import pathlib
import sys
import tarfile
import tempfile

FOLDER = pathlib.Path(__file__).parent
os.environ["JAX_PLATFORMS"] = "cpu"
sys.path[:0] = [str(FOLDER.parents[1]), str(FOLDER.parent)]


def main() -> None:
    """Train, ask, pack."""
    import numpy as np
    from tiny_config import get_config

    import topojax
    from topojax.data import sets
    from topojax.storage.runtime import versions

    version = versions()["topojax"]
    config = get_config()
    config.name, config.train.epochs, config.log.every_epochs = "layout", 2, 1
    config.checkpoint.keep, config.checkpoint.every_epochs = 1, 2
    config.baselines.autoencoder = config.baselines.vq = True
    name = f"layout_{version.replace('.', '_')}"
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder) / name
        topojax.train_and_evaluate(config, workdir)
        run = topojax.restore(workdir)
        x = np.asarray(sets.load(config.data, seed=config.seed).test.image)[:16]
        encoding = run.encode(x)
        told = {name: getattr(encoding, name) for name in ("chart", "code", "z_geo")}
        x_hat = run.decode(encoding.z_geo).x_hat
        np.savez_compressed(FOLDER / f"{version}.npz", x=x, x_hat=x_hat, **told)
        (workdir / ".lock").unlink(missing_ok=True)
        for file in workdir.rglob("commit_success.txt"):  # says where it lay
            file.write_text("")
        with tarfile.open(FOLDER / f"{version}.tar.gz", "w:gz") as files:
            files.add(workdir, name, filter=_of_nobody)


def _of_nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main()
