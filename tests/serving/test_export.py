import importlib
import json
from types import SimpleNamespace

import pytest
import torch

from mrdib_pyg.datasets import IdMap
from mrdib_pyg.nn.models import LightGCN
from mrdib_pyg.serving import export_model, load_export

MODULE = importlib.import_module('mrdib_pyg.serving.export')  # not the function of its name


@pytest.fixture(autouse=True)
def packages():
    pytest.importorskip('pyarrow')
    pytest.importorskip('safetensors')


def bits(x):
    return x.contiguous().view(torch.uint8).tolist()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
def test_other_types(tmp_path, dtype):
    from pyarrow import parquet

    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    emb = SimpleNamespace(user=x, item=x + 1)
    model = SimpleNamespace(num_users=3, num_items=3, config={}, embed=lambda: emb)
    export_model(model, tmp_path / 'out')
    loaded = load_export(tmp_path / 'out')
    assert loaded.user.dtype == dtype and bits(loaded.user) == bits(x)
    table = parquet.read_table(tmp_path / 'out' / 'users.parquet')
    name = {torch.bfloat16: 'float', torch.float16: 'halffloat', torch.float64: 'double'}[dtype]
    assert str(table.schema.field('embedding').type.value_type) == name
    assert bits(torch.tensor(table['embedding'].to_pylist(), dtype=dtype)) == bits(x)


@pytest.mark.parametrize('with_ids', [False, True])
def test_reloads_bit_for_bit(tmp_path, model, ids, with_ids):
    import numpy as np
    from pyarrow import parquet
    from safetensors.torch import load_file

    user_ids, item_ids = ids if with_ids else (None, None)
    folder = tmp_path / 'a' / 'out'
    export_model(model, folder, user_ids, item_ids, {'dataset': 'planted'})
    assert sorted(p.name for p in folder.iterdir()) == [
        'embeddings.safetensors', 'export.json', 'items.parquet', 'users.parquet',
    ]  # fmt: skip
    emb = model.embed()
    loaded = load_export(folder)
    tensors = load_file(folder / 'embeddings.safetensors')
    for kind, x in (('user', emb.user), ('item', emb.item)):
        assert bits(tensors[kind]) == bits(getattr(loaded, kind)) == bits(x)
        table = parquet.read_table(folder / f'{kind}s.parquet')
        assert table['index'].to_pylist() == list(range(x.size(0)))
        flat = np.asarray(table['embedding'].combine_chunks().flatten())
        assert bits(torch.from_numpy(flat.copy()).view_as(x)) == bits(x)
    if with_ids:
        assert loaded.user_ids.ids == user_ids.ids and loaded.item_ids.ids == item_ids.ids
        assert table['id'].to_pylist() == item_ids.ids
    else:
        assert loaded.user_ids is None and loaded.item_ids is None
        assert table['id'].to_pylist() == list(range(50))
    assert loaded.info['model'] == 'MultimodalLightGCN' and loaded.info['dataset'] == 'planted'
    assert loaded.info['config'] == json.loads(json.dumps(model.config))


def test_blocks_of_rows(tmp_path, model, monkeypatch):
    from pyarrow import parquet

    monkeypatch.setattr(MODULE, '_BLOCK', 7)
    export_model(model, tmp_path / 'out')
    table = parquet.read_table(tmp_path / 'out' / 'users.parquet')
    assert torch.equal(torch.tensor(table['embedding'].to_pylist()), model.embed().user)


def test_users_and_items_in_one_table(tmp_path):
    table = torch.arange(20.0).view(5, 4)
    emb = SimpleNamespace(user=table[:3], item=table[3:])
    export_model(
        SimpleNamespace(num_users=3, num_items=2, config={}, embed=lambda: emb), tmp_path / 'x'
    )
    loaded = load_export(tmp_path / 'x')
    assert torch.equal(loaded.user, table[:3]) and torch.equal(loaded.item, table[3:])


def test_an_empty_folder_gives_way(tmp_path, model):
    (tmp_path / 'out').mkdir()
    export_model(model, tmp_path / 'out')
    load_export(tmp_path / 'out')


def test_a_failure_leaves_nothing(tmp_path, model, monkeypatch):
    def full(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(MODULE, '_write_table', full)
    with pytest.raises(OSError, match='No space left'):
        export_model(model, tmp_path / 'out')
    assert list(tmp_path.iterdir()) == []


def test_refusals(tmp_path, model):
    (tmp_path / 'file').write_text('x')
    for folder in (tmp_path, tmp_path / 'file'):
        with pytest.raises(FileExistsError, match='exists already; name a folder that does not'):
            export_model(model, folder)
    with pytest.raises(ValueError, match=r"'user_ids' must hold 40 ids \(got 2\)"):
        export_model(model, tmp_path / 'out', IdMap('ab'))
    assert [p.name for p in tmp_path.iterdir()] == ['file']


def test_load_refuses_what_was_changed(tmp_path, model):
    folder = tmp_path / 'out'
    with pytest.raises(FileNotFoundError):
        load_export(folder)
    export_model(model, folder)
    for name in ('embeddings.safetensors', 'users.parquet', 'items.parquet'):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ValueError, match=f"{name}' is not the file that was exported"):
            load_export(folder)
        (folder / name).write_bytes(content)
    load_export(folder)
    (folder / 'export.json').write_text('{}')
    with pytest.raises(ValueError, match="export.json' must be a mrdib_pyg export 1"):
        load_export(folder)


@pytest.mark.parametrize('kind', ['user', 'item'])
def test_embeddings_that_are_not_finite_are_not_written(data, tmp_path, kind):
    model = LightGCN(data, channels=4)
    with torch.no_grad():
        getattr(model, f'{kind}_emb').weight[2] = torch.nan
    with pytest.raises(ValueError, match="'model' must have finite embeddings"):
        export_model(model, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_files_have_the_permissions_of_others(model, tmp_path):
    export_model(model, tmp_path / 'out')
    (tmp_path / 'file').touch()
    modes = {path.stat().st_mode for path in [*(tmp_path / 'out').iterdir(), tmp_path / 'file']}
    assert len(modes) == 1
