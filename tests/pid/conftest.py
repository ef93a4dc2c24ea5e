import sys
from pathlib import Path

# So that the tests of all measures can import the tables they share.
sys.path.insert(0, str(Path(__file__).parent))
