import os
from pathlib import Path

import torch
from torch_geometric.data import HeteroData

from mrdib_pyg.datasets._read import COLUMNS, TIME
from mrdib_pyg.files import write_array, write_table
from mrdib_pyg.interactions import SPLITS


def write_folder(data: HeteroData, folder: str | os.PathLike, name: str | None = None) -> None:
    r"""Writes :obj:`data` in the layout that :class:`InteractionFolder` reads, and timestamps where
    all edges have :obj:`time`.

    Args:
        data (HeteroData): The data of any dataset of this package.
        folder (str): Where to. Created if needed; files of the same names are replaced.
        name (str, optional): The table is called ``<name>.inter``. (default: ``data.name``)

    Raises:
        ValueError: If the folder holds another table already, or features or a mask that are not
            of these data and would be read with them; or if the last users (or items without
            features) have no edge, of whom a table does not tell. Nothing has been written then.
    """
    folder = Path(folder).expanduser()
    table = folder / f'{data.name if name is None else name}.inter'
    others = [path.name for path in folder.glob('*.inter') if path.name != table.name]
    if others:
        raise ValueError(f"'{folder}' holds {others} already, and would hold two tables")
    arrays = {}
    for key, value in data['item'].items():
        prefix, _, modality = key.partition('_')
        if prefix in ('x', 'has') and modality:
            arrays[f'{modality}_{"feat" if prefix == "x" else "mask"}.npy'] = value
    foreign = [path.name for path in array_files(folder) if path.name not in arrays]
    if foreign:
        raise ValueError(
            f"'{folder}' holds {foreign}, which are not of these data and would be read with them; "
            f'remove them, or name another folder'
        )
    rows, times = [], []
    for label, (relation, key) in enumerate(SPLITS.values()):
        edge = ('user', relation, 'item')
        if edge not in data.edge_types or key not in data[edge]:
            continue
        index = data[edge][key].cpu()
        rows.append(torch.cat([index, torch.full_like(index[:1], label)]))
        times += [data[edge].time.cpu()] if 'time' in data[edge] else []
    if len(rows) == 0:
        raise ValueError("'data' has no edges between users and items, so there is no table")
    user, item, split = torch.cat(rows, dim=1).numpy()
    has_features = any(file.endswith('_feat.npy') for file in arrays)
    for kind, ids in (('user', user), ('item', item)):
        known = int(ids.max(initial=-1)) + 1
        size = data[kind].num_nodes if kind in data.node_types else None
        if size is not None and known < size and not (kind == 'item' and has_features):
            raise ValueError(
                f"'data' has {size} {kind}s, but none from {known} on has an edge, so that a table "
                f"does not tell of them; set data['{kind}'].num_nodes to {known}"
            )
    folder.mkdir(parents=True, exist_ok=True)
    # The table comes last: without it, a folder is not taken for a data set.
    table.unlink(missing_ok=True)
    for file, value in arrays.items():
        write_array(folder / file, value.cpu().numpy())
    columns = {COLUMNS[0]: user, COLUMNS[1]: item}
    if len(times) == len(rows):
        columns[TIME] = torch.cat(times).numpy()
    write_table(table, {**columns, COLUMNS[2]: split})


def array_files(folder: Path) -> list[Path]:
    r"""Returns the files of a folder that hold features or masks."""
    return sorted(path for kind in ('feat', 'mask') for path in folder.glob(f'*_{kind}.npy'))
