"""What the original logged of its training, as the rows of metrics.jsonl."""

import math
from collections.abc import Mapping
from typing import Any

_LOSSES = {
    **{
        name: name
        for name in (
            *("recon", "entropy", "consistency", "variance", "diversity", "separation", "codebook_center"),
            *("chart_center_sep", "residual_scale", "window", "disentangle", "orthogonality", "code_entropy"),
            *("per_chart_code_entropy", "orbit", "vicreg_inv", "jump", "sup_purity", "sup_balance", "sup_metric"),
        )
    },
    "sup_route": "route",
    "cls_loss": "readout",
}
"""Name there → name here of a loss that means the same."""
_COMMITMENT = 0.25


def history(metrics: Any, epoch: int, *, steps: int) -> list[dict[str, Any]]:
    """One row an epoch: losses by their names here, I(X;K), H(K), H(K|X) and the rate; epochs 1 to `epoch`.

    Args:
      metrics: of the checkpoint; anything else gives no rows.
      epoch: of the checkpoint. Lists there begin with epoch 0, which was one more than asked for.
      steps: in an epoch here.
    """
    if not isinstance(metrics, Mapping):
        return []
    losses, info = (_lists(metrics.get(name)) for name in ("loss_components", "info_metrics"))
    longest = max((len(values) for part in (losses, info) for values in part.values()), default=0)
    rows = []
    for at in range(1, min(epoch + 1, longest)):
        row: dict[str, Any] = {f"loss/{here}": _at(losses, there, at) for there, here in _LOSSES.items()}
        vq = _at(losses, "vq", at)
        if vq is not None:  # both halves have one value
            row["loss/codebook"] = row["loss/commitment"] = vq / (1.0 + _COMMITMENT)
        parts = [row.get(f"loss/{name}") for name in ("recon", "codebook", "route")]
        if None not in parts:
            row["signal/task"] = math.fsum(parts)  # type: ignore[arg-type]
        row |= {f"signal/{name}": _at(info, name, at) for name in ("I_XK", "H_K", "H_K_given_X")}
        row |= {"lr": _at(info, "lr", at), "lr_governor": _at(info, "lr", at)}
        found = {name: value for name, value in row.items() if value is not None}
        if found:
            rows.append({"epoch": at, "step": at * steps, **found})
    return rows


def _lists(values: Any) -> dict[str, list]:
    return {k: v for k, v in values.items() if isinstance(v, list)} if isinstance(values, Mapping) else {}


def _at(lists: Mapping[str, list], name: str, index: int) -> float | None:
    values = lists.get(name, [])
    if index >= len(values):
        return None
    value = values[index]
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
