"""The page of results shows what is committed."""

from benchmarks.quality import results


def test_page_shows_the_committed_results():
    page = results.PAGE.read_text()
    tables = results.tables()
    assert {'tiktok', 'cost', 'memory'} <= set(tables)
    for name, text in tables.items():
        start, end = f'<!-- table: {name} -->', f'<!-- end of table: {name} -->'
        assert f'{start}\n{text}\n{end}' in page, (
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
