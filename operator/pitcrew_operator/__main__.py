"""`python -m pitcrew_operator` is `pitcrew-operator`."""

import sys

from pitcrew_operator.cli import main

sys.exit(main())
