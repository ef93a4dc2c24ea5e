"""The codes, posteriors and recommendations of the trained models.

``facts`` are those of the first run of each group, by the number of the group. ``notes`` name the
models without facts, and why they have none.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mrdib_pyg.report import charts
from mrdib_pyg.report.model_facts import ModelFacts, NamedData, Width
from mrdib_pyg.report.page import (
    MISSING,
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
    signed,
)
from mrdib_pyg.report.runs import Group, by_dataset

FactsByGroup = Mapping[int, ModelFacts]

NEAR = 0.1  # nats of KL per dimension and item

NUM_BINS = 30


def map_section(
    groups: Sequence[Group], facts: FactsByGroup, notes: Sequence[str], method: str
) -> Section:
    r"""A map of the item codes for each group, and a table of what they share."""
    figures, rows = [], []
    names: dict[str, None] = {}
    for group in groups:
        fact = facts.get(group.number)
        if fact is None or not fact.map:
            continue
        modalities = list(dict.fromkeys(row['modality'] for row in fact.map))
        names |= dict.fromkeys(modalities)
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
        blocks.append(Table('Shared information of the item codes', columns, rows))
    if not figures and not notes:
        notes = ['These models do not have codes of several modalities.']
    blocks += [Note(note) for note in notes]
    name, kept = {
        'tsne': ('t-SNE', 't-SNE keeps neighborhoods, not distances'),
        'pca': ('PCA', 'Two principal components keep the largest variation and lose the rest'),
    }[method]
    return Section(
        'codes',
        'Item codes',
        'One point per item and modality: the code (the mean of its posterior) that enters the '
        f'fusion, drawn in a plane by {name}. Each map shows the first run of a model, with the '
        'same items in all maps. Hover over a point to mark the same item in the other '
        f'modalities. {kept}. Modalities far apart on a map need not hold different information. '
        'The table covers all items. Its Gaussian mutual information assumes jointly Gaussian '
        'codes. Its linear CKA compares the similarities within two codes (1: the same up to '
        'rotation and scale, 0: unrelated).',
        blocks,
    )


def width_section(groups: Sequence[Group], facts: FactsByGroup, notes: Sequence[str]) -> Section:
    r"""The KL per dimension and per item of each group with a bottleneck."""
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
        blocks.append(Note('None of these models has a bottleneck.'))
    blocks += [Note(note) for note in notes]
    return Section(
        'posteriors',
        'Posterior widths',
        'With MRdIB each code is a Gaussian with mean μ and width σ. The bottleneck penalizes its '
        'KL divergence to the standard normal prior, in nats. A dimension with a KL near 0 carries '
        f'no information. An item counts as near the prior below {NEAR:g} nats per dimension. The '
        'KL also grows where σ is far below 1, as in codes of small scale, so a large KL alone '
        'does not make a code informative. Compare σ with the spread of μ over items in the table.',
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
    label = f'{group.label}, {width.name}'
    name = f'posterior-{group.number}-{number}'
    return [
        Figure(
            f'{name}-dimensions',
            f'{label}: KL by dimension',
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
            f'{label}: KL by item',
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
    r"""The best items for each chosen user, the models side by side, and their explanations."""
    blocks: list[Block] = []
    datasets = by_dataset(group for group in groups if group.number in facts)
    for dataset, shown in datasets.items():
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
        'held-out test item of the user. The small number counts the users with this item in '
        'training. These lists are examples: judge a model by its results. The parts '
        'of an explanation add up to the score. They describe the model, not the motives of the '
        'user, and have no interval.',
        blocks,
    )


def _table(groups: Sequence[Group], facts: FactsByGroup, source: NamedData, user: int) -> Table:
    popularity = source.popularity()
    ranked = [facts[group.number].recommendations.get(user, []) for group in groups]
    rows = []
    for rank in range(max(map(len, ranked), default=0)):
        row = [Cell(str(rank + 1), rank + 1)]
        for items in ranked:
            if rank >= len(items):
                row.append(MISSING)
                continue
            item, is_test = items[rank]
            text = ('✓ ' if is_test else '') + source.item(item)
            row.append(Cell(text, note=f'{int(popularity[item]):,}'))
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
        numbers = [why.parts.get(name) for name in names] + [why.total]
        cells = [MISSING if x is None else Cell(signed(x, 3), x) for x in numbers]
        rows.append([Cell(group.label), Cell(str(why.item)), *cells, Cell(why.sentence)])
    columns = ['model', 'item', *names, 'total', 'in words']
    caption = f'Explanations of the first items for user {source.user(user)}, in nats'
    return [Table(caption, columns, rows, folded=True)]


def _history(source: NamedData, user: int) -> str:
    items, held_out = (source.items_of(user, split) for split in ('train', 'test'))
    words = f'{len(items):,} training {"item" if len(items) == 1 else "items"}'
    if items:
        words += f': {_names(source, items)}'
    if not held_out:
        return f'{words}. No test item.'
    return f'{words}. Held out for the test: {_names(source, held_out)}.'


def _names(source: NamedData, items: Sequence[int]) -> str:
    shown = ', '.join(source.item(i) for i in items[:MAX_NAMED])
    return shown if len(items) <= MAX_NAMED else f'{shown} and {len(items) - MAX_NAMED:,} more'
