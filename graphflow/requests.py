"""What people ask of a run from outside: texts in the run's inbox, read by whoever drives it."""

from __future__ import annotations

import json
from typing import Any

from graphflow.graph.tasks import RunStatus
from graphflow.run import Input, Stop


def cancel_request(reason: str) -> str:
    """End the run now; what is under way is cancelled and its writes are dropped."""
    return _text("cancel", reason=reason)


def input_from_request(text: str) -> Input | None:
    """What the rules are to make of a request; None for one that this version does not know."""
    try:
        request: dict[str, Any] = json.loads(text)
        match request["request"]:
            case "cancel":
                return Stop(RunStatus.CANCELLED, str(request["reason"]))
    except (ValueError, KeyError, TypeError):
        pass
    return None


def _text(kind: str, **fields: object) -> str:
    return json.dumps({"request": kind, **fields}, ensure_ascii=False, separators=(",", ":"))
