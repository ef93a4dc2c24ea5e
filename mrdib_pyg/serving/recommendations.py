import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from mrdib_pyg.datasets import IdMap
from mrdib_pyg.distributed import Columns
from mrdib_pyg.files import atomic_file
from mrdib_pyg.interactions import UserItems
from mrdib_pyg.nn.models.ranking import Ranker
from mrdib_pyg.ops._topk import pad_items, topk_of_padded
from mrdib_pyg.serving.export import require


class Recommendations(NamedTuple):
    r"""The best items of a block of users: ``user [B]``, and ``item [B, k]`` and ``score [B, k]``
    by descending score. Where fewer than :obj:`k` items were left, a row ends in items of
    :obj:`-1` and scores of :math:`-\infty`.
    """

    user: Tensor
    item: Tensor
    score: Tensor


def recommend(
    model: Ranker,
    user: Tensor | None = None,
    k: int = 20,
    *,
    exclude_seen: bool = True,
    exclude: Tensor | None = None,
    allow: Tensor | None = None,
    deny: Tensor | None = None,
    batch_size: int = 1024,
    mesh: DeviceMesh | None = None,
) -> Iterator[Recommendations]:
    r"""Ranks all items for users, one block of users at a time. Besides the embeddings, memory
    depends only on :obj:`batch_size` and :obj:`k`. Ties go to the item of lower id.

    Args:
        model (Recommender): A trained model.
        user (torch.Tensor, optional): The ids of the users, in the order of the result.
            (default: :obj:`None`, all)
        k (int, optional): The number of items for each user. (default: :obj:`20`)
        exclude_seen (bool, optional): If set to :obj:`False`, items of the training edges are
            candidates too. (default: :obj:`True`)
        exclude (torch.Tensor, optional): Further pairs of a user and an item to leave out,
            ``[2, n]``: :func:`known_pairs` gives those of all splits, held-out ones too.
            (default: :obj:`None`)
        allow (torch.Tensor, optional): The ids of the only items that may be recommended.
            (default: :obj:`None`, all)
        deny (torch.Tensor, optional): The ids of items that may not be recommended.
            (default: :obj:`None`)
        batch_size (int, optional): Users ranked at a time. (default: :obj:`1024`)
        mesh (DeviceMesh, optional): Processes that rank the blocks in turn, see
            :mod:`mrdib_pyg.distributed`. All of them call this function, get all blocks and must
            read them to the end. (default: :obj:`None`, one process)

    Yields:
        Recommendations: Blocks of :obj:`batch_size` users with :obj:`k` columns, or fewer if
        :obj:`allow` and :obj:`deny` leave fewer items.

    Raises:
        ValueError: If :obj:`k` exceeds the number of items, an id does not exist, or no candidate
            is left.
    """
    # Not a generator itself, so that errors are raised at the call and not at the first block.
    if batch_size < 1:
        raise ValueError(f"'batch_size' must be at least 1 (got {batch_size})")
    if not 1 <= k <= model.num_items:
        raise ValueError(f"'k' must be between 1 and the {model.num_items} items (got {k})")
    user = torch.arange(model.num_users) if user is None else torch.as_tensor(user).reshape(-1)
    check_ids('user', user, model.num_users)
    user = user.long()  # 8 bits would be taken for a mask
    candidates = select_items(model.num_items, allow, deny)
    pairs = None if exclude is None else UserItems(exclude, model.num_users, model.num_items)
    return _blocks(model, user, k, exclude_seen, pairs, candidates, batch_size, mesh)


def select_items(
    num_items: int, allow: Tensor | None = None, deny: Tensor | None = None
) -> Tensor | None:
    r"""The ids of the items that an allow list and a deny list leave, ascending; :obj:`None` for
    all items.
    """
    if allow is None and deny is None:
        return None
    keep = torch.full((num_items,), allow is None)
    for name, ids in (('allow', allow), ('deny', deny)):
        if ids is not None:
            ids = torch.as_tensor(ids).reshape(-1)
            check_ids(name, ids, num_items)
            keep[ids.long()] = name == 'allow'
    if not bool(keep.any()):
        raise ValueError(f"'allow' and 'deny' leave none of the {num_items} items")
    return keep.nonzero().view(-1)


