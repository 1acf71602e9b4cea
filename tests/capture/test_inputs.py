"""Inputs: every source gives its records in order, columns untouched, and says what is wrong "
"where."""

import json
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from residuum.capture.inputs import BATCH_RECORDS, Inputs, open_inputs
from residuum.errors import InputError

TEXTS = ["one two", "three", "ü — vier"]


def payload(inputs: Inputs) -> list[object]:
    return [item for records in inputs.batches() for item in records.payload]


def columns(inputs: Inputs) -> pa.Table:
    return pa.concat_tables([records.table for records in inputs.batches()])


def jsonl(folder: Path, *lines: str) -> Path:
    path = folder / "in put ü.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_txt_is_one_input_a_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("one two\r\nthree\nü — vier\n".encode())
    inputs = open_inputs(path)
    assert payload(inputs) == TEXTS
    assert inputs.schema.names == ["text"]
    assert payload(inputs) == TEXTS, "can be walked twice"


def test_txt_keeps_separators_that_python_would_split_at(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\u2028two\x0cthree\nfour", encoding="utf-8")
    assert payload(open_inputs(path)) == ["one\u2028two\x0cthree", "four"]


def test_txt_that_is_not_utf8_names_the_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"fine\n\xff\xfe\n")
    with pytest.raises(InputError, match="line 2 is not UTF-8"):
        open_inputs(path)


def test_jsonl_keeps_every_column_and_nulls_what_a_line_lacks(tmp_path):
    path = jsonl(
        tmp_path, '{"text": "one two", "label": 1}', "", '{"text": "three", "tags": ["a"]}'
    )
    table = columns(open_inputs(path))
    assert table.to_pylist() == [
        {"text": "one two", "label": 1, "tags": None},
        {"text": "three", "label": None, "tags": ["a"]},
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [("{not json", "line 3 is not JSON"), ("[1]", "line 3 is a JSON list, not an object")],
)
def test_bad_json_line_is_named(tmp_path, line, says):
    path = jsonl(tmp_path, '{"text": "one"}', "", line)
    with pytest.raises(InputError, match=says):
        open_inputs(path)


def test_jsonl_column_of_mixed_types_is_named(tmp_path):
    path = jsonl(tmp_path, '{"text": "one", "label": 1}', '{"text": "two", "label": {"a": 1}}')
    with pytest.raises(InputError, match="`label`"):
        open_inputs(path)


def test_csv_text_stays_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\n12,1\n"two\nlines",2\n', encoding="utf-8")
    inputs = open_inputs(path)
    assert payload(inputs) == ["12", "two\nlines"]
    assert columns(inputs).column("label").to_pylist() == [1, 2]


