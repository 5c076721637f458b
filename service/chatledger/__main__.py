"""`python -m chatledger`: the command line."""

from chatledger.cli.main import main

if __name__ == "__main__":
    main()
