"""`python -m graphflow` is the `graphflow` command."""

from graphflow.cli.main import main

main()
