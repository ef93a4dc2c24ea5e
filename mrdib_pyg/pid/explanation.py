from typing import Any, NamedTuple


class Explanation(NamedTuple):
    r"""What a model says for a user taking an item, in parts that add up to the whole, in nats.

    Each number is pointwise information: how much more likely, on a logarithmic scale, the pair
    becomes an edge rather than a non-edge, in a draw of half of each. Certainty is
    :math:`\ln 2 = 0.693`; what speaks against the item is negative and has no lower limit.

    Args:
        user (int or str): The user.
        item (int or str): The item.
        total (float): What everything says: the sum of all parts.
        redundant (float): What the modalities share: what the weakest says, the one that knows
            least of all validation edges. 0 with a single modality.
        unique (Dict[str, float]): What each modality adds to that by itself; 0 for the weakest.
        synergistic (float): What only the fusion of the codes adds.
        id (float, optional): What the ID path adds; :obj:`None` for a model without one.
        weakest (str): The weakest modality.
    """

    user: int | str
    item: int | str
    total: float
    redundant: float
    unique: dict[str, float]
    synergistic: float
    id: float | None
    weakest: str

    @property
    def parts(self) -> dict[str, float]:
        r"""The parts by a name each; their sum is :obj:`total`."""
        out = {'shared': self.redundant} if len(self.unique) > 1 else {}
        out.update({f'{name} alone': x for name, x in self.unique.items()})
        out['fusion'] = self.synergistic
        if self.id is not None:
            out['id'] = self.id
        return out

    @property
    def sentence(self) -> str:
        r"""The numbers in words."""
        words = {'shared': 'what the modalities share', 'fusion': 'their fusion'}
        words['id'] = 'the IDs of user and item'
        if len(self.unique) == 1:
            words['fusion'] = 'the rest of the content path'
        said = []
        for name, x in sorted(self.parts.items(), key=lambda part: -abs(part[1])):
            if len(self.unique) > 1 and name == f'{self.weakest} alone':
                continue  # zero by definition, which is no finding
            said.append(f'{words.get(name, name)} {_signed(x)}')
        if abs(self.total) < 0.005:
            verdict = 'says next to nothing about'
        else:
            verdict = 'speaks ' + ('for' if self.total > 0 else 'against')
        return (
            f'The model {verdict} item {self.item} for user {self.user} ({_signed(self.total)} of '
            f'at most +0.69 nats): {", ".join(said)}.'
        )

    def to_dict(self) -> dict[str, Any]:
        r"""Returns everything as strict JSON, with the sentence and the unit."""
        return {'unit': 'nats', **self._asdict(), 'sentence': self.sentence}

    def __repr__(self) -> str:
        width = max(map(len, [*self.parts, 'total'])) + 2
        lines = [f'{name:{width}}{x:+.4f}' for name, x in self.parts.items()]
        return '\n'.join([*lines, f'{"total":{width}}{self.total:+.4f}', self.sentence])


def _signed(x: float) -> str:
    text = f'{x:+.2f}'
    return '0.00' if text in ('+0.00', '-0.00') else text
