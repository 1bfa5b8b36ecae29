"""The `graphflow` command: what its commands are called, what they take, and what their exit codes mean.

0 done, 1 a run that failed or is partial, 2 wrong usage, 3 not found, 5 the store cannot be reached or does not do its
part, 130 and 143 stopped by Ctrl-C or SIGTERM. A command imports what it needs when it is called, so that
`graphflow --help` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from graphflow.errors import (
    GraphflowError,
    InvalidAddress,
    InvalidGraph,
    InvalidName,
    PlanMismatch,
    RunNotFound,
    StoreError,
    TaskMismatch,
    UnstorableValue,
)

app = typer.Typer(
    help="Run graphs of async modules over shared state in Redis, and look at their runs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Help drawn by rich takes twice as long.
    rich_markup_mode=None,
)

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The store: redis://..., unix://..., embedded:// (a server of this folder's own).",
        show_default=False,
    ),
]
OwnId = Annotated[
    str | None,
    typer.Option(
        "--id",
        metavar="ID",
        help="A run id of your own; an interrupted run of this id goes on.",
        show_default=False,
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print log messages.")]


def main() -> NoReturn:
    """Run the command line and exit."""
    try:
        app(prog_name="graphflow")
    except GraphflowError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(exit_code(error))
    sys.exit(0)


def exit_code(error: GraphflowError) -> int:
    match error:
        case (
            InvalidAddress()
            | InvalidGraph()
            | InvalidName()
            | TaskMismatch()
            | PlanMismatch()
            | UnstorableValue()
        ):
            return 2
        case RunNotFound():
            return 3
        case StoreError():
            return 5
    return 1


@app.command()
def demo(run_id: OwnId = None, url: Url = None, verbose: Verbose = False) -> None:
    """Split, map, aggregate, report: a run of a few seconds to look at, to kill and to resume."""
    from graphflow.cli.demo import run_demo

    raise typer.Exit(run_demo(run_id=run_id, url=url, verbose=verbose))


@app.command()
def run(
    file: Annotated[str, typer.Argument(metavar="FILE[:AGENT]", help="A Python file that makes an agent.")],
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param", "-p", metavar="KEY=VALUE", help="A task parameter: JSON if it parses, else text."
        ),
    ] = None,
    params: Annotated[
        Path | None, typer.Option("--params", metavar="FILE.json", help="Task parameters, as a JSON object.")
    ] = None,
    run_id: OwnId = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the outcome as one JSON object, and nothing else, on stdout."),
    ] = False,
    url: Url = None,
    verbose: Verbose = False,
) -> None:
    """Run the agent of a file. Its task's type is the name of the file."""
    from graphflow.cli.run import RunRequest, run_file

    request = RunRequest(file, tuple(param or ()), params, run_id, as_json, url, verbose)
    raise typer.Exit(run_file(request))


@app.command(name="list")
def list_runs(
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many runs to list.")] = 20,
    url: Url = None,
) -> None:
    """List the runs created last, the latest first."""
    from graphflow.cli.look import list_runs

    list_runs(count, url=url)


@app.command()
def show(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run id, or @last for the latest run.")],
    redis: Annotated[
        bool, typer.Option("--redis", help="Print the redis-cli commands that look at the run.")
    ] = False,
    why: Annotated[
        str | None,
        typer.Option("--why", metavar="NODE", help="Say in one sentence why the node is where it is."),
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option(
            "--agent", metavar="FILE[:AGENT]", help="Where the agent is, for --why, if the run does not say."
        ),
    ] = None,
    url: Url = None,
) -> None:
    """Show one run: its nodes, what failed, and how far it is."""
    from graphflow.cli.look import explain_node, show_redis, show_run

    if why is not None:
        explain_node(run_id, why, agent, url=url)
    elif redis:
        show_redis(run_id, url=url)
    else:
        show_run(run_id, url=url)


@app.command(
    name="redis-cli",
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
    },
)
def redis_cli(context: typer.Context, url: Url = None) -> None:
    """Run redis-cli on the store, with the arguments given; a prompt without any."""
    from graphflow.cli.server import run_redis_cli

    raise typer.Exit(run_redis_cli(context.args, url=url))


@app.command()
def server(url: Url = None) -> None:
    """Keep this folder's embedded server up until Ctrl-C."""
    from graphflow.cli.server import serve

    serve(url=url)
