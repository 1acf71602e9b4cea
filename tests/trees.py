"""Stores compared file by file."""

ARRAYS = ("activations", "statistics", "index", "tables", "weights")
"""Folders of a store that do not tell how its capture went."""


def files(path, *folders):
    """Bytes of every file of a store, or of some of its folders, by name."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for folder in folders or (".",)
        for file in sorted((path / folder).rglob("*"))
        if file.is_file()
    }


def assert_same(one, two, *folders):
    """Fail with the names of the files that differ, not with their bytes."""
    left, right = files(one, *folders), files(two, *folders)
    assert sorted(left) == sorted(right)
    differ = [name for name in left if left[name] != right[name]]
    assert not differ, differ
