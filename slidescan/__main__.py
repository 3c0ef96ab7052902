"""`python -m slidescan`, as torchrun and schedulers start it."""

from slidescan.cli import main

main(prog_name="slidescan")
