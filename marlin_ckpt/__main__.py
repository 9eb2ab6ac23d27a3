"""`python -m marlin_ckpt` is `marlin-ckpt`."""

import sys

from marlin_ckpt.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
