"""Asking through the registry: kept answers, missing sites, descriptions."""

import errno
import json
import os

import pyarrow as pa
import pytest
from analyses import tiny

from residuum.analyses import attention_roles, registry
from residuum.analyses.registry import Analysis
from residuum.errors import ArgumentError, SiteError, StoreError

ALL = [
    "attention_roles",
    "binding_ids",
    "clip_decomposition",
    "clusters",
    "head_attribution",
    "logit_lens",
    "overthinking",
    "tuned_lens",
]


def test_every_analysis_describes_itself_as_json():
    described = [a.describe() for a in registry.registered().values()]
    assert [d["name"] for d in described] == ALL
    assert json.loads(json.dumps(described)) == described
    for one in described:
        assert one["source"]
        assert all(p["meaning"] for p in one["parameters"])
        assert all(c["meaning"] for table in one["tables"] for c in table["columns"])


def counting(monkeypatch):
    """Replace the roles' compute by one that counts its calls."""
    calls = []
    real = attention_roles.ANALYSIS

    def compute(store, params):
        calls.append(params)
        return real.compute(store, params)

    counted = Analysis(**{**vars(real), "compute": compute})
    monkeypatch.setattr(registry, "registered", lambda: {"attention_roles": counted})
    return calls


def test_asking_again_is_a_read(store, monkeypatch):
    calls = counting(monkeypatch)
    first = registry.run("attention_roles", store)
    read = store.counters()["bytes_read"]
    again = registry.run("attention_roles", store, layers="all")
    assert len(calls) == 1
    assert store.counters()["bytes_read"] == read
    assert dict(again.tables) == dict(first.tables)
    assert again["heads"].schema.equals(first["heads"].schema, check_metadata=True)
    assert again.provenance == first.provenance
    registry.run("attention_roles", store, layers=[1])
    assert len(calls) == 2


def test_another_version_or_commit_is_asked_anew(store, monkeypatch):
    calls = counting(monkeypatch)
    registry.run("attention_roles", store)
    (counted,) = registry.registered().values()
    newer = Analysis(**{**vars(counted), "version": 2})
    newer.run(store)
    assert len(calls) == 2
    monkeypatch.setattr(type(store), "commit", property(lambda _self: 99))
    newer.run(store)
    assert len(calls) == 3


def test_results_are_views_in_sql(store):
    registry.run("attention_roles", store)
    rows = store.sql("SELECT count(*) FROM attention_roles_heads WHERE role = 'self'").fetchall()
    assert rows == [(tiny.N_LAYER * tiny.N_HEAD,)]


def test_a_missing_site_says_what_to_capture(made, tmp_path):
    made = tiny.Tiny(**{**vars(made), "sites": {"embed": made.sites["embed"]}})
    store = tiny.write(made, tmp_path / "small.residuum")
    with pytest.raises(SiteError) as raised:
        registry.run("head_attribution", store)
    assert "needs the site z" in str(raised.value)
    assert "it holds embed" in str(raised.value)
    assert "--site z" in str(raised.value)
    assert [a.name for a in registry.answerable(store)] == ["clusters"]


def test_a_model_without_unembedding_has_no_lens(made, tmp_path):
    weights = {k: v for k, v in made.weights.items() if not k.endswith("_U")}
    encoder = tiny.write(tiny.Tiny(**{**vars(made), "weights": weights}), tmp_path / "e.residuum")
    with pytest.raises(StoreError, match="no unembedding"):
        registry.run("logit_lens", encoder)
    assert [a.name for a in registry.answerable(encoder)] == ["attention_roles", "clusters"]


def test_an_unknown_analysis_lists_those_there_are():
    with pytest.raises(ArgumentError, match=", ".join(ALL)):
        registry.find("logit_lense")


def test_a_result_shows_itself(store):
    result = registry.run("attention_roles", store)
    assert "heads: 90 rows" in repr(result)
    assert "<table>" in result._repr_html_()
    assert json.loads(json.dumps(result.to_json()))["analysis"] == "attention_roles"
    with pytest.raises(KeyError, match="it has heads"):
        result["head"]
    assert isinstance(result["heads"], pa.Table)


def test_an_answer_of_a_store_that_cannot_be_written_is_given_all_the_same(store, monkeypatch):
    expected = registry.run("attention_roles", store, layers=[1])

    def refuse(*_arguments):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(type(store.results), "put", refuse)
    monkeypatch.setattr(type(store.results), "get", lambda *_: None)
    with pytest.warns(UserWarning, match="Read-only file system.*not kept"):
        found = registry.run("attention_roles", store, layers=[1])
    assert dict(found.tables) == dict(expected.tables)
    assert found.provenance["analysis"] == "attention_roles"
