"""When are two values the same, whatever library wrote their texts?

A digest, and what tells two tasks apart, is made of a text that graphflow alone defines, the canonical text: JSON without
blanks, in ASCII; numbers as Python's `repr` has them; the keys of objects sorted, for a dict in another order is the same
dict, but those of an OrderedDict, whose order counts; the members of sets sorted by their canonical texts.

A digest says which form of this text it was made of: `2:` and 32 hex digits. Those without a number are of the form
before, the stored text as pydantic wrote it then, and `earlier_text` gives that again. The canonical text never changes:
another one gets another number, and the ones before are still looked for.

State is compared in the order in which it is stored: a dict in another order comes back in that, so it is another one.
"""

from __future__ import annotations

import json
import re
from hashlib import sha256
from typing import Any

from pydantic_core import from_json, to_json

from graphflow.codec.table import EXTRA, TAG, UNSET
from graphflow.codec.writing import json_data

#: Hex digits of a digest: more than chance can bring together.
DIGEST_LENGTH = 32

_FORM = "2:"

#: How pydantic began a positive exponent, from 2.13 on and before.
EXPONENTS = ("e+", "e")

#: A number with an exponent: of a float there may be several texts, of all else that is stored only one.
_EXPONENT = re.compile(r"(?:^|[\[,:])-?[0-9][0-9.]*[eE][-+]?[0-9]")

#: Dicts that earlier versions stored as plain ones.
_ONCE_PLAIN = frozenset({"Counter", "OrderedDict", "defaultdict"})


def identity(value: Any, key: str = "value") -> str:
    """The canonical text of a value, without which fields of models were set: equal models are the same. UnstorableValue."""
    return _canonical(json_data(value, key), keeps_unset=False)


def digest(value: Any, key: str = "value") -> str:
    """Of a value, with the form that it is of. UnstorableValue."""
    return digest_of_data(json_data(value, key))


def digest_of_data(data: Any) -> str:
    """Of JSON data as stored, with the form that it is of."""
    return _FORM + _hex(_canonical(data, keeps_unset=True))


def earlier_digest(text: str) -> str:
    """Of a text, in the form that has no number."""
    return _hex(text)


def is_earlier(digest: str) -> bool:
    return len(digest) == DIGEST_LENGTH


def earlier_text(data: Any, exponent: str) -> str:
    """The stored text that earlier versions made of JSON data as stored, with exponents as in `EXPONENTS`."""
    if type(data) is float:
        return re.sub(r"e\+?(?=[0-9])", exponent, to_json(data).decode())
    if type(data) is list:
        return f"[{','.join(earlier_text(member, exponent) for member in data)}]"
    if type(data) is not dict:
        return to_json(data).decode()
    name = data.get(TAG)
    content = data.get("value")
    if name is None:
        return _object(data, exponent)
    if name == "dict" and isinstance(content, dict):
        return f'{{"{TAG}":"dict","value":{_object(content, exponent)}}}'
    if name in _ONCE_PLAIN:
        return earlier_text(content, exponent)
    if name in ("set", "frozenset") and isinstance(content, list):
        members = sorted((earlier_text(member, exponent) for member in content), key=str.encode)
        return f'{{"{TAG}":"{name}","value":[{",".join(members)}]}}'
    fields = {place: member for place, member in data.items() if place == TAG or not place.startswith("$")}
    return _object(fields | _members(data.get(EXTRA, {})), exponent)


def _object(members: dict[str, Any], exponent: str) -> str:
    texts = (
        f"{to_json(place).decode()}:{earlier_text(member, exponent)}" for place, member in members.items()
    )
    return f"{{{','.join(texts)}}}"


def is_same_text(text: str | None, other: str | None) -> bool:
    """Whether two stored texts, or none, are of the same value. Only texts that differ in how a number is written cost more
    than a comparison."""
    if text == other:
        return True
    if text is None or other is None or not ("e+" in text or "e+" in other):
        return False
    if not (_EXPONENT.search(text) and _EXPONENT.search(other)):
        return False
    return json.dumps(from_json(text)) == json.dumps(from_json(other))


def _hex(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


# The canonical text


def _canonical(data: Any, *, keeps_unset: bool) -> str:
    text = _dumped(data)
    return _dumped(_ordered(data, keeps_unset)) if TAG in text else text


def _dumped(data: Any) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _ordered(data: Any, keeps_unset: bool) -> Any:
    """JSON data in which order counts only where it does in the value."""
    if type(data) is list:
        return [_ordered(member, keeps_unset) for member in data]
    if type(data) is not dict:
        return data
    name = data.get(TAG, "dict")
    ordered = {place: _ordered(member, keeps_unset) for place, member in data.items()}
    if name == "dict":
        return ordered
    if name in ("set", "frozenset"):
        ordered["value"].sort(key=_dumped)
    elif name == "OrderedDict":
        ordered["value"] = [[place, member] for place, member in _members(ordered["value"]).items()]
    elif not keeps_unset:
        ordered.pop(UNSET, None)
    return ordered


def _members(data: dict[str, Any]) -> Any:
    """Those of a dict as stored, which is tagged if it has the key of tags itself."""
    return data["value"] if TAG in data else data
