"""The machine that runs pickles: what it makes, what it refuses, and what no program gets out of it."""

import contextlib
import pickle
import pickletools
import tracemalloc

import hypothesis
import hypothesis.strategies as st
import pytest

from topojax.errors import shown
from topojax.storage.pickle_machine import Built, Machine
from topojax.storage.pickle_walk import Refused


class Filled(Built):
    """Counts what it is given."""

    def build(self, state):
        return len(state)


NAMES = {("there", "text"): lambda *texts: b"".join(t.encode() for t in texts), ("there", "filled"): Filled}


def run(program, room=1000):
    return Machine(program, NAMES, lambda pid: ("stored", pid), room).run()


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(-9, 9), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@hypothesis.given(plain, st.sampled_from([2, 3, 4, 5]))
@hypothesis.settings(max_examples=60, deadline=None)
def test_plain_values_are_what_pickle_makes_of_them(value, protocol):
    program = pickle.dumps(value, protocol)
    hypothesis.assume(protocol > 2 or not any(name in program for name in (b"_codecs", b"__builtin__")))  # of bytes
    assert run(program) == value == pickle.loads(program)


@hypothesis.given(plain, st.data())
@hypothesis.settings(max_examples=100, deadline=None)
def test_a_damaged_program_gives_a_value_or_one_error(value, data):
    program = bytearray(pickle.dumps(value, 2))
    for _ in range(data.draw(st.integers(1, 4))):
        program[data.draw(st.integers(0, len(program) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        run(bytes(program))


@hypothesis.given(st.lists(st.sampled_from(pickletools.opcodes), max_size=30), st.binary(max_size=60))
@hypothesis.settings(max_examples=200, deadline=None)
def test_any_row_of_opcodes_gives_a_value_or_one_error(opcodes, arguments):
    parts = [op.code.encode("latin1") + arguments[i : i + 4] for i, op in enumerate(opcodes)]
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        run(b"\x80\x04" + b"".join(parts) + b".")


def doubled(begin, twice, count, end):
    """A value, twice in one that is twice in the next, and so on."""
    parts = [begin + b"q\x00"]
    for i in range(1, count):
        parts.append(twice.replace(b"?", b"h" + bytes([i - 1])) + b"q" + bytes([i]))
    return b"\x80\x02(" + b"".join(parts) + end + b"t."


BOMBS = {
    "tuples in tuples": (doubled(b")", b"??\x86", 120, b""), "unfolds"),
    "dicts in lists": (doubled(b"}", b"](??e", 120, b""), "unfolds"),
    "a key of tuples, which Python would hash for ever": (doubled(b")", b"??\x86", 120, b"}h\x77Ns"), "a key of tuple"),
    "a list in itself": (b"\x80\x02]q\x00h\x00a.", "unfolds"),
    "lists in lists": (b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".", "unfolds|too deep"),
    "tuples of one": (b"\x80\x02)" + b"\x85" * 200_000 + b".", "more than 100000"),
    "many dicts": (b"\x80\x02](" + b"}" * 200_000 + b"e.", "more than 100000"),
    "marks without end": (b"\x80\x02" + b"(" * 2_000_001 + b".", "more than 2000000 steps"),
    "a place of memory far away": (b"\x80\x02]r\xff\xff\xff\x7f.", "place 2147483647 of memory after 0"),
    "a place that was never written": (b"\x80\x02h\x05.", "place 5"),
    "a long integer": (b"\x80\x02\x8a\xff" + b"\x7f" * 255 + b".", "more than 64 bits"),
    "a longer integer, all there": (b"\x80\x02\x8b\x10\x00\x00\x00" + b"\x7f" * 16 + b".", "LONG4"),
    "a longer integer": (b"\x80\x02\x8b\xff\xff\xff\x7f.", "not enough data"),
    "a frame of 2⁶³": (b"\x80\x04\x95" + b"\xff" * 7 + b"\x7fN.", "a frame of"),
    "a text of 10 GB": (b"\x80\x04\x8d" + (10**10).to_bytes(8, "little") + b"x.", "bytes"),
    "bytes of 10 GB": (b"\x80\x04\x8e" + (10**10).to_bytes(8, "little") + b"x.", "bytes"),
    "a text of 4 GB": (b"\x80\x02X\xff\xff\xff\xffx.", "bytes"),
    "the same bytes made again and again": (
        b"\x80\x02(X\x64\x00\x00\x00" + b"a" * 100 + b"q\x00cthere\ntext\nq\x01" + b"h\x01h\x00\x85R" * 50 + b"t.",
        "unfolds to more",
    ),
    "an object that swells": (
        b"\x80\x02cthere\nfilled\n)R" + (b"X\xff\x00\x00\x00" + b"a" * 255 + b"b") * 9 + b".",
        "unf",
    ),
    "a name that is not there": (b"\x80\x02cos\nsystem\n.", r"names os\.system,"),
    "a name with a new line and colours": (
        b"\x80\x04\x8c\x02os\x8c\x08a\n\x1b[31mb\x93.",
        r"names os\.a\\n\\x1b\[31mb,",
    ),
    "a name that is no text": (b"\x80\x04K\x01K\x02\x93.", "no text"),
    "a call of a text": (b"\x80\x02U\x01a)R.|\x80\x02X\x01\x00\x00\x00a)R.", "opcode|calls"),
    "a call of what was made": (b"\x80\x02])R.", "calls what is no function"),
    "a call with a list": (b"\x80\x02cthere\ntext\n]R.", "calls"),
    "an object of a class": (b"\x80\x02cthere\nfilled\n)\x81.", "NEWOBJ"),
    "an instance": (b"\x80\x02(iwhere\nfilled\n.", r"names where\.filled"),
    "an extension": (b"\x80\x02\x82\x01.", "EXT1"),
    "a state for a list": (b"\x80\x02]}b.", "changes list"),
    "a function kept": (b"\x80\x02cthere\ntext\n.", "keeps a function"),
    "a key without a value": (b"\x80\x02}(K\x01u.", "without a value"),
    "an item for a dict": (b"\x80\x02}K\x01a.", "fills dict as a list"),
    "nothing": (b"", "."),
    "half a number": (b"\x80\x02G\x00\x00", "its pickle is cut off or damaged"),
    "a stop": (b".", "no single value"),
    "two values": (b"NN.", "no single value"),
    "below the mark": (b"\x80\x02N(0.", "POP"),
    "a tuple from below the mark": (b"\x80\x02N(\x85.", "more than there is"),
    "no mark": (b"\x80\x02t.", "without a mark"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_refused(name):
    program, message = BOMBS[name]
    tracemalloc.start()
    with pytest.raises(ValueError, match=message) as caught:
        run(program)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert most < 2**20 + 100 * len(program)


def test_results_within_their_room_and_objects_that_are_filled_come_back():
    assert run(b"\x80\x02cthere\ntext\nX\x02\x00\x00\x00abX\x01\x00\x00\x00c\x86R.") == b"abc"
    assert isinstance(run(b"\x80\x02cthere\nfilled\n)RX\x02\x00\x00\x00abb."), Filled)
    assert run(b"\x80\x02K\x07Q.") == ("stored", 7)
    assert run(b"\x80\x02}}X\x09\x00\x00\x00_metadataNsb.") == {}  # which torch hangs on a dict


def test_what_is_refused_is_a_value_error_of_one_line():
    assert issubclass(Refused, ValueError)
    assert shown("a\nb\x00\u2028\udc00é" + "c" * 100) == r"a\nb\x00\u2028\udc00\xe9" + "c" * 73
