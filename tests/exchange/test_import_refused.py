"""What cannot be imported is refused by name, and nothing is left behind."""

import json
import re
import sys

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch
from command import one_paragraph
from command import residuum as command
from exchange.given import D, draw, per_row

import residuum
from residuum.errors import ArgumentError, InputError, SiteError


class Code:
    """What only code can load."""


def arrays_of(**shapes):
    return {name: draw(*shape) for name, shape in shapes.items()}


REFUSED = {
    "unknown site": ({"resid": draw(3, D)}, {}, SiteError, "no site called 'resid'"),
    "no arrays": ({}, {}, InputError, "no activations"),
    "no file": ({"embed": "none.npy"}, {}, InputError, "none.npy: no such file"),
    "a list": ({"embed": [[1.0]]}, {}, InputError, "a list"),
    "whole numbers": ({"embed": np.zeros((3, D), int)}, {}, InputError, "int64; activations are"),
    "layer of none": ({"embed": {1: draw(3, D)}}, {}, InputError, "embed exists once"),
    "one axis": ({"embed": draw(3)}, {}, InputError, r"\[3\], but embed is \[row, d_model\]"),
    "flat heads": ({"z": {0: draw(3, 6)}}, {}, InputError, r"\[row, head, d_head\]"),
    "no layer": ({"z": draw(3, 2, 2, 3)}, {}, InputError, "--layer, or how many"),
    "no layer axis": ({"resid_post": draw(3, D)}, {}, InputError, "with --layer it is of one"),
    "other n_layer": ({"z": draw(3, 2, 2, 3)}, {"n_layer": 5}, InputError, "2 layers, but 5"),
    "other layers": ({"z": draw(3, 2, 2, 3)}, {"layers": "0:3"}, InputError, "2 layers, but 3"),
    "few layers": ({"z": {4: draw(3, 2, 3)}}, {"n_layer": 4}, InputError, "of layer 4, .* 4"),
    "nothing": ({"embed": draw(0, D)}, {}, InputError, "nothing in it"),
    "rows of two": (arrays_of(embed=(3, D), resid_final=(4, D)), {}, InputError, r"\[4\].*\[3\]"),
    "width of two": (
        {"z": {0: draw(3, 2, 3), 1: draw(3, 2, 4)}},
        {},
        InputError,
        r"\[2, 4\].*\[2, 3\]",
    ),
    "pooled and rows": (
        arrays_of(embed=(8, D), pooled=(4, D)),
        {"table": per_row()},
        InputError,
        "4 rows, one per example, but there are 3",
    ),
    "float64": ({"embed": draw(3, D, dtype="float64")}, {}, InputError, "--dtype float32"),
    "two types": (
        {"z": {0: draw(3, 2, 3), 1: draw(3, 2, 3, dtype="float16")}},
        {},
        InputError,
        "float16 and float32",
    ),
    "not finite": (
        {"embed": draw(3, D) * np.float32(np.inf)},
        {},
        InputError,
        "infinite.*--allow-nonfinite",
    ),
    "too large": ({"embed": draw(3, D) * 1e6}, {"dtype": "float16"}, ArgumentError, "cannot hold"),
    "bad dtype": ({"embed": draw(3, D)}, {"dtype": "int4"}, InputError, "'int4'"),
    "bad codec": ({"embed": draw(3, D)}, {"codec": "lz4"}, InputError, "none, zstd"),
    "bad cut": ({"embed": draw(3, D)}, {"shard_rows": 0}, InputError, "1 or more"),
    "bad memory": ({"embed": draw(3, D)}, {"memory": "lots"}, InputError, "4GB"),
    "rows of the table": (
        {"embed": draw(9, D)},
        {"table": per_row()},
        InputError,
        "the table has 8 records, but the array of \\w+ has 9 rows",
    ),
    "examples of the table": (
        {"embed": draw(4, D)},
        {"table": pa.table({"label": [1, 2]})},
        InputError,
        "2 records, but the array of \\w+ has 4 rows",
    ),
    "examples of tokens": (
        {"embed": draw(4, 3, D)},
        {"table": pa.table({"label": [1, 2]})},
        InputError,
        "2 records, but the array of \\w+ has 4 examples",
    ),
    "n_token of rows": (
        {"embed": draw(4, D)},
        {"table": pa.table({"n_token": [1, 2]})},
        InputError,
        "n_token of the table has 3 tokens, but the array of \\w+ has 4 rows",
    ),
    "n_token too long": (
        {"embed": draw(2, 3, D)},
        {"table": pa.table({"n_token": [1, 4]})},
        InputError,
        "example of 4 tokens, but the array of \\w+ has 3",
    ),
    "negative n_token": (
        {"embed": draw(2, D)},
        {"table": pa.table({"n_token": [3, -1]})},
        InputError,
        "-1 tokens",
    ),
    "token without example": (
        {"embed": draw(2, D)},
        {"table": pa.table({"token": [0, 1]})},
        InputError,
        "none called `example`",
    ),
    "null token": (
        {"embed": draw(2, D)},
        {"table": pa.table({"example": [0, 1], "token": [0, None]})},
        InputError,
        "`token` is not of whole numbers",
    ),
    "null example": (
        {"embed": draw(2, D)},
        {"table": pa.table({"example": [0, None], "token": [0, 1]})},
        InputError,
        "1 record without an `example`",
    ),
    "examples apart": (
        {"embed": draw(3, D)},
        {"table": pa.table({"example": [0, 1, 0], "token": [0, 0, 1]})},
        InputError,
        "record 2 goes back",
    ),
    "tokens fall": (
        {"embed": draw(2, D)},
        {"table": pa.table({"example": [0, 0], "token": [1, 1]})},
        InputError,
        "in record 1 token 1 follows token 1",
    ),
    "ids of text": (
        {"embed": draw(1, D)},
        {"table": pa.table({"example": [0], "token": [0], "token_id": ["a"]})},
        InputError,
        "`token_id` is not of whole numbers",
    ),
    "texts of lists": (
        {"embed": draw(1, D)},
        {"table": pa.table({"example": [0], "token": [0], "text": [["a"]]})},
        InputError,
        "`text` is not of the type string",
    ),
    "two columns": (
        {"embed": draw(1, D)},
        {"table": pa.table([[1], [2]], names=["a", "a"])},
        InputError,
        "two columns called `a`",
    ),
    "no kind of table": ({"embed": draw(1, D)}, {"table": [1]}, InputError, "table is a list"),
    "no position": (
        {"embed": draw(1, D)},
        {"table": pa.table({"example": [0], "token": [1 << 40]})},
        InputError,
        "is no position",
    ),
    "token outside": (
        {"embed": draw(2, 3, D)},
        {"table": pa.table({"example": [0, 1], "token": [0, 3]})},
        InputError,
        "names token 3, but the array of \\w+ has 3 tokens",
    ),
    "example outside": (
        {"embed": draw(2, 3, D)},
        {"table": pa.table({"example": [0, 2], "token": [0, 1]})},
        InputError,
        "names example 2, but the array of \\w+ has 2 examples",
    ),
    "column of ours": (
        {"embed": draw(2, D)},
        {"table": pa.table({"n_row": [0, 2]})},
        InputError,
        "column `n_row`",
    ),
    "tokens of pooled": (
        {"pooled": draw(2, D)},
        {"table": pa.table({"example": [0, 1], "token": [0, 0]})},
        InputError,
        "pooled has a row for each example",
    ),
    "rows of pooled": (
        {"pooled": draw(2, D)},
        {"table": pa.table({"label": [0]})},
        InputError,
        "1 record, but the array of \\w+ has 2 rows",
    ),
    "no table": ({"embed": draw(2, D)}, {"table": "no.csv"}, InputError, "no.csv: no such file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_there(tmp_path, case):
    arrays, options, error, said = REFUSED[case]
    with pytest.raises(error, match=said):
        residuum.import_activations(tmp_path / "run", arrays, **options)
    assert not list(tmp_path.iterdir())


def test_files_that_are_refused(tmp_path, monkeypatch):
    np.save(tmp_path / "bf.npy", draw(3, D, dtype="bfloat16"))
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "bad.npy").write_bytes(b"no")
    (tmp_path / "bad.pt").write_bytes(b"no")
    (tmp_path / "hello.pt").write_bytes(b"hello")
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 20)
    (tmp_path / "a.h5").write_bytes(b"no")
    (tmp_path / "a.txt").write_text("no")
    torch.save(Code(), tmp_path / "code.pt")
    torch.save({"a": [1]}, tmp_path / "lists.pt")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    torch.save({"ids": torch.zeros(3, D), "mask": torch.ones(3)}, tmp_path / "two.pt")
    safetensors.torch.save_file(
        {"embed": torch.zeros(3, D, dtype=torch.int8)}, tmp_path / "i.safetensors"
    )
    (tmp_path / "folder").mkdir()
    (tmp_path / "cut").mkdir()
    said = {"format": "npy", "arrays": {"embed": {}}, "records": {}}
    said["model"] = {"n_layer": 1, "name": "m"}
    (tmp_path / "cut/export.json").write_text(json.dumps(said))
    refused = {
        "bf.npy": "2-byte values.*safetensors",
        "objects.npy": "no readable .npy",
        "bad.npy": "no readable .npy",
        "bad.pt": "no file of plain tensors",
        "hello.pt": "no file of plain tensors",
        "bad.safetensors": "damaged",
        "a.h5": "not from .h5",
        "code.pt": "only code can load",
        "lists.pt": "holds a list under 'a'",
        "list.pt": "holds a list",
        "two.pt": "no tensor 'embed'; it has ids, mask",
        "i.safetensors": "type I8",
        "folder": "without export.json",
        "cut": "export.json is damaged: KeyError",
    }
    before = sorted(tmp_path.iterdir())
    for name, said in refused.items():
        done = command("import", tmp_path / name, "-o", tmp_path / "run", "--site", "embed", code=1)
        paragraph = one_paragraph(done)
        assert str(tmp_path / name) in paragraph
        assert re.search(said, paragraph), paragraph
    usual = ["-o", tmp_path / "run"]
    both = [tmp_path / "two.pt", tmp_path / "two.pt", *usual]
    for arguments, said in {
        (tmp_path / "two.pt", *usual): "the tensor 'ids' of .* which site it is of",
        (tmp_path / "two.pt", *usual, "--site", "embed", "--tensor", "x"): "no tensor 'x'",
        (*both, "--site", "z", "--site", "k", "--site", "v"): "3 of --site for 2 files",
        (*both, "--site", "embed", "--tensor", "ids"): "embed comes twice",
        (
            tmp_path / "two.pt",
            *usual,
            "--site",
            "embed",
            "--tensor",
            "ids",
            "--table",
            tmp_path / "a.h5",
        ): "a table is read from",
        (tmp_path / "bad.npy", "-o", tmp_path / "folder", "--site", "z"): "exists already",
    }.items():
        paragraph = one_paragraph(command("import", *arguments, code=1))
        assert re.search(said, paragraph), paragraph
    monkeypatch.setitem(sys.modules, "torch", None)
    done = command("import", tmp_path / "two.pt", *usual, "--site", "embed", code=1)
    assert "residuum[capture]" in one_paragraph(done)
    assert sorted(tmp_path.iterdir()) == before
