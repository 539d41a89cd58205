"""``python -m kdgraph``: the same as the ``kdgraph`` command."""

from kdgraph.cli.main import main

if __name__ == "__main__":
    main()
