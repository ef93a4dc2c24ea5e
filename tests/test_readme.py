import re
from pathlib import Path

import pytest

README = (Path(__file__).resolve().parent.parent / 'README.md').read_text()
SNIPPETS = re.findall(r'```python\n(.*?)```', README, flags=re.DOTALL)


@pytest.mark.parametrize('code', SNIPPETS)
def test_python_snippets_run(code):
    scope: dict = {}
    exec(compile(code, 'README.md', 'exec'), scope)
    assert all(scope[name].grad is not None for name in ('image', 'text', 'user'))
    assert all(p.grad is not None for p in scope['mrdib'].parameters())


def test_there_is_a_snippet():
    assert len(SNIPPETS) >= 1


def test_links_to_files_exist():
    root = Path(__file__).resolve().parent.parent
    links = re.findall(r'\]\((?!http)([^)#]+)\)', README)
    assert len(links) > 5
    assert [link for link in links if not (root / link).exists()] == []
