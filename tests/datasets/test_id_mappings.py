import pytest

from mrdib_pyg.datasets import IdMap


@pytest.mark.parametrize('text', ['asin\titemID\nB2\t1\nB,1\t0\n', 'itemID,asin\n0,"B,1"\n1,B2\n'])
def test_mappings_of_mmrec(tmp_path, text):
    assert IdMap.load(tmp_path, 'item') is None
    (tmp_path / 'i_id_mapping.csv').write_text(text)
    assert IdMap.load(tmp_path, 'item').ids == ['B,1', 'B2']
    assert IdMap.load(tmp_path, 'user') is None
    IdMap(['own', 'ones']).save(tmp_path, 'item')
    assert IdMap.load(tmp_path, 'item').ids == ['own', 'ones']


@pytest.mark.parametrize(
    'text',
    ['', 'a,b\n', 'userID,x\n1,a\n', 'userID,x\n0,a\n0,b\n', 'userID,x\nz,a\n', 'userID\n0\n'],
)
def test_mappings_that_cannot_be_read(tmp_path, text):
    (tmp_path / 'u_id_mapping.csv').write_text(text)
    with pytest.raises(ValueError, match='u_id_mapping.csv.*cannot be read.*userID'):
        IdMap.load(tmp_path, 'user')
