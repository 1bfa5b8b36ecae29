"""Where is the agent that a command names, or that a run was started by? Loads `FILE[:AGENT]` or
`package.module[:AGENT]`."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import logging
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import typer

from graphflow.cli.frames import last_user_frame
from graphflow.cli.origins import (
    OWN_ORIGIN,
    Origin,
    OutsideFolders,
    check_module_inside,
    file_inside,
    named_in_project,
    origin_from,
    split_reference,
)
from graphflow.cli.words import escaped
from graphflow.origin import folder_of, loading, note_loaded_by_file

if TYPE_CHECKING:
    from graphflow.agent import Agent
    from graphflow.server.address import Address
    from graphflow.store.contract import RunHead

logger = logging.getLogger(__name__)

_PACKAGE_FILE = "__init__.py"


def load_agent(reference: str, folder: Path | None = None, *, within: Sequence[Path] | None = None) -> Agent:
    """The agent in the variable that `reference` names, or the only one of its module. Usage errors are BadParameter.

    Modules are looked for in the working folder and in `folder`. The packages around a file are loaded if they lie
    in one of the folders `within`, unless given wherever they are.
    """
    place, variable = split_reference(reference)
    return _agent_of(_module_of(place, folder, within), place, variable)


def load_agent_of(head: RunHead, reference: str | None, address: Address, *, command: str) -> Agent:
    """The agent that the run says it was started by, where that may be loaded (see `origins.py`), or the one that
    `reference` names. BadParameter says what to type where neither is, as `command` with the agent's place. It keeps its
    runs where it did; see `use_store_of`."""
    if reference is not None:
        return load_agent(reference)
    remedy = f"name it: {command} --agent FILE[:AGENT]"
    if not head.code:
        raise typer.BadParameter(f"run {head.id} does not say where its agent is; {remedy}")
    said = f"run {head.id} says that its agent is {escaped(head.code)}"
    origin = origin_from(head.code)
    if origin is None:
        raise typer.BadParameter(f"{said}, which is neither FILE.py:AGENT nor package.module:AGENT; {remedy}")
    try:
        return _load_recorded(origin, address)
    except OutsideFolders:
        folders = " nor below ".join(dict.fromkeys(map(str, _folders(address))))
        raise typer.BadParameter(
            f"{said}, which does not lie below {folders}, nor is it named in pyproject.toml ([tool.graphflow] agents = "
            f"[...]), so it was not loaded; if it is yours, {remedy}"
        ) from None
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


def _load_recorded(origin: Origin, address: Address) -> Agent:
    """OutsideFolders, BadParameter."""
    if origin == OWN_ORIGIN:
        return load_agent(origin.reference)
    folders = _folders(address)
    path = folders[-1] / origin.place if origin.is_file else None
    try:
        if path is not None:
            return load_agent(f"{file_inside(path, folders)}:{origin.variable}", within=folders)
        _look_in(folders)
        with _only_loading(origin.place):
            check_module_inside(origin.place, folders)
        return _agent_of(_import(origin.place), origin.place, origin.variable)
    except (OutsideFolders, typer.BadParameter):
        if (named := named_in_project(origin, path)) is None:
            raise
        return load_agent(*named)


def _folders(address: Address) -> list[Path]:
    """The working folder, and the one that an embedded store serves; files are written relative to the last."""
    return [Path.cwd().resolve(), *filter(None, [folder_of(address)])]


def _module_of(place: str, folder: Path | None, within: Sequence[Path] | None) -> ModuleType:
    path = Path(place)
    if path.is_file():
        _look_in([path.resolve().parent])
        with _only_loading(place):
            return _load_file(path.resolve(), within)
    if place.endswith(".py") or len(path.parts) > 1:
        raise typer.BadParameter(f"there is no file {place}; name a Python file that makes an agent")
    _look_in([*filter(None, [folder]), Path.cwd()])
    return _import(place)


def _import(place: str) -> ModuleType:
    with _only_loading(place):
        return importlib.import_module(place)


def _look_in(folders: Iterable[Path]) -> None:
    """Have modules looked for there as well, in the last folder first."""
    for folder in folders:
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))


@contextlib.contextmanager
def _only_loading(place: str) -> Iterator[None]:
    """BadParameter says why what is the user's, and may raise anything, cannot be loaded."""
    try:
        with loading(place):
            yield
    except OutsideFolders:
        raise
    except (Exception, SystemExit) as error:
        logger.info("loading %s failed", place, exc_info=True)
        frame = last_user_frame("".join(traceback.format_tb(error.__traceback__)))
        reason = f"{type(error).__name__}: {error}" + (f", at {frame}" if frame else "")
        raise typer.BadParameter(f"{place} cannot be loaded: {reason}") from error


def _load_file(path: Path, within: Sequence[Path] | None) -> ModuleType:
    """The file as a module of its own name, so that workers can import it too; another if the name is taken. One that
    imports relatively is loaded as a module of its package."""
    if (name := _name_in_package(path, within)) is not None:
        return _load_as(name, path)
    name = path.stem
    if (taken := sys.modules.get(name)) is not None:
        if getattr(taken, "__file__", None) == str(path):
            return taken
        name = f"{name}_{path.suffix.lstrip('.') or 'file'}"
    return _load_as(name, path)


def _load_as(name: str, path: Path) -> ModuleType:
    taken = sys.modules.get(name)
    if taken is not None and getattr(taken, "__file__", None) == str(path):
        return taken
    folders = [str(path.parent)] if path.name == _PACKAGE_FILE else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folders)
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


def _name_in_package(path: Path, within: Sequence[Path] | None) -> str | None:
    """The file's name in its package, whose packages are loaded then; None if it needs none."""
    packages = _packages_around(path)
    if not packages or not _imports_relatively(path):
        return None
    if within is not None:
        try:
            for package in packages:
                file_inside(package / _PACKAGE_FILE, within)
        except OutsideFolders:
            return None
    name = ""
    for package in packages:
        name = f"{name}.{package.name}".lstrip(".")
        taken = sys.modules.get(name)
        if taken is not None and getattr(taken, "__file__", None) != str(package / _PACKAGE_FILE):
            return None
        note_loaded_by_file(name)
        _load_as(name, package / _PACKAGE_FILE)
    if path.name != _PACKAGE_FILE:
        name = f"{name}.{path.stem}"
        note_loaded_by_file(name)
    return name


def _packages_around(path: Path) -> list[Path]:
    """The folders of the packages that the file is in, the outermost first."""
    found: list[Path] = []
    for folder in path.parents:
        if not folder.name.isidentifier() or not (folder / _PACKAGE_FILE).is_file():
            break
        found.insert(0, folder)
    return found


def _imports_relatively(path: Path) -> bool:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return False  # loading it says what is wrong
    return any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))


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
