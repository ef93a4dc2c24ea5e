"""The partial information decomposition that ``mrdib measure`` has measured."""

from collections.abc import Sequence

from mrdib_pyg.report.groups import Group
from mrdib_pyg.report.section import Block, Note, Section


def decomposition_section(groups: Sequence[Group]) -> Section:
    r"""Makes the bars."""
    blocks: list[Block] = [Note('TODO')]
    return Section('pid', 'What each modality says', 'TODO', blocks)
