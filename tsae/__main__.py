"""`python -m tsae` is the command line."""

import sys

from tsae.cli import main

sys.exit(main())
