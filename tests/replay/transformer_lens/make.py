"""Write what TransformerLens' `get_act_patch_*` give on tiny models, for `test_transformer_lens`.

TransformerLens is no dependency of the tests; this needs it (the group `peers`).

    python tests/replay/transformer_lens/make.py
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import tiny_models  # noqa: E402
from tokenizers import Tokenizer, models  # noqa: E402
from transformer_lens import patching  # noqa: E402
from transformer_lens.model_bridge import TransformerBridge  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

NAMES = {"gpt2": "gpt2", "gpt_neox": "EleutherAI/pythia-70m"}
CLEAN, CORRUPTED = [3, 1, 4, 1, 5, 9], [3, 1, 7, 2, 5, 8]
TO, MINUS = 3, 5
SWEEPS = {
    "resid_pre": patching.get_act_patch_resid_pre,
    "attn_out": patching.get_act_patch_attn_out,
    "mlp_out": patching.get_act_patch_mlp_out,
    "z_by_token": patching.get_act_patch_attn_head_out_by_pos,
    "z": patching.get_act_patch_attn_head_out_all_pos,
    "q": patching.get_act_patch_attn_head_q_all_pos,
    "v": patching.get_act_patch_attn_head_v_all_pos,
}


def metric(logits: torch.Tensor) -> torch.Tensor:
    """The logit difference at the last token."""
    return logits[0, -1, TO] - logits[0, -1, MINUS]


def main() -> None:
    """One folder a model: its weights, and an array for each sweep."""
    for name, known in NAMES.items():
        model = tiny_models.build(name, torch.float32)
        model.save_pretrained(HERE / name)
        words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(31)}, unk_token="w0"))
        with TemporaryDirectory() as folder:
            PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w29").save_pretrained(folder)
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
            bridge = TransformerBridge.boot_transformers(known, hf_model=model, tokenizer=tokenizer)
        clean, corrupted = torch.tensor([CLEAN]), torch.tensor([CORRUPTED])
        with torch.no_grad():
            _, cache = bridge.run_with_cache(clean)
            found = {k: call(bridge, corrupted, cache, metric) for k, call in SWEEPS.items()}
        np.savez(HERE / name / "patching.npz", **{k: v.numpy() for k, v in found.items()})


if __name__ == "__main__":
    main()
