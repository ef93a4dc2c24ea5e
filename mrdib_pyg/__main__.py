import sys

from mrdib_pyg.cli import main

if __name__ == '__main__':  # and not in the workers of an experiment
    sys.exit(main())
