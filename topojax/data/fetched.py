"""A file at an address: fetched once into the user's cache."""

import hashlib
import os
import pathlib
import urllib.error
import urllib.parse
import urllib.request

from topojax.errors import UserError

SCHEMES = ("file", "http", "https")
_REACH_SECONDS = 30.0


def fetched(address: str) -> pathlib.Path:
    """The local path of what lies at an address; http and https are fetched where the cache does not have it.

    Raises:
      UserError: another scheme, no connection, or a cache that cannot be written.
    """
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in SCHEMES:
        raise UserError(f"config.data.name = {address!r}: an address begins with {', '.join(SCHEMES)}")
    if parts.scheme == "file":
        if not parts.path:
            raise UserError(f"config.data.name = {address!r}: names no file: three slashes stand before a path")
        return pathlib.Path(urllib.request.url2pathname(parts.path))
    name = pathlib.PurePosixPath(urllib.parse.unquote(parts.path)).name or "data"
    base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    path = base / "topojax" / "fetched" / hashlib.sha256(address.encode()).hexdigest()[:16] / name
    if path.exists():
        return path
    part = path.with_name(f".{name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(address, timeout=_REACH_SECONDS) as answer, part.open("wb") as file:
            while chunk := answer.read(1 << 20):
                file.write(chunk)
        part.replace(path)
    except (OSError, urllib.error.URLError, ValueError) as error:
        part.unlink(missing_ok=True)
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(f"config.data.name = {address!r}: cannot be fetched ({reason})") from error
    return path
