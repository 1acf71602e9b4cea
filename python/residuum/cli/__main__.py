"""`python -m residuum.cli`, where the command itself is not on the path."""

from residuum.cli import main

main()
