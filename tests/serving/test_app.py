"""The application, in one process and without a network."""

import concurrent.futures
import re
import threading

import pytest
import torch
import torch.nn.functional as F

from mrdib_pyg.datasets import IdMap
from mrdib_pyg.nn.models import LightGCN
from mrdib_pyg.pid import explain_pair
from mrdib_pyg.serving import ItemIndex, Service, known_pairs, make_app
from mrdib_pyg.serving import export as module
from mrdib_pyg.serving.service import modality_embeddings


@pytest.fixture(scope='module')
def client(connect, model):
    with connect(make_app(model, max_k=20, max_ids=30, max_body=4096, num_threads=2)) as client:
        yield client


@pytest.fixture(scope='module')
def named(connect, model, ids):
    with connect(make_app(model, *ids, max_k=50)) as client:
        yield client


def ranked(answer):
    return [entry['item'] for entry in answer['items']]


def test_recommend(client, model):
    score, item = model.recommend(k=5)
    for user in (0, 17, 39):
        answer = client.get('/recommend', params={'user': user, 'k': 5}).json()
        assert answer['user'] == user and ranked(answer) == item[user].tolist()
        assert [e['score'] for e in answer['items']] == pytest.approx(score[user].tolist())
    assert len(ranked(client.get('/recommend?user=0').json())) == 20
    every = client.get('/recommend?user=0&exclude_seen=false&k=3').json()
    assert ranked(every) == model.recommend(k=3, exclude_seen=False)[1][0].tolist()


def test_recommend_several(client, model):
    body = {'users': [3, '1', 3], 'k': 4}
    results = client.post('/recommend', json=body).json()['results']
    assert [r['user'] for r in results] == [3, 1, 3]
    assert [ranked(r) for r in results] == model.recommend(torch.tensor([3, 1, 3]), k=4)[1].tolist()


def test_lists(client, model):
    best = model.recommend(torch.tensor([5]), k=4)[1][0].tolist()
    body = {'users': [5], 'k': 4, 'deny': best[:2]}
    answer = client.post('/recommend', json=body).json()['results'][0]
    assert ranked(answer)[:2] == best[2:] and not set(ranked(answer)) & set(best[:2])
    body = {'users': [5], 'allow': best[::-1], 'deny': best[1:2]}
    answer = client.post('/recommend', json=body).json()['results'][0]
    assert ranked(answer) == [best[0], *best[2:]]


@pytest.mark.parametrize('approximate', [False, True])
def test_a_deny_list_makes_no_index(model, monkeypatch, approximate):
    if approximate:
        pytest.importorskip('faiss')
    service = Service(model, approximate=approximate)
    if approximate:
        service.index.num_cells_to_visit = service.index.num_cells
    users, denied = [3, 0, 3], [*range(0, 50, 3), 0, 0]
    kept = [i for i in range(50) if i % 3 != 0]
    expected = service.recommend(users, 50, allow=kept)
    made = []
    monkeypatch.setattr(
        'mrdib_pyg.serving.service.ItemIndex',
        lambda item: made.append(len(item)) or ItemIndex(item),
    )
    for deny in (denied, denied[::-1]):
        results = service.recommend(users, 50, deny=deny)
        assert [ranked(r) for r in results] == [ranked(r) for r in expected]
        assert [[e['score'] for e in r['items']] for r in results] == [
            pytest.approx([e['score'] for e in r['items']], abs=1e-6) for r in expected
        ]
    assert made == []
    service.recommend(users, 2, deny=[], exclude_seen=False)
    with pytest.raises(ValueError, match='leave none of the 50 items'):
        service.recommend(users, 50, deny=list(range(50)))
    assert made == []
    service.recommend(users, 50, allow=[5, 6, 5], deny=[6])
    assert made == [1]


def test_known_pairs_are_left_out(client, connect, model, data):
    known = set(map(tuple, known_pairs(data).t().tolist()))
    body = {'users': list(range(30)), 'k': 20}
    body_seen = {**body, 'exclude_seen': False}
    with connect(make_app(model, exclude=known_pairs(data))) as other:
        results = other.post('/recommend', json=body).json()['results']
        assert known.isdisjoint((r['user'], i) for r in results for i in ranked(r))
        assert len(ranked(other.get('/recommend?user=0&k=50').json())) == 40  # ten are known
        seen = other.post('/recommend', json=body_seen).json()
        # Training edges count as seen, whatever else does.
        held_out = data['user', 'test', 'item'].edge_label_index
    with connect(make_app(model, exclude=held_out)) as other:
        train = set(map(tuple, model.train_edge_index.t().tolist()))
        left_out = train | set(map(tuple, held_out.t().tolist()))
        results = other.post('/recommend', json={**body, 'k': 50}).json()['results']
        for r in results:
            assert set(ranked(r)) == {i for i in range(50) if (r['user'], i) not in left_out}
    assert client.post('/recommend', json=body_seen).json() == seen
    results = client.post('/recommend', json=body).json()['results']
    assert not known.isdisjoint((r['user'], i) for r in results for i in ranked(r))


