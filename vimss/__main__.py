"""`python -m vimss` is `vimss`: the form that a Ray job uses."""

from vimss.cli import main

main()
