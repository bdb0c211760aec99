"""`python -m tsae` is the command line."""

from tsae.cli import main_of_program

main_of_program()