def test_parts_are_the_scores_of_each_modality(client, model):
    with torch.no_grad():
        pairs = modality_embeddings(model)
        codes = model.mrdib(model.modality_embeddings())
    assert list(pairs) == ['image', 'text']
    answer = client.get('/recommend?user=2&k=3&parts=true').json()
    for entry in answer['items']:
        for name, value in entry['parts'].items():
            user, item = (code.z for code in codes[name])
            assert value == pytest.approx(float(user[2] @ item[entry['item']]), abs=1e-6)
    assert 'parts' not in client.get('/recommend?user=2').json()['items'][0]
    seen = model.train_edge_index[1][model.train_edge_index[0] == 2].tolist()
    body = {'users': [2], 'allow': seen, 'parts': True}  # nothing is left
    answer = client.post('/recommend', json=body)
    assert answer.status_code == 200
    assert answer.json()['results'] == [{'user': 2, 'items': []}]


def test_similar(client, model):
    x = F.normalize(model.embed().item, dim=1)
    cosine = x @ x.t()
    cosine.fill_diagonal_(-2)
    for item in (0, 49):
        answer = client.get('/similar', params={'item': item, 'k': 6}).json()
        assert answer['item'] == item and ranked(answer) == cosine[item].topk(6).indices.tolist()
    results = client.post('/similar', json={'items': [4, 0], 'k': 2}).json()['results']
    assert [ranked(r) for r in results] == cosine[[4, 0]].topk(2).indices.tolist()


def test_raw_ids(named, model, ids):
    answer = named.get('/recommend', params={'user': 'José, "J"', 'k': 50}).json()
    assert answer['user'] == 'José, "J"'
    expected = model.recommend(torch.tensor([3]), k=44)[1][0].tolist()
    assert ranked(answer) == [ids[1][i] for i in expected]  # no more are left
    answer = named.get('/similar', params={'item': '<b>7</b>', 'k': 1}).json()
    assert answer['item'] == '<b>7</b>' and ranked(answer)[0] in ids[1]
    assert named.get('/recommend?user=3').status_code == 404  # an index is no id here
    body = {'users': ['u1'], 'allow': ['<b>7</b>', 'a b']}
    assert set(ranked(named.post('/recommend', json=body).json()['results'][0])) <= {
        '<b>7</b>', 'a b',
    }  # fmt: skip


@pytest.mark.parametrize(
    ('address', 'status', 'reason'),
    [
        ('/recommend?user=40', 404, "there is no user '40'; ids run from 0 to 39"),
        ('/recommend?user=-1', 404, "there is no user '-1'"),
        ('/recommend?user=٣', 404, 'there is no user'),
        (f'/recommend?user={"9" * 100}', 404, 'there is no user'),
        (f'/recommend?user={"9" * 300}', 422, 'at most 200 characters'),
        ('/recommend', 422, 'Field required'),
        ('/recommend?user=1&k=0', 422, 'greater than or equal to 1'),
        ('/recommend?user=1&k=21', 422, 'less than or equal to 20'),
        ('/recommend?user=1&k=many', 422, 'valid integer'),
        ('/recommend?user=1&parts=perhaps', 422, 'valid boolean'),
        ('/similar?item=50', 404, "there is no item '50'"),
        ('/similar?item=x&k=2', 404, "there is no item 'x'"),
        ('/explain?user=1', 422, 'Field required'),
        ('/explain?user=1&item=51', 404, "there is no item '51'"),
        ('/nothing', 404, 'Not Found'),
    ],
)
def test_refusals(client, address, status, reason):
    response = client.get(address)
    assert response.status_code == status and reason in response.text
    assert 'detail' in response.json()


