r"""What each modality of a data set says of the interactions, before any training."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.evidence._figure import draw
from mrdib_pyg.evidence.design import Block, Design, Scaler, Targets, fill
from mrdib_pyg.evidence.heads import EvidenceHead, interaction_targets, item_features
from mrdib_pyg.transforms import ColdItemSplit

#: The share of items that are held out to see how well each modality ranks new ones.
COLD_RATIO = 0.2
SHUFFLED, GIVEN = '~', '|'
NOTHING = -6.0  # the log amplitude that what is shuffled starts from


class Amount(NamedTuple):
    r"""An amount of information, in nats per entry of the interactions.

    Args:
        value (float): The amount.
        low (float): The lower end of its 95 % interval over items, by a jackknife.
        high (float): The upper end.
        floor (float): The largest amount found where the rows of features were shuffled.
        found (bool): Whether it is there: see :func:`inspect_data`.
    """

    value: float
    low: float
    high: float
    floor: float
    found: bool


class Inspection:
    r"""What :func:`inspect_data` finds.

    Attributes:
        alone (Dict[str, Amount]): What each modality says without the others.
        unique (Dict[str, Amount]): What each modality adds to all others.
        novel (Dict[str, Amount]): The same, of what the others do not predict of its features:
            zero for a copy, however noisy. Under ``'<m>*<m>'`` the products of what two modalities
            do not predict of each other.
        shared (Dict[str, Amount]): What two modalities both say, under ``'<m>+<m>'``; it is
            negative where they say more together than each alone.
        synergy (Dict[str, Amount]): What the products of the features of two modalities add to
            both, and to the products of each with itself, under ``'<m>*<m>'``.
        link (Dict[str, float]): What of that a curved function of a sum over modalities explains.
        total (Amount): What all modalities say together.
        recall (Dict[str, float]): Recall at :obj:`k` of new items, ranked by each modality, by all
            of them (``'all'``), and by chance (``'chance'``).
        k (int): The cut-off.
        num_users (int): The number of users.
        num_items (int): The number of items that have interactions.
        num_interactions (int): The number of training interactions.
        left_out (Dict[str, float]): What share of the variance of features the fit left out, where
            they were too wide for as many items; zero elsewhere.
    """

    def __init__(
        self,
        alone: Mapping[str, Amount],
        unique: Mapping[str, Amount],
        novel: Mapping[str, Amount],
        shared: Mapping[str, Amount],
        synergy: Mapping[str, Amount],
        link: Mapping[str, float],
        total: Amount,
        recall: Mapping[str, float],
        k: int,
        sizes: tuple[int, int, int],
        left_out: Mapping[str, float],
    ) -> None:
        self.alone, self.unique, self.novel = dict(alone), dict(unique), dict(novel)
        self.shared, self.synergy, self.link = dict(shared), dict(synergy), dict(link)
        self.total, self.recall, self.k = total, dict(recall), k
        self.num_users, self.num_items, self.num_interactions = sizes
        self.left_out = dict(left_out)

    @property
    def modalities(self) -> list[str]:
        r"""The names of the modalities."""
        return list(self.alone)

    def to_dict(self) -> dict[str, Any]:
        r"""Returns all numbers, and the sentences, as JSON has them."""

        def amounts(values: Mapping[str, Amount]) -> dict[str, Any]:
            return {name: x._asdict() for name, x in values.items()}

        return {
            'unit': 'nats per entry',
            'num_users': self.num_users,
            'num_items': self.num_items,
            'num_interactions': self.num_interactions,
            'modalities': self.modalities,
            'total': amounts({'': self.total})[''],
            'alone': amounts(self.alone),
            'unique': amounts(self.unique),
            'novel': amounts(self.novel),
            'shared': amounts(self.shared),
            'synergy': amounts(self.synergy),
            'link': self.link,
            'cold_recall': {'k': self.k, **self.recall},
            'left_out': self.left_out,
            'sentences': self.sentences(),
        }

    def sentences(self) -> list[str]:
        r"""Returns what was found in three sentences."""
        digits = self._digits()
        order = sorted(self.alone, key=lambda m: -self.alone[m].value)
        best, others = order[0], order[1:]
        if not self.alone[best].found:
            first = 'No modality says more of who takes what than shuffled features would.'
        else:
            amount = _number(self.alone[best].value, digits)
            first = f'{_title(best)} alone says {amount} nats of who takes what'
            if others:
                parts = [f'{m} {_share(self.alone[m], self.alone[best])}' for m in others]
                first += f', {_and(parts)}'
            first += '.'
        if not others:
            second = 'There is no other modality to share it with.'
        else:
            order = sorted(self.unique, key=lambda m: -self.unique[m].value)
            first_unique = self.unique[order[0]]
            if not first_unique.found:
                second = 'Given the others no modality adds anything'
            else:
                second = (
                    f'Given the others {order[0]} adds {_number(first_unique.value, digits)} nats'
                )
                parts = [f'{m} {_share(self.unique[m], first_unique)}' for m in order[1:]]
                second += f', {_and(parts)}'
            shared = {name: x for name, x in self.shared.items() if x.found}
            if shared:
                parts = [
                    f'{_and(name.split("+"))} share {_number(x.value, digits)} nats'
                    for name, x in shared.items()
                ]
                second += f'; {_and(parts)}.'
            else:
                second += '; what they say does not overlap.'
        synergy = {name: x for name, x in self.synergy.items() if x.found}
        if synergy:
            parts = [
                f'{_and(name.split("*"))} say {_number(x.value, digits)} nats'
                for name, x in synergy.items()
            ]
            third = f'Only together {_and(parts)}'
        else:
            third = 'Nothing is said by two modalities together only'
        recall = {m: x for m, x in self.recall.items() if m != 'chance'}
        parts = [f'{x:.3f} by {m}' for m, x in recall.items()]
        third += (
            f'; of the new items a user takes, the {self.k} ranked first hold {_and(parts)} '
            f'({self.recall["chance"]:.3f} by chance).'
        )
        return [first, second, third]

    def figure(self, path: str | Path) -> None:
        r"""Draws all amounts with their intervals and floors.

        Args:
            path (str or Path): A ``.png``, ``.svg`` or ``.pdf`` file.

        Raises:
            ValueError: If matplotlib is not installed, or the kind of file is unknown.
        """
        draw(self.rows(), Path(path))

    def _digits(self) -> int:
        # So many that the largest amount has three.
        largest = max(abs(x.value) for _, _, x in self.rows())
        return min(max(5, 2 - math.floor(math.log10(largest))), 9) if largest > 0 else 5

    def rows(self) -> list[tuple[str, str, Amount]]:
        r"""Returns the amounts in order, each with its kind and the modalities."""
        out = [('alone', m, x) for m, x in self.alone.items()]
        out += [('unique', m, x) for m, x in self.unique.items()]
        if len(self.alone) > 1:
            out += [('novel', m, x) for m, x in self.novel.items()]
        out += [('shared', m, x) for m, x in self.shared.items()]
        out += [('synergy', m, x) for m, x in self.synergy.items()]
        return [*out, ('total', '', self.total)]

    def __str__(self) -> str:
        digits = self._digits()
        width = max([10, *(len(name) for _, name, _ in self.rows())])
        head = f'{"":8} {"":{width}} {"nats":>9} {"95 % interval":>23} {"shuffled":>9}'
        lines = [
            f'{self.num_interactions:,} interactions of {self.num_users:,} users with '
            f'{self.num_items:,} items; nats per entry',
            head,
        ]
        for kind, name, x in self.rows():
            value, low, high, floor = (_number(number, digits) for number in x[:4])
            line = f'{kind:8} {name:{width}} {value:>9} {f"{low} to {high}":>23} {floor:>9}'
            lines.append(line + ('' if x.found else '  not found'))
        lines += [f'left out of {m}: {x:.0%}' for m, x in self.left_out.items() if x > 0.005]
        return '\n'.join([*lines, *self.sentences()])

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}({self.modalities}, total={self.total.value:.5f} nats per '
            f'entry)'
        )


def inspect_data(
    data: HeteroData,
    modalities: list[str] | None = None,
    *,
    k: int = 20,
    num_shuffles: int = 2,
    max_size: int = 1500,
    seed: int = 0,
) -> Inspection:
    r"""Measures what each modality says of the interactions by the :func:`evidence` of
    linear-Gaussian models: no recommender is trained, and no negatives are drawn.

    With :math:`\mathrm{ev}(A)` the evidence per entry of the interactions given the modalities
    :math:`A`, and :math:`\mathrm{ev}(\emptyset)` that of the popularity of users alone,

    .. math::
        \mathrm{alone}_m &= \mathrm{ev}(m) - \mathrm{ev}(\emptyset) \\
        \mathrm{unique}_m &= \mathrm{ev}(\text{all}) - \mathrm{ev}(\text{all but } m) \\
        \mathrm{shared}_{m m'} &= \mathrm{alone}_m + \mathrm{alone}_{m'} -
        (\mathrm{ev}(m, m') - \mathrm{ev}(\emptyset)) \\
        \mathrm{synergy}_{m m'} &= \mathrm{ev}(m, m', m^2, m'^2, m m') -
        \mathrm{ev}(m, m', m^2, m'^2)

    where :math:`m m'` stands for the products of features,
    :math:`\mathbf{x}_m \otimes \mathbf{x}_{m'}`, and :math:`m^2` for those of a modality with
    itself: what is curved in one modality is not taken for synergy. Each amount has a 95 % interval
    by a jackknife over items, and a floor: the largest that is found where rows are shuffled (one
    of the two modalities in the product, for synergy).

    A second look at the same features adds to the first, by averaging noise and by a prior that
    favors what comes twice. So there is a second reading of each amount, by
    :math:`m^{\perp}`, the residual of the features of :math:`m` given all others (by
    :func:`evidence` itself):

    .. math::
        \mathrm{novel}_m = \mathrm{ev}(\text{all but } m, m^{\perp}) -
        \mathrm{ev}(\text{all but } m)

    and for the synergy the same with the products of :math:`m^{\perp}` and
    :math:`m'^{\perp}`. What is unique is *found* if its interval is above its floor in both
    readings, and so is what is shared, whose second reading is :math:`\mathrm{ev}(m, m') -
    \mathrm{ev}(\emptyset) - \mathrm{novel}_m - \mathrm{novel}_{m'}`. A synergy is found if
    its second reading is, and if it is no mere *link*: users who choose by a curved function of a
    sum over modalities, such as its exponential, do depend on products, but as much as on squares.
    If products with the amplitude :math:`2 \sqrt{a_{m^2} a_{m'^2}}` explain more than half of
    what products add, there is no synergy.

    These are nats of a Gaussian observer of the interactions, each divided by the square root of
    the number of the user's: a bound of nothing, and not what a deep encoder of raw content could
    say.

    Only training interactions are read. A fifth of the items is held out once more to see how well
    each modality ranks new ones (:class:`EvidenceHead` of the interactions).

    Args:
        data (HeteroData): Training edges and item features ``data['item'].x_<modality>``, with
            masks ``data['item'].has_<modality>`` where some are missing.
        modalities (List[str], optional): The modalities to measure. (default: :obj:`None`, all)
        k (int, optional): The cut-off of the recall. (default: :obj:`20`)
        num_shuffles (int, optional): How often rows are shuffled for the floor.
            (default: :obj:`2`)
        max_size (int, optional): See :func:`evidence`. With more items than that, products of
            features are reduced to inducing rows, a fifth as many columns each, and so are
            modalities that together are wider. (default: :obj:`1500`)
        seed (int, optional): Seeds what is shuffled, held out and reduced. (default: :obj:`0`)

    Returns:
        Inspection: The amounts.

    Raises:
        ValueError: If there is no modality, or too few items have interactions.
    """
    for name, number, least in (('k', k, 1), ('num_shuffles', num_shuffles, 1)):
        if number < least:
            raise ValueError(f"'{name}' must be at least {least} (got {number})")
    features, present = item_features(data, modalities)
    num_users, num_items = int(data['user'].num_nodes), int(data['item'].num_nodes)
    edge_index = data['user', 'rates', 'item'].edge_index.cpu()
    used = torch.bincount(edge_index[1], minlength=num_items) > 0
    if int(used.sum()) < 10:
        raise ValueError(
            f"'data' has {int(used.sum())} items with training edges, too few to measure anything; "
            f'at least 10 are needed'
        )
    targets = interaction_targets(edge_index, num_users, num_items)
    x: dict[str, Tensor] = {}
    for name, value in features.items():
        has = present[name][used] if name in present else None
        x[name] = Scaler(name, value[used], has)(value[used], has)
    models = _Models(x, Targets(targets[used.numpy()]), num_shuffles, max_size, seed)

    names = list(x)
    alone = {m: models.amount([m], []) for m in names}
    novel = {m: models.novel(m, [n for n in names if n != m]) for m in names}
    unique = {m: models.amount(names, [n for n in names if n != m]) for m in names}
    unique = {m: _both(x, novel[m]) for m, x in unique.items()}
    pairs = list(combinations(names, 2))
    shared = {f'{a}+{b}': models.shared(a, b) for a, b in pairs}
    synergy, link = {}, {}
    for a, b in pairs:
        name = f'{a}*{b}'
        synergy[name], novel[name], link[name] = models.synergy(a, b)
    total = models.amount(names, [])
    recall = _cold_recall(data, names, k, seed)
    sizes = num_users, int(used.sum()), int(targets.nnz)
    left_out = {
        m: y for m, y in models.design.left_out.items() if SHUFFLED not in m and GIVEN not in m
    }
    cutoff = int(recall.pop('k'))
    return Inspection(
        alone, unique, novel, shared, synergy, link, total, recall, cutoff, sizes, left_out
    )


class _Models:
    """The models of subsets of modalities, each fitted once."""

    def __init__(
        self, x: dict[str, Tensor], targets: Targets, num_shuffles: int, max_size: int, seed: int
    ) -> None:
        self.x = x
        blocks = {m: Block(value) for m, value in x.items()}
        # Modalities come first; three blocks of products are fitted beside them at a time.
        rank = fill([block.width for block in blocks.values()], max_size)
        self.design = Design(blocks, targets, max_size, rank, max(1, max_size // 5), seed)
        generator = torch.Generator().manual_seed(seed)
        num_items = targets.shape[0]
        self.orders = [
            {m: torch.randperm(num_items, generator=generator) for m in x}
            for _ in range(num_shuffles)
        ]
        for s, orders in enumerate(self.orders):
            for m, order in orders.items():
                self.design.blocks[f'{m}{SHUFFLED}{s}'] = Block(x[m][order])
        self._found: dict[tuple[str, ...], Tensor] = {}
        self._residuals: dict[tuple[str, tuple[str, ...]], Tensor] = {}
        self._start: dict[str, float] = {}

    def fit(self, names: Sequence[str]) -> Tensor:
        """The evidence, and behind it the evidence without each item."""
        key = tuple(sorted(names))
        if key not in self._found:
            # From where smaller models ended; what is shuffled will hardly get an amplitude.
            start = {m: NOTHING for m in key if SHUFFLED in m} | self._start
            solution = self.design.fit(list(key), start)
            self._start |= {m: x for m, x in solution.theta.items() if SHUFFLED not in m}
            nats = torch.tensor([solution.nats], dtype=torch.float64)
            self._found[key] = torch.cat([nats, solution.leave_one_out()])
        return self._found[key]

    def amount(self, names: Sequence[str], others: Sequence[str]) -> Amount:
        """What some modalities add to others, which are among them."""
        new = [m for m in names if m not in others]
        base, floors = self.fit(others), []
        for s in range(len(self.orders)):
            shuffled = [f'{m}{SHUFFLED}{s}' if m in new else m for m in names]
            floors.append(float((self.fit(shuffled) - base)[0]))
        return self._amount(self.fit(names) - base, floors)

    def novel(self, m: str, others: Sequence[str]) -> Amount:
        """What the part of a modality that others do not predict adds to them."""
        out = self.amount([m, *others], others)
        if not others:
            return out
        return self._amount(self._novel(m, others), [out.floor])

    def shared(self, a: str, b: str) -> Amount:
        """What two modalities both say."""

        def of(a: str, b: str) -> Tensor:
            return self.fit([a]) + self.fit([b]) - self.fit([a, b]) - self.fit([])

        floors = [
            abs(float(of(f'{a}{SHUFFLED}{s}', f'{b}{SHUFFLED}{s}')[0]))
            for s in range(len(self.orders))
        ]
        total = self.fit([a, b]) - self.fit([])
        novel = self._novel(a, [b]) + self._novel(b, [a])
        return _both(self._amount(of(a, b), floors), self._amount(total - novel, floors))

    def synergy(self, a: str, b: str) -> tuple[Amount, Amount, float]:
        """What products add to what is linear and square: those of the features, those of what is
        novel of each, and what of the first the link explains.
        """
        x, blocks = self.x, self.design.blocks
        product, novel = f'{a}*{b}', f'{a}*{b}{GIVEN}'
        squares = [a, b, f'{a}*{a}', f'{b}*{b}']
        for name, left, right in zip(squares[2:], (a, b), (a, b)):
            blocks.setdefault(name, Block(x[left], x[right]))
        base, floors = self.fit(squares), []
        start = dict(self._start)
        for s, orders in enumerate(self.orders):
            name = f'{product}{SHUFFLED}{s}'
            blocks[name] = Block(x[a], x[b][orders[b]])
            floors.append(float((self.fit([*squares, name]) - base)[0]))
            self.design.forget([name])
        blocks[product] = Block(x[a], x[b])
        blocks[novel] = Block(self._residual(a, [b]), self._residual(b, [a]))
        first, second = (
            self._amount(self.fit([*squares, name]) - base, floors) for name in (product, novel)
        )
        # A curved function of f_a + f_b has f_a^2, f_b^2 and 2 f_a f_b: its products weigh what
        # the squares tell. True products weigh what they like.
        start[product] = math.log(2.0) + 0.5 * (start[squares[2]] + start[squares[3]])
        names = [*squares, product]
        theta = torch.tensor([start[name] for name in (*names, '')], dtype=torch.float64)
        link = -self.design.objective(names)(theta)[0] - float(base[0])
        self.design.forget([product, novel])
        is_link = first.found and link > 0.5 * first.value
        first = first._replace(found=second.found and not is_link)
        return first, second, link

    def _novel(self, m: str, others: Sequence[str]) -> Tensor:
        name = f'{m}{GIVEN}{"+".join(others)}'
        if name not in self.design.blocks:
            self.design.blocks[name] = Block(self._residual(m, others))
        return self.fit([*others, name]) - self.fit(others)

    def _residual(self, m: str, others: Sequence[str]) -> Tensor:
        key = m, tuple(others)
        if key not in self._residuals:
            if float(self.x[m].abs().max()) == 0:  # nothing to predict
                return self.x[m]
            blocks = {n: Block(self.x[n]) for n in others}
            design = Design(blocks, Targets(self.x[m]), self.design.max_size, seed=self.design.seed)
            self._residuals[key] = design.fit(list(blocks)).residual()
        return self._residuals[key]

    def _amount(self, found: Tensor, floors: list[float]) -> Amount:
        value, without = float(found[0]), found[1:]
        n = without.numel()
        error = float(((without - without.mean()).square().sum() * (n - 1) / n).sqrt())
        low, floor = value - 1.96 * error, max(floors)
        # What is below the tolerance of the search cannot be told from nothing.
        is_found = low > max(floor, self.design.tolerance)
        return Amount(value, low, value + 1.96 * error, floor, is_found)


def _both(first: Amount, second: Amount) -> Amount:
    return first._replace(found=first.found and second.found)


def _cold_recall(data: HeteroData, names: list[str], k: int, seed: int) -> dict[str, float]:
    part = HeteroData()
    part['user'].num_nodes, part['item'].num_nodes = data['user'].num_nodes, data['item'].num_nodes
    for m in names:
        for key in (f'x_{m}', f'has_{m}'):
            if key in data['item']:
                part['item'][key] = data['item'][key].cpu()
    part['user', 'rates', 'item'].edge_index = data['user', 'rates', 'item'].edge_index.cpu()
    part = ColdItemSplit(COLD_RATIO, seed=seed)(part)
    labels = [part['user', split, 'cold_item'].edge_label_index for split in ('val', 'test')]
    part['user', 'test', 'cold_item'].edge_label_index = torch.cat(labels, dim=1)
    num_cold = int(part['cold_item'].num_nodes)
    k = min(k, num_cold)
    out = {}
    subsets = {m: [m] for m in names} | ({'all': names} if len(names) > 1 else {})
    for label, subset in subsets.items():
        head = EvidenceHead(None, part, 'interactions', subset)
        new = head(*item_features(part, subset, 'cold_item'))
        metrics = evaluate(new, part, 'test', k=k, node_type='cold_item')
        out[label] = metrics[f'recall@{k}']
    return {**out, 'chance': k / num_cold, 'k': float(k)}


def _number(value: float, digits: int) -> str:
    return f'{round(value, digits) + 0.0:.{digits}f}'  # no -0.0


def _share(part: Amount, whole: Amount) -> str:
    if not part.found:
        return 'nothing'
    count = round(whole.value / part.value) if part.value > 0 else 0
    words = ['', 'as much', 'half', 'a third', 'a quarter', 'a fifth', 'a sixth', 'a seventh']
    words += ['an eighth', 'a ninth', 'a tenth']
    name = words[count] if 0 < count < len(words) else f'a {count}th'
    return name if count == 1 else f'{name} of that'


def _title(name: str) -> str:
    return name[:1].upper() + name[1:]


def _and(parts: Sequence[str]) -> str:
    return ' and '.join(filter(None, [', '.join(parts[:-1]), parts[-1]])) if parts else ''
