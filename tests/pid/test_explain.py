import json
import math

import pytest
import torch

from mrdib_pyg.nn.models import VBPR, LightGCN, MultimodalLightGCN
from mrdib_pyg.pid import PIDExplainer, explain_pair, measure_pid
from mrdib_pyg.pid._explain import PairExplanation


def test_parts_add_up_for_every_pair(model, data):
    explainer = PIDExplainer(model, data)
    user = torch.arange(150).repeat_interleave(4)
    item = torch.arange(600) % 120
    found = explainer(user, item)
    logits = explainer.predictors(user, item)
    for i, e in enumerate(found):
        assert (e.user, e.item) == (int(user[i]), int(item[i]))
        assert sum(e.parts.values()) == pytest.approx(e.total, abs=1e-9)
        expected = math.log(float(logits['all'][i].sigmoid())) + math.log(2)
        assert e.total == pytest.approx(expected, abs=1e-9) and e.total <= math.log(2)
        content = math.log(float(logits['content'][i].sigmoid())) + math.log(2)
        assert e.total - e.id == pytest.approx(content, abs=1e-9)
        # Pointwise redundancy is what the globally weaker source says.
        assert e.unique[e.weakest] == 0.0
        weak = math.log(float(logits[e.weakest][i].sigmoid())) + math.log(2)
        assert e.redundant == pytest.approx(weak, abs=1e-9)
    assert min(e.total for e in found) < 0 < max(e.total for e in found)


def test_held_out_edges_are_explained_better_than_others(model, data):
    edge = data['user', 'test', 'item'].edge_label_index
    explainer = PIDExplainer(model, data)
    of_edges = torch.tensor([e.total for e in explainer(*edge)])
    others = torch.tensor([e.total for e in explainer(edge[0], edge[1].roll(7))])
    assert of_edges.mean() > others.mean()


def test_explain_is_one_of_the_explainer(model, data):
    found = explain_pair(model, 3, 17, data)
    assert found == PIDExplainer(model, data)(3, 17)[0] == explain_pair(model, 3, 17, data)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))['unit'] == 'nats'
    assert found.sentence in repr(found) and f'{found.total:+.4f}' in repr(found)


def test_sentence_says_the_numbers():
    e = PairExplanation(3, 17, 0.3, 0.2, {'image': 0.15, 'text': 0.0}, -0.1, 0.05, 'text')
    assert e.sentence == (
        'The model speaks for item 17 for user 3 (+0.30 of at most +0.69 nats): what the '
        'modalities share +0.20, image alone +0.15, their fusion -0.10, the IDs of user and item '
        '+0.05.'
    )
    against = e._replace(total=-0.4, synergistic=-0.8)
    assert against.sentence.startswith('The model speaks against item 17')
    nothing = e._replace(total=0.001, redundant=-0.099)
    assert nothing.sentence.startswith('The model says next to nothing about item 17')
    assert '0.00 of at most' in nothing.sentence
    assert 'id' not in e._replace(id=None).parts
    assert list(e.parts) == ['shared', 'image alone', 'text alone', 'fusion', 'id']


def test_models_without_id_path_and_with_one_modality(data):
    model = MultimodalLightGCN(data, channels=4, id_channel=False)
    assert explain_pair(model, 0, 0, data).id is None
    data = data.clone()
    del data['item'].x_text
    found = explain_pair(VBPR(data, channels=4), 0, 0, data)
    assert list(found.parts) == ['image alone', 'fusion', 'id'] and found.redundant == 0
    assert 'share' not in found.sentence
    assert sum(found.parts.values()) == pytest.approx(found.total)


def test_weakest_is_the_one_that_knows_least(model, data):
    measured = measure_pid(model, data, negatives='uniform', groups=(), num_bootstrap=0)
    part = measured.overall['uniform']
    known = {m: part.informations[m].value for m in ('image', 'text')}
    assert abs(known['image'] - known['text']) > 0.005  # else the choice would be chance
    assert PIDExplainer(model, data).weakest == min(known, key=known.get)


def test_refused(model, data):
    with pytest.raises(IndexError, match=r"'user' must lie in \[0, 150\) \(got 150"):
        explain_pair(model, 150, 0, data)
    with pytest.raises(IndexError, match=r"'item' must lie in \[0, 120\)"):
        explain_pair(model, 0, -1, data)
    with pytest.raises(ValueError, match=r"'user' and 'item' must have one length \(got"):
        PIDExplainer(model, data)(torch.arange(2), torch.arange(3))
    with pytest.raises(ValueError, match="'model' must read a modality"):
        explain_pair(LightGCN(data, channels=4), 0, 0, data)
