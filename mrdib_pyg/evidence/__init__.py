r"""What each modality is worth, by the evidence of a linear-Gaussian model, and how new items are
ranked by it.
"""

from mrdib_pyg.evidence.heads import EvidenceHead, NewItemScores
from mrdib_pyg.evidence.inspection import inspect_data
from mrdib_pyg.evidence.linear_gaussian import evidence

__all__ = [
    'EvidenceHead',
    'NewItemScores',
    'evidence',
    'inspect_data',
]