@pytest.mark.parametrize(
    ('body', 'status', 'reason'),
    [
        ({'users': []}, 422, 'at least 1 item'),
        ({'users': list(range(31))}, 422, 'at most 30 items'),
        ({'users': [0], 'allow': list(range(31))}, 422, 'at most 30 items'),
        ({'users': [0], 'k': 21}, 422, 'less than or equal to 20'),
        ({'users': [0], 'k': 'many'}, 422, 'valid integer'),
        ({'users': [0.5]}, 422, 'valid'),
        ({'users': 'all'}, 422, 'valid list'),
        ({'users': [40]}, 404, "there is no user '40'"),
        ({'users': [0], 'deny': ['x']}, 404, "there is no item 'x'"),
        ({'users': [0], 'allow': []}, 422, 'leave none of the 50 items'),
        ({'users': [0], 'allow': [1], 'deny': [1]}, 422, 'leave none of the 50 items'),
        ([], 422, 'valid dictionary'),
        ({}, 422, 'Field required'),
        ({'users': [True]}, 422, 'valid'),
        ({'users': [1.0]}, 422, 'valid'),
        ({'users': [0], 'k': True}, 422, 'valid integer'),
        ({'users': [0], 'exclude_seen': 1}, 422, 'valid boolean'),
        ({'users': [0], 'denny': [1]}, 422, 'Extra inputs are not permitted'),
    ],
)
def test_refusals_of_bodies(client, body, status, reason):
    response = client.post('/recommend', json=body)
    assert response.status_code == status and reason in response.text
    assert '"input"' not in response.text  # what was sent is not sent back


def test_answers_are_bounded(connect, model):
    with connect(make_app(model, max_k=50, max_results=60)) as client:
        for path, name in (('/recommend', 'users'), ('/similar', 'items')):
            for num_ids, k, status in ((1, 50, 200), (12, 5, 200), (2, 31, 422), (13, 5, 422)):
                response = client.post(path, json={name: [0] * num_ids, 'k': k})
                assert response.status_code == status
            reason = response.json()['detail']
            assert f"'{name}' times 'k' must be at most 60" in reason and '13 times 5' in reason
        # The scores by each of two modalities count, too.
        body = {'users': [0, 1], 'k': 10, 'parts': True}
        assert client.post('/recommend', json=body).status_code == 200
        response = client.post('/recommend', json={**body, 'k': 11})
        assert response.status_code == 422 and '2 times 11 times 3' in response.json()['detail']


def test_bodies_that_are_no_json_or_too_large(client):
    header = {'Content-Type': 'application/json'}
    assert client.post('/recommend', content=b'{', headers=header).status_code == 422
    response = client.post('/recommend', content=b'\xff', headers=header)
    assert response.status_code == 400 and 'detail' in response.json()
    response = client.post('/health')
    assert response.status_code == 405 and 'detail' in response.json()
    fits = b'{"users": [0]' + b' ' * 4000 + b'}'
    assert client.post('/recommend', content=fits, headers=header).status_code == 200
    for content in (b' ' * 4097, (b' ' * 100 for _ in range(50))):  # with and without a length
        response = client.post('/recommend', content=content, headers=header)
        assert response.status_code == 413
        assert response.json()['detail'] == 'the body of a request must have at most 4096 bytes'


def test_health_and_openapi(client, named, ids):
    health = client.get('/health').json()
    assert {k: health[k] for k in ('status', 'model', 'num_users', 'num_items', 'max_k')} == {
        'status': 'ok', 'model': 'MultimodalLightGCN', 'num_users': 40, 'num_items': 50,
        'max_k': 20,
    }  # fmt: skip
    assert health['modalities'] == ['image', 'text'] and health['index'] == 'exact'
    assert health['raw_ids'] == {'user': False, 'item': False}
    response = named.get('/health')
    assert response.json()['raw_ids'] == {'user': True, 'item': True}
    assert not any(f'"{name}"' in response.text for name in (*ids[0].ids, *ids[1].ids))
    paths = client.get('/openapi.json').json()['paths']
    assert {path: sorted(methods) for path, methods in paths.items()} == {
        '/recommend': ['get', 'post'], '/similar': ['get', 'post'], '/explain': ['get'],
        '/health': ['get'],
    }  # fmt: skip


@pytest.mark.parametrize('path', ['/', '/docs'])
def test_pages_load_nothing_from_elsewhere(client, path):
    response = client.get(path)
    assert response.status_code == 200 and response.headers['content-type'].startswith('text/html')
    assert "default-src 'none'" in response.headers['content-security-policy']
    own = r'data:|docs|openapi|health|\.'
    assert re.findall(rf'(?:src|href)="?(?!{own})[^"> ]+', response.text) == []
    assert 'http://' not in response.text and 'https://' not in response.text
    assert 'innerHTML' not in response.text  # an id is text, whatever it holds


def test_hosts(connect, model):
    with connect(make_app(model, hosts=['localhost', '127.0.0.1'])) as client:
        for host, status in (('localhost:8000', 200), ('127.0.0.1', 200), ('elsewhere.test', 400)):
            assert client.get('/health', headers={'Host': host}).status_code == status


