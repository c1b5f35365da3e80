"""Numbers on disk: exact, valid JSON whatever the run did, and the same after a resume."""

import json
import math
import os

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topojax.errors import UserError
from topojax.storage import logs


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_numbers_are_json_types_in_their_shortest_form():
    values = {"a": jnp.float32(0.01), "b": jnp.int32(3), "c": jnp.array(True), "d": np.float64(0.1), "e": 2}
    assert logs.numbers(values) == {"a": 0.01, "b": 3, "c": True, "d": 0.1, "e": 2}
    assert [logs.number(bad) for bad in (jnp.nan, jnp.float32(jnp.inf), -math.inf)] == [None] * 3
    assert type(logs.number(jnp.array(True))) is bool


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_float32_survives_the_file(value):
    assert np.float32(json.loads(json.dumps(logs.number(np.float32(value))))) == np.float32(value)


def test_a_row_counts_what_was_not_finite(tmp_path):
    out = logs.Writers(tmp_path, 0)
    out.metrics(1, 10, {"loss": 0.5, "signal/a": None, "signal/b": None})
    out.event(1, 10, {"event": "rate", "cause": "grow"})
    out.close()
    assert rows(tmp_path / "metrics.jsonl") == [
        {"epoch": 1, "step": 10, "loss": 0.5, "signal/a": None, "signal/b": None, "nonfinite": 2}
    ]
    assert rows(tmp_path / "events.jsonl") == [{"epoch": 1, "step": 10, "event": "rate", "cause": "grow"}]
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_rows_reach_the_file_before_it_is_closed(tmp_path):
    lines = logs.JsonLines(tmp_path / "m.jsonl", 0)
    lines.write({"epoch": 1})
    assert rows(tmp_path / "m.jsonl") == [{"epoch": 1}]
    lines.close()


@pytest.mark.parametrize("tail", ["", '{"epoch": 5, "x', "\x00\x00", '{"epoch": 5}'])
def test_going_on_drops_later_epochs_and_a_torn_last_line(tmp_path, tail):
    path = tmp_path / "m.jsonl"
    path.write_text("".join(f'{{"epoch": {e}, "x": 1}}\n' for e in range(1, 5)) + tail)
    lines = logs.JsonLines(path, 2)
    lines.write({"epoch": 3, "x": 2})
    lines.close()
    assert rows(path) == [{"epoch": 1, "x": 1}, {"epoch": 2, "x": 1}, {"epoch": 3, "x": 2}]


