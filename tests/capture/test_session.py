"""A sitting against a writer in memory: what is handed over, when it commits, where it goes on."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from residuum.capture.adapters import adapter_for
from residuum.capture.plan import Example, Planner, text_hash
from residuum.capture.session import Session, Start
from residuum.capture.sink import Fetched, RowSink
from residuum.capture.tables import TableLayout
from residuum.capture.tokenise import TokenisedText
from residuum.capture.tracer import Tracer
from residuum.errors import CaptureError
from residuum.progress import Quiet
from residuum.sites import Site
from residuum.store.pending import Pending
from residuum.store.writer import TARGET

LENGTHS = [5, 2, 7, 5, 1, 3, 7, 4]
SITES = [Site.RESID_POST, Site.Z, Site.PATTERN, Site.RESID_FINAL]


class MemoryWriter:
    """Keeps rows by site, layer and row; shards of `shard_rows` seal as soon as they are full."""

    def __init__(self, shard_rows: int = 4, n_example: int = 0) -> None:
        self.kept: dict[tuple[str, int | None], dict[int, np.ndarray]] = {}
        self.rows = {"token": 0, "example": 0}
        self.commits: list[dict] = []
        self.shard_rows = shard_rows
        self.n_example = self.n_shown = n_example
        self.pending = Pending(n_example)

    def write(self, site, layer, values, runs):
        array = self.kept.setdefault((str(site), layer), {})
        for src_row, dst_row, n in runs:
            for i in range(n):
                array[int(dst_row) + i] = values[int(src_row) + i].copy()

    def add_examples(self, table):
        self.pending.add_examples(table)

    def add_tokens(self, table):
        self.pending.add_tokens(table)

    def sealed_rows(self, row_space):
        assert row_space == "token"
        lengths = []
        for rows in self.kept.values():
            n = next((i for i in range(len(rows) + 1) if i not in rows), 0)
            lengths.append(n // self.shard_rows * self.shard_rows)
        return min(lengths, default=0)

    def n_within(self, token_rows=None):
        return self.pending.n_below(token_rows)

    def flush(self):
        pass

    def nonfinite(self):
        return []

    def commit(self, *, n_example=None, complete=False, interrupted=False, **_kept):
        n = self.n_within() if n_example is None else n_example
        rows = self.pending.end(n)["token"]
        tables = self.pending.below(n)
        self.pending.drop(n)
        kept = {"n_example": n, "token_rows": rows, "tables": tables}
        self.commits.append({**kept, "complete": complete, "interrupted": interrupted})
        self.n_example = self.n_shown = n
        return len(self.commits)

    def array(self, site, layer):
        rows = self.kept[site, layer]
        assert sorted(rows) == list(range(len(rows))), "every row once, none left out"
        return np.stack([rows[i] for i in range(len(rows))])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=35, n_layer=3, n_head=5)
    return GPT2LMHeadModel(config).eval()


def examples(lengths=LENGTHS, positions=None):
    origin = pa.table({"text": [f"t{i}" for i in range(len(lengths))]})
    out = []
    for i, n in enumerate(lengths):
        ids = (np.arange(n) * 3 + n).astype(np.int32) % 50  # equal lengths are equal texts
        kept = np.arange(n) if positions is None else np.array(positions[i])
        text = TokenisedText(ids, None, 0, np.arange(n, dtype=np.int32), n)
        out.append(Example(i, origin, i, text, n, kept.astype(np.int32), text_hash(ids)))
    return out


def session(model, writer, start=None, sites=SITES, **settings):
    tracer = Tracer(model, adapter_for("GPT2LMHeadModel", "text"), sites)
    sink = RowSink(writer, dict.fromkeys(sites, "float32"), 7)
    vocabulary = pa.array([f"w{i}" for i in range(50)])
    layout = TableLayout(
        pa.schema([("text", pa.string())]),
        windowed=False,
        vocabulary=vocabulary,
        token_rows=True,
        example_rows=False,
    )
    return Session(
        tracer=tracer,
        writer=writer,
        sink=sink,
        planner=Planner(1),
        layout=layout,
        start=start or Start(),
        resume={"segments": []},
        reporter=Quiet(),
        shard_rows=writer.shard_rows,
        **settings,
    )


def alone(model, ids):
    """resid_post of one example by itself, `[layer, token, d_model]`."""
    seen = []
    hooks = [
        block.register_forward_hook(
            lambda _m, _a, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
        for block in model.transformer.h
    ]
    with torch.no_grad():
        model(torch.tensor(ids[None].astype(np.int64)))
    for hook in hooks:
        hook.remove()
    return np.stack([s.reshape(len(ids), -1).numpy() for s in seen])


def test_rows_are_those_of_each_example_alone(model):
    writer, items = MemoryWriter(), examples()
    outcome = session(model, writer).run(items)
    assert outcome.n_example == len(items)
    got = np.stack([writer.array("resid_post", layer) for layer in range(3)])
    unique = list({e.content_hash: e for e in items}.values())
    want = np.concatenate([alone(model, e.content.ids) for e in unique], axis=1)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_pattern_is_as_wide_as_the_store_and_sums_to_one(model):
    writer = MemoryWriter()
    session(model, writer).run(examples())
    pattern = writer.array("pattern", 1)
    assert pattern.shape[1:] == (5, 7)
    np.testing.assert_allclose(pattern.sum(-1), 1, atol=1e-5)


def test_target_is_the_following_token(model):
    writer, items = MemoryWriter(), examples([3, 1], positions=[[0, 2], [0]])
    session(model, writer).run(items)
    assert writer.array(TARGET, None).tolist() == [items[0].content.ids[1], -1, -1]


def test_marked_positions_alone_are_written(model):
    every, some = MemoryWriter(), MemoryWriter()
    session(model, every).run(examples([5, 2]))
    session(model, some).run(examples([5, 2], positions=[[1, 4], []]))
    got = some.array("resid_post", 2)
    np.testing.assert_array_equal(got, every.array("resid_post", 2)[[1, 4]])


def test_tables_are_committed_with_their_rows(model):
    writer, items = MemoryWriter(), examples()
    session(model, writer).run(items)
    assert [c["complete"] for c in writer.commits][-1] is True
    tables = [c["tables"] for c in writer.commits if c["tables"]]
    assert len(tables) > 2, "commits on the way"
    written = pa.concat_tables([t["examples"] for t in tables])
    assert written.column("example").to_pylist() == list(range(len(items)))
    assert written.column("text").to_pylist() == [f"t{i}" for i in range(len(items))]
    tokens = pa.concat_tables([t["tokens"] for t in tables])
    first = dict(
        zip(*(written.column(c).to_pylist() for c in ("example", "first_row")), strict=True)
    )
    rows = [
        first[e] + t
        for e, t in zip(*(tokens.column(c).to_pylist() for c in ("example", "token")), strict=True)
    ]
    assert tokens.column("row").to_pylist() == rows
    for commit, n in [(c, c["n_example"]) for c in writer.commits]:
        ends = [first[i] + LENGTHS[i] for i in range(n)]
        assert commit["token_rows"] == max(ends)


def test_a_sitting_goes_on_where_the_last_commit_was(model):
    whole, items = MemoryWriter(), examples()
    complete = session(model, whole).run(items)
    committed = whole.commits[0]
    n, rows = committed["n_example"], committed["token_rows"]
    hashes = [e.content_hash.hex() for e in items[:n]]
    rest = MemoryWriter(n_example=n)
    again = session(model, rest, Start(0, n, rows, 0, hashes))
    outcome = again.run(items)
    assert 0 < outcome.n_forward < complete.n_forward
    for key, array in rest.kept.items():
        for row, value in array.items():
            np.testing.assert_array_equal(value, whole.kept[key][row])
    assert set(range(rows, 22)) <= set(rest.kept["z", 0])
    tables = [c["tables"]["examples"] for c in rest.commits if c["tables"]]
    assert pa.concat_tables(tables).column("example").to_pylist() == list(range(n, 8))


def test_other_inputs_are_noticed_by_their_row(model):
    items = examples()
    start = Start(0, 2, 7, 0, [items[0].content_hash.hex(), "00"])
    with pytest.raises(CaptureError, match="row 1 of the inputs is not what it was"):
        session(model, MemoryWriter(), start).run(items)
    start = Start(0, 4, 14, 0, [e.content_hash.hex() for e in items[:4]])
    with pytest.raises(CaptureError, match="inputs end before"):
        session(model, MemoryWriter(), start).run(items[:2])


def test_nonfinite_activations_are_counted_and_not_committed(model):
    class Broken(MemoryWriter):
        def nonfinite(self):
            return [("z", 2, 3, 1)]

    writer = Broken()
    with pytest.raises(CaptureError, match=r"z layer 2 \(3 NaN, 1 infinite\).*--allow-nonfinite"):
        session(model, writer).run(examples())
    assert writer.commits == []
    allowed = Broken()
    session(model, allowed, allow_nonfinite=True).run(examples())
    assert allowed.commits[-1]["complete"]


def test_interrupt_publishes_what_is_complete(model):
    import os
    import signal

    class Interrupting(MemoryWriter):
        def write(self, site, layer, values, runs):
            super().write(site, layer, values, runs)
            if site == TARGET and len(self.kept[site, None]) > 10:
                os.kill(os.getpid(), signal.SIGINT)

    writer = Interrupting(shard_rows=1000)
    before = signal.getsignal(signal.SIGINT)
    many = list(range(1, 16)) * 2
    one = session(model, writer)
    one.sink.n_key = 16
    outcome = one.run(examples(many))
    assert outcome.interrupted
    assert 0 < outcome.n_example < len(many)
    assert [(c["complete"], c["interrupted"]) for c in writer.commits] == [(False, True)]
    assert signal.getsignal(signal.SIGINT) is before


def test_rows_from_a_device_come_in_order_within_their_bytes(model):
    """A device that finishes its copies only when it is waited for."""
    here, there = MemoryWriter(), MemoryWriter()
    session(model, here).run(examples())
    open_copies, most = [], 0

    def fetch(tensor):
        nonlocal most
        host = torch.full_like(tensor, torch.nan)
        open_copies.append(host)
        most = max(most, sum(t.numel() * 4 for t in open_copies))

        def wait():
            assert open_copies.pop(0) is host, "first asked for, first written"
            host.copy_(tensor)

        return Fetched(host, wait)

    one = session(model, there)
    one.sink = RowSink(there, dict.fromkeys(SITES, "float32"), 7, fetch=fetch, in_flight=10_000)
    one.run(examples())
    assert not open_copies
    largest = 7 * 5 * 7 * 4 * 5
    assert 10_000 < most < 10_000 + 2 * largest
    for site, layer in here.kept:
        np.testing.assert_array_equal(here.array(site, layer), there.array(site, layer))
