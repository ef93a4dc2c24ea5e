r"""The graphs of the benchmarks, real ones where they are there, and random ones; and the data that
training is timed on, of the size of Amazon Baby with features as wide as its own.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from benchmarks.run import Part, find_data
from mrdib_pyg.datasets import load_dataset

#: Users, items and training edges of two common data sets.
BABY = (19_445, 7_050, 118_551)
CLOTHING = (39_387, 23_033, 197_338)
#: The widths of the features of Amazon Baby, and those of the short form. Features are drawn at
#: random: times do not depend on their values, and the original arrays are not in the data set.
WIDTHS = {'image': 4_096, 'text': 384}
SHORT_WIDTHS = {'image': 512, 'text': 128}


class Graph(NamedTuple):
    r"""A user-item graph: distinct edges ``[2, E]``."""

    name: str
    edge_index: Tensor
    num_users: int
    num_items: int
    skew: str

    @property
    def case(self) -> dict[str, str | int]:
        return {
            'graph': self.name,
            'users': self.num_users,
            'items': self.num_items,
            'edges': self.edge_index.size(1),
            'skew': self.skew,
        }

    @property
    def num_nodes(self) -> int:
        return self.num_users + self.num_items

    def symmetric(self) -> Tensor:
        r"""The edges of users and items in one id space, both ways."""
        user, item = self.edge_index[0], self.edge_index[1] + self.num_users
        return torch.stack([torch.cat([user, item]), torch.cat([item, user])])

    def by_degree(self) -> tuple[Tensor, Tensor]:
        r"""The users and the items in the order of decreasing degree; ties keep theirs."""
        sides = zip(self.edge_index, (self.num_users, self.num_items))
        degrees = [torch.bincount(index, minlength=size) for index, size in sides]
        user, item = (degree.argsort(descending=True, stable=True) for degree in degrees)
        return user, item

    def by_rarest_item(self) -> tuple[Tensor, Tensor]:
        r"""The items in the order of decreasing degree, and the users in that of the last of their
        items, those without any first; ties keep theirs.
        """
        user, item = self.edge_index
        order = self.by_degree()[1]
        last = item.new_full((self.num_users,), -1)
        last = last.scatter_reduce(0, user, order.argsort()[item], 'amax')
        return last.argsort(stable=True), order

    def renumbered(self, order: tuple[Tensor, Tensor]) -> 'Graph':
        r"""The same graph, whose nodes are numbered by their places in an order."""
        ids = [nodes.argsort()[index] for nodes, index in zip(order, self.edge_index)]
        return self._replace(edge_index=torch.stack(ids))

    def to(self, device: str) -> 'Graph':
        return self._replace(edge_index=self.edge_index.to(device))


def random_graph(
    num_users: int,
    num_items: int,
    num_edges: int,
    skew: str = 'uniform',
    seed: int = 0,
    name: str = 'random',
) -> Graph:
    r"""Draws distinct edges.

    Args:
        skew (str, optional): ``'uniform'``, or ``'power law'``: the weight of the :math:`r`-th
            node of either side is :math:`r^{-0.8}`, under shuffled ids.
    """
    generator = torch.Generator().manual_seed(seed)
    draw_user = _sampler(num_users, skew, generator)
    draw_item = _sampler(num_items, skew, generator)
    if num_edges > num_users * num_items // 2:
        raise ValueError(f"'num_edges' is {num_edges}, too many for {num_users} x {num_items}")
    codes = torch.empty(0, dtype=torch.long)
    while codes.numel() < num_edges:
        count = int(1.1 * (num_edges - codes.numel())) + 16
        new = draw_user(count) * num_items + draw_item(count)
        codes = torch.unique(torch.cat([codes, new]))
    keep = torch.randperm(codes.numel(), generator=generator)[:num_edges]
    codes = codes[keep].sort().values
    edge_index = torch.stack([codes // num_items, codes % num_items])
    return Graph(name, edge_index, num_users, num_items, skew)


def _sampler(size: int, skew: str, generator: torch.Generator) -> Callable[[int], Tensor]:
    if skew == 'uniform':
        return lambda count: torch.randint(size, (count,), generator=generator)
    if skew != 'power law':
        raise ValueError(f"'skew' must be 'uniform' or 'power law' (got {skew!r})")
    weight = torch.arange(1, size + 1, dtype=torch.float64).pow(-0.8)
    bounds = weight.cumsum(0) / weight.sum()
    ids = torch.randperm(size, generator=generator)

    def draw(count: int) -> Tensor:
        at = torch.rand(count, dtype=torch.float64, generator=generator)
        return ids[torch.searchsorted(bounds, at).clamp_(max=size - 1)]

    return draw


def real_graph(folder: Path) -> Graph:
    r"""The training edges of a data set."""
    data = load_dataset(folder)
    edge_index = data['user', 'rates', 'item'].edge_index
    sizes = int(data['user'].num_nodes), int(data['item'].num_nodes)
    return Graph(folder.name, edge_index, *sizes, 'real')


def graphs(part: Part) -> Iterator[Graph]:
    r"""The graphs that suit the form of a run."""
    if part.smallest:
        yield random_graph(40, 30, 200, name='tiny')
        return
    folder = find_data('amazon-baby', part.data)
    if folder is not None:
        yield real_graph(folder)
    else:
        part.miss({'graph': 'amazon-baby'}, 'all', 'the data set is not there: see --data')
    yield random_graph(*BABY, 'power law', name='Baby-sized')
    if part.short:
        return
    yield random_graph(*BABY, name='Baby-sized')
    yield random_graph(*CLOTHING, 'power law', name='Clothing-sized')
    yield random_graph(*grown(10**6), 'power law', name='1e6')
    yield random_graph(*grown(10**6), name='1e6')
    if part.device == 'cuda' or part.full:
        yield random_graph(*grown(10**7), 'power law', name='1e7')


def sized_graphs(part: Part) -> Iterator[Graph]:
    r"""Random graphs of the sizes of two common data sets, one in the short form."""
    sizes = {'Baby-sized': BABY, 'Clothing-sized': CLOTHING}
    names = part.pick(list(sizes), ['Baby-sized'], ['tiny'])
    for name in names:
        yield random_graph(*sizes.get(name, (60, 50, 300)), 'power law', name=name)


def grown(num_edges: int) -> tuple[int, int, int]:
    r"""Users, items and edges of a size: the nodes grow with the edges."""
    num_users = max(num_edges // 12, 4)
    return num_users, max(num_users // 3, 4), num_edges


# -- the data that training is timed on ------------------------------------------------------------


def to_hetero_data(graph: Graph, widths: Mapping[str, int], held_out: int) -> HeteroData:
    r"""Makes of a graph the data of a recommender.

    Args:
        graph (Graph): The training edges.
        widths (Dict[str, int]): The widths of the item features to draw, by modality.
        held_out (int): How many edges to draw for validation, and for testing.
    """
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = graph.num_users, graph.num_items
    data['user', 'rates', 'item'].edge_index = graph.edge_index
    generator = torch.Generator().manual_seed(1)
    for name, width in widths.items():
        data['item'][f'x_{name}'] = torch.randn(graph.num_items, width, generator=generator)
    seen = graph.edge_index[0] * graph.num_items + graph.edge_index[1]
    for split in ('val', 'test'):
        users = graph.edge_index[0].unique()
        user = users[torch.randint(users.numel(), (held_out,), generator=generator)]
        item = torch.randint(graph.num_items, (held_out,), generator=generator)
        codes = torch.unique(user * graph.num_items + item)
        codes = codes[~torch.isin(codes, seen)]
        seen = torch.cat([seen, codes])
        edges = torch.stack([codes // graph.num_items, codes % graph.num_items])
        data['user', split, 'item'].edge_label_index = edges
    return data


@functools.cache
def make_data(name: str, folder: None | str, widths: tuple[tuple[str, int], ...]) -> HeteroData:
    r"""Returns the data of a name that :func:`describe_data` gave, made once in a process, and
    small enough to be made anew in every process that needs it.
    """
    if name == 'tiny':
        return to_hetero_data(random_graph(40, 30, 200, name=name), dict(widths), held_out=60)
    if folder is not None:
        graph = real_graph(Path(folder))
        data = to_hetero_data(graph, dict(widths), held_out=1)
        real = load_dataset(folder)
        for split in ('val', 'test'):
            edges = real['user', split, 'item'].edge_label_index
            data['user', split, 'item'].edge_label_index = edges
        return data
    graph = random_graph(*BABY, 'power law', name=name)
    return to_hetero_data(graph, dict(widths), held_out=21_000)


def describe_data(part: Part) -> tuple[str, None | str, tuple[tuple[str, int], ...]]:
    r"""Returns the arguments of :func:`make_data` that suit the form of a run."""
    widths = part.pick(WIDTHS, SHORT_WIDTHS, {'image': 12, 'text': 8})
    if part.smallest:
        return 'tiny', None, tuple(widths.items())
    folder = find_data('amazon-baby', part.data)
    name = 'Baby-sized' if folder is None else 'amazon-baby'
    return name, None if folder is None else str(folder.resolve()), tuple(widths.items())


def load(part: Part) -> HeteroData:
    r"""Returns the data that suits the form of a run."""
    return make_data(*describe_data(part))


def case_of(part: Part) -> dict[str, Any]:
    r"""Returns what the rows of a run on this data say of it."""
    name, _, widths = describe_data(part)
    data = load(part)
    return {
        'data': name,
        'edges': data['user', 'rates', 'item'].edge_index.size(1),
        'widths': '+'.join(str(width) for _, width in widths),
    }
