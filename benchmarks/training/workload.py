r"""The data that training is timed on: the size of Amazon Baby, with features as wide as its own.

Interactions are the real ones where they are there. Features are drawn at random: times do not
depend on their values, and the widths (4,096 for images, 384 for texts) are those of the original
arrays, which are not part of the data set at hand.
"""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch_geometric.data import HeteroData

from benchmarks.graphs import BABY, Graph, random_graph, real_graph
from benchmarks.part import Part, find_data

WIDTHS = {'image': 4_096, 'text': 384}
SHORT_WIDTHS = {'image': 512, 'text': 128}


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


def make_data(name: str, folder: None | str, widths: tuple[tuple[str, int], ...]) -> HeteroData:
    r"""Returns the data of a name that :func:`describe_data` gave; small enough to be made anew in
    every process that needs it.
    """
    if name == 'tiny':
        return to_hetero_data(random_graph(40, 30, 200, name=name), dict(widths), held_out=60)
    if folder is not None:
        from pathlib import Path

        from mrdib_pyg.datasets import load_dataset

        graph = real_graph(Path(folder))
        data = to_hetero_data(graph, dict(widths), held_out=1)
        real = load_dataset(folder)
        for split in ('val', 'test'):
            edges = real['user', split, 'item'].edge_label_index
            data['user', split, 'item'].edge_label_index = edges
        return data
    graph = random_graph(*BABY, 'power law', name=name)
    return to_hetero_data(graph, dict(widths), held_out=21_000)


@functools.cache
def _cached(name: str, folder: None | str, widths: tuple[tuple[str, int], ...]) -> HeteroData:
    return make_data(name, folder, widths)


def describe_data(part: Part) -> tuple[str, None | str, tuple[tuple[str, int], ...]]:
    r"""Returns the arguments of :func:`make_data` that suit the form of a run."""
    widths = part.pick(WIDTHS, SHORT_WIDTHS, {'image': 12, 'text': 8})
    if part.smallest:
        return 'tiny', None, tuple(widths.items())
    folder = find_data('amazon-baby', part.data)
    name = 'Baby-sized' if folder is None else 'amazon-baby'
    return name, None if folder is None else str(folder.resolve()), tuple(widths.items())


def load(part: Part) -> HeteroData:
    r"""Returns the data that suits the form of a run, made once in a process."""
    return _cached(*describe_data(part))


def case_of(part: Part) -> dict[str, Any]:
    r"""Returns what the rows of a run on this data say of it."""
    name, _, widths = describe_data(part)
    data = load(part)
    return {
        'data': name,
        'edges': data['user', 'rates', 'item'].edge_index.size(1),
        'widths': '+'.join(str(width) for _, width in widths),
    }
