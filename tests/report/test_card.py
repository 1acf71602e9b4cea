"""The head of the page from the plain values of a store."""

from residuum.report import StoreCard

INFO = {
    "path": "/somewhere/a run.residuum",
    "complete": False,
    "n_example": 1234,
    "rows": {"token": 56789, "example": 0},
    "model": {"name": "gpt2", "n_layer": 12, "n_head": 12, "d_model": 768, "d_vocab": None},
    "bytes": 12_600_000,
    "sites": {
        "z": {
            "axes": ["row", "layer", "head", "d_head"],
            "shape": [56789, 12, 12, 64],
            "layers": [0, 1, 2, 5],
            "stored_as": "float16",
            "nbytes": 999,
        },
        "embed": {
            "axes": ["row", "d_model"],
            "shape": [56789, 768],
            "layers": None,
            "stored_as": "float32",
            "nbytes": 174_000_000,
        },
    },
}


def test_facts():
    card = StoreCard.of(INFO)
    assert card.name == "a run.residuum"
    assert card.facts == {
        "Model": "gpt2",
        "Examples": "1,234",
        "Stored tokens": "56,789",
        "Sizes": "12 layers, 12 heads, 768 wide",
        "On disk": "12.6 MB",
        "State": "capture not finished",
    }


def test_sites():
    z, embed = StoreCard.of(INFO).sites
    assert z == {
        "site": "z",
        "shape": "row 56,789, layer 12, head 12, d_head 64",
        "layers": "0-2, 5",
        "dtype": "float16",
        "size": "999 bytes",
    }
    assert (embed["layers"], embed["size"]) == ("", "174 MB")
