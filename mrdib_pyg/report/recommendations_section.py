"""What is recommended to a few users, and what explains it."""

from collections.abc import Mapping, Sequence

import torch

from mrdib_pyg.report.groups import Group
from mrdib_pyg.report.model_facts import Facts, Source
from mrdib_pyg.report.section import Block, Cell, Note, Section, Table, Text

MAX_NAMED = 12  # items of a user that are named one by one


def recommendations_section(
    groups: Sequence[Group], facts: Mapping[int, Facts], notes: Sequence[str]
) -> Section:
    r"""Makes a table of the best items for each chosen user, the models side by side.

    Args:
        groups (Sequence[Group]): The groups.
        facts (Dict[int, Facts]): By the index of a group, what the model of its first run says.
        notes (Sequence[str]): What could not be looked into, and why.
    """
    blocks: list[Block] = []
    datasets = list(dict.fromkeys(group.dataset for group in groups if group.index in facts))
    for dataset in datasets:
        shown = [g for g in groups if g.dataset == dataset and g.index in facts]
        source = facts[shown[0].index].source
        for user in facts[shown[0].index].recommendations:
            name = f'User {source.user(user)}'
            blocks.append(Text(name if len(datasets) == 1 else f'{dataset}: {name}', True))
            blocks.append(Text(_history(source, user)))
            blocks.append(_table(shown, facts, source, user))
            blocks += _why(shown, facts, source, user)
    blocks += [Note(note) for note in notes]
    return Section(
        'recommendations',
        'Recommendations',
        'The best items of each model for a few users, without those of their training. A ✓ marks '
        'an item that is among the held-out test items of the user; the small number is how many '
        'users have the item in training. A handful of users shows what lists look like, not how '
        'good they are: that is what the results are for.',
        blocks,
    )


def _table(
    groups: Sequence[Group], facts: Mapping[int, Facts], source: Source, user: int
) -> Table:
    popularity = torch.bincount(
        source.data['user', 'rates', 'item'].edge_index[1],
        minlength=int(source.data['item'].num_nodes),
    )
    ranked = [facts[group.index].recommendations.get(user, []) for group in groups]
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
    return Table(f'Best items for user {source.user(user)}', columns, rows)


def _why(
    groups: Sequence[Group], facts: Mapping[int, Facts], source: Source, user: int
) -> list[Block]:
    rows: list[list[Cell]] = []
    names: list[str] = []
    for group in groups:
        explanation = facts[group.index].explanations.get(user)
        if explanation is not None:
            names += [name for name, _ in explanation.parts if name not in names]
    for group in groups:
        explanation = facts[group.index].explanations.get(user)
        ranked = facts[group.index].recommendations.get(user)
        if explanation is None or not ranked:
            continue
        parts = dict(explanation.parts)
        cells = [
            Cell(f'{parts[name]:+.3f}', parts[name]) if name in parts else Cell('–')
            for name in names
        ]
        row = [Cell(group.label), Cell(source.item(ranked[0].item)), *cells]
        rows.append([*row, Cell(explanation.text)])
    if not rows:
        return []
    columns = ['model', 'item', *names, 'in words']
    return [Table('What explains the first item, in nats', columns, rows)]


def _history(source: Source, user: int) -> str:
    train = source.data['user', 'rates', 'item'].edge_index
    items = train[1, train[0] == user].unique().tolist()
    words = f'{len(items):,} training {"item" if len(items) == 1 else "items"}'
    if 0 < len(items) <= MAX_NAMED:
        words += f' ({", ".join(source.item(i) for i in items)})'
    if ('user', 'test', 'item') not in source.data.edge_types:
        return f'{words}.'
    test = source.data['user', 'test', 'item'].edge_label_index
    held = test[1, test[0] == user].unique().tolist()
    if not held:
        return f'{words}; no test item.'
    shown = ', '.join(source.item(i) for i in held[:MAX_NAMED])
    more = ' and more' if len(held) > MAX_NAMED else ''
    return f'{words}; held out for the test: {shown}{more}.'
