"""What is recommended to a few users, and what explains it."""

from collections.abc import Mapping, Sequence

import torch

from mrdib_pyg.report.groups import Group
from mrdib_pyg.report.model_facts import Facts, Source
from mrdib_pyg.report.section import MINUS, Block, Cards, Cell, Note, Section, Table, Text

MAX_NAMED = 8  # items of a user that are named one by one


def recommendations_section(
    groups: Sequence[Group], facts: Mapping[int, Facts], notes: Sequence[str]
) -> Section:
    r"""Makes a table of the best items for each chosen user, the models side by side.

    Args:
        groups (Sequence[Group]): The groups.
        facts (Dict[int, Facts]): By the number of a group, what the model of its first run says.
        notes (Sequence[str]): What could not be looked into, and why.
    """
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
        'The best items of each model for a few users, without those of their training. A ✓ marks '
        'an item that is among the held-out test items of the user; the small number is how many '
        'users have the item in training. A handful of users shows what lists look like, not how '
        'good they are: that is what the results are for. Explanations are parts that add up to '
        'the whole. They are statements about the model, not about what moves a user, and a '
        'single pair has no interval.',
        blocks,
    )


def _table(groups: Sequence[Group], facts: Mapping[int, Facts], source: Source, user: int) -> Table:
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


def _why(
    groups: Sequence[Group], facts: Mapping[int, Facts], source: Source, user: int
) -> list[Block]:
    found = [
        (group, why) for group in groups for why in facts[group.number].explanations.get(user, [])
    ]
    if not found:
        return []
    names = list(dict.fromkeys(name for _, why in found for name in why.parts))
    rows = []
    for group, why in found:
        cells = [_signed(why.parts[name]) if name in why.parts else Cell('–') for name in names]
        row = [Cell(group.label), Cell(source.item(why.item)), *cells, _signed(why.total)]
        rows.append([*row, Cell(why.sentence)])
    columns = ['model', 'item', *names, 'total', 'in words']
    caption = f'What explains the first items for user {source.user(user)}, in nats'
    return [Table(caption, columns, rows, folded=True)]


def _signed(x: float) -> Cell:
    return Cell(f'{x:+.3f}'.replace('-', MINUS), x)


def _history(source: Source, user: int) -> str:
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


def _names(source: Source, items: Sequence[int]) -> str:
    shown = ', '.join(source.item(i) for i in items[:MAX_NAMED])
    return shown if len(items) <= MAX_NAMED else f'{shown} and {len(items) - MAX_NAMED:,} more'
