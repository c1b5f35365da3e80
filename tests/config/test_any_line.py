"""Command lines that nobody would write: each is a valid configuration, or one line and status 2."""

import pathlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults import fuzz
from topojax.config.defaults import default_config
from topojax.config.io import flat

TINY = str(pathlib.Path(__file__).parents[1] / "tiny_config.py")
NAMES = st.sampled_from(sorted(dict(flat(default_config()))))
VALUES = st.one_of(
    st.integers().map(str),
    st.floats().map(repr),
    st.booleans().map(lambda value: str(value).lower()),
    st.sampled_from(fuzz.WORDS),
    st.text(st.characters(exclude_characters="\0"), max_size=8),
)
ASSIGNED = st.builds("--config.{}={}".format, NAMES, VALUES)
NO_FIELD = st.builds("--config.{}={}".format, st.text("abc._", max_size=12), VALUES)
WORD = st.one_of(ASSIGNED, ASSIGNED, ASSIGNED, NO_FIELD, st.sampled_from(fuzz.JUNK))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections' way to load a file
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(words=st.lists(WORD, min_size=1, max_size=3))
def test_any_line_is_a_valid_configuration_or_one_line(words):
    accepted = []
    status, said = fuzz.command(["train", f"--config={TINY}", *words], accepted)
    assert status in (0, 2), said
    assert "Traceback" not in said
    if status:
        assert said.count("\n") == 1
        assert said.startswith("topojax: error: ")
        assert not accepted
