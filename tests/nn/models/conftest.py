import sys
from pathlib import Path

# So that the tests of all models can import the contract they share.
sys.path.insert(0, str(Path(__file__).parent))
