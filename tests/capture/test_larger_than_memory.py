"""A model of more than 6 GB, captured by a process that may not take up 1.5 GB.

The cap: once its libraries are loaded (torch alone takes up more than half of the 1.5 GB), the
process may map `MORE` bytes of any kind, files included (RLIMIT_AS); the peak of its resident
memory is looked at besides. The schedule forward fails under the same cap.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import tiny_models
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig
from trees import ARRAYS, assert_same

import residuum

pytestmark = pytest.mark.slow

CAP = 1_500_000_000
MORE = 600 << 20
N_LAYER, D_MODEL, D_MLP, N_HEAD, N_KV_HEAD, N_VOCAB = 47, 2048, 8192, 16, 8, 32000
SETTINGS = {
    "sites": ["resid_post", "z", "logits"],
    "layers": [3, 30, 46],
    "positions": "last",
    "batch_tokens": 16,
    "memory": "64MB",
    "device": "cpu",
}
TEXTS = [" ".join(f"w{(n * 5 + 3 * k) % 28 + 1}" for k in range(n % 5 + 3)) for n in range(8)]

CHILD = """
import json, resource, sys
import torch
torch.set_num_threads(1)
import residuum
from residuum.capture import run as _
from residuum.capture.layerwise.checkpoint import Checkpoint
from transformers import LlamaForCausalLM

order = json.loads(sys.argv[1])
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + order["more"]
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

opened = []
init = Checkpoint.__init__
def noting(self, folder):
    init(self, folder)
    opened.append(self)
Checkpoint.__init__ = noting

residuum.capture(order["model"], order["inputs"], order["out"], **order["settings"])
# Not by getrusage: what that says begins with the peak of the process that started this one.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
peak = int(status["VmHWM"].split()[0]) * 1024
read = {name: [n, one.n_bytes(name)] for one in opened for name, n in one.n_read.items()}
known = [name for one in opened for name in one.names]
print(json.dumps({"peak": peak, "read": read, "known": known}))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A Llama of random weights in bfloat16, written block by block."""
    folder = tmp_path_factory.mktemp("large") / "model"
    folder.mkdir()
    config = LlamaConfig(
        vocab_size=N_VOCAB,
        hidden_size=D_MODEL,
        intermediate_size=D_MLP,
        num_hidden_layers=N_LAYER,
        num_attention_heads=N_HEAD,
        num_key_value_heads=N_KV_HEAD,
        max_position_embeddings=64,
        dtype="bfloat16",
        **tiny_models.COMMON,
    )
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    d_kv = D_MODEL * N_KV_HEAD // N_HEAD
    block = {
        "input_layernorm": (D_MODEL,),
        "post_attention_layernorm": (D_MODEL,),
        "self_attn.q_proj": (D_MODEL, D_MODEL),
        "self_attn.k_proj": (d_kv, D_MODEL),
        "self_attn.v_proj": (d_kv, D_MODEL),
        "self_attn.o_proj": (D_MODEL, D_MODEL),
        "mlp.gate_proj": (D_MLP, D_MODEL),
        "mlp.up_proj": (D_MLP, D_MODEL),
        "mlp.down_proj": (D_MODEL, D_MLP),
    }
    ends = {"lm_head": (N_VOCAB, D_MODEL), "model.norm": (D_MODEL,)}
    blocks = (
        {f"model.layers.{layer}.{name}": shape for name, shape in block.items()}
        for layer in range(N_LAYER)
    )
    parts = [{"model.embed_tokens": (N_VOCAB, D_MODEL)}, *blocks]
    index = {}
    random = torch.Generator().manual_seed(0)
    for number, part in enumerate([*parts, ends]):
        tensors = {f"{name}.weight": weight(shape, random) for name, shape in part.items()}
        file = f"model-{number + 1:05}-of-{len(parts) + 1:05}.safetensors"
        save_file(tensors, folder / file, {"format": "pt"})
        index |= dict.fromkeys(tensors, file)
    text = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)
    yield folder
    for file in folder.iterdir():
        file.unlink()


def weight(shape, random):
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    out = torch.empty(shape, dtype=torch.bfloat16)
    return out.uniform_(-1, 1, generator=random) * (2 / shape[1] ** 0.5)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    path = tmp_path_factory.mktemp("inputs") / "in.txt"
    path.write_text("\n".join(TEXTS))
    return path


def child(model, inputs, out, **more):
    paths = {"model": str(model), "inputs": str(inputs), "out": str(out)}
    order = {**paths, "settings": SETTINGS | more, "more": MORE}
    command = [sys.executable, "-c", CHILD, json.dumps(order)]
    # glibc sets 128 MB of addresses aside for each thread, used or not, which the limit counts.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, **pipes)


def end(process):
    out, err = process.communicate()
    return process.returncode, out, err


def test_a_model_larger_than_memory(model, inputs, tmp_path):
    size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    assert size > 6_000_000_000
    code, _, err = end(child(model, inputs, tmp_path / "forward"))
    assert code != 0, "forward needs the whole model"
    assert "memory" in err.lower() or code < 0, err
    assert not (tmp_path / "forward").exists()

    code, out, err = end(child(model, inputs, tmp_path / "whole", schedule="layerwise"))
    assert code == 0, err
    report = json.loads(out)
    assert report["peak"] < CAP
    assert sorted(report["read"]) == sorted(report["known"]), "every weight is needed here"
    assert all(n == n_bytes for n, n_bytes in report["read"].values()), "and read exactly once"
    assert residuum.store.verify(tmp_path / "whole").ok
    assert residuum.open(tmp_path / "whole").complete

    killed = child(model, inputs, tmp_path / "run", schedule="layerwise")
    part = tmp_path / "run/staging/stream/31.part"
    while not (part.exists() and part.stat().st_size):
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.001)
    killed.send_signal(signal.SIGKILL)
    assert end(killed)[0] == -signal.SIGKILL
    store = residuum.open(tmp_path / "run")
    assert (store.complete, store["z"].layers) == (False, (3,))
    resumed = child(model, inputs, tmp_path / "run", schedule="layerwise", resume=True)
    code, out, err = end(resumed)
    assert code == 0, err
    report = json.loads(out)
    assert report["peak"] < CAP
    layers = {int(name.split(".")[2]) for name in report["read"] if ".layers." in name}
    assert layers == set(range(30, N_LAYER)), "whole layers are not read again"
    assert_same(tmp_path / "run", tmp_path / "whole", *ARRAYS)
    assert not (tmp_path / "run/staging").exists()
