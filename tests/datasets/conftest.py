import sys
from pathlib import Path

# So that tests can import what they share.
sys.path.insert(0, str(Path(__file__).parent))
