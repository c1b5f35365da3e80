"""What lies on disk, looked at: files and folders that vanish, cannot be read or are pipes end in one line."""

import os
import pathlib
from collections.abc import Collection, Iterator

from topojax.errors import UserError


def exists(path: pathlib.Path) -> bool:
    """Whether something lies there.

    Raises:
      UserError: nobody can say: a folder above it is closed, or the name is too long for a file.
    """
    try:
        return path.exists()
    except OSError as error:
        raise UserError(f"config.data.name = {str(path)!r}: cannot be looked at: {error.strerror}") from error


def require_regular(path: pathlib.Path) -> None:
    """Refuse pipes, sockets, devices and folders where a file is wanted: reading one may never end.

    Raises:
      UserError: with its path.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: no regular file (a folder, a pipe or a device): save the data in a file of that name")


def walked(folder: pathlib.Path, endings: Collection[str]) -> Iterator[pathlib.Path]:
    """All regular files below it that are not hidden and end so; links to folders are not followed.

    Args:
      folder: to look in.
      endings: as ".png", in small letters; of the file's name in any case.

    Raises:
      UserError: a folder that cannot be read, or is gone when its turn comes.
    """
    for place, below, names in os.walk(folder, onerror=_refuse):
        below.sort()
        for file in (pathlib.Path(place, name) for name in sorted(names) if not name.startswith(".")):
            if file.suffix.lower() in endings and file.is_file():
                yield file


def unreadable(path: object, error: OSError) -> UserError:
    """The line about what the system would not give.

    Args:
      path: that was asked for; the error knows better where it was something below.
      error: of the system.
    """
    at = path if error.filename is None else error.filename
    return UserError(f"{at}: cannot be read: {error.strerror or error}; let it be read, or name another data set")


def damaged(path: object, kind: str, error: BaseException) -> UserError:
    """The line about a file that its reader cannot make sense of.

    Args:
      path: of it.
      kind: what it should be, `KIND` of a reader.
      error: that the parser raised.
    """
    reason = (" ".join(str(error).split()) or type(error).__name__)[:160]
    return UserError(f"{path}: damaged, or not {kind}: {reason}")


def _refuse(error: OSError) -> None:
    raise unreadable("a folder", error) from error
