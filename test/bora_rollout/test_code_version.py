"""The digest of code follows imports and ignores what does not decide about results."""

import pytest

from bora_common.errors import ConfigError
from bora_rollout.code_version import code_digest, library_versions, reached

FILES = {
    'bora_a/__init__.py': '',
    'bora_a/top.py': 'from bora_b import helper\nimport numpy\n\ndef f(x):\n    """Doc."""\n    return helper.g(x)\n',
    'bora_b/__init__.py': '',
    'bora_b/helper.py': 'def g(x):\n    from bora_b.deep import LIMIT\n    return x + LIMIT\n',
    'bora_b/deep.py': 'LIMIT = 3\n',
    'bora_b/other.py': 'UNUSED = 1\n',
}


@pytest.fixture
def tree(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ('file', 'text', 'counts'),
    [
        ('bora_a/top.py', FILES['bora_a/top.py'].replace('helper.g(x)', 'helper.g(2 * x)'), True),
        ('bora_b/deep.py', 'LIMIT = 4\n', True),  # imported within a function, two modules away
        ('bora_b/__init__.py', 'import bora_b.deep\n', True),  # runs when the package is imported
        ('bora_b/other.py', 'UNUSED = 2\n', False),
        ('bora_b/deep.py', '"""About the limit."""\n\nLIMIT = 3  # metres\n', False),
        ('bora_a/top.py', FILES['bora_a/top.py'].replace('Doc.', 'Another text.'), False),
    ],
)
def test_what_changes_the_digest(tree, file, text, counts):
    before = code_digest(['bora_a.top'], tree)
    (tree / file).write_text(text)
    assert (code_digest(['bora_a.top'], tree) != before) == counts


def test_a_module_that_is_not_there_is_named(tree):
    with pytest.raises(ConfigError, match='bora_a.nothing'):
        code_digest(['bora_a.nothing'], tree)


@pytest.mark.parametrize('module', ['demonstrations', 'offline_episodes', 'offline_training', 'offline_models'])
def test_the_scheduler_does_not_decide_about_what_stages_compute(module):
    """The modules of the stages do not import it, so that results outlive changes there."""
    names = set(reached([f'bora_rollout.{module}']))
    assert 'bora_common.kinematics' in names or module == 'offline_training'
    assert not names & {'bora_rollout.stages', 'bora_rollout.offline_table'}


def test_versions_are_those_installed():
    import numpy

    assert library_versions()['numpy'] == numpy.__version__
