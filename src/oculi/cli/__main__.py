"""`python -m oculi.cli`."""

import sys

from oculi.cli import main

sys.exit(main())
