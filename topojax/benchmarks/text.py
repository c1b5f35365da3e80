"""Measurements as Markdown, for a README."""

from collections.abc import Mapping
from typing import Any

ROWS = (
    ("controlled step, ms", "step_ms/full", "{:.2f}"),
    ("  weights and rate constant", "step_ms/constant_control", "{:.2f}"),
    ("  a plain loop, the same losses", "step_ms/bare", "{:.2f}"),
    ("  reconstruction and quantisation alone", "step_ms/recon_vq", "{:.2f}"),
    ("  encode and decode", "step_ms/forward", "{:.2f}"),
    ("control over constant weights", "control_overhead", "{:+.1%}"),
    ("control over a plain loop", "control_overhead/bare", "{:+.1%}"),
    ("epoch, ms", "epoch_ms", "{:.1f}"),
    ("probe, ms", "probe_ms", "{:.1f}"),
    ("test split, ms", "evaluate_ms", "{:.1f}"),
    ("compile, cold, s", "compile_s/cold", "{:.1f}"),
    ("compile, warm, s", "compile_s/warm", "{:.1f}"),
    ("matrix products, GFLOP a step", "gflops/step", "{:.3f}"),
    ("rate of the step, GFLOP/s", "gflops_per_s/step", "{:.0f}"),
    ("rate of [256,784]×[784,64], GFLOP/s", "gflops_per_s/reference", "{:.0f}"),
    ("attainable: products alone, ms", "attainable_ms", "{:.2f}"),
    ("attainable / measured", "attainable_fraction", "{:.2f}"),
    ("peak memory, MiB", "peak_mib", "{:.0f}"),
    ("  while compiling", "peak_mib/compiling", "{:.0f}"),
)
"""What the table says: words, key, format."""


def markdown(found: Mapping[str, Any]) -> str:
    """The table of a `measurement.measure`, with a caption; a second one for scaling, where it was measured."""
    config, machine = found["config"], found["machine"]
    lines = [
        f"{config['data']}, {config['num_train']:,} examples, batch {config['batch_size']}, H {config['hidden_dim']}, "
        f"D {config['latent_dim']}, {config['num_charts']} charts × {config['codes_per_chart']} codes, "
        f"{len(config['contracts'])} contracts; {machine['cpus']} cores, {machine['device']}, "
        f"jax {found['versions']['jax']}, {found['repeats']} repeats.",
        "",
        "| | median | middle half |",
        "|---|---|---|",
    ]
    for words, key, form in ROWS:
        if key in found:
            spread = " – ".join(form.format(end) for end in found["spreads"].get(key, ()))
            indent = "&emsp;" * (words != words.lstrip())
            value = found["paired"].get(key, found[key])  # a ratio within repeats: the machine's pace cancels
            lines.append(f"| {indent}{words.lstrip()} | {form.format(value)} | {spread} |")
    if "scaling" in found:
        lines += ["", "| size | value | step, ms | of the base, in turn | ratio |", "|---|---|---|---|---|"]
        lines += [_scaled(row) for row in found["scaling"]]
    return "\n".join(lines)


def _scaled(row: Mapping[str, Any]) -> str:
    if "skipped" in row:
        return f"| {row['size']} | {row['value']} | {row['skipped']} | | |"
    return (
        f"| {row['size']} | {row['value']} | {row['step_ms']:.2f} | {row['base_step_ms']:.2f} | × {row['ratio']:.2f} |"
    )
