from mrdib_pyg.pid.measurement import Estimate, Measurement, Part


def measurement_table(measured: Measurement) -> str:
    r"""Returns a measurement as text: a column per way of drawing non-edges, in nats."""
    names = list(measured.overall)
    lines = [
        f'{measured.model}: what it knows of held-out edges ({measured.split}), in nats '
        f'(certainty: 0.693) with 95 % intervals over users'
    ]
    rows = [('', [f'{name} non-edges' for name in names])]
    parts = [_rows(measured.overall[name]) for name in names]
    rows += [(label, [part[label] for part in parts]) for label in parts[0]]
    for grouping, found in measured.groups.items():
        rows.append((f'by {grouping}: all of it (redundant, unique, synergistic)', []))
        for group, by_name in found.items():
            rows.append((f'  {group}', [_brief(by_name[n]) if n in by_name else '' for n in names]))
        for group, count in measured.omitted.get(grouping, {}).items():
            rows.append((f'  {group}', [f'only {count} edges']))
    width = max(len(label) for label, cells in rows if cells) + 2
    for label, cells in rows:
        lines.append((label.ljust(width) + ''.join(cell.ljust(32) for cell in cells)).rstrip())
    return '\n'.join(lines)


def _rows(part: Part) -> dict[str, str]:
    out = {'edges / users / bins': f'{part.num_edges} / {part.num_users} / {part.num_bins}'}
    for label, pair in part.pairs.items():
        for measure in ('broja', 'mmi'):
            atoms = getattr(pair, measure)
            name = f'{label}, {measure.upper()}: ' if len(part.pairs) > 1 else f'{measure.upper()} '
            out[f'{name}redundant'] = _cell(atoms.redundant)
            for m, x in atoms.unique.items():
                out[f'{name}unique to {m}'] = _cell(x)
            out[f'{name}synergistic'] = _cell(atoms.synergistic)
            out[f'{name}  of it in the two scores'] = _cell(atoms.synergistic_scores)
        name = f' of {label}' if len(part.pairs) > 1 else ''
        out[f'bias of the scores{name}'] = f'{pair.bias:.4f}'
    for name, x in part.informations.items():
        out[f'I({name}; Y)'] = _cell(x)
    if part.content_given_id is not None and part.id_given_content is not None:
        out['I(content; Y | id)'] = _cell(part.content_given_id)
        out['I(id; Y | content)'] = _cell(part.id_given_content)
    return out


def _cell(x: Estimate) -> str:
    return f'{x.value:7.4f} [{x.low:.4f}, {x.high:.4f}]'


def _brief(part: Part) -> str:
    text = f'{part.informations["all"].value:7.4f}'
    if len(part.pairs) == 1:
        atoms = next(iter(part.pairs.values())).broja
        unique = ' '.join(f'{x.value:.3f}' for x in atoms.unique.values())
        text += f' ({atoms.redundant.value:.3f}, {unique}, {atoms.synergistic.value:.3f})'
    return text
