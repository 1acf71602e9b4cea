"""What compression saves on real activations and what it costs: the ground for the default.

Chunks of 256 rows of one layer, as a store cuts them, of the demo's two stores (a trained encoder,
a trained causal model; as far as `make demo` has made them) and of random-weight GPT-2 and Llama
shapes whose residual stream has channels as far out as large models show (Dettmers et al. 2022,
LLM.int8(), section 4: a few features some 20 times the others). Each is coded as float32, float16
and bfloat16. What comes out of a codec is asserted to be what went in.

    python benches/codecs.py [--chunks 24]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numcodecs import Shuffle, Zstd  # type: ignore[import-untyped]
from numpy.typing import NDArray
from transformers import GPT2Config, GPT2Model, LlamaConfig, LlamaModel

import residuum
from findings import Report, versions

DEMO = Path("demo")
CHUNK = 256
N_LAYER, N_OUTLIER, OUTLIER = 4, 4, 20.0
DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Codec:
    """Bytes of a chunk to fewer bytes, and back; both take the width of an element."""

    encode: Callable[[bytes, int], bytes]
    decode: Callable[[bytes, int], bytes]


ZSTD = Zstd(level=1)


def _high_encode(raw: bytes, width: int) -> bytes:
    """The highest byte of each element by zstd, the others as they are."""
    planes = np.frombuffer(raw, np.uint8).reshape(-1, width)
    high: bytes = ZSTD.encode(np.ascontiguousarray(planes[:, -1]))
    return len(high).to_bytes(4, "little") + high + planes[:, :-1].tobytes()


def _high_decode(coded: bytes, width: int) -> bytes:
    n_high = int.from_bytes(coded[:4], "little")
    high = np.frombuffer(ZSTD.decode(coded[4 : 4 + n_high]), np.uint8)
    planes = np.empty((len(high), width), np.uint8)
    planes[:, -1] = high
    planes[:, :-1] = np.frombuffer(coded[4 + n_high :], np.uint8).reshape(len(high), width - 1)
    return planes.tobytes()


def _shuffled_encode(raw: bytes, width: int) -> bytes:
    return bytes(ZSTD.encode(Shuffle(width).encode(raw)))


def _shuffled_decode(coded: bytes, width: int) -> bytes:
    return bytes(Shuffle(width).decode(ZSTD.decode(coded)))


CODECS = {
    "none": Codec(lambda raw, _: bytes(bytearray(raw)), lambda raw, _: bytes(bytearray(raw))),
    "zstd": Codec(lambda raw, _: ZSTD.encode(raw), lambda coded, _: bytes(ZSTD.decode(coded))),
    "byte shuffle + zstd": Codec(_shuffled_encode, _shuffled_decode),
    "zstd of the high bytes": Codec(_high_encode, _high_decode),
}


def stored(n_chunk: int) -> Iterator[tuple[str, Rows]]:
    """Chunks out of the middle layer of what the demo captured."""
    for name in ("sentences", "causal"):
        path = DEMO / f"{name}.residuum"
        if not path.exists():
            print(f"{path} is left out: `make demo` makes it")
            continue
        store = residuum.open(path)
        for site in sorted({"resid_post", "z"}.intersection(store.sites)):
            array = store[site]
            layer = array.layers[len(array.layers) // 2]
            rows = array.read(slice(0, n_chunk * CHUNK), layer, dtype=np.float32)
            yield f"demo {name}, {site}", rows.reshape(len(rows), -1)


@torch.no_grad()
def random_shapes(n_chunk: int) -> Iterator[tuple[str, Rows]]:
    """Chunks of the residual stream of random weights with outlier channels."""
    gpt2 = GPT2Config(n_layer=N_LAYER, vocab_size=4096)
    llama = LlamaConfig(
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=N_LAYER,
        num_attention_heads=16,
        num_key_value_heads=4,
        vocab_size=4096,
    )
    torch.manual_seed(0)
    models: dict[str, Any] = {"GPT-2": GPT2Model(gpt2), "Llama": LlamaModel(llama)}
    for name, model in models.items():
        model.eval()
        model.get_input_embeddings().weight[:, :N_OUTLIER] *= OUTLIER
        ids = torch.randint(0, 4096, (n_chunk, CHUNK))
        states = model(input_ids=ids, output_hidden_states=True).hidden_states[N_LAYER // 2]
        yield f"random {name}, resid_post", states.flatten(0, 1).numpy()


def speeds(codec: Codec, chunks: list[bytes], width: int) -> tuple[float, float, float]:
    """Stored share of the bytes, and median GB/s of encoding and decoding."""
    coded, encode, decode = [], [], []
    for raw in chunks:
        started = time.perf_counter()
        coded.append(codec.encode(raw, width))
        encode.append(len(raw) / (time.perf_counter() - started))
        started = time.perf_counter()
        back = codec.decode(coded[-1], width)
        decode.append(len(raw) / (time.perf_counter() - started))
        assert back == raw
    share = sum(map(len, coded)) / sum(map(len, chunks))
    return share, statistics.median(encode) / 1e9, statistics.median(decode) / 1e9


def main() -> None:
    """One table for each dtype."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=24)
    options = parser.parse_args()
    data = dict([*stored(options.chunks), *random_shapes(options.chunks)])
    report = Report("codecs", "Codecs")
    report.introduce(__doc__)
    report.say("Share of the bytes that is stored / GB/s encoded / GB/s decoded.")
    report.say(versions("numcodecs", "torch", "transformers"))
    for name, dtype in DTYPES.items():
        rows = []
        for title, values in data.items():
            cut = [
                values[at : at + CHUNK].astype(dtype).tobytes()
                for at in range(0, len(values), CHUNK)
            ]
            found = [speeds(codec, cut, dtype.itemsize) for codec in CODECS.values()]
            rows.append([title, *(f"{s:.3f} / {e:.2f} / {d:.2f}" for s, e, d in found)])
        report.table([name, *CODECS], rows)
    report.keep()


if __name__ == "__main__":
    main()
