"""The programs that `throughput.py` sets against `tsae`: the same job as each tool's own documentation would have it."""
