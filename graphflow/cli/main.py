"""The `graphflow` command: what its commands are called and what they take. How they end is in `exits.py`.

A command imports what it needs when it is called, so that `graphflow --help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from graphflow.bounds import CALL_BOUNDS, checked
from graphflow.cli.exits import ended
from graphflow.errors import InvalidSetting
from graphflow.settings import DEFAULT_DRAIN_SECONDS

app = typer.Typer(
    help="Run graphs of async modules over shared state in Redis, and look at their runs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Help drawn by rich takes twice as long.
    rich_markup_mode=None,
)


def _within(option: str) -> Callable[[Any], Any]:
    """Has a number that is out of its bounds answered as wrong usage."""

    def check(value: Any) -> Any:
        try:
            return checked(CALL_BOUNDS, option, value)
        except InvalidSetting as error:
            raise typer.BadParameter(str(error)) from None

    return check


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
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run id, or @last for the latest run.")]
AgentOfRun = Annotated[
    str | None,
    typer.Option(
        "--agent",
        metavar="FILE[:AGENT]",
        help="Where the agent is, if not where the run says, or if what it says lies elsewhere.",
        show_default=False,
    ),
]
PrefixOfAgent = Annotated[
    str | None,
    typer.Option(
        "--agent",
        metavar="FILE[:AGENT]",
        help="An agent whose prefix the run's keys have, if it is one of its own; no other code is loaded.",
        show_default=False,
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the outcome as one JSON object, and nothing else, on stdout.")
]
Grace = Annotated[
    float,
    typer.Option(
        "--grace",
        metavar="SECONDS",
        callback=_within("--grace"),
        help="How long what runs may take to finish after Ctrl-C or SIGTERM; a second signal ends it at once.",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print log messages.")]


def main() -> NoReturn:
    """Run the command line and exit."""
    sys.exit(ended(_carry_out))


def _carry_out() -> None:
    # Not `app()`, which makes exits of its own of some errors.
    command = typer.main.get_command(app)
    with command.make_context("graphflow", sys.argv[1:]) as context:
        command.invoke(context)


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
    recover: Annotated[
        bool, typer.Option("--recover", help="Start nothing new: resume all interrupted runs of the agent.")
    ] = False,
    as_json: AsJson = False,
    url: Url = None,
    verbose: Verbose = False,
    grace: Grace = DEFAULT_DRAIN_SECONDS,
) -> None:
    """Run the agent of a file. Its task's type is the name of the file."""
    from graphflow.cli.run import RunRequest, run_file

    request = RunRequest(file, tuple(param or ()), params, run_id, as_json, url, verbose, grace)
    if recover:
        from graphflow.cli.resume import recover_runs

        raise typer.Exit(recover_runs(request))
    raise typer.Exit(run_file(request))


@app.command()
def resume(
    run_id: Run,
    agent: AgentOfRun = None,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes", help="Go on although the graph is no longer the one the run was started with."
        ),
    ] = False,
    as_json: AsJson = False,
    url: Url = None,
    verbose: Verbose = False,
    grace: Grace = DEFAULT_DRAIN_SECONDS,
) -> None:
    """Go on with an interrupted run. The run says where its agent is; what lies below the working folder, beside the
    embedded store, or is named in pyproject.toml ([tool.graphflow] agents) is loaded, else name it with --agent."""
    from graphflow.cli.resume import ResumeRequest, resume_run

    raise typer.Exit(resume_run(ResumeRequest(run_id, agent, accept_changes, as_json, url, verbose, grace)))


@app.command()
def retry(
    run_id: Run,
    at: Annotated[
        int | None,
        typer.Option(
            "--at",
            metavar="NUMBER",
            callback=_within("--at"),
            help="Go back to this snapshot of the run.",
            show_default=False,
        ),
    ] = None,
    own_id: OwnId = None,
    agent: AgentOfRun = None,
    as_json: AsJson = False,
    url: Url = None,
    verbose: Verbose = False,
    grace: Grace = DEFAULT_DRAIN_SECONDS,
) -> None:
    """Try again what failed, in a new run that keeps what succeeded."""
    from graphflow.cli.retry import RetryRequest, retry_run

    raise typer.Exit(retry_run(RetryRequest(run_id, at, own_id, agent, as_json, url, verbose, grace)))


@app.command()
def cancel(
    run_id: Run,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; kept as the run's error.")
    ] = "cancelled by graphflow cancel",
    agent: PrefixOfAgent = None,
    url: Url = None,
) -> None:
    """End a run, whichever process drives it. What it had in flight is dropped."""
    from graphflow.cli.cancel import cancel_run

    raise typer.Exit(cancel_run(run_id, reason=reason, agent=agent, url=url))


@app.command()
def signal(
    run_id: Run,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the run waits for.")],
    value: Annotated[str, typer.Argument(metavar="JSON", help="The answer.")] = "null",
    no_run: Annotated[
        bool, typer.Option("--no-run", help="Only store the signal; the run goes on when it is resumed.")
    ] = False,
    agent: AgentOfRun = None,
    as_json: AsJson = False,
    url: Url = None,
    verbose: Verbose = False,
    grace: Grace = DEFAULT_DRAIN_SECONDS,
) -> None:
    """Answer a run that waits for a signal, and go on with it to its next wait or end."""
    from graphflow.cli.answer import SignalRequest, send_signal

    request = SignalRequest(run_id, name, value, no_run, agent, as_json, url, verbose, grace)
    raise typer.Exit(send_signal(request))


@app.command(name="list")
def list_runs(
    count: Annotated[
        int, typer.Option("--count", "-n", callback=_within("--count"), help="How many runs to list.")
    ] = 20,
    waiting: Annotated[
        bool, typer.Option("--waiting", help="List what runs wait for: signals, with their questions.")
    ] = False,
    url: Url = None,
) -> None:
    """List the runs created last, the latest first."""
    from graphflow.cli.look import list_runs, list_waiting

    if waiting:
        list_waiting(count, url=url)
    else:
        list_runs(count, url=url)


@app.command()
def show(
    run_id: Run,
    redis: Annotated[
        bool, typer.Option("--redis", help="Print the redis-cli commands that look at the run.")
    ] = False,
    why: Annotated[
        str | None,
        typer.Option("--why", metavar="NODE", help="Say in one sentence why the node is where it is."),
    ] = None,
    agent: PrefixOfAgent = None,
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


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be put in order.")] = False,
    url: Url = None,
) -> None:
    """Finish what crashes left undone: the expiry and removal of runs, and index entries of runs that are gone."""
    from graphflow.cli.upkeep import collect_garbage

    collect_garbage(dry_run=dry_run, url=url)


@app.command()
def delete(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run id, or @last for the latest run.")],
    url: Url = None,
) -> None:
    """Remove a run that nobody drives, finished or not."""
    from graphflow.cli.upkeep import delete_run

    delete_run(run_id, url=url)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Rebuild the indexes of runs.")] = False,
    url: Url = None,
) -> None:
    """Say what this installation and its store are like, and what is wrong with them."""
    from graphflow.cli.doctor import examine

    raise typer.Exit(examine(as_json=as_json, fix=fix, url=url))
