"""Where is the agent that a command names, or that a run was started by? Loads `FILE[:AGENT]` or
`package.module[:AGENT]`."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import typer

from graphflow.cli.frames import last_user_frame
from graphflow.origin import folder_of, loading, located

if TYPE_CHECKING:
    from graphflow.agent import Agent
    from graphflow.store.address import Address
    from graphflow.store.contract import RunHead

logger = logging.getLogger(__name__)


def load_agent(reference: str, folder: Path | None = None) -> Agent:
    """The agent in the variable that `reference` names, or the only one of its module. Usage errors are BadParameter.

    Modules are looked for in the working folder and in `folder`.
    """
    place, variable = split_reference(reference)
    return _agent_of(_module_of(place, folder), place, variable)


def load_agent_of(head: RunHead, reference: str | None, address: Address, *, command: str) -> Agent:
    """The agent that the run was started by, or the one that `reference` names; BadParameter says what to type where it
    is not found, as `command` with the agent's place. It keeps its runs where it did; see `use_store_of`."""
    if reference is not None:
        return load_agent(reference)
    remedy = f"name it: {command} --agent FILE[:AGENT]"
    if not head.code:
        raise typer.BadParameter(f"run {head.id} does not say where its agent is; {remedy}")
    try:
        return load_agent(located(head.code, address), folder_of(address))
    except typer.BadParameter as error:
        raise typer.BadParameter(
            f"the agent of run {head.id} is not found: {error.message}; {remedy}"
        ) from error


def prefix_of(reference: str | None) -> str | None:
    """What the keys of the named agent begin with; None if none is named."""
    return None if reference is None else load_agent(reference).cache.prefix


def use_store_of(agent: Agent, address: Address, prefix: str) -> None:
    """Have the agent keep its runs where one was found."""
    if (agent.cache.address, agent.cache.prefix) != (address, prefix):
        agent.cache = agent.cache.at(address.url, prefix=prefix)


def split_reference(reference: str) -> tuple[str, str]:
    """File or module, and variable; the variable is empty if none is named."""
    place, colon, variable = reference.rpartition(":")
    if colon and place and variable.isidentifier():
        return place, variable
    return reference, ""


def _module_of(place: str, folder: Path | None) -> ModuleType:
    path = Path(place)
    is_file = path.is_file()
    if not is_file and (place.endswith(".py") or len(path.parts) > 1):
        raise typer.BadParameter(f"there is no file {place}; name a Python file that makes an agent")
    for each in [path.resolve().parent] if is_file else filter(None, (folder, Path.cwd())):
        if str(each) not in sys.path:
            sys.path.insert(0, str(each))
    try:
        with loading(place):
            return _load_file(path.resolve()) if is_file else importlib.import_module(place)
    except (Exception, SystemExit) as error:
        # The file is the user's and may raise anything.
        logger.info("loading %s failed", place, exc_info=True)
        frame = last_user_frame("".join(traceback.format_tb(error.__traceback__)))
        reason = f"{type(error).__name__}: {error}" + (f", at {frame}" if frame else "")
        raise typer.BadParameter(f"{place} cannot be loaded: {reason}") from error


def _load_file(path: Path) -> ModuleType:
    """The file as a module of its own name, so that workers can import it too; another if the name is taken."""
    name = path.stem
    if (taken := sys.modules.get(name)) is not None:
        if getattr(taken, "__file__", None) == str(path):
            return taken
        name = f"{name}_{path.suffix.lstrip('.') or 'file'}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("it is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _agent_of(module: ModuleType, place: str, variable: str) -> Agent:
    from graphflow.agent import Agent

    agents: dict[str, Agent] = {}
    for name, value in vars(module).items():
        if isinstance(value, Agent) and not any(value is known for known in agents.values()):
            agents[name] = value
    there = ", ".join(agents) or "none"
    if variable:
        found = getattr(module, variable, None)
        if isinstance(found, Agent):
            return found
        raise typer.BadParameter(f"{variable} in {place} is no agent; agents there: {there}")
    if len(agents) == 1:
        return next(iter(agents.values()))
    if agents:
        raise typer.BadParameter(
            f"{place} has several agents: {there}; name one, as {place}:{next(iter(agents))}"
        )
    raise typer.BadParameter(f"{place} has no agent; make one at the top of the file: agent = Agent()")