def test_a_new_run_starts_with_empty_files(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n')
    logs.Writers(tmp_path, 0).close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_file_is_replaced_whole_or_stays(tmp_path):
    path = tmp_path / "result.json"
    logs.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        logs.write_json(path, {"a": math.nan})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


class Heard(logs.Sink):
    """A sink that keeps the names of what it is told."""

    def __init__(self):
        self.said = []

    def metrics(self, epoch, step, values):
        self.said.append(("metrics", epoch, step, dict(values)))

    def finish(self, result):
        self.said.append(("finish", dict(result)))

    def close(self):
        self.said.append(("close",))


def test_every_sink_hears_the_same_and_what_it_has_no_use_for_is_nothing(tmp_path):
    sinks = [Heard(), Heard()]
    out = logs.Writers(tmp_path, 0, sinks)
    out.metrics(1, 10, {"loss": 0.5, "signal/a": None})
    out.event(1, 10, {"event": "rate"})
    seen = {"chart": np.array([0, 2, 2]), "code": np.array([1, 0, 1]), "router": np.full((3, 4), 0.25)}
    out.view(1, 10, None, seen)
    out.finish({"name": "x"})
    out.close()
    row = {"loss": 0.5, "signal/a": None, "nonfinite": 1}
    usage = {"epoch": 1, "step": 10, "charts": [0.333333, 0.0, 0.666667, 0.0], "codes_used": 3}
    assert rows(tmp_path / "usage.jsonl") == [usage]
    assert sinks[0].said == sinks[1].said == [("metrics", 1, 10, row), ("finish", {"name": "x"}), ("close",)]


def test_a_sink_that_cannot_be_made_leaves_the_files_alone(tmp_path):
    def sinks():
        raise UserError("no")
        yield

    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n')
    with pytest.raises(UserError):
        logs.Writers(tmp_path, 0, sinks())
    assert rows(tmp_path / "metrics.jsonl") == [{"epoch": 1}]


class Failing(logs.Sink):
    def metrics(self, epoch, step, values):
        raise RuntimeError("raised later") from OSError("RESOURCE: No space left on device\nand much more")

    def close(self):
        raise AssertionError("it was left")


def test_a_board_that_fails_is_left_with_a_line_and_the_files_have_it_all(tmp_path, capsys):
    writers = logs.Writers(tmp_path, 0, [Failing(), heard := Heard()])
    writers.metrics(1, 5, {"a": 1.0})
    writers.metrics(2, 10, {"a": 2.0})
    writers.close()
    assert [row["epoch"] for row in rows(tmp_path / "metrics.jsonl")] == [1, 2]
    assert heard
    (line,) = capsys.readouterr().err.splitlines()
    assert "Failing fails, the run goes on without it: No space left on device" in line


def test_a_reader_beside_a_writer_sees_whole_lines_only(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = logs.JsonLines(path, 0)
    for epoch in range(1, 4):
        lines.write({"epoch": epoch, "text": "x" * 20_000})
    lines.close()
    whole = path.read_bytes()
    for cut in (len(whole) - 1, len(whole) - 20_000, 30_000, 5, 0):
        path.write_bytes(whole[:cut])
        assert [row["epoch"] for row in logs.rows_of(path)] == list(range(1, 1 + whole[:cut].count(b"\n")))
    for bad in (b'{"epoch": "1"}\n', b"[1]\n", b"{}\n", b'{"epoch": NaN}\n', b"[" * 50_000 + b"\n", b"\xff\n"):
        path.write_bytes(b'{"epoch": 1}\n' + bad + b'{"epoch": 2}\n')
        assert len(list(logs.rows_of(path))) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device")
def test_a_disk_that_takes_a_part_of_a_line_is_an_error_with_the_file_s_name(tmp_path):
    lines = logs.JsonLines(tmp_path / "metrics.jsonl", 0)
    lines.close()
    lines._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with pytest.raises(OSError, match=r"No space left on device: .*metrics\.jsonl"):
        lines.write({"epoch": 1})
    lines.close()


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "there").write_text("old")
    (tmp_path / "link").symlink_to("there")
    logs.write_json(tmp_path / "link", [1])
    assert (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "there").read_text()) == [1]


def test_a_pipe_is_written_into_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    logs.write_json(tmp_path / "pipe", [1])
    assert json.loads(os.read(reader, 100)) == [1]
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("failure", [OSError, KeyboardInterrupt])
def test_a_file_that_cannot_be_written_whole_stays_as_it_was(tmp_path, failure):
    def write():
        with logs.whole(tmp_path / "rows") as part:
            part.write_text("ne")
            raise failure

    (tmp_path / "rows").write_text("old")
    with pytest.raises(failure):
        write()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"rows": "old"}


@pytest.mark.parametrize("there", [True, False])
def test_files_that_belong_together_are_replaced_together(tmp_path, monkeypatch, there):
    folder = tmp_path / "folder"
    if there:
        logs.write_all(folder, {"a": b"old a", "b": b"old b"})
    kept, calls = logs._kept, []

    def full(file):
        calls.append(file)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        kept(file)

    monkeypatch.setattr(logs, "_kept", full)
    with pytest.raises(OSError, match="No space left"):
        logs.write_all(folder, {"a": b"new a", "b": b"new b"})
    found = {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else None
    assert found == ({"a": b"old a", "b": b"old b"} if there else None)
    logs.write_all(folder, {"a": b"new a", "b": b"new b"})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a": b"new a", "b": b"new b"}