def test_parquet_keeps_arrow_types_and_order_over_batches(tmp_path):
    n = 2 * BATCH_RECORDS + 7
    table = pa.table(
        {
            "text": [f"t{i}" for i in range(n)],
            "when": pa.array(range(n), pa.timestamp("us")),
            "half": pa.array(np.arange(n, dtype=np.float16)),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    inputs = open_inputs(tmp_path / "a.parquet")
    assert inputs.n_record == n
    assert columns(inputs).equals(table)
    assert payload(inputs) == table.column("text").to_pylist()


def test_list_table_and_dataset_agree():
    table = pa.table({"text": TEXTS})
    dataset = datasets.Dataset.from_dict({"text": TEXTS})
    sources = [TEXTS, tuple(TEXTS), table, table.to_pandas(), dataset]
    assert all(payload(open_inputs(source)) == TEXTS for source in sources)


def test_dataset_honours_its_selection():
    dataset = datasets.Dataset.from_dict({"text": TEXTS}).select([2, 0])
    assert payload(open_inputs(dataset)) == [TEXTS[2], TEXTS[0]]


def test_stream_has_no_length_and_keeps_columns():
    def rows():
        yield from ({"text": text, "n": i} for i, text in enumerate(TEXTS))

    inputs = open_inputs(datasets.IterableDataset.from_generator(rows))
    assert inputs.streaming
    assert inputs.digest is None
    assert columns(inputs).to_pylist() == [{"text": t, "n": i} for i, t in enumerate(TEXTS)]


def test_image_folder_is_sorted_and_recursive(tmp_path):
    for name in ["b.png", "a.jpg", "sub/c.png"]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        PIL.Image.new("RGB", (3, 5)).save(path)
    (tmp_path / "notes.txt").write_text("no image")
    inputs = open_inputs(tmp_path)
    assert inputs.kind == "image"
    assert columns(inputs).column("path").to_pylist() == ["a.jpg", "b.png", "sub/c.png"]
    assert payload(inputs) == [tmp_path / "a.jpg", tmp_path / "b.png", tmp_path / "sub/c.png"]


def test_list_of_images_has_no_columns():
    pictures = [PIL.Image.new("RGB", (3, 5), (i, 0, 0)) for i in range(3)]
    inputs = open_inputs(pictures)
    assert payload(inputs) == pictures
    assert inputs.schema.names == []
    assert inputs.digest != open_inputs(pictures[:2]).digest


def test_dataset_of_images_gives_their_bytes():
    pictures = [PIL.Image.new("RGB", (3, 5), (i, 0, 0)) for i in range(2)]
    dataset = datasets.Dataset.from_dict(
        {"image": pictures, "label": [0, 1]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")}),
    )
    inputs = open_inputs(dataset)
    assert inputs.kind == "image"
    assert all(isinstance(item, bytes) for item in payload(inputs))


def test_messages_column_is_a_chat(tmp_path):
    path = jsonl(tmp_path, json.dumps({"id": 3, "messages": [{"role": "user", "content": "hi"}]}))
    inputs = open_inputs(path)
    assert inputs.kind == "chat"
    assert payload(inputs) == [[{"role": "user", "content": "hi"}]]


def test_missing_text_column_lists_the_columns(tmp_path):
    path = jsonl(tmp_path, '{"prompt": "one", "label": 1}')
    with pytest.raises(InputError, match=r"no column `text`.*`prompt`, `label`"):
        open_inputs(path)
    assert payload(open_inputs(path, text_column="prompt")) == ["one"]


def test_text_column_of_another_type_is_refused(tmp_path):
    with pytest.raises(InputError, match="column `label` is int64"):
        open_inputs(jsonl(tmp_path, '{"label": 1}'), text_column="label")


def test_missing_text_names_the_row(tmp_path):
    inputs = open_inputs(jsonl(tmp_path, '{"text": "a"}', '{"text": null}'))
    with pytest.raises(InputError, match="row 1 has no value in column `text`"):
        payload(inputs)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "folder"])
def test_empty_input_is_an_error(tmp_path, name):
    path = tmp_path / name
    path.mkdir() if name == "folder" else path.write_text("")
    with pytest.raises(InputError, match=r"nothing to capture|no images"):
        open_inputs(path)


@pytest.mark.parametrize("source", [[], pa.table({"text": pa.array([], pa.string())})])
def test_empty_source_is_an_error(source):
    with pytest.raises(InputError, match="nothing to capture"):
        open_inputs(source)


def test_mixed_list_and_unknown_sources_are_refused(tmp_path):
    with pytest.raises(InputError, match="int, str"):
        open_inputs(["a", 1])
    with pytest.raises(InputError, match="cannot read inputs from a dict"):
        open_inputs({"text": TEXTS})
    with pytest.raises(InputError, match="no such file"):
        open_inputs(tmp_path / "none.txt")
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(InputError, match=r"not from \.docx"):
        open_inputs(tmp_path / "a.docx")


def test_digest_follows_content_not_slicing(tmp_path):
    table = pa.table({"text": TEXTS, "n": [1, None, 3]})
    sliced = pa.concat_tables([pa.table({"text": ["zero"], "n": [0]}), table]).slice(1)
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    digest = open_inputs(table).digest
    assert open_inputs(sliced).digest == digest
    assert open_inputs(chunked).digest == digest
    assert open_inputs(table.set_column(1, "n", pa.array([1, 2, 3]))).digest != digest


def test_strings_of_an_image_column_are_paths_beside_their_file(tmp_path):
    PIL.Image.new("RGB", (3, 5)).save(tmp_path / "a.png")
    listed = tmp_path / "listed.jsonl"
    listed.write_text('{"image": "a.png", "kind": "red"}\n')
    inputs = open_inputs(listed)
    assert inputs.kind == "image"
    assert payload(inputs) == [tmp_path / "a.png"]
    assert columns(inputs).column("kind").to_pylist() == ["red"]
    assert open_inputs(listed, text_column="image").kind == "text"
    listed.write_text('{"image": "b.png"}\n')
    with pytest.raises(InputError, match=f"row 0: there is no image {tmp_path / 'b.png'}"):
        payload(open_inputs(listed))
