"""What a run says on the terminal while it trains and when it is done."""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from topojax.errors import tell

_QUIET = (
    "rate",
    "group_rate",
    "cap",
    "phase",
    "lyapunov_rose",
    "revived",
    "barrier",
)  # events too frequent to interrupt the bar; events.jsonl has them


class Progress:
    """A bar on a terminal, one line at each log elsewhere, nothing when switched off; all on stderr.

    Args:
      done: epochs already trained.
      total: epochs of the run.
      enabled: `config.log.progress`.
    """

    def __init__(self, done: int, total: int, *, enabled: bool):
        self._total, self._enabled, self._bar = total, enabled, None
        terminal = getattr(sys.stderr, "isatty", None)  # stderr may be closed, or replaced by something simpler
        with contextlib.suppress(OSError, ValueError):
            if enabled and terminal is not None and terminal():
                from tqdm import tqdm

                self._bar = tqdm(initial=done, total=total, unit="epoch", file=sys.stderr, dynamic_ncols=True)

    def advance(self) -> None:
        """One more epoch."""
        if self._bar is not None:
            self._bar.update()

    def show(self, epoch: int, row: Mapping[str, Any]) -> None:
        """Loss, AMI and rate of a logged epoch."""
        parts = {"loss": row.get("signal/task"), "ami": row.get("test/ami"), "lr": row.get("lr")}
        shown = {name: number(value) for name, value in parts.items() if name in parts}
        if self._bar is not None:
            self._bar.set_postfix(shown)
        elif self._enabled:
            text = "  ".join(f"{name} {value}" for name, value in shown.items())
            tell(f"epoch {epoch}/{self._total}  {text}")

    def say(self, epoch: int, event: Mapping[str, Any]) -> None:
        """An event that a user should not miss."""
        if not self._enabled or event["event"] in _QUIET:
            return
        details = ", ".join(f"{k} {number(v)}" for k, v in event.items() if k != "event" and v not in ("", None))
        line = f"epoch {epoch}: {event['event']}{': ' if details else ''}{details}"
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            tell(line)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.close()


def number(value: Any) -> str:
    """Four significant digits; a dash for what is missing."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(result: Mapping[str, Any]) -> str:
    """The last word of a run: scores, then each contract with its weight.

    Args:
      result: what result.json holds.
    """
    labels = "used" if result["labels_used"] else "not used (the readout alone sees them)"
    head = f"{result['name']}: {result['epochs']} epochs, seed {result['seed']}, labels {labels}"
    scored = [(name.removeprefix("test/"), number(v)) for name, v in result.items() if name.startswith("test/")]
    parts = [head, columns([("test", ""), *scored])]
    if result["contracts"]:
        parts.append(contract_table(result["contracts"]))
    return "\n\n".join(parts)


def population_table(found: Mapping[str, Any]) -> str:
    """The last word of a population: mean ± standard deviation of every score and the best member's, and who stopped.

    Args:
      found: what population.json holds.
    """
    lines, best = found["members"], found["best"]
    finished = [line for line in lines if line["state"] == "finished"]
    head = f"{len(lines)} members, {len(finished)} finished"
    if best is not None:
        told = ", ".join(f"{name} {number(value)}" for name, value in lines[best]["numbers"].items())
        head += f"; best by {found['score']}: {lines[best]['folder']} ({told})"
    parts = [head]
    scored = [
        (
            name.removeprefix("test/"),
            number(mean),
            f"± {number(found['sd'][name])}",
            number(lines[best]["result"][name]),
        )
        for name, mean in found["mean"].items()
        if mean is not None and best is not None and lines[best]["result"]
    ]
    if scored:
        parts.append(columns([("test", "mean", "sd", "best"), *scored]))
    stopped = [f"{line['folder']} stopped: {line['reason']}" for line in lines if line["state"] == "stopped"]
    return "\n\n".join(parts + (["\n".join(stopped)] if stopped else []))


def contract_table(contracts: Sequence[Mapping[str, Any]]) -> str:
    """Contracts (`contracts.audit`) as text: what is held, where, by which weight, and what to do where it is not."""
    return columns([(*CONTRACT_COLUMNS, ""), *contract_rows(contracts)])


CONTRACT_COLUMNS = ("contract", "promise", "measured", "weight", "ripple")
"""Of `contract_rows`, before the verdict."""


def contract_rows(contracts: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """`contracts.audit` as cells of text: a row a contract, under `CONTRACT_COLUMNS` and its verdict."""
    return [
        (
            contract["contract"],
            f"{contract['signal']} {contract['relation']} {number(contract['target'])}",
            number(contract["value"]),
            number(contract["weight"]),
            "–" if contract["ripple"] is None else f"{contract['ripple']:.1%}",
            verdict(contract),
        )
        for contract in contracts
    ]


def verdict(contract: Mapping[str, Any]) -> str:
    """Satisfied, or why not and what to do about it."""
    if contract["satisfied"] is None:
        return "constant" if contract["mechanism"] == "constant" else "not measured"
    if contract["satisfied"]:
        return "satisfied"
    state = "saturated" if contract["saturated"] else "gate closed" if contract["gated"] else "unsatisfied"
    return f"{state}: {contract['advice']}"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Cells as text in aligned columns, one line a row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
