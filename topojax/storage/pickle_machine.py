"""A machine that runs a pickle for what it writes down, and nothing else.

A pickle is a program for a stack. This is the stack, with the opcodes that `torch.save` writes: it makes dicts, lists,
tuples, texts, numbers and bytes, and calls the functions of a table that it was given, of which a program may choose by
name. Nothing is imported and no attribute is looked up. The work is bounded by the size of the program and of the file:

  a text or bytes    lies in the program, as does what a FRAME spans
  memo               place n is written after place n − 1
  steps              two million, as many as floats lie in the largest pickle that is read
  containers         100,000, results of calls among them
  results of calls   `room` bytes in all, however often the same bytes are asked for
  the whole          visited from its root, 4 values for each byte of the program, 32 deep: a list that is in itself, or
                     twice in one that is twice in another, is endless to whoever reads it
"""

import pickletools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from topojax.errors import shown
from topojax.storage.pickle_walk import Refused, require_finite

CONTAINERS: Final = 100_000
STEPS: Final = 2_000_000
VISITS: Final = 4
"""Values in the whole, for each byte of the program."""

_CONSTANTS: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_WRITTEN = "BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINBYTES SHORT_BINBYTES"
_LITERALS = frozenset(_WRITTEN.split())
Names = Mapping[tuple[str, str], Callable[..., Any]]


class Built:
    """What a call may leave that BUILD completes."""

    def build(self, state: Any) -> int:
        """Take the state; bytes that it takes up."""
        raise NotImplementedError


class Machine:
    """Runs one program.

    Args:
      program: the pickle.
      names: (module, name) → function of positional arguments, which checks them.
      persistent: what BINPERSID's argument stands for.
      room: bytes that results of calls may have in all.
    """

    def __init__(self, program: bytes, names: Names, persistent: Callable[[Any], Any], room: int):
        self._program, self._names, self._persistent, self._room = program, names, persistent, room
        self._calls = set(names.values())
        self._stack, self._marks, self._memo = list[Any](), list[int](), list[Any]()
        self._containers = 0

    def run(self) -> Any:
        """What the program leaves at its STOP.

        Raises:
          Refused: an opcode or a name that is not on the list, a bound that is not kept, a stack that does not fit; a
            program that is cut off.
          ValueError: what a function of the table does not take.
        """
        argument: Any
        for step, (opcode, argument, _) in enumerate(_opcodes(self._program)):
            if step >= STEPS:
                raise Refused(f"a pickle of more than {STEPS} steps")
            if opcode.name in ("GLOBAL", "INST"):  # told before anything is done; STACK_GLOBAL when it comes
                self._named(*argument.split(" ", 1))
        for opcode, argument, position in _opcodes(self._program):
            name = opcode.name
            if name == "STOP":
                break
            if name in _LITERALS:
                if type(argument) is int and not -(2**63) <= argument < 2**63:
                    raise Refused("an integer of more than 64 bits")
                self._stack.append(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name == "FRAME":
                if argument > len(self._program) - (position or 0):
                    raise Refused(f"a frame of {argument} bytes in a pickle of {len(self._program)}")
            elif name in _STEPS:
                _STEPS[name](self, argument)
            elif name != "PROTO":
                raise Refused(f"the pickle has the opcode {name}, which torch.save does not write")
        if len(self._stack) != 1 or self._marks:
            raise Refused("a pickle that leaves no single value")
        require_finite(self._stack[0], VISITS * len(self._program))
        return self._stack[0]

    def _last(self, count: int) -> list[Any]:
        """The last values, taken off; none from below a mark."""
        self._need(count)
        found, self._stack[-count:] = self._stack[-count:], []
        return found

    def _peek(self) -> Any:
        self._need(1)
        return self._stack[-1]

    def _need(self, count: int) -> None:
        if len(self._stack) < count + (self._marks[-1] if self._marks else 0):
            raise Refused("a pickle that takes more than there is")

    def _since_mark(self) -> list[Any]:
        if not self._marks:
            raise Refused("a pickle without a mark")
        start = self._marks.pop()
        found, self._stack[start:] = self._stack[start:], []
        return found

    def _made(self, value: Any) -> None:
        self._containers += 1
        if self._containers > CONTAINERS:
            raise Refused(f"a pickle of more than {CONTAINERS} dicts, lists, tuples and arrays")
        self._stack.append(value)

    def _spend(self, count: int) -> None:
        self._room -= count
        if self._room < 0:
            raise Refused("a pickle that unfolds to more than the file is")

    def _set(self, pairs: list[Any]) -> None:
        if len(pairs) % 2:
            raise Refused("a pickle with a key without a value")
        target = self._peek()
        if type(target) is not dict:
            raise Refused(f"a pickle that fills {type(target).__name__} as a dict")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key) not in (str, int):  # a tuple of tuples, each twice in the next, takes forever to hash
                raise Refused(f"a dict with a key of {type(key).__name__}")
            target[key] = value

    def _extend(self, values: list[Any]) -> None:
        if type(self._peek()) is not list:
            raise Refused(f"a pickle that fills {type(self._peek()).__name__} as a list")
        self._peek().extend(values)

    def _put(self, index: int) -> None:
        if index > len(self._memo):
            raise Refused(f"the pickle asks for place {index} of memory after {len(self._memo)}")
        self._memo[index : index + 1] = [self._peek()]

    def _get(self, index: int) -> None:
        if index >= len(self._memo):
            raise Refused(f"the pickle reads place {index} of memory, and has written {len(self._memo)}")
        self._stack.append(self._memo[index])

    def _named(self, module: Any, name: Any) -> Callable[..., Any]:
        if not (type(module) is str and type(name) is str):
            raise Refused("a pickle that names what is no text")
        if (module, name) not in self._names:
            told = shown(f"{module}.{name}")
            raise Refused(f"the pickle names {told}, which no checkpoint of the original holds: it is not read")
        return self._names[module, name]

    def _reduce(self) -> None:
        function, arguments = self._last(2)
        if type(arguments) is not tuple or not callable(function) or function not in self._calls:
            raise Refused("a pickle that calls what is no function of the list")
        value = function(*arguments)
        self._made(value)
        self._spend(len(value) if isinstance(value, bytes) else getattr(value, "nbytes", 0))

    def _build(self) -> None:
        (state,), target = self._last(1), self._peek()
        if isinstance(target, Built):
            self._spend(target.build(state))
        elif type(target) is not dict:  # torch hangs versions of layers on a dict: passed over
            raise Refused(f"a pickle that changes {type(target).__name__}")


