"""Which line of the user's own code did an error come from? Reads the text of a traceback."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

_FRAME = re.compile(
    r'^ *File "(?P<file>.+)", line (?P<line>\d+), in (?P<name>.+)\n(?: +(?P<code>\S.*))?', re.MULTILINE
)
_LIBRARIES = tuple(sysconfig.get_path(name) + "/" for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_PACKAGE = str(Path(__file__).parent.parent) + "/"


def last_user_frame(text: str) -> str | None:
    """The innermost frame outside Python and installed packages, as `numbers.py:12 in double: return 1 / 0`."""
    frames = [frame for frame in _FRAME.finditer(text) if not _is_library(frame["file"])]
    if not frames:
        return None
    last = frames[-1]
    place = f"{_short_path(last['file'])}:{last['line']}"
    inside = "" if last["name"] == "<module>" else f" in {last['name']}"
    return f"{place}{inside}" + (f": {last['code']}" if last["code"] else "")


def _is_library(file: str) -> bool:
    return file.startswith(("<frozen", _PACKAGE, *_LIBRARIES)) or "/site-packages/" in file


def _short_path(file: str) -> str:
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except ValueError:
        return file
