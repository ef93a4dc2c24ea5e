"""Export of embeddings and data sets for other software."""

import contextlib
import importlib
import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from mrdib_pyg.datasets import IdMap
from mrdib_pyg.datasets._read import file_hash
from mrdib_pyg.files import atomic_folder
from mrdib_pyg.interactions import TRAIN_EDGE
from mrdib_pyg.nn.models import Embeddings, Recommender
from mrdib_pyg.training._run import provenance


def require(name: str, what: str, extra: str = 'serve') -> Any:
    r"""Imports an optional module for ``what``. If it is missing, the error names its extra."""
    module = name.split('.')[0]
    package = {'faiss': 'faiss-cpu'}.get(module, module)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name != module:
            raise ImportError(f'{what} needs {package}, which cannot be imported: {e}') from e
        raise ImportError(f"{what} needs {package}: pip install 'mrdib_pyg[{extra}]'") from e
    except ImportError as e:
        raise ImportError(f'{what} needs {package}, which cannot be imported: {e}') from e


def save_tensors(tensors: dict[str, Any], path: Path, metadata: dict[str, str]) -> None:
    r"""Saves tensors to a safetensors file with the permissions of any other new file."""
    safetensors = require('safetensors', 'saving')
    path.touch()
    mode = path.stat().st_mode  # safetensors would make a file that only its owner may read
    try:
        require('safetensors.torch', 'saving').save_file(tensors, path, metadata)
        path.chmod(mode)
    except safetensors.SafetensorError as e:
        raise OSError(f"'{path.parent}' could not be written to ({e}); is the disk full?") from e


VERSION = 'mrdib_pyg export 1'

TABLES = {'user': 'users.parquet', 'item': 'items.parquet'}

TENSORS = 'embeddings.safetensors'

_BLOCK = 65_536  # rows


class Export(NamedTuple):
    r"""The content of an exported folder: embeddings whose inner product is the score, ``[U, d]``
    and ``[I, d]``, the raw ids of their rows (or :obj:`None`), and :obj:`export.json`.
    """

    user: Tensor
    item: Tensor
    user_ids: IdMap | None
    item_ids: IdMap | None
    info: dict[str, Any]


def export_model(
    model: Recommender,
    folder: str | Path,
    user_ids: IdMap | None = None,
    item_ids: IdMap | None = None,
    info: dict[str, Any] | None = None,
) -> None:
    r"""Writes the embeddings of a model for other software (extra ``[serve]``). The folder is
    written completely or not at all. It holds

    * :obj:`embeddings.safetensors`: :obj:`user` and :obj:`item`,
    * :obj:`users.parquet` and :obj:`items.parquet`: one row each with :obj:`index`, :obj:`id` (the
      raw id, else the index) and :obj:`embedding` (the same bits; :obj:`bfloat16` becomes
      :obj:`float32`, since Parquet lacks it),
    * :obj:`export.json`: the model, its settings, versions, and a SHA-256 of each file.

    Args:
        model (Recommender): A trained model.
        folder (str or Path): The folder, which must not exist or must be empty.
        user_ids (IdMap, optional): The raw ids of the users. (default: :obj:`None`)
        item_ids (IdMap, optional): The raw ids of the items. (default: :obj:`None`)
        info (Dict[str, Any], optional): Further keys of :obj:`export.json`.
            (default: :obj:`None`)

    Raises:
        ImportError: If pyarrow or safetensors is missing.
        FileExistsError: If the folder is not empty.
        ValueError: If the number of ids is not that of the model, or an embedding is not finite.
    """
    require('safetensors.torch', 'export_model')
    require('pyarrow.parquet', 'export_model')
    check_id_maps(model, user_ids, item_ids)
    embeddings = finite_embeddings(model)
    tensors = {
        kind: getattr(embeddings, kind).detach().cpu().contiguous() for kind in ('user', 'item')
    }
    if tensors['user'].untyped_storage().data_ptr() == tensors['item'].untyped_storage().data_ptr():
        tensors['user'] = tensors['user'].clone()  # safetensors refuses shared memory
    with atomic_folder(folder) as part:
        save_tensors(tensors, part / TENSORS, {'version': VERSION})
        for kind, ids in (('user', user_ids), ('item', item_ids)):
            _write_table(part / TABLES[kind], tensors[kind], ids)
        content = {
            **(info or {}),
            'version': VERSION,
            'model': type(model).__name__,
            'config': model.config,
            'num_users': model.num_users,
            'num_items': model.num_items,
            'channels': tensors['user'].size(1),
            'dtype': str(tensors['user'].dtype).removeprefix('torch.'),
            'raw_ids': {'user': user_ids is not None, 'item': item_ids is not None},
            'sha256': {name: file_hash(part / name) for name in (TENSORS, *TABLES.values())},
            **provenance(),
        }
        (part / 'export.json').write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')


def check_id_maps(model: Recommender, user_ids: IdMap | None, item_ids: IdMap | None) -> None:
    r"""Checks that there is one raw id for each user and item."""
    maps = (('user', user_ids, model.num_users), ('item', item_ids, model.num_items))
    for kind, ids, size in maps:
        if ids is not None and len(ids) != size:
            raise ValueError(f"'{kind}_ids' must hold {size} ids (got {len(ids)})")


