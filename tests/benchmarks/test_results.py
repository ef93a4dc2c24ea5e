"""The page of results shows what is committed."""

import pytest

from benchmarks.quality import results


def test_pages_show_the_committed_results():
    tables = results.tables()
    assert {'tiktok', 'cost', 'memory'} <= set(tables)
    for page, found in ((results.PAGE, tables), (results.README, results.readme_tables())):
        for name, text in found.items():
            start, end = f'<!-- table: {name} -->', f'<!-- end of table: {name} -->'
            assert f'{start}\n{text}\n{end}' in page.read_text(), (
                f'{name}: run python -m benchmarks.quality.results'
            )


def test_an_ablation_is_a_row_for_each_variant():
    def variant(*values):
        metrics = ('recall@5', 'ndcg@5', 'recall@20', 'ndcg@20')
        return {'test': {metric: list(values) for metric in metrics}}

    variants = {'plain': variant(0.1, 0.3), 'full': variant(0.4, 0.4), 'less': variant(0.2, 0.4)}
    summary = {'datasets': {'d': {'models': {'vbpr': {'variants': variants}}}}}
    lines = results.ablation(summary).splitlines()
    assert lines[2].startswith('| vbpr | plain | 0.2000 ± 0.1414 |')
    assert lines[2].endswith('| -50.0 % |') and lines[3].endswith('|  |')
    assert lines[4].endswith('| -25.0 % |')


def test_the_overview_has_a_row_for_each_model():
    def variant(*values):
        return {'test': {'recall@20': list(values), 'ndcg@20': list(values)}}

    gain = {'gain': 0.25, 'low': -0.125, 'high': 0.5}
    models = {
        'bm3': {
            'variants': {
                'mrdib': variant(0.4, 0.6),
                'l2': variant(0.1, 0.3),
                'plain': variant(0.1),
            },
            'gains': {'mrdib': {'recall@20': gain, 'ndcg@20': gain}},
        },
        'lightgcn': {'variants': {'plain': variant(0.2)}, 'gains': {}},
    }
    summary = {'datasets': {'d': {'data_hash': 'a', 'models': models}}}
    floors = {'d': {'data_hash': 'a', 'test': {'recall@20': 0.05}}}
    lines = results.overview(summary, floors).splitlines()
    assert lines[0].count('|') == lines[2].count('|') == lines[3].count('|') == 8
    assert lines[2].startswith('| bm3 | 0.1000 | 0.2000 ± 0.1414 |  | 0.5000 ± 0.1414 |')
    assert lines[2].endswith('| +25.0 [-12.5, +50.0] | +25.0 [-12.5, +50.0] |')
    assert lines[3] == '| lightgcn | 0.2000 |  |  |  |  |  |'
    assert lines[4] == '| (popularity) | 0.0500 |  |  |  |  |  |'
    floors['d']['data_hash'] = 'b'
    with pytest.raises(ValueError, match="other data than those of 'd'"):
        results.overview(summary, floors)
