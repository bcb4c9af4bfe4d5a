"""What setup.py puts into an install space of colcon."""

import runpy
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).parents[2]


@pytest.fixture
def installed(monkeypatch):
    """Keyword arguments of setup()."""
    captured = {}
    monkeypatch.setattr(setuptools, 'setup', lambda **kwargs: captured.update(kwargs))
    monkeypatch.chdir(ROOT)
    runpy.run_path('setup.py')
    return captured


def test_every_file_of_the_share_folders_is_installed_where_it_was(installed):
    destinations = {source: f'{folder}/{Path(source).name}' for folder, sources in installed['data_files'] for source in sources}
    for top in ('launch', 'config', 'models'):
        for path in (p for p in (ROOT / top).rglob('*') if p.is_file() and '__pycache__' not in p.parts):
            source = str(path.relative_to(ROOT))
            assert destinations[source] == f'share/bora_bringup/{source}'


def test_ament_finds_the_package(installed):
    data_files = dict(installed['data_files'])
    assert data_files['share/ament_index/resource_index/packages'] == ['resource/bora_bringup']
    assert (ROOT / 'resource/bora_bringup').is_file()
    assert 'package.xml' in data_files['share/bora_bringup']


def test_the_executables_run_in_the_callers_virtual_environment(installed):
    """colcon itself runs in the system's Python, which has no torch."""
    assert installed['options']['build_scripts']['executable'] == '/usr/bin/env python3'
    names = {entry.split(' = ')[0] for entry in installed['entry_points']['console_scripts']}
    assert names == {'bora', 'host'}
    assert 'install_scripts=$base/lib/bora_bringup' in (ROOT / 'setup.cfg').read_text()