def finite_embeddings(model: Recommender) -> Embeddings:
    r"""The embeddings of a model, checked."""
    embeddings = model.embed()
    for kind, x in (('user', embeddings.user), ('item', embeddings.item)):
        wrong = (~x.isfinite().all(dim=1)).nonzero()
        if wrong.numel() > 0:
            raise ValueError(
                f"'model' must have finite embeddings (got NaN or infinity for {kind} "
                f'{int(wrong[0])}); train it again with a lower learning rate'
            )
    return embeddings


def load_export(folder: str | Path) -> Export:
    r"""Loads and checks a folder that :func:`export_model` has written.

    Args:
        folder (str or Path): The folder.

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ValueError: If a file has changed since the export. The message names it.
        ImportError: If pyarrow or safetensors is missing.
    """
    folder = Path(folder)
    safetensors = require('safetensors.torch', 'load_export')
    parquet = require('pyarrow.parquet', 'load_export')
    try:
        info = json.loads((folder / 'export.json').read_text(encoding='utf-8'))
        if info['version'] != VERSION:
            raise ValueError(f'its version is {info["version"]!r}')
        sums, raw = dict(info['sha256']), dict(info['raw_ids'])
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise ValueError(
            f"'{folder / 'export.json'}' must be a {VERSION} ({e}); export again"
        ) from e
    for name in (TENSORS, *TABLES.values()):
        if file_hash(folder / name) != sums.get(name):
            raise ValueError(f"'{folder / name}' is not the file that was exported; export again")
    ids: dict[str, IdMap | None] = {}
    try:
        tensors = safetensors.load_file(folder / TENSORS)
        for kind, name in TABLES.items():
            table = parquet.read_table(folder / name, columns=['id'])['id']
            if len(table) != len(tensors[kind]):
                raise ValueError(f'{len(table)} ids for {len(tensors[kind])} {kind}s')
            ids[kind] = IdMap(table.to_pylist()) if raw.get(kind) else None
    except (PermissionError, MemoryError):
        raise
    except Exception as e:  # damaged bytes raise nearly any error in the two readers
        raise ValueError(f"'{folder}' must hold a {VERSION} ({e}); export again") from e
    return Export(tensors['user'], tensors['item'], ids['user'], ids['item'], info)


def _write_table(path: Path, x: Tensor, ids: IdMap | None) -> None:
    pa, parquet = require('pyarrow', 'export_model'), require('pyarrow.parquet', 'export_model')
    x = x.float() if x.dtype == torch.bfloat16 else x  # which Parquet does not know
    value = pa.from_numpy_dtype(x.numpy().dtype)
    schema = pa.schema(
        [
            ('index', pa.int64()),
            ('id', pa.int64() if ids is None else pa.string()),
            ('embedding', pa.list_(value, x.size(1))),
        ]
    )
    with parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, x.size(0), _BLOCK):
            block = x[start : start + _BLOCK]
            index = range(start, start + block.size(0))
            names = index if ids is None else [ids[i] for i in index]
            flat = pa.array(block.reshape(-1).numpy())
            columns = [
                pa.array(index, pa.int64()),
                pa.array(names, schema.field('id').type),
                pa.FixedSizeListArray.from_arrays(flat, x.size(1)),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def export_ogb(
    data: HeteroData,
    folder: str | Path,
    name: str = 'mrdib',
    user_ids: IdMap | None = None,
    item_ids: IdMap | None = None,
) -> None:
    r"""Writes a data set for link prediction in the layout of the Open Graph Benchmark, by
    :class:`ogb.io.DatasetSaver`. The folder is written completely or not at all.

    It holds :obj:`meta_dict.pt` and the folder :obj:`<name>`: the training graph with the features
    of items as :obj:`node_<modality>`, the interactions of each split as ``{'edge': [n, 2]}``, and
    the raw ids in :obj:`mapping`.

    Args:
        data (HeteroData): The data set.
        folder (str or Path): The folder, which must not exist or must be empty.
        name (str, optional): The name of the data set: letters, digits and underscores.
            (default: :obj:`"mrdib"`)
        user_ids (IdMap, optional): The raw ids of the users. (default: :obj:`None`)
        item_ids (IdMap, optional): The raw ids of the items. (default: :obj:`None`)

    Raises:
        FileExistsError: If the folder is not empty.
        ValueError: If the name has any other character.
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
        'edge_index_dict': {TRAIN_EDGE: data[TRAIN_EDGE].edge_index.cpu().numpy()},
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
    index = {'train': data[TRAIN_EDGE].edge_index}
    for name, relation in (('valid', 'val'), ('test', 'test')):
        edge = ('user', relation, 'item')
        empty = index['train'][:, :0]
        index[name] = data[edge].edge_label_index if edge in data.edge_types else empty
    return {name: {'edge': edges.t().cpu().numpy()} for name, edges in index.items()}
