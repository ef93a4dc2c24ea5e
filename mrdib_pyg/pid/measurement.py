from typing import Any, NamedTuple

FORMAT = 'mrdib_pyg pid 1'


class Estimate(NamedTuple):
    r"""An estimate in nats with its bootstrap interval.

    Args:
        value (float): The estimate. A difference may be negative.
        low (float): The lower end of the 95 % interval.
        high (float): The upper end.
    """

    value: float
    low: float
    high: float


class Atoms(NamedTuple):
    r"""The decomposition of the information of two modalities by one measure.

    Args:
        redundant (Estimate): The information in either modality.
        unique (Dict[str, Estimate]): The information in only this modality.
        synergistic (Estimate): The information in only both together: :obj:`total` less the
            redundant and unique parts.
        synergistic_scores (Estimate): Another estimate of the synergy, from the joint table of the
            two scores without the fused one. It may exceed :obj:`synergistic`: it has the bias of
            a table of two scores, see :class:`PairPID`, and the joint predictor may lose
            information on held-out edges.
        total (Estimate): The information in the joint predictor.
    """

    redundant: Estimate
    unique: dict[str, Estimate]
    synergistic: Estimate
    synergistic_scores: Estimate
    total: Estimate


class PairPID(NamedTuple):
    r"""The decompositions of the information of two modalities by both measures.

    Args:
        broja (Atoms): By the measure of `"Quantifying Unique Information"
            <https://arxiv.org/abs/1311.2852>`_. Prefer this one.
        mmi (Atoms): By minimal mutual information, which always sets one unique part to zero.
        bias (float): The rough overestimate in nats of the information of the joint table of the
            two scores, nearly all of it in :obj:`synergistic_scores`. The other numbers come from
            tables of one score, whose bias is smaller by the number of bins.
    """

    broja: Atoms
    mmi: Atoms
    bias: float


class Part(NamedTuple):
    r"""The measurement on some held-out edges and as many non-edges.

    Args:
        num_edges (int): The number of edges.
        num_users (int): The number of their users, who are resampled for the intervals.
        num_bins (int): The number of bins of each score.
        bias (float): The rough overestimate of the information of a single score.
        informations (Dict[str, Estimate]): The information in each modality, in all of them
            (:obj:`"content"`), in the ID path if there is one (:obj:`"id"`) and in everything
            (:obj:`"all"`).
        content_given_id (Estimate, optional): What the content adds to the ID path.
        id_given_content (Estimate, optional): What the ID path adds to the content.
        pairs (Dict[str, PairPID]): Each pair of modalities, by their names joined by ``+``.
    """

    num_edges: int
    num_users: int
    num_bins: int
    bias: float
    informations: dict[str, Estimate]
    content_given_id: Estimate | None
    id_given_content: Estimate | None
    pairs: dict[str, PairPID]


class Measurement(NamedTuple):
    r"""The information of a model about held-out edges, see :func:`measure_pid`.

    Args:
        model (str): The class of the model.
        split (str): The held-out edges.
        modalities (List[str]): The modalities.
        overall (Dict[str, Part]): All edges of the split, by the way non-edges are drawn:
            :obj:`"uniform"`, :obj:`"popularity"`.
        groups (Dict[str, Dict[str, Dict[str, Part]]]): Parts by grouping of the items, group, and
            the way non-edges are drawn from the group.
        omitted (Dict[str, Dict[str, int]]): The number of edges of the groups with too few to
            measure, by grouping and group.
        num_bootstrap (int): The number of resamples of the users.
        seed (int): The seed of all draws.
    """

    model: str
    split: str
    modalities: list[str]
    overall: dict[str, Part]
    groups: dict[str, dict[str, dict[str, Part]]]
    omitted: dict[str, dict[str, int]]
    num_bootstrap: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        r"""Returns everything as strict JSON, in the form that ``mrdib measure`` writes to
        ``pid.json``.

        .. code-block:: text

            format               'mrdib_pyg pid 1'
            unit                 'nats'; every number but the counts is in it
            model, split, modalities, num_bootstrap, seed, confidence (0.95)
            negatives            the ways non-edges are drawn, e.g. ['uniform', 'popularity']
            overall              {negatives: part}
            groups               {grouping: {group: {negatives: part}}}
            omitted              {grouping: {group: number of edges}}, groups with too few edges

            part:
              num_edges, num_users, num_bins, bias
              informations       {modality or 'content' or 'id' or 'all': estimate}
              content_given_id, id_given_content      estimate, or null without an ID path
              pairs              [pair], one per unordered pair of modalities
            pair:
              modalities         [a, b]
              bias               of synergistic_scores
              broja, mmi         {redundant, unique: {a: , b: }, synergistic, synergistic_scores,
                                 total}, an estimate each;
                                 redundant + unique a + unique b + synergistic = total
            estimate:            {value, low, high}
        """
        return {
            'format': FORMAT,
            'unit': 'nats',
            'model': self.model,
            'split': self.split,
            'modalities': list(self.modalities),
            'negatives': list(self.overall),
            'num_bootstrap': self.num_bootstrap,
            'confidence': 0.95,
            'seed': self.seed,
            'overall': {name: _part(part) for name, part in self.overall.items()},
            'groups': {
                grouping: {
                    group: {name: _part(part) for name, part in parts.items()}
                    for group, parts in found.items()
                }
                for grouping, found in self.groups.items()
            },
            'omitted': {name: dict(found) for name, found in self.omitted.items()},
        }

    def __repr__(self) -> str:
        return measurement_table(self)


def _part(part: Part) -> dict[str, Any]:
    pairs = [
        {
            'modalities': list(pair.broja.unique),
            'bias': pair.bias,
            'broja': _plain(pair.broja),
            'mmi': _plain(pair.mmi),
        }
        for pair in part.pairs.values()
    ]
    return {**_plain(part), 'pairs': pairs}


def _plain(value: Any) -> Any:
    r"""Named tuples as dictionaries, at any depth."""
    if hasattr(value, '_asdict'):
        value = value._asdict()
    return {key: _plain(x) for key, x in value.items()} if isinstance(value, dict) else value


def measurement_table(measured: Measurement) -> str:
    r"""A measurement as text in nats, with a column per way of drawing non-edges."""
    names = list(measured.overall)
    lines = [
        f'{measured.model}: information about held-out edges ({measured.split}), in nats '
        f'(certainty: 0.693) with 95 % intervals over users'
    ]
    rows = [('', [f'{name} non-edges' for name in names])]
    parts = [_rows(measured.overall[name]) for name in names]
    rows += [(label, [part[label] for part in parts]) for label in parts[0]]
    for grouping, found in measured.groups.items():
        rows.append((f'by {grouping}: all of it (redundant, unique, synergistic)', []))
        omitted = measured.omitted.get(grouping, {})
        for group in sorted({*found, *omitted}, key=lambda group: (len(group), group)):
            by_name = found.get(group, {})
            cells = [_brief(by_name[name]) if name in by_name else '' for name in names]
            if group in omitted:
                cells = [f'only {omitted[group]} edges' if omitted[group] else 'no edges']
            rows.append((f'  {group}', cells))
    width = max(len(label) for label, cells in rows if cells) + 2
    for label, cells in rows:
        lines.append((label.ljust(width) + ''.join(f'{cell:32}  ' for cell in cells)).rstrip())
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
            out[f'{name}synergistic, two scores only'] = _cell(atoms.synergistic_scores)
        name = f' of {label}' if len(part.pairs) > 1 else ''
        out[f'bias of "two scores only"{name}'] = f'{pair.bias:.4f}'
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
