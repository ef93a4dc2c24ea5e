import pytest

from mrdib_pyg.cli import main

pytest.importorskip('altair', reason='altair is not installed')
pytest.importorskip('vl_convert', reason='vl-convert-python is not installed')


def test_report(capsys, runs, tmp_path):
    folder = runs.copy(tmp_path)
    assert main(['report', str(folder), str(runs.plain), '--map', 'pca', '--users', '3,4']) == 0
    out, err = capsys.readouterr()
    assert err == '' and out.startswith(f'report in {folder / "report.html"} (')
    assert 'User 3' in (folder / 'report.html').read_text(encoding='utf-8')
    assert [p.name for p in folder.iterdir() if p.name.startswith('.')] == []


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        ([], 'RUN'),
        (['nowhere'], "no run folder 'nowhere'"),
        (['.'], "'.' has no readable config.json, so it is no run folder"),
        (['RUN', 'nowhere'], "no run folder 'nowhere'"),
        (['RUN', '--users', 'x'], "--users must be ids from 0 to 39 (got 'x')"),
        (['RUN', '--users', ','], '--users names nothing'),
        (['RUN', '--map', 'umap'], "invalid choice: 'umap'"),
        (['RUN', '--out', '.'], "--out must end in .html (got '.')"),
        (['RUN', '--out', 'file'], "--out must end in .html (got 'file')"),
        (['RUN', '--figures', 'file'], "--figures must be a folder (got the file 'file')"),
    ],
)
def test_errors(capsys, runs, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').write_text('')
    argv = ['report', *(str(runs.mrdib) if arg == 'RUN' else arg for arg in argv)]
    try:
        code = main(argv)
    except SystemExit as e:
        code = e.code
    out, err = capsys.readouterr()
    assert code == 2 and out == '' and message in err and len(err.splitlines()) <= 3
    assert [p.name for p in tmp_path.iterdir()] == ['file']
    assert not (runs.mrdib / 'report.html').exists()