def check_ids(name: str, ids: Tensor, size: int) -> None:
    r"""Raises :class:`ValueError` unless all ids lie in ``[0, size)``."""
    if ids.numel() == 0:  # of any type, as torch makes an empty list one of floats
        return
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(f"'{name}' must hold integers (got {ids.dtype})")
    if not 0 <= int(ids.min()) <= int(ids.max()) < size:
        raise ValueError(
            f"'{name}' must lie in [0, {size}) (got {int(ids.min())} to {int(ids.max())})"
        )


def restrict_pairs(pairs: Tensor, candidates: Tensor, num_items: int) -> Tensor:
    r"""Replaces the items of ``[2, n]`` pairs by their places among ascending candidates, and drops
    the pairs of other items.
    """
    place = pairs.new_full((num_items,), -1)
    place[candidates] = torch.arange(candidates.numel(), device=pairs.device, dtype=pairs.dtype)
    column = place[pairs[1]]
    return torch.stack([pairs[0], column])[:, column >= 0]


@torch.no_grad()
def _blocks(
    model: Ranker,
    user: Tensor,
    k: int,
    exclude_seen: bool,
    exclude: UserItems | None,
    candidates: Tensor | None,
    batch_size: int,
    mesh: DeviceMesh | None,
) -> Iterator[Recommendations]:
    embeddings = model.embed()
    item = embeddings.item
    if candidates is not None:
        candidates = candidates.to(item.device)
        item = item[candidates]
    num_items = item.size(0)
    item = pad_items(item)
    if exclude is not None:
        exclude.to(item.device)

    def rank(users: Tensor) -> Recommendations:
        masks = [model.seen_pairs(users)] if exclude_seen else []
        if exclude is not None:
            masks.append(exclude(users))
        mask = torch.cat(masks, dim=1) if masks else None
        if mask is not None and candidates is not None:
            mask = restrict_pairs(mask, candidates, model.num_items)
        score, index = topk_of_padded(
            embeddings.user[users], item, num_items, min(k, num_items), mask
        )
        if candidates is not None:
            index = torch.where(index < 0, index, candidates[index])
        return Recommendations(users, index, score)

    parts = user.to(item.device).split(batch_size) if user.numel() > 0 else ()
    if mesh is None:
        yield from map(rank, parts)
        return
    columns = Columns(mesh)
    for start in range(0, len(parts), columns.size):
        group = parts[start : start + columns.size]
        shape = (group[0].numel(), min(k, num_items))
        index = item.new_zeros(shape, dtype=torch.long)
        score = item.new_zeros(shape)
        if columns.rank < len(group):
            own = rank(group[columns.rank])
            index[: own.user.numel()], score[: own.user.numel()] = own.item, own.score
        for users, items, scores in zip(group, *map(columns.all_gather, (index, score))):
            yield Recommendations(users, items[: users.numel()], scores[: users.numel()])


COLUMNS = ('userID', 'rank', 'itemID', 'score')

#: The suffixes of a file and what is written to it.
FORMATS = {
    '': 'csv', '.csv': 'csv', '.txt': 'csv', '.jsonl': 'jsonl', '.ndjson': 'jsonl',
    '.json': 'jsonl', '.parquet': 'parquet', '.pq': 'parquet',
}  # fmt: skip

Rows = tuple[list[Any], list[int], list[Any], list[float]]


