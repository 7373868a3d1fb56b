"""`python -m appliance.cli`, which the `carillon` command runs."""

import sys

from appliance.cli.program import main

if __name__ == "__main__":
    sys.exit(main())
