import inspect
import sys

import pytest

from mrdib_pyg.nn.models import MODELS, VBPR, LightGCN, Recommender, find_model
from mrdib_pyg.nn.models.registry import model_name, model_settings, takes_mrdib


class Mine(Recommender):
    def __init__(self, data, width, *args, depth=2, mrdib=None, **kwargs):
        super().__init__(data, width, mrdib)


class Outer:
    class Inner(VBPR):
        pass


class Handed(VBPR):
    def __init__(self, data, more=1, **kwargs):
        super().__init__(data, **kwargs)


class WithoutLayer(Recommender):
    def __init__(self, data, width=8):
        super().__init__(data, width)


@pytest.mark.parametrize('name', MODELS)
def test_models_of_the_package(name):
    assert find_model(name) is MODELS[name]
    assert model_name(MODELS[name]) == name
    assert find_model(f'mrdib_pyg.nn.models:{MODELS[name].__name__}') is MODELS[name]
    assert takes_mrdib(MODELS[name]) == (name != 'lightgcn')


def test_models_of_ones_own():
    name = model_name(Mine)
    assert name == f'{__name__}:Mine' and find_model(name) is Mine and find_model(Mine) is Mine
    assert find_model(model_name(Outer.Inner)) is Outer.Inner


def test_settings():
    # Further ones are handed on to Recommender, as far as one can tell.
    assert model_settings(Mine) == {
        'width': inspect.Parameter.empty, 'depth': 2, 'channels': inspect.Parameter.empty,
        'feature_scaling': None, 'task': 'bpr', 'num_negatives': 128,
    }  # fmt: skip
    assert model_settings(Handed) == {'more': 1, **model_settings(VBPR)} and takes_mrdib(Handed)
    assert list(model_settings(VBPR)) == [
        'channels', 'reg_weight', 'feature_scaling', 'task', 'num_negatives',
    ]  # fmt: skip
    assert 'mrdib' not in model_settings(LightGCN)
    assert takes_mrdib(Mine) and not takes_mrdib(WithoutLayer)


@pytest.mark.parametrize(
    ('source', 'name', 'message'),
    [
        ('', 'vbrp', r"no model 'vbrp'; known are \['bm3', .*'module:Class'"),
        ('', 'absent_module:Mine', "no module 'absent_module' to take .*where its file lies"),
        ('', 'absent.module:Mine', "no module 'absent.module' to take"),
        ('import absent', 'broken:Mine', "'broken:Mine' cannot be imported: ModuleNotFoundError"),
        ('1 / 0', 'broken:Mine', 'cannot be imported: ZeroDivisionError: division by zero'),
        ('raise SystemExit(2)', 'broken:Mine', 'cannot be imported: SystemExit: 2'),
        ('', ':Mine', 'cannot be imported: ValueError'),
        ('x = 1', 'broken:Mine', r"'broken:Mine' must be a subclass of .*broken.py\) are \[\]"),
        (
            'from mrdib_pyg.nn.models import VBPR\nclass Other(VBPR): pass\nMine = 3',
            'broken:Mine',
            r"must be a subclass of .*models of its module \(.*broken.py\) are \['Other'\]",
        ),
        ('', dict, r"'model' \(<class 'dict'>\) must be a subclass of mrdib_pyg"),
    ],
)
def test_refuses_what_is_no_model(tmp_path, monkeypatch, source, name, message):
    (tmp_path / 'broken.py').write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'broken', raising=False)
    with pytest.raises(ValueError, match=message):
        find_model(name)
