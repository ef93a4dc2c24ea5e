r"""What each modality is worth, by the evidence of a linear-Gaussian model, and how new items are
ranked by it.
"""

from mrdib_pyg.evidence.heads import EvidenceHead, NewItemScores, interaction_targets
from mrdib_pyg.evidence.inspection import Amount, Inspection, inspect_data
from mrdib_pyg.evidence.linear_gaussian import Evidence, evidence

__all__ = [
    'Amount',
    'Evidence',
    'EvidenceHead',
    'Inspection',
    'NewItemScores',
    'evidence',
    'inspect_data',
    'interaction_targets',
]