def _opcodes(program: bytes) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    """`pickletools.genops`, which speaks of streams where a program ends too early."""
    try:
        yield from pickletools.genops(program)
    except ValueError as error:
        raise Refused(f"its pickle is cut off or damaged ({error})") from error


_STEPS: dict[str, Callable[[Machine, Any], None]] = {
    "MARK": lambda m, _: m._marks.append(len(m._stack)),
    "EMPTY_DICT": lambda m, _: m._made({}),
    "EMPTY_LIST": lambda m, _: m._made([]),
    "TUPLE": lambda m, _: m._made(tuple(m._since_mark())),
    "TUPLE1": lambda m, _: m._made(tuple(m._last(1))),
    "TUPLE2": lambda m, _: m._made(tuple(m._last(2))),
    "TUPLE3": lambda m, _: m._made(tuple(m._last(3))),
    "SETITEM": lambda m, _: m._set(m._last(2)),
    "SETITEMS": lambda m, _: m._set(m._since_mark()),
    "APPEND": lambda m, _: m._extend(m._last(1)),
    "APPENDS": lambda m, _: m._extend(m._since_mark()),
    "BINPUT": Machine._put,
    "LONG_BINPUT": Machine._put,
    "MEMOIZE": lambda m, _: m._put(len(m._memo)),
    "BINGET": Machine._get,
    "LONG_BINGET": Machine._get,
    "GLOBAL": lambda m, pair: m._stack.append(m._named(*pair.split(" ", 1))),
    "STACK_GLOBAL": lambda m, _: m._stack.append(m._named(*m._last(2))),
    "REDUCE": lambda m, _: m._reduce(),
    "BUILD": lambda m, _: m._build(),
    "BINPERSID": lambda m, _: m._stack.append(m._persistent(*m._last(1))),
}
