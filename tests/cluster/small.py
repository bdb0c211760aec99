"""`tsae` with small shards, planned in this process: `python -m tests.cluster.small IMAGES compress ...`."""

import sys

from tsae.cli import main
from tsae.jobs import plan

if __name__ == "__main__":
    plan.SHARD_IMAGES = int(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