def test_explain(client, connect, model, data, ids):
    response = client.get('/explain?user=1&item=2')
    assert response.status_code == 501 and "pass 'data'" in response.json()['detail']
    assert client.get('/health').json()['explain'] is False
    with connect(make_app(model, *ids, data=data)) as other:
        assert other.get('/health').json()['explain'] is True
        user, item = ids[0][1], ids[1][2]
        answer = other.get('/explain', params={'user': user, 'item': item}).json()
    expected = explain_pair(model, 1, 2, data)
    assert answer['user'] == user and answer['item'] == item and answer['unit'] == 'nats'
    assert answer['total'] == pytest.approx(expected.total)
    assert sum(answer['parts'].values()) == pytest.approx(answer['total'])
    assert f'item {item} for user {user}' in answer['sentence']


def test_explain_without_modalities(connect, data):
    with connect(make_app(LightGCN(data, channels=8), data=data)) as client:
        response = client.get('/explain?user=1&item=2')
        assert response.status_code == 501 and 'LightGCN' in response.json()['detail']


def test_a_model_without_modalities(connect, data):
    model = LightGCN(data, channels=8).eval()
    with connect(make_app(model)) as client:
        answer = client.get('/recommend?user=0&k=2&parts=true').json()
        assert [entry['parts'] for entry in answer['items']] == [{}, {}]
        assert client.get('/health').json()['modalities'] == []


def test_approximate(connect, model):
    pytest.importorskip('faiss')
    with connect(make_app(model, approximate=True)) as client:
        assert client.get('/health').json()['index'] == 'approximate'
        answer = client.get('/recommend?user=4&k=3').json()
        scores = model.predict(torch.tensor([[4] * len(ranked(answer)), ranked(answer)]))
        assert [e['score'] for e in answer['items']] == pytest.approx(scores.tolist(), abs=1e-6)


def test_approximate_lists_are_full(model):
    pytest.importorskip('faiss')
    service = Service(model, approximate=True)
    service.index.num_cells_to_visit = 1
    deny = service.recommend([4], 10, exclude_seen=False)[0]['items']
    deny = [entry['item'] for entry in deny]
    found = service.recommend([4, 7], 40, exclude_seen=False, deny=deny)
    exact = Service(model).recommend([4, 7], 40, exclude_seen=False, deny=deny)
    assert [ranked(r) for r in found] == [ranked(r) for r in exact]
    assert len(ranked(found[0])) == 40


def test_side_by_side(client):
    address = '/recommend?user={}&k=5'
    alone = [client.get(address.format(user)).json() for user in range(20)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda u: client.get(address.format(u)).json(), range(20)))
    assert together == alone


def test_a_busy_service(model, monkeypatch):
    pytest.importorskip('fastapi')
    from starlette.testclient import TestClient

    monkeypatch.setattr('mrdib_pyg.serving.admission.SHORT', 10)
    app = make_app(model, max_results=100)
    service_started, service_may_end = threading.Event(), threading.Event()
    similar = Service._similar

    def slow(self, item, k):
        service_started.set()
        assert service_may_end.wait(60)
        return similar(self, item, k)

    monkeypatch.setattr(Service, '_similar', slow)
    body = {'items': list(range(40)), 'k': 2}  # 80 of the 200 scores that may be under way
    with TestClient(app) as client, concurrent.futures.ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(client.post, '/similar', json=body) for _ in range(3)]
        assert service_started.wait(60)
        refused = next(concurrent.futures.as_completed(asked, 60))  # whichever came third
        response = refused.result()
        assert response.status_code == 503
        assert response.headers['retry-after'] == '1' and 'busy' in response.json()['detail']
        # Short answers do not wait.
        assert client.get('/recommend?user=0&k=5').status_code == 200
        service_may_end.set()
        assert [f.result().status_code for f in asked if f is not refused] == [200, 200]
        assert client.post('/similar', json=body).status_code == 200  # there is room again


def test_make_app_refuses(model, monkeypatch):
    pytest.importorskip('fastapi')
    with pytest.raises(ValueError, match=r"'item_ids' must hold 50 ids \(got 2\)"):
        make_app(model, None, IdMap('ab'))

    def missing(name):
        raise ModuleNotFoundError(name, name=name)

    monkeypatch.setattr(module.importlib, 'import_module', missing)
    with pytest.raises(ImportError, match=r"fastapi: pip install 'mrdib_pyg\[serve\]'"):
        make_app(model)

    def broken(name):
        raise ImportError('libsome.so is missing')

    monkeypatch.setattr(module.importlib, 'import_module', broken)
    with pytest.raises(ImportError, match='fastapi.*libsome.so') as error:
        make_app(model)
    assert 'pip install' not in str(error.value)


@pytest.mark.parametrize('kind', ['user', 'item'])
def test_embeddings_that_are_not_finite_are_not_served(data, kind):
    model = LightGCN(data, channels=4)
    with torch.no_grad():
        getattr(model, f'{kind}_emb').weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="'model' must have finite embeddings"):
        Service(model)
