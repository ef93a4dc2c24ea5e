import sys

from mrdib_pyg.cli import main

sys.exit(main())
