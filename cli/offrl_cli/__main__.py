"""`python -m offrl_cli`, for where the `offrl` script is not on the path."""

import sys

from offrl_cli.app import main

sys.exit(main())
