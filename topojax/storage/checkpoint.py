"""Checkpoints of the whole training state: saved whole or not at all, restored whole or not at all.

With `joint` and `manager` the only importer of orbax. Checkpoints are numbered by epoch. Next to the state lie its
metadata, with a digest and the shape of every leaf: a damaged or foreign checkpoint is named as such, never half
restored.
"""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from topojax.errors import Stopped, UserError, reason, tell
from topojax.storage import layouts
from topojax.storage.manager import Manager, alone, manager_options, uncomplaining

_NAMED = 3
LARGEST_FACTOR = 1000
"""Bytes that a checkpoint may unfold to, for each byte that it has on disk, beyond `_SMALL`."""
_SMALL = 2**26
_Read = TypeVar("_Read")


class Damaged(UserError):
    """A checkpoint that cannot be read; the one before it may do.

    Args:
      what: which, and why.
      advice: what else there is.
    """

    def __init__(self, what: str, advice: str):
        super().__init__(f"{what}: {advice}")
        self.what = what


_SHORT = 16


_TOLD: set[tuple[pathlib.Path, int]] = set()
"""Damaged checkpoints that this process has named."""


class Checkpoints:
    """The checkpoints of one run, <workdir>/checkpoints/<epoch>.

    Saving is synchronous: the state's buffers are donated to the next epoch.

    Args:
      workdir: of the run.
      keep: how many of the latest to keep, beside the one of least loss.
      read_only: only read; nothing is made or cleaned.
    """

    def __init__(self, workdir: pathlib.Path, *, keep: int = 1, read_only: bool = False):
        self.directory = (workdir / "checkpoints").absolute()
        if read_only and not self.directory.is_dir():
            raise UserError(f"no checkpoint in {workdir}: {self.directory} does not exist")
        if not read_only:
            folder_made(workdir)
        self._read_only = read_only
        # Of several processes each by itself: they write together (`storage.joint`).
        options = manager_options(keep, alone() if jax.process_count() > 1 else None, clean=not read_only)
        try:
            with uncomplaining():
                self._manager = Manager(self.directory, options=options)
        except OSError as error:
            raise Stopped(f"{self.directory} cannot be used: {reason(error)}") from error

    def epochs(self) -> list[int]:
        """Epochs that have a complete checkpoint, increasing."""
        return sorted(self._manager.all_steps())

    def save(self, epoch: int, state: Any, meta: dict[str, Any], *, loss: float | None) -> None:
        """Save one epoch; a kill in the middle leaves the earlier checkpoints as they were.

        Args:
          epoch: not saved before.
          state: a pytree of arrays, typed PRNG keys among them.
          meta: JSON-able, without NaN.
          loss: what the best checkpoint has least of; None is never best.

        Raises:
          Stopped: the disk refuses; earlier checkpoints are as they were.
        """
        state = on_host(state)
        meta = described(state, meta)
        try:
            with uncomplaining():
                self._manager.save(
                    epoch,
                    args=ocp.args.Composite(state=ocp.args.StandardSave(present(state)), meta=ocp.args.JsonSave(meta)),
                    metrics={"loss": float("inf") if loss is None else loss},
                )
        except Exception as error:  # tensorstore's are ValueErrors, orbax has its own
            raise Stopped(f"cannot save epoch {epoch} in {self.directory}: {reason(error)}") from error

    def drop_after(self, epoch: int) -> None:
        """Delete the checkpoints of later epochs: a run goes back."""
        for later in [known for known in self.epochs() if known > epoch]:
            self._manager.delete(later)

    def best(self) -> int | None:
        """The epoch of least loss among those kept."""
        return self._manager.best_step()

    def meta(self, epoch: int | None = None) -> dict[str, Any]:
        """The metadata of an epoch, the latest unless told.

        Raises:
          UserError: no such checkpoint, or one that cannot be read.
        """
        epoch = self._existing(epoch)
        meta = self._read(epoch, "meta", ocp.args.JsonRestore())
        if not isinstance(meta, dict) or not isinstance(meta.get("leaves"), dict) or "digest" not in meta:
            raise self._damaged(epoch, "its metadata are not those of a checkpoint")
        if "meta_digest" in meta and meta.pop("meta_digest") != _json_digest(meta):
            raise self._damaged(epoch, "its metadata do not match their digest")
        return meta

    def newest(self, read: Callable[[int], _Read]) -> _Read:
        """What is read of the latest checkpoint, or where that is damaged of the one before it, with a line on stderr.

        One that is damaged is moved to <workdir>/damaged, unless this only reads.

        Args:
          read: epoch → what is wanted; raises `Damaged`.

        Raises:
          UserError: no checkpoint, or none that can be read.
        """
        known = self.epochs() or [self._existing(None)]
        for epoch in reversed(known):
            try:
                return read(epoch)
            except Damaged as error:
                if epoch == known[0]:
                    raise
                self.give_way(epoch, error)
                bad = error
        raise bad

    def give_way(self, epoch: int, damage: Damaged) -> None:
        """Say, once, that an earlier checkpoint takes the place of one that is damaged, and set that aside.

        Args:
          epoch: of the damaged one.
          damage: what reading it raised.
        """
        if (self.directory, epoch) not in _TOLD:
            _TOLD.add((self.directory, epoch))
            tell(f"topojax: warning: {damage}: going back to an earlier one")
        if not self._read_only:
            self._set_aside(epoch)

    def _read(self, epoch: int, name: str, how: Any) -> Any:
        """An item of a checkpoint.

        Raises:
          Damaged: whatever orbax or tensorstore say.
        """
        try:
            with uncomplaining():
                return self._manager.restore(epoch, args=ocp.args.Composite(**{name: how}))[name]
        except Exception as error:
            raise self._damaged(epoch, reason(error)) from None

    def _set_aside(self, epoch: int) -> None:
        folder = self.directory.parent / "damaged"
        folder.mkdir(exist_ok=True)
        names = (folder / (f"{epoch}" if not n else f"{epoch}.{n}") for n in range(1000))
        (self.directory / str(epoch)).rename(next(name for name in names if not name.exists()))
        self._manager.reload()

    def restore(self, abstract: Any, epoch: int | None = None) -> tuple[Any, dict[str, Any]]:
        """The state and metadata of an epoch, the latest unless told.

        Args:
          abstract: the state's structure, of `jax.eval_shape`.
          epoch: one of `epochs()`.

        Returns:
          (state on the default device, metadata).

        Raises:
          UserError: no such checkpoint; one of another program, naming leaves that differ; a damaged one.
        """
        epoch = self._existing(epoch)
        meta = self.meta(epoch)
        described = meta["leaves"]
        self._same_leaves(described, describe(abstract), epoch)
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        known = dict(_named(abstract))
        try:
            held = {name: known[name] if name in known else layouts.shape_of(text) for name, text in described.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise self._damaged(epoch, "its metadata describe no arrays") from error
        self._no_larger(held, epoch)
        target = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
            for name, leaf in held.items()
            if leaf.size
        }
        saved = self._read(epoch, "state", ocp.args.StandardRestore(target))
        if digest([saved.get(name, _NOTHING) for name in held]) != meta["digest"]:
            raise self._damaged(epoch, "its contents do not match their digest")
        leaves = [saved[name] if name in saved else layouts.begun(name, leaf, saved) for name, leaf in known.items()]
        state = jax.tree.unflatten(jax.tree.structure(abstract), leaves)
        return state, meta

    def restore_part(self, prefix: str, epoch: int | None = None) -> dict[str, Any]:
        """Some leaves of the state alone: nothing else is read.

        Args:
          prefix: of their paths, as `average.atlas.encoder`.
          epoch: one of `epochs()`.

        Returns:
          Path → array on the default device; empty where there are none.

        Raises:
          UserError: no such checkpoint, or a damaged one.
        """
        epoch = self._existing(epoch)
        meta = self.meta(epoch)
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        wanted = {
            name: jax.ShapeDtypeStruct(tuple(json.loads(shape[shape.index("[") :])), shape[: shape.index("[")])
            for name, shape in meta["leaves"].items()
            if name.startswith(prefix)
        }
        self._no_larger(wanted, epoch)
        wanted = {name: leaf for name, leaf in wanted.items() if leaf.size}
        if not wanted:
            return {}
        placed = jax.tree.map(lambda _: ocp.ArrayRestoreArgs(sharding=device), wanted)
        args = ocp.args.PyTreeRestore(item=wanted, restore_args=placed, partial_restore=True)
        found = self._read(epoch, "state", args)
        digests = meta.get("digests", {})  # older checkpoints have one of the whole state alone
        if any(digest(leaf)[:_SHORT] != digests.get(name, digest(leaf)[:_SHORT]) for name, leaf in found.items()):
            raise self._damaged(epoch, "its contents do not match their digest")
        return found

    def close(self) -> None:
        """Release the directory."""
        with contextlib.suppress(Exception):  # what a save could not do is no news
            self._manager.close()

    def _no_larger(self, leaves: dict[str, Any], epoch: int) -> None:
        """Nothing is allocated for a few bytes on disk that claim to be gigabytes."""
        claimed = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves.values())
        held = sum(file.stat().st_size for file in (self.directory / str(epoch)).rglob("*") if file.is_file())
        if claimed > LARGEST_FACTOR * held + _SMALL:
            raise self._damaged(epoch, f"it has {held} bytes and claims {claimed}")

    def _existing(self, epoch: int | None) -> int:
        known = self.epochs()
        if not known:
            raise UserError(f"no checkpoint in {self.directory}: nothing has been saved there yet, or it is gone")
        if epoch is None:
            return known[-1]
        if epoch not in known:
            raise UserError(f"no checkpoint of epoch {epoch} in {self.directory}; there are {_listed(known)}")
        return epoch

    def _same_leaves(self, saved: dict[str, str], wanted: dict[str, str], epoch: int) -> None:
        lines = layouts.differences(saved, wanted)
        if lines:
            more = f" and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
            raise UserError(
                f"checkpoint {epoch} in {self.directory} is of another model or program: "
                f"{'; '.join(lines[:_NAMED])}{more}"
            )

    def _damaged(self, epoch: int, cause: object) -> UserError:
        earlier = [e for e in self.epochs() if e != epoch]
        advice = f"there are {_listed(earlier)}" if earlier else "there is no other, start anew"
        return Damaged(f"checkpoint {self.directory / str(epoch)} cannot be read ({reason(cause)})", advice)


