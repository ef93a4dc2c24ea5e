"""The ways to spoil a file: its bytes, what is packed in it, and the values that it holds."""

import gzip
import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from mrdib_pyg.training.checkpoint import load_checkpoint, save_checkpoint

#: What is put in somewhere: ends of fields and texts, huge numbers, pickles that would run code.
TOKENS = [
    b'\0', b'\xff' * 8, b'\xed\xa0\x80', b'\xef\xbb\xbf', b'"', b"'", b'\\', b'\n', b'\r', b'\t',
    b',', b'-1', b'9' * 11, b'9' * 30, b'1e400', b'nan', b'inf', b'(' * 40, b'[' * 400, b'{', b'}',
    b'-' * 900, b'cos\nsystem\n', b"__import__('os').system('x')", b'\x80\x02cposix\nsystem\n',
    b'PK\x03\x04', b'\x1f\x8b', b'PAR1', b'\x93NUMPY', b'|O', b'<f8', b'>i2', b'True', b'None',
    b'[' * 100_000, b'9' * 5000,
]  # fmt: skip
#: Values in the place of others, where a file is read well but says something else.
VALUES = [
    None, True, False, -1, 0, 3, 2**31, 2**63, 10**30, 0.5, -1e308, 1e308, float('nan'),
    float('inf'), '', 'x', '../x', '\ud800', [], [1], ['x', None], {}, {'x': 1}, [[]],
]  # fmt: skip
_PLACE = st.floats(0, 1, exclude_max=True)
#: An edit: what, where, how much, and of what.
EDITS = st.lists(
    st.tuples(
        st.sampled_from(['flip', 'delete', 'repeat', 'insert', 'overwrite', 'cut', 'move']),
        _PLACE,
        st.integers(1, 40),
        st.sampled_from(TOKENS) | st.binary(min_size=1, max_size=9),
    ),
    min_size=1,
    max_size=4,
)


def spoil(content: bytes, edits: list) -> bytes:
    for kind, place, size, token in edits:
        at = int(place * len(content))
        if kind == 'flip' and content:
            content = content[:at] + bytes([content[at] ^ (1 << size % 8)]) + content[at + 1 :]
        elif kind == 'delete':
            content = content[:at] + content[at + size :]
        elif kind == 'repeat':
            content = content[:at] + content[at : at + size] * 3 + content[at + size :]
        elif kind == 'insert':
            content = content[:at] + token + content[at:]
        elif kind == 'overwrite':
            content = content[:at] + token + content[at + len(token) :]
        elif kind == 'cut':
            content = content[:at] if size % 2 else content[at:]
        elif kind == 'move':
            content = content[at:] + content[:at]
    return content


def inside_gzip(content: bytes, edits: list) -> bytes:
    return gzip.compress(spoil(gzip.decompress(content), edits), mtime=0)


def inside_zip(content: bytes, edits: list) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = sorted(members)[int(edits[0][1] * len(members))]
    members[name] = spoil(members[name], edits)
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w') as archive:
        for key, value in members.items():
            archive.writestr(key, value)
    return out.getvalue()


def inside_safetensors(content: bytes, edits: list) -> bytes:
    """Spoils the header, whose length is right then."""
    length = int.from_bytes(content[:8], 'little')
    header = spoil(content[8 : 8 + length], edits)
    return len(header).to_bytes(8, 'little') + header + content[8 + length :]


def inside_json(content: bytes, edits: list) -> bytes:
    return json.dumps(change(json.loads(content), edits)).encode()


def inside_json_lines(content: bytes, edits: list) -> bytes:
    rows = change([json.loads(line) for line in content.splitlines()], edits)
    rows = rows if isinstance(rows, list) else [rows]
    return ''.join(json.dumps(row) + '\n' for row in rows).encode()


def inside_checkpoint(content: bytes, edits: list) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'x.pt'
        path.write_bytes(content)
        state = load_checkpoint(path)
        # Numbers that a pickle cannot hold, and texts that it cannot, are no such file.
        values = [*(x for x in VALUES if x != '\ud800'), torch.zeros(3), torch.ones(2, 40)]
        state = change(state, edits, values)
        save_checkpoint(path, state if isinstance(state, dict) else {'x': state})
        return path.read_bytes()


def change(tree: Any, edits: list, values: list = VALUES) -> Any:
    """Deletes, repeats, moves and replaces values of nested dictionaries and lists."""
    root = {'root': tree}
    for kind, place, size, _ in edits:
        places = list(_places(root))
        if not places:
            break
        inner, key = places[int(place * len(places))]
        if kind in ('delete', 'cut') and inner is not root:
            del inner[key]
        elif kind == 'repeat' and isinstance(inner, list):
            inner[key:key] = [inner[key]] * size
        elif kind == 'move':
            other, name = places[size * 7919 % len(places)]
            inner[key] = _copy(other[name])
        else:
            inner[key] = _copy(values[size % len(values)])
    return root['root']


def _places(tree: Any) -> Any:
    keys = tree if isinstance(tree, dict) else range(len(tree))
    for key in list(keys):
        yield tree, key
        if isinstance(tree[key], (dict, list)):
            yield from _places(tree[key])


def _copy(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _copy(value) for key, value in tree.items()}
    return [_copy(value) for value in tree] if isinstance(tree, list) else tree
