"""What the trained models show: their codes, posteriors and recommendations.

``facts`` are those of the model of the first run of a group, by the number of the group; ``notes``
say of which models there are none, and why.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from mrdib_pyg.report import charts
from mrdib_pyg.report.model_facts import ModelFacts, NamedData, Width
from mrdib_pyg.report.page import (
    MINUS,
    Block,
    Cards,
    Cell,
    Figure,
    Grid,
    Note,
    Section,
    Table,
    Text,
    rounded,
)
from mrdib_pyg.report.runs import Group

FactsByGroup = Mapping[int, ModelFacts]

NEAR = 0.1  # nats of KL per dimension and item

NUM_BINS = 30


def map_section(
    groups: Sequence[Group], facts: FactsByGroup, notes: Sequence[str], method: str
) -> Section:
    r"""Makes a map of the item codes for each group, and a table of what they share."""
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


def width_section(groups: Sequence[Group], facts: FactsByGroup, notes: Sequence[str]) -> Section:
    r"""Makes the figures of KL per dimension and per item for each group with a bottleneck."""
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
            'rank': rank, 'value': rounded(width.kl[d]), 'dimension': int(d),
            'std': rounded(width.std[d]), 'spread': rounded(width.spread[d]),
        }
        for rank, d in enumerate(order, start=1)
    ]  # fmt: skip
    counts, edges = np.histogram(width.items, bins=NUM_BINS)
    bins = [
        {'start': rounded(low), 'end': rounded(high), 'value': int(count)}
        for count, low, high in zip(counts, edges, edges[1:])
        if count > 0
    ]
    color = charts.series(group.number)
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


MAX_NAMED = 8  # items of a user that are named one by one


def recommendations_section(
    groups: Sequence[Group], facts: FactsByGroup, notes: Sequence[str]
) -> Section:
    r"""Makes a table of the best items for each chosen user, the models side by side."""
    blocks: list[Block] = []
    datasets = list(dict.fromkeys(group.dataset for group in groups if group.number in facts))
    for dataset in datasets:
        shown = [g for g in groups if g.dataset == dataset and g.number in facts]
        source = facts[shown[0].number].source
        if len(datasets) > 1:
            blocks.append(Text(dataset, is_heading=True))
        users = list(facts[shown[0].number].recommendations)
        cards: list[list[Table | Note | Text]] = [
            [
                Text(f'User {source.user(user)}', is_heading=True),
                _table(shown, facts, source, user),
                Text(_history(source, user)),
            ]
            for user in users
        ]
        blocks.append(Cards(cards))
        for user in users:
            blocks += _why(shown, facts, source, user)
    reasons = [facts[g.number].unexplained for g in groups if g.number in facts]
    blocks += [Note(reason) for reason in dict.fromkeys(reasons) if reason is not None]
    blocks += [Note(note) for note in notes]
    return Section(
        'recommendations',
        'Recommendations',
        'The best items of each model for a few users, without their training items. ✓ marks a '
        'held-out test item of the user; the small number counts the users who have the item in '
        'training. A handful of users shows what lists look like; the results show how good they '
        'are. The parts of an explanation add up to the score. They are statements about the '
        'model, not about what moves a user, and a single pair has no interval.',
        blocks,
    )


def _table(groups: Sequence[Group], facts: FactsByGroup, source: NamedData, user: int) -> Table:
    popularity = torch.bincount(
        source.data['user', 'rates', 'item'].edge_index[1],
        minlength=int(source.data['item'].num_nodes),
    )
    ranked = [facts[group.number].recommendations.get(user, []) for group in groups]
    rows = []
    for rank in range(max(map(len, ranked), default=0)):
        row = [Cell(str(rank + 1), rank + 1)]
        for items in ranked:
            if rank >= len(items):
                row.append(Cell('–'))
                continue
            item = items[rank]
            check = '✓ ' if item.is_test else ''
            number = int(popularity[item.item])
            row.append(Cell(check + source.item(item.item), note=f'{number:,}'))
        rows.append(row)
    columns = ['rank', *(group.label for group in groups)]
    return Table(f'The {len(rows)} best items for user {source.user(user)}', columns, rows)


def _why(groups: Sequence[Group], facts: FactsByGroup, source: NamedData, user: int) -> list[Block]:
    found = [
        (group, why) for group in groups for why in facts[group.number].explanations.get(user, [])
    ]
    if not found:
        return []
    names = list(dict.fromkeys(name for _, why in found for name in why.parts))
    rows = []
    for group, why in found:
        cells = [_signed(why.parts[name]) if name in why.parts else Cell('–') for name in names]
        row = [Cell(group.label), Cell(str(why.item)), *cells, _signed(why.total)]
        rows.append([*row, Cell(why.sentence)])
    columns = ['model', 'item', *names, 'total', 'in words']
    caption = f'What explains the first items for user {source.user(user)}, in nats'
    return [Table(caption, columns, rows, folded=True)]


def _signed(x: float) -> Cell:
    return Cell(f'{x:+.3f}'.replace('-', MINUS), x)


def _history(source: NamedData, user: int) -> str:
    train = source.data['user', 'rates', 'item'].edge_index
    items = train[1, train[0] == user].unique().tolist()
    words = f'{len(items):,} training {"item" if len(items) == 1 else "items"}'
    if items:
        words += f': {_names(source, items)}'
    if ('user', 'test', 'item') not in source.data.edge_types:
        return f'{words}.'
    test = source.data['user', 'test', 'item'].edge_label_index
    held = test[1, test[0] == user].unique().tolist()
    if not held:
        return f'{words}. No test item.'
    return f'{words}. Held out for the test: {_names(source, held)}.'


def _names(source: NamedData, items: Sequence[int]) -> str:
    shown = ', '.join(source.item(i) for i in items[:MAX_NAMED])
    return shown if len(items) <= MAX_NAMED else f'{shown} and {len(items) - MAX_NAMED:,} more'
