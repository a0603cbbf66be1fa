"""`python3 -m devcluster`: the command line of the development cluster."""

import sys

from devcluster.cli import main

sys.exit(main(sys.argv[1:]))
