"""``python -m robostig.cli``."""

import sys

from robostig.cli import main

sys.exit(main())
