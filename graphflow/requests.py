"""What people ask of a run from outside: texts in the run's inbox, read by whoever drives it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from graphflow.codec import encode
from graphflow.errors import UNREADABLE
from graphflow.graph.tasks import RunStatus
from graphflow.inputs import GraphChanged, Input, MessagesSent, SignalArrived, Stop
from graphflow.run import Message, message_text


def cancel_request(reason: str) -> str:
    """End the run now; what is under way is cancelled and its writes are dropped. UnstorableValue."""
    encode(reason, "reason")
    return _text("cancel", reason=reason)


def graph_changed_request(changes: Sequence[str]) -> str:
    """Look at all nodes again: the run's graph was replaced."""
    return _text("graph_changed", changes=list(changes))


def signal_request(name: str, text: str, *, is_own: bool = False) -> str:
    """Go on where this signal is waited for; `text` is its value as JSON. `is_own` if the run itself sends it."""
    return _text("signal", name=name, value=text, **({"own": True} if is_own else {}))


def message_request(mailbox: str, message_id: str, text: str, sender: str = "") -> str:
    """Put a message into a mailbox; `text` is its value as JSON, `sender` the run if that sends it itself."""
    return _text(
        "message", mailbox=mailbox, id=message_id, value=text, **({"from": sender} if sender else {})
    )


def input_from_request(text: str) -> Input | None:
    """What the rules are to make of a request; None for one that this version does not know."""
    try:
        request: dict[str, Any] = json.loads(text)
        match request["request"]:
            case "cancel":
                return Stop(RunStatus.CANCELLED, str(request["reason"]))
            case "graph_changed":
                return GraphChanged(tuple(map(str, request["changes"])))
            case "signal":
                is_own = bool(request.get("own"))
                return SignalArrived(str(request["name"]), _json(request["value"]), is_own)
            case "message":
                text = message_text(str(request["id"]), str(request.get("from", "")), _json(request["value"]))
                return MessagesSent([Message(str(request["mailbox"]), text)])
    except UNREADABLE:
        pass
    return None


def _json(text: str) -> str:
    """The text, if it can be read: what cannot be is left out before it gets into a run."""
    json.loads(text)
    return text


def _text(kind: str, **fields: object) -> str:
    return json.dumps({"request": kind, **fields}, ensure_ascii=False, separators=(",", ":"))
