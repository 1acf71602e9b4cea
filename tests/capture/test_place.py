"""The output folder: what is there decides what may be done, before a model is loaded."""

import json

import pytest

from residuum.capture.place import Place
from residuum.errors import CaptureError, StoreError


def look(path, *, resume=False, append=False):
    return Place.look(path, resume=resume, append=append)


def a_store(path):
    path.mkdir()
    root = {"zarr_format": 3, "node_type": "group", "attributes": {"residuum": {"format": 1}}}
    (path / "zarr.json").write_text(json.dumps(root))
    return path


def test_a_free_name_or_an_empty_folder_is_taken(tmp_path):
    assert not look(tmp_path / "run").existing
    (tmp_path / "run").mkdir()
    assert not look(tmp_path / "run").existing
    assert not look(tmp_path / "run", resume=True).existing


def test_a_store_is_gone_on_with_only_when_asked(tmp_path):
    path = a_store(tmp_path / "run")
    assert look(path, resume=True).existing
    assert look(path, append=True).existing
    with pytest.raises(CaptureError, match=r"holds a store already.*--resume.*--append"):
        look(path)
    with pytest.raises(CaptureError, match="choose one"):
        look(path, resume=True, append=True)


@pytest.mark.parametrize("resume", [False, True])
def test_something_else_is_left_alone(tmp_path, resume):
    (tmp_path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(StoreError, match="is not a residuum store"):
            look(path, resume=resume)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_nothing_to_append_to(tmp_path):
    with pytest.raises(CaptureError, match="no store to append to"):
        look(tmp_path / "run", append=True)


def test_a_file_on_the_way_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"notes\.txt is a file"):
        look(tmp_path / "notes.txt" / "deep" / "run")
