import contextlib
import io
import os
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import HeteroData

from mrdib_pyg.datasets import IdMap
from mrdib_pyg.training.atomic import atomic_folder


def export_ogb(
    data: HeteroData,
    folder: str | Path,
    name: str = 'mrdib',
    user_ids: IdMap | None = None,
    item_ids: IdMap | None = None,
) -> None:
    r"""Writes a data set for link prediction in the layout of the Open Graph Benchmark, by
    :class:`ogb.io.DatasetSaver`. The folder appears whole or not at all.

    It holds :obj:`meta_dict.pt` and the folder :obj:`<name>`: the training graph with the features
    of items as :obj:`node_<modality>`, the interactions of each split as ``{'edge': [n, 2]}`` of a
    user and an item, and in :obj:`mapping` the ids that users and items have outside.

    Args:
        data (HeteroData): The data set.
        folder (str or Path): The folder, which must not exist or must be empty.
        name (str, optional): The name of the data set, of letters, digits and underscores.
            (default: :obj:`"mrdib"`)
        user_ids (IdMap, optional): The ids that users have outside. (default: :obj:`None`)
        item_ids (IdMap, optional): The ids that items have outside. (default: :obj:`None`)

    Raises:
        FileExistsError: If the folder holds something.
        ValueError: If the name has other characters.
        OSError: If the folder cannot be written.
    """
    if re.fullmatch(r'\w+', name, re.ASCII) is None:
        raise ValueError(f"'name' must consist of letters, digits and underscores (got {name!r})")
    folder = Path(folder)
    with atomic_folder(folder) as part:
        try:
            _write(data, folder, part, name, {'user': user_ids, 'item': item_ids})
        except RuntimeError as e:  # by `torch.save`, e.g. on a full disk
            reason = str(e).partition('\n')[0]
            raise OSError(f"'{folder}' could not be written: {reason}") from e


def _write(
    data: HeteroData, folder: Path, part: Path, name: str, id_maps: dict[str, IdMap | None]
) -> None:
    # ogb asks a package index for newer releases of itself when `outdated` can be imported.
    sys.modules.setdefault('outdated', None)  # type: ignore[arg-type]
    from ogb.io import DatasetSaver

    said = io.StringIO()  # it prints every array
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        saver = DatasetSaver(f'ogbl-{name}', True, 1, root=str(part / 'new'))
        saver.save_graph_list([_graph(data)])
        saver.save_split(_splits(data), 'given')
        mapping = part / 'mapping'
        mapping.mkdir()
        (mapping / 'README.md').write_text(
            'user_ids.csv, item_ids.csv: the ids that nodes have outside, where there are any\n'
        )
        for kind, ids in id_maps.items():
            if ids is not None:
                ids.save(mapping, kind)
        saver.copy_mapping_dir(str(mapping))
        saver.save_task_info('link prediction', 'recall@20')
        meta = saver.get_meta_dict()
    for path in mapping.iterdir():
        path.unlink()
    mapping.rmdir()
    made = Path(saver.submission_dir)
    meta['dir_path'] = str(folder.absolute() / made.joinpath(name).name)
    torch.save(meta, made / 'meta_dict.pt')
    for path in made.iterdir():
        os.replace(path, part / path.name)
    made.rmdir()


def _graph(data: HeteroData) -> dict[str, Any]:
    graph: dict[str, Any] = {
        'edge_index_dict': {
            ('user', 'rates', 'item'): data['user', 'rates', 'item'].edge_index.cpu().numpy()
        },
        'num_nodes_dict': {kind: int(data[kind].num_nodes) for kind in ('user', 'item')},
    }
    for key, x in data['item'].items():
        prefix, _, modality = key.partition('_')
        if prefix in ('x', 'has') and modality:
            x = x.long() if x.dtype == torch.bool else x
            part = modality if prefix == 'x' else f'has_{modality}'
            graph[f'node_{part}'] = {'item': x.cpu().numpy()}
    return graph


def _splits(data: HeteroData) -> dict[str, Any]:
    index = {'train': data['user', 'rates', 'item'].edge_index}
    for name, relation in (('valid', 'val'), ('test', 'test')):
        edge = ('user', relation, 'item')
        empty = index['train'][:, :0]
        index[name] = data[edge].edge_label_index if edge in data.edge_types else empty
    return {name: {'edge': edges.t().cpu().numpy()} for name, edges in index.items()}
