"""`python -m chatledger`: the command line."""

from chatledger.cli.main import main

main()