def format_of(path: str | Path) -> str:
    r"""Returns :obj:`"csv"`, :obj:`"jsonl"` or :obj:`"parquet"`, by the suffix of a file."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(
            f"'{path}' ends in '{suffix}'; recommendations are written as .csv, .jsonl (JSON "
            f'lines) or .parquet'
        )
    return FORMATS[suffix]


def save_recommendations(
    blocks: Iterable[Recommendations],
    path: str | Path,
    user_ids: IdMap | None = None,
    item_ids: IdMap | None = None,
    format: str | None = None,
) -> None:
    r"""Writes recommendations to a file block by block, so that memory does not grow with the
    number of users. The file is written completely or not at all.

    CSV and Parquet have one row per user and item with the columns :obj:`userID`, :obj:`rank` (from
    1), :obj:`itemID` and :obj:`score`. JSON lines have one object per user,
    ``{"user": ..., "item": [...], "score": [...]}``. Places without an item are left out. Ids are
    integers or, with an :class:`~mrdib_pyg.datasets.IdMap`, strings.

    Args:
        blocks (Iterable[Recommendations]): The blocks of :func:`recommend`.
        path (str or Path): The file; its folder must exist.
        user_ids (IdMap, optional): The raw ids of the users. (default: :obj:`None`)
        item_ids (IdMap, optional): The raw ids of the items. (default: :obj:`None`)
        format (str, optional): :obj:`"csv"`, :obj:`"jsonl"` or :obj:`"parquet"` (which needs
            pyarrow). (default: :obj:`None`, by the suffix of :obj:`path`)

    Raises:
        ValueError: If :obj:`format` or the suffix is not one of the three.
        ImportError: If pyarrow is missing.
        OSError: If the file cannot be written. An old file stays.
    """
    format = format_of(path) if format is None else format
    if format not in FORMATS.values():
        raise ValueError(f"'format' must be csv, jsonl or parquet (got '{format}')")
    if format == 'parquet':
        require('pyarrow.parquet', 'Parquet')
    with atomic_file(path) as part:
        if format == 'parquet':
            _write_parquet(blocks, part, user_ids, item_ids)
            return
        with open(part, 'w', encoding='utf-8', newline='') as file:
            write_text(blocks, file, user_ids, item_ids, format)


def write_text(
    blocks: Iterable[Recommendations],
    file: TextIO,
    user_ids: IdMap | None = None,
    item_ids: IdMap | None = None,
    format: str = 'csv',
) -> None:
    r"""Writes recommendations to an open file such as the standard output, as CSV or JSON lines."""
    if format == 'csv':
        file.write(','.join(COLUMNS) + '\n')
    for block in blocks:
        text = io.StringIO()
        if format == 'csv':
            _write_csv(block, text, user_ids, item_ids)
        else:
            for user, items, scores in _users(block, user_ids, item_ids):
                text.write(json.dumps({'user': user, 'item': items, 'score': scores}) + '\n')
        file.write(text.getvalue())


def _write_csv(
    block: Recommendations, text: TextIO, user_ids: IdMap | None, item_ids: IdMap | None
) -> None:
    plain = csv.writer(text, lineterminator='\n')
    # The plain writer quotes line feeds but not carriage returns.
    quoted = csv.writer(text, lineterminator='\n', quoting=csv.QUOTE_ALL)
    for user, items, scores in _users(block, user_ids, item_ids):
        writer = quoted if any('\r' in str(name) for name in (user, *items)) else plain
        ranked = enumerate(zip(items, scores), start=1)
        writer.writerows((user, rank, item, f'{score:.6g}') for rank, (item, score) in ranked)


def _write_parquet(
    blocks: Iterable[Recommendations], path: Path, user_ids: IdMap | None, item_ids: IdMap | None
) -> None:
    pa, parquet = require('pyarrow', 'Parquet'), require('pyarrow.parquet', 'Parquet')
    types = [pa.int64() if ids is None else pa.string() for ids in (user_ids, item_ids)]
    schema = pa.schema(zip(COLUMNS, [types[0], pa.int32(), types[1], pa.float32()]))
    with parquet.ParquetWriter(path, schema) as writer:
        for block in blocks:
            columns: Rows = ([], [], [], [])
            for user, items, scores in _users(block, user_ids, item_ids):
                columns[0].extend([user] * len(items))
                columns[1].extend(range(1, len(items) + 1))
                columns[2].extend(items)
                columns[3].extend(scores)
            writer.write_table(pa.table(dict(zip(COLUMNS, columns)), schema=schema))


def _users(
    block: Recommendations, user_ids: IdMap | None, item_ids: IdMap | None
) -> Iterator[tuple[Any, list[Any], list[float]]]:
    r"""Each user with their items and scores, without empty places."""
    user_name, item_name = _namer(user_ids), _namer(item_ids)
    for user, items, scores in zip(*(rows.tolist() for rows in block)):
        ranked = [(item_name(i), s) for i, s in zip(items, scores) if i >= 0]
        yield user_name(user), [i for i, _ in ranked], [s for _, s in ranked]


def _namer(ids: IdMap | None) -> Callable[[int], Any]:
    return (lambda index: index) if ids is None else ids.__getitem__
