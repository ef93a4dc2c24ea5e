import contextlib
import json
import os
import shutil
import sys
from html.parser import HTMLParser

import pytest
import torch

from mrdib_pyg.datasets import IdMap, InteractionFolder
from mrdib_pyg.nn.mutual_information import Gaussian
from mrdib_pyg.pid import explain_pair
from mrdib_pyg.report import charts, write_report
from mrdib_pyg.report.results_section import thin
from mrdib_pyg.training import load_model, train_model

altair = pytest.importorskip('altair', reason='altair is not installed')
pytest.importorskip('vl_convert', reason='vl-convert-python is not installed')

SECTIONS = ['results', 'training', 'pid', 'codes', 'posteriors', 'recommendations', 'settings']
VOID = {'meta', 'link', 'path', 'br', 'img', 'input'}


class Page(HTMLParser):
    """The tags, links, tables and texts of a page; tags must be balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: dict[str, str] = {}  # by section
        self.caption, self.section = '', ''
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == 'section':
            self.section = dict(attrs)['id']
        elif tag == 'caption':
            self.caption = ''
        elif tag == 'tbody':
            self.tables[self.caption] = []
        elif tag == 'tr' and 'tbody' in self.open:
            self.tables[self.caption].append([])
        elif tag in ('td', 'th') and 'tbody' in self.open:
            self.tables[self.caption][-1].append('')
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ('script', 'style'):
            return
        self.texts[self.section] = self.texts.get(self.section, '') + data
        if 'caption' in self.open:
            self.caption += data
        elif 'tbody' in self.open and self.open[-1] != 'tr' and self.open[-1] != 'tbody':
            self.tables[self.caption][-1][-1] += data


@pytest.fixture(autouse=True)
def short_library(monkeypatch):
    """Bundling the libraries takes seconds, and is tested once."""
    monkeypatch.setattr(charts, 'javascript', lambda: 'library()')


def write(runs, out, paths=None, **kwargs):
    write_report(paths or runs.all, out, **{'method': 'pca', **kwargs})
    return Page(out.read_text(encoding='utf-8'))


def specs(page_file):
    text = page_file.read_text(encoding='utf-8')
    start = text.index('type="application/json">') + len('type="application/json">')
    return json.loads(text[start : text.index('</script>', start)])['charts']


@pytest.fixture(scope='module')
def page(runs, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, 'javascript', lambda: 'library()')
        out = tmp_path_factory.mktemp('page') / 'report.html'
        parsed = write(runs, out)
    parsed.file = out
    return parsed


def test_sections(page):
    found = [attrs['id'] for tag, attrs in page.tags if tag == 'section']
    assert found == SECTIONS
    links = [attrs['href'] for tag, attrs in page.tags if tag == 'a']
    assert links == ['#results', *(f'#{name}' for name in SECTIONS)]
    ids = [attrs['id'] for _, attrs in page.tags if 'id' in attrs]
    assert len(ids) == len(set(ids))


def test_nothing_is_loaded(page):
    for tag, attrs in page.tags:
        assert 'src' not in attrs, tag
        assert not attrs.get('href', '#').startswith(('http', '/')), tag
    policy = next(a['content'] for _, a in page.tags if 'http-equiv' in a)
    assert "default-src 'none'" in policy


def test_results_are_means_and_deviations(page, runs):
    test = json.loads((runs.plain / 'results.json').read_text())['test']
    rows = page.tables['Test results on small']
    assert [row[0] for row in rows] == ['plain', 'MRdIB'] and rows[0][1] == '2'
    # Two runs 0.01 apart: the mean is in the middle, the deviation 0.01 / sqrt(2).
    assert f'{test["recall@5"] + 0.005:.4f} ± 0.0071' in rows[0][2]
    best = [row[2].startswith('▲') for row in rows]
    other = json.loads((runs.mrdib / 'results.json').read_text())['test']
    if test['recall@5'] != other['recall@5']:
        assert best == [test['recall@5'] > other['recall@5'], test['recall@5'] < other['recall@5']]
    difference = other['recall@20'] - test['recall@20']
    shown = page.tables['Differences to the plain model with the same seed'][0]
    each = [float(x.replace('−', '-')) for x in shown[2].split(', ')]
    assert each == pytest.approx([difference, difference], abs=1e-4)


def test_curves(page, runs):
    lines = (runs.mrdib / 'history.jsonl').read_text().splitlines()
    history = [json.loads(line) for line in lines]
    found = specs(page.file)
    terms = {name.removeprefix('training-term-') for name in found if 'training-term' in name}
    assert terms == set(history[0]['train'])
    values = found['training-term-unique']['data']['values']
    assert len(values) == 2 * len(history)  # two runs
    first = [row for row in values if row['run'] == 'mrdib-0']
    expected = [row['train']['unique'] for row in history]
    assert [row['value'] for row in first] == pytest.approx(expected, rel=1e-4)
    best = json.loads((runs.mrdib / 'results.json').read_text())['best_epoch']
    assert [row['epoch'] for row in first if row.get('best')] == [best]


def test_curves_of_information(runs, tmp_path):
    data = InteractionFolder(runs.dataset)[0]
    train_model(
        data, 'vbpr', settings={'channels': 4}, mrdib={'decoder': 'nce', 'num_negatives': 8},
        out=tmp_path / 'run', dataset=str(runs.dataset), epochs=2, batch_size=64, progress=False,
        weights={'unique': 0.1},
    )  # fmt: skip
    out = tmp_path / 'report.html'
    write_report([tmp_path / 'run'], out, method='pca')
    for modality in ('image', 'text'):
        title = f'Information: what the code of {modality} alone certifies'
        assert title in out.read_text()


def test_runs_in_folders_of_one_name_are_told_apart(runs, tmp_path):
    for name, seed in (('a', 0), ('b', 1)):
        folder = tmp_path / name / 'run'
        shutil.copytree(runs.mrdib, folder)
        config = json.loads((folder / 'config.json').read_text())
        (folder / 'config.json').write_text(json.dumps({**config, 'seed': seed}))
    out = tmp_path / 'report.html'
    parsed = write(runs, out, [tmp_path / 'a/run', tmp_path / 'b/run'])
    table = next(v for k, v in parsed.tables.items() if k.startswith('Each source alone'))
    assert [row[0] for row in table] == ['MRdIB, a/run', 'MRdIB, b/run']
    curve = next(spec for name, spec in specs(out).items() if name.startswith('training'))
    assert all(f'"run": "{name}/run"' in json.dumps(curve) for name in 'ab')


def test_thin():
    points = [(i, float(i)) for i in range(1, 1001)]
    kept = thin(points, 50, best=333)
    assert len(kept) <= 51 and kept[0] == points[0] and kept[-1] == points[-1]
    assert (333, 333.0) in kept and thin(points[:50], 50, None) == points[:50]


def test_decomposition(page):
    found = specs(page.file)
    bars = found['pid-0-uniform']['data']['values']
    assert [(row['part'], row['value']) for row in bars] == [
        ('redundant', 0.05), ('unique to image', 0.02), ('unique to text', 0.0),
        ('synergistic', -0.005), ('together', 0.065),
    ]  # fmt: skip
    assert bars[0]['low'] == pytest.approx(0.04) and bars[0]['high'] == pytest.approx(0.06)
    text = page.texts['pid']
    assert '3 of the runs have no pid.json' in text and 'mrdib measure ' in text
    sources = found['pid-sources-uniform']['data']['values']
    assert len(sources) == 7  # image, text, all modalities, IDs, everything, and two differences
    table = page.tables['By popularity of the items, in nats']
    assert table[0][:5] == ['MRdIB', 'mrdib-0', '2', 'too few edges', '0']
    assert table[1][:5] == ['MRdIB', 'mrdib-0', '10', 'uniform', '80']


@pytest.mark.parametrize(
    'change',
    [
        {'format': 'mrdib_pyg pid 2'},
        {'overall': {'uniform': {}}},
        {'groups': 3},
        {'groups': {'popularity': {'1': 5}}},
        {'groups': {'popularity': {'1': {'uniform': {}}}}},
        {'confidence': '95'},
        {'omitted': {'popularity': {'2': '0'}}},
    ],
)
def test_decomposition_of_another_form(runs, tmp_path, change):
    folder = runs.copy(tmp_path)
    values = json.loads((folder / 'pid.json').read_text())
    (folder / 'pid.json').write_text(json.dumps({**values, **change}))
    page = write(runs, tmp_path / 'report.html', [folder])
    assert "must have the format 'mrdib_pyg pid 1'" in page.texts['pid']
    assert not any('pid-' in name for name in specs(tmp_path / 'report.html'))


def test_codes_and_posteriors(page, runs):
    data = InteractionFolder(runs.dataset)[0]
    model, _ = load_model(runs.mrdib / 'best.pt', data)
    with torch.no_grad():
        codes = model.mrdib(model.modality_embeddings())
    found = specs(page.file)
    points = found['codes-1']['data']['values']
    assert len(points) == 2 * 50 and {row['modality'] for row in points} == {'image', 'text'}
    row = page.tables['Shared information of the item codes'][1]
    truth = float(Gaussian(8, 8)(codes['image'][1].mu, codes['text'][1].mu))
    assert float(row[2]) == pytest.approx(truth, abs=0.006) and row[4] == '50'

    kl = codes['image'][1].kl()
    row = page.tables['Item posteriors'][0]
    assert row[:2] == ['MRdIB', 'image']
    assert float(row[2]) == pytest.approx(float(kl.mean()), abs=0.06)
    near = int((kl / 8 < 0.1).sum())
    assert row[-1] == f'{near} of 50'
    columns = found['posterior-1-0-dimensions']['data']['values']
    assert sum(x['value'] for x in columns) == pytest.approx(float(kl.mean()), rel=1e-3)
    assert [x['value'] for x in columns] == sorted((x['value'] for x in columns), reverse=True)
    counts = [x['value'] for x in found['posterior-1-0-items']['data']['values']]
    assert sum(counts) == 50


def test_recommendations(runs, tmp_path):
    page = write(runs, tmp_path / 'report.html', users=['3', '0'], k=4)
    data = InteractionFolder(runs.dataset)[0]
    model, _ = load_model(runs.plain / 'best.pt', data)
    item = model.recommend(torch.tensor([3]), k=4)[1][0].tolist()
    test = data['user', 'test', 'item'].edge_label_index
    held_out = set(test[1, test[0] == 3].tolist())
    shown = [row[1] for row in page.tables['The 4 best items for user 3']]
    expected = [f'✓ {i}' if i in held_out else str(i) for i in item]
    assert [cell.rsplit(' ', 1)[0] for cell in shown] == expected
    assert 'The 4 best items for user 0' in page.tables


def test_the_parts_of_an_explanation_add_up_on_the_page(runs, tmp_path):
    page = write(runs, tmp_path / 'report.html', users=['3'], k=2)
    rows = page.tables['Explanations of the first items for user 3, in nats']
    data = InteractionFolder(runs.dataset)[0]
    for row in rows:
        *parts, total = (float(x.replace('\u2212', '-')) for x in row[2:-1] if x.strip())
        assert sum(parts) == pytest.approx(total, abs=5e-4 * (len(parts) + 1))
    model, _ = load_model(runs.plain / 'best.pt', data)
    item = int(model.recommend(torch.tensor([3]), k=1)[1][0, 0])
    found = explain_pair(model, 3, item, data)
    shown = next(row for row in rows if row[1].split()[-1] == str(item) and row[-1] in (
        found.sentence, found.sentence + '.'))  # fmt: skip
    assert f'{abs(found.total):.3f}' in shown[-2]


def test_raw_ids_are_used_and_escaped(runs, tmp_path):
    evil = '<script>alert("x")</script>'
    data = tmp_path / 'data'
    data.mkdir()
    for path in runs.dataset.iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    IdMap([evil, *(f'u{i}' for i in range(1, 40))]).save(data, 'user')
    IdMap([f'{evil}{i}' for i in range(50)]).save(data, 'item')
    folder = runs.copy(tmp_path)
    config = json.loads((folder / 'config.json').read_text())
    config['settings']['num_layers'] = evil
    (folder / 'config.json').write_text(json.dumps(config))
    out = tmp_path / 'report.html'
    page = write(runs, out, [folder], dataset=str(data), users=[evil, 'u7'])
    assert f'User {evil}' in page.texts['recommendations']
    assert evil in page.texts['settings']  # as text
    html = out.read_text(encoding='utf-8')
    assert 'alert("x")' not in html and html.count('<script') == 3  # data, library, ours
    assert specs(out)['codes-0']['data']['values'][0]['item'] == f'{evil}0'
    with pytest.raises(ValueError, match=r"--users must be raw ids of the data, .*\(got '7'\)"):
        write_report([folder], out, dataset=str(data), users=['7'], method='pca')


def test_without_the_data(runs, tmp_path):
    folder = runs.copy(tmp_path)
    config = json.loads((folder / 'config.json').read_text())
    config['dataset'] = '/moved/away'
    (folder / 'config.json').write_text(json.dumps(config))
    page = write(runs, tmp_path / 'report.html', [folder])
    for name in ('codes', 'posteriors', 'recommendations'):
        assert "'/moved/away', have moved; name them by --dataset" in page.texts[name]
    assert 'Test results on away' in page.tables
    page = write(runs, tmp_path / 'report.html', [folder], dataset=str(runs.dataset))
    assert 'have moved' not in page.texts['codes'] and 'Item posteriors' in page.tables
    # Other data than those of the training.
    page = write(runs, tmp_path / 'report.html', [folder], dataset='planted')
    assert 'was trained on other data' in page.texts['codes']


def test_a_torn_checkpoint_and_unfinished_runs(runs, tmp_path):
    folder = runs.copy(tmp_path)
    (folder / 'best.pt').write_bytes(b'torn')
    (folder / 'results.json').unlink()
    (folder / 'history.jsonl').write_text('{"epoch": 1, "trai')
    page = write(runs, tmp_path / 'report.html', [folder])
    assert 'No run on small has test results' in page.texts['results']
    assert 'its training has not finished' in page.texts['results']
    assert 'is damaged in line 1 of 1' in page.texts['training']
    assert "best.pt' is torn" in page.texts['codes']


def test_a_model_without_modalities(runs, tmp_path):
    data = InteractionFolder(runs.dataset)[0]
    train_model(
        data, 'lightgcn', settings={'channels': 8}, out=tmp_path / 'run', epochs=1,
        dataset=str(runs.dataset), batch_size=256, progress=False,
    )  # fmt: skip
    page = write(runs, tmp_path / 'report.html', [tmp_path / 'run'])
    assert 'do not have codes of several modalities' in page.texts['codes']
    assert 'None of these models has a bottleneck' in page.texts['posteriors']


def test_same_runs_same_file(runs, tmp_path, page):
    again = tmp_path / 'report.html'
    write(runs, again, [*runs.all, runs.plain])  # a folder that comes twice counts once
    assert again.read_bytes() == page.file.read_bytes()


def test_figures(runs, tmp_path):
    out, figures = tmp_path / 'report.html', tmp_path / 'a' / 'figures'
    write(runs, out, [runs.mrdib], figures=figures, method='tsne')
    names = {path.stem for path in figures.iterdir()}
    assert names == set(specs(out)) and 'codes-0' in names
    for path in figures.iterdir():
        assert path.suffix == '.png' and path.read_bytes().startswith(b'\x89PNG\r\n')


def test_library(monkeypatch, runs, tmp_path):
    monkeypatch.undo()
    out = tmp_path / 'report.html'
    write_report([runs.mrdib], out, method='pca')
    text = out.read_text(encoding='utf-8')
    assert 'window.vegaEmbed=' in text and len(text) < 5e6
    Page(text)  # nothing in the library ends its element early


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'method': 'umap'}, "'method' must be one of"),
        ({'k': 0}, "'k' must be at least 1"),
        ({'num_items': 2}, "'num_items' must be at least 3"),
        ({'seed': -1}, r"'seed' must be at least 0 \(got -1\)"),
        ({'users': ['40']}, r"--users must be ids from 0 to 39 \(got '40'\)"),
        ({'out': 'nowhere/report.html'}, "'out' .*nowhere"),
        ({'out': 'report.txt'}, r"'out' must end in .html \(got 'report.txt'\)"),
    ],
)
def test_errors(runs, tmp_path, monkeypatch, kwargs, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        write_report([runs.mrdib], **{'out': 'report.html', 'method': 'pca', **kwargs})
    assert list(tmp_path.iterdir()) == []


def test_only_a_report_is_replaced(runs, tmp_path):
    folder = runs.copy(tmp_path)
    before = (folder / 'best.pt').read_bytes()
    with pytest.raises(ValueError, match="'out' must end in .html .*best.pt"):
        write_report([folder], folder / 'best.pt', method='pca')
    assert (folder / 'best.pt').read_bytes() == before
    for name, make in {
        'thesis.html': lambda path: path.write_text('<!doctype html><title>My thesis</title>'),
        'empty.html': lambda path: path.touch(),
        'folder.html': lambda path: path.mkdir(),
        'fifo.html': os.mkfifo,
    }.items():
        make(tmp_path / name)
        with pytest.raises(ValueError, match=f"'out' .*{name}"):
            write_report([folder], tmp_path / name, method='pca')
    assert (tmp_path / 'thesis.html').read_text().endswith('thesis</title>')
    write(runs, tmp_path / 'report.html', [folder])
    write(runs, tmp_path / 'report.html', [folder])


def test_progress_names_each_step(runs, tmp_path, monkeypatch):
    said = []

    class Bar(contextlib.nullcontext):
        def __init__(self, total, disable, leave):
            super().__init__(self)
            said.append((total, disable))

        def set_description(self, step):
            said.append(step)

        def update(self):
            pass

    monkeypatch.setattr('mrdib_pyg.report._write_report.tqdm', Bar)
    write(runs, tmp_path / 'report.html', progress=True)
    assert said[0] == (len(said) - 1, None)  # None: a bar where the output is a terminal
    assert said[1:3] == ['looking into plain-0', 'looking into mrdib-0']
    assert said[-1] == 'page' and 'decomposition' in said
    write(runs, tmp_path / 'report.html')
    assert said[10:] and (len(SECTIONS) + 3, True) in said


def test_error_of_no_run(tmp_path):
    with pytest.raises(ValueError, match="'runs' is empty"):
        write_report([])
    with pytest.raises(ValueError, match='it is no run folder'):
        write_report([tmp_path], tmp_path / 'report.html')
    (tmp_path / 'figures').write_text('')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['figures']


def test_error_without_altair(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'altair', None)
    with pytest.raises(ValueError, match=r"a report needs altair: pip install 'mrdib_pyg\[report"):
        write_report([runs.mrdib], tmp_path / 'report.html')
