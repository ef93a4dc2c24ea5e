"""The item codes: a map of them, and how wide their posteriors are."""

from collections.abc import Mapping, Sequence

import numpy as np

from mrdib_pyg.report import charts
from mrdib_pyg.report.groups import Group
from mrdib_pyg.report.model_facts import Facts, Width
from mrdib_pyg.report.section import Block, Cell, Figure, Grid, Note, Section, Table
from mrdib_pyg.report.theme import series

NEAR = 0.1  # nats of KL per dimension and item
NUM_BINS = 30


def map_section(
    groups: Sequence[Group], facts: Mapping[int, Facts], notes: Sequence[str], method: str
) -> Section:
    r"""Makes a map of the item codes for each group, and a table of what they share.

    Args:
        groups (Sequence[Group]): The groups.
        facts (Dict[int, Facts]): By the number of a group, what the model of its first run says.
        notes (Sequence[str]): What could not be looked into, and why.
        method (str): How the map is made, :obj:`"tsne"` or :obj:`"pca"`.
    """
    figures, rows = [], []
    names: list[str] = []
    for group in groups:
        fact = facts.get(group.number)
        if fact is None or not fact.map:
            continue
        modalities = list(dict.fromkeys(row['modality'] for row in fact.map))
        names += [name for name in modalities if name not in names]
        figures.append(
            Figure(
                f'codes-{group.number}',
                group.label,
                charts.points(fact.map, modalities),
                f'Map of the codes of {fact.num_mapped} items in {", ".join(modalities)}, of the '
                f'run {group.first.name}.',
            )
        )
        rows += [
            [
                Cell(group.label), Cell(' and '.join(shared.names)),
                Cell(f'{shared.nats:.2f}', shared.nats), Cell(f'{shared.cka:.3f}', shared.cka),
                Cell(f'{shared.num_items:,}', shared.num_items),
            ]
            for shared in fact.shared
        ]  # fmt: skip
    blocks: list[Block] = []
    if figures:
        blocks.append(Grid(figures, list(enumerate(names)), 'modality'))
    if rows:
        columns = ['model', 'modalities', 'Gaussian I(Z₁; Z₂), nats', 'linear CKA', 'items']
        blocks.append(Table('What the item codes of two modalities share', columns, rows))
    if not figures and not notes:
        notes = ['These models have no codes of several modalities to draw.']
    blocks += [Note(note) for note in notes]
    kept = 't-SNE keeps neighborhoods, not distances' if method == 'tsne' else (
        'Two principal components keep what varies most, and lose the rest'
    )  # fmt: skip
    return Section(
        'codes',
        'Item codes',
        'One point per item and modality: the code (the mean of its posterior) that enters the '
        f'fusion, drawn in a plane by {"t-SNE" if method == "tsne" else "PCA"}, for the first run '
        'of each model and the same items in all. Hovering over a point marks the same item in '
        f'the other modalities. {kept}; modalities that lie apart do not for that hold different '
        'information. The table has numbers on all items: the mutual information of two codes, '
        'were they jointly Gaussian, and how alike the similarities within them are (1: the same '
        'up to rotation and scale, 0: unrelated).',
        blocks,
    )


def width_section(
    groups: Sequence[Group], facts: Mapping[int, Facts], notes: Sequence[str]
) -> Section:
    r"""Makes the figures of KL per dimension and per item for each group with a bottleneck.

    Args:
        groups (Sequence[Group]): The groups.
        facts (Dict[int, Facts]): By the number of a group, what the model of its first run says.
        notes (Sequence[str]): What could not be looked into, and why.
    """
    blocks: list[Block] = []
    rows = []
    for group in groups:
        fact = facts.get(group.number)
        if fact is None:
            continue
        figures = []
        for number, width in enumerate(fact.widths):
            figures += _figures(group, number, width)
            near = int((width.items / len(width.kl) < NEAR).sum())
            rows.append(
                [
                    Cell(group.label), Cell(width.name),
                    Cell(f'{width.kl.sum():.1f}', float(width.kl.sum())),
                    Cell(f'{width.kl.min():.2f} to {width.kl.max():.2f}', float(width.kl.min())),
                    Cell(f'{np.median(width.std):.3f}', float(np.median(width.std))),
                    Cell(f'{np.median(width.spread):.3f}', float(np.median(width.spread))),
                    Cell(f'{near:,} of {len(width.items):,}', near),
                ]
            )  # fmt: skip
        if figures:
            blocks.append(Grid(figures))
    if rows:
        columns = [
            'model', 'modality', 'KL per item, nats', 'KL by dimension', 'median σ',
            'median spread of μ', 'items near the prior',
        ]  # fmt: skip
        blocks.insert(0, Table('Item posteriors', columns, rows))
    elif facts:
        blocks.append(Note('None of these models has a bottleneck, so there is no posterior.'))
    blocks += [Note(note) for note in notes]
    return Section(
        'posteriors',
        'Posterior widths',
        'With MRdIB each code is a Gaussian around μ with width σ, and its KL divergence to the '
        'standard normal prior is what the bottleneck charges for, in nats. A dimension with a KL '
        f'near 0 carries nothing. An item counts as near the prior below {NEAR:g} nats per '
        'dimension. The KL also grows where σ merely is far below 1, as in codes of small scale: '
        'a large KL alone does not say that a code is informative, so the table sets σ beside '
        'how far μ spreads over items.',
        blocks,
    )


def _figures(group: Group, number: int, width: Width) -> list[Figure]:
    order = np.argsort(-width.kl, kind='stable')
    rows = [
        {
            'rank': rank, 'value': _short(width.kl[d]), 'dimension': int(d),
            'std': _short(width.std[d]), 'spread': _short(width.spread[d]),
        }
        for rank, d in enumerate(order, start=1)
    ]  # fmt: skip
    counts, edges = np.histogram(width.items, bins=NUM_BINS)
    bins = [
        {'start': _short(low), 'end': _short(high), 'value': int(count)}
        for count, low, high in zip(counts, edges, edges[1:])
        if count > 0
    ]
    color = series(group.number)
    what = f'{group.label}, {width.name}'
    name = f'posterior-{group.number}-{number}'
    return [
        Figure(
            f'{name}-dimensions',
            f'{what}: KL by dimension',
            charts.columns(
                rows, 'rank', 'dimensions, from the largest KL', 'mean KL, nats', color,
                {
                    'dimension': 'dimension|d', 'value': 'mean KL|.3f', 'std': 'σ|.4f',
                    'spread': 'spread of μ|.4f',
                },
            ),
            f'Mean KL of each of the {len(rows)} dimensions, {width.kl.max():.2f} to '
            f'{width.kl.min():.2f} nats.',
        ),
        Figure(
            f'{name}-items',
            f'{what}: KL by item',
            charts.columns(
                bins, 'start', 'KL of an item, nats', 'items', color,
                {'start': 'from|.2f', 'end': 'to|.2f', 'value': 'items|d'},
            ),
            f'Histogram of the KL of {len(width.items)} items, {width.items.min():.1f} to '
            f'{width.items.max():.1f} nats.',
        ),
    ]  # fmt: skip


def _short(x: float) -> float:
    return float(f'{x:.5g}')
