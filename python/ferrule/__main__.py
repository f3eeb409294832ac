"""`python -m ferrule`."""

import sys

from ferrule.cli import main

sys.exit(main())