_NOTHING = np.zeros(0)  # the bytes of a leaf of size 0, which orbax does not hold


def last_epoch(workdir: pathlib.Path) -> int:
    """The epoch of a run's last complete checkpoint, 0 where there is none; nothing is made."""
    if not (workdir / "checkpoints").is_dir():
        return 0
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
        return max(checkpoints.epochs(), default=0)


def describe(state: Any) -> dict[str, str]:
    """Path of every leaf → 'dtype(shape)', in the tree's order."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in _named(state)}


def digest(state: Any) -> str:
    """sha256 of every leaf's bytes in the tree's order; a PRNG key's are its data."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        data = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        total.update(np.ascontiguousarray(data).tobytes())
    return total.hexdigest()


def folder_made(workdir: pathlib.Path) -> None:
    """Make the folder of a run's checkpoints.

    Raises:
      Stopped: the disk refuses.
    """
    folder = (workdir / "checkpoints").absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Stopped(f"{folder} cannot be used: {reason(error)}") from error


def described(state: Any, meta: dict[str, Any]) -> dict[str, Any]:
    """Metadata with shapes and digests of a state, and a digest of their own."""
    each = {name: digest(leaf)[:_SHORT] for name, leaf in _named(state)}
    meta = {**meta, "leaves": describe(state), "digests": each, "digest": digest(state)}
    return {**meta, "meta_digest": _json_digest(meta)}


def on_host(state: Any) -> Any:
    """Arrays as NumPy's, which orbax writes in half the time; keys stay, for it writes down of which kind they are."""
    keys = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(state)]
    leaves, tree = jax.tree.flatten(state)
    fetched = iter(jax.device_get([leaf for leaf, key in zip(leaves, keys, strict=True) if not key]))
    return jax.tree.unflatten(tree, [leaf if key else next(fetched) for leaf, key in zip(leaves, keys, strict=True)])


def _json_digest(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True, default=list).encode()).hexdigest()


def _listed(epochs: list[int]) -> str:
    return ", ".join(map(str, epochs))


def _named(state: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]


def present(state: Any) -> dict[str, Any]:
    """What orbax is given: it refuses arrays of size 0, which a run without contracts has."""
    return {name: leaf for name, leaf in _named(state) if leaf.size}
