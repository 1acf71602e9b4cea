"""What an adapter says: where the sites of one model family are.

An adapter is data, not code: module paths below a block, and a few yes/no facts. To add a family:

1. Open the family's `modeling_*.py` in transformers and find the class with the list of blocks (the
   *body*), and the modules in a block that project q, k, v, project the heads back (W_O), hold the
   MLP's activation, and normalise.
2. Write `adapters/<family>.py` with one `Adapter(...)`; the fields below say what each one is.
   Copy the file of the closest family: `gpt2` for fused projections, `llama` for separate ones,
   `bert` for post-norm blocks.
3. Add it to `ADAPTERS` in `adapters/__init__.py`, and a tiny model to `tests/tiny_models.py`.
   The tests there check every identity in 64-bit; if they pass, the adapter is right.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

from torch import nn

from residuum.errors import ModelError
from residuum.sites import Site

Config: TypeAlias = Any  # a transformers configuration; its attributes differ by family


@dataclass(frozen=True)
class Tap:
    """A tensor that can be read at a module: its first input, or its (first) output.

    Attributes:
        module: path below the block; "" is the block itself.
        side: read what enters the module or what leaves it.
        part: 0, 1 or 2 for the q, k or v third of a fused projection.
        fused: how a fused projection lays its output out: "thirds" is [q | k | v], "heads" is
            [q | k | v] for each head in turn.
    """

    module: str
    side: Literal["input", "output"]
    part: int | None = None
    fused: Literal["thirds", "heads"] | None = None


@dataclass(frozen=True)
class Difference:
    """`after - before`, for blocks that normalise the sum and so never hold the term alone."""

    before: Tap
    after: Tap


@dataclass(frozen=True)
class Dims:
    """The lengths of a model's axes. `context` is the longest example, in tokens."""

    n_layer: int
    n_head: int
    n_kv_head: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int | None
    d_embed: int | None
    context: int


def _never(_config: Config) -> bool:
    return False


def _none(_config: Config) -> None:
    return None


def _rotation(config: Config) -> dict[str, Any]:
    return dict(config.rope_parameters)


def _mlp_width(config: Config) -> int:
    return int(config.intermediate_size)


def _context(config: Config) -> int:
    return int(config.max_position_embeddings)


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Where the sites of one family are. Paths are relative to a block unless said otherwise."""

    family: str
    kind: Literal["text", "image"]
    model_types: Mapping[str, str]
    """`config.model_type` -> class to load a checkpoint as that names none of `models`, such as a
    classifier's, and every checkpoint of two towers."""
    models: Mapping[str, str]
    """Model class -> path of its body below the model ("" where the model is the body)."""
    load_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Model class -> further arguments of its `from_pretrained`."""
    heads: frozenset[str] = frozenset()
    """Those of `models` whose output has `logits` over the vocabulary."""
    unlike: Callable[[Config], str | None] = _none
    """How the blocks of a configuration differ from those described, if they do: it is refused."""
    blocks: str
    """Path of the list of blocks, below the body."""
    block_returns_tuple: bool = False
    """Whether a block returns the stream as the first of several things."""
    flattens: bool = False
    """Whether a block's MLP and its norm read the tokens of all examples side by side,
    `[example * token, d_model]`."""
    attention: str
    """The module that transformers hands to its attention function."""
    attends: str | None = None
    """The method of that module that attends, in families without such a function."""
    q: Tap
    k: Tap
    v: Tap
    out_proj: str
    """W_O: reads z, all heads side by side."""
    attn_out: Tap | None = None
    """What attention adds to the stream. None in post-norm blocks."""
    mlp_out: Tap | None = None
    mlp_pre: Tap
    """Enters the activation function (of a gated MLP: the gate)."""
    mlp_post: Tap
    """Enters the MLP's last projection."""
    mlp_up: str | None = None
    """The projection of a gated MLP that the activation's output is multiplied by."""
    norms: tuple[str, ...]
    """The norms of a block in order of use: attention's, the MLP's; one where they share it."""
    branch_norms: tuple[str, ...] = ()
    """The norms that what attention and MLP give passes before it is added, where there are any."""
    final_norm: str | None
    """Path below the body of the norm between the last block and the readout."""
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm"
    norm_offset: float = 0.0
    """What a norm adds to its weight to get its gain."""
    norm_float32: bool = False
    """Whether the family's norm computes in float32 whatever the model's dtype."""
    post_norm: bool = False
    """Whether the norms come after the sum (BERT) instead of before each branch."""
    parallel: Callable[[Config], bool] = _never
    """Whether attention and MLP read the same stream and are added together."""
    rotary: bool = False
    rotation: Callable[[Config], dict[str, Any]] = _rotation
    """How queries and keys are rotated, in the words of transformers' `rope_parameters`."""
    causal: bool = True
    pooling: Literal["mean", "projection"] | None = None
    """How an encoder makes one vector of an example: the mean over its tokens, or the model's own
    pooling followed by `projections`."""
    projections: Mapping[str, str] = field(default_factory=dict)
    """Model class -> path of the projection to the joint space, below the model."""
    linear_unembedding: bool = True
    """Whether logits are norm and W_U alone (BERT's head has a layer of its own in between)."""
    logit_softcap: Callable[[Config], float | None] = _none
    """What bounds the logits: `cap * tanh(logits / cap)`."""
    mlp_width: Callable[[Config], int] = _mlp_width
    context: Callable[[Config], int] = _context

    def body(self, model: nn.Module) -> nn.Module:
        """Return the part of the model that holds the blocks."""
        return model.get_submodule(self.models[type(model).__name__])

    def check(self, model: nn.Module) -> None:
        """Refuse a model of the family whose blocks are not those described here.

        Raises:
            ModelError: says how they differ.
        """
        difference = self.unlike(self.config(model))
        if difference is not None:
            message = f"{type(model).__name__} cannot be captured with these settings: {difference}"
            raise ModelError(message)

    def block_list(self, model: nn.Module) -> list[nn.Module]:
        """Return the blocks in order."""
        return list(self.body(model).get_submodule(self.blocks).children())

    def config(self, model: nn.Module) -> Config:
        """Return the configuration of the body (of one tower, where a model has two)."""
        return self.body(model).config

    def projection(self, model: nn.Module) -> nn.Linear | None:
        """Return the projection to the joint text-image space, where the model class has one."""
        path = self.projections.get(type(model).__name__)
        return None if path is None else cast("nn.Linear", model.get_submodule(path))

    def has_head(self, model: nn.Module) -> bool:
        """Whether the model's output has logits over the vocabulary."""
        return type(model).__name__ in self.heads

    def dims(self, model: nn.Module) -> Dims:
        """Return the lengths of the model's axes."""
        config = self.config(model)
        n_head = int(config.num_attention_heads)
        d_model = int(config.hidden_size)
        projection = self.projection(model)
        return Dims(
            n_layer=int(config.num_hidden_layers),
            n_head=n_head,
            n_kv_head=int(getattr(config, "num_key_value_heads", None) or n_head),
            d_model=d_model,
            d_head=int(getattr(config, "head_dim", None) or d_model // n_head),
            d_mlp=self.mlp_width(config),
            d_vocab=int(config.vocab_size) if self.kind == "text" else None,
            d_embed=self._d_embed(d_model, projection),
            context=self.context(config),
        )

    def _d_embed(self, d_model: int, projection: nn.Linear | None) -> int | None:
        if self.pooling == "mean":
            return d_model
        return None if projection is None else projection.out_features

    def locate(self, site: Site, config: Config) -> Tap | Difference | None:
        """Return where in a block a site is read, or None if a tap is not how it is read."""
        taps: dict[Site, Tap | Difference | None] = {
            Site.RESID_PRE: Tap("", "input"),
            Site.RESID_MID: None if self.parallel(config) else self._resid_mid(),
            Site.RESID_POST: Tap("", "output"),
            Site.ATTN_OUT: self.attn_out or Difference(Tap("", "input"), self._resid_mid()),
            Site.MLP_OUT: self.mlp_out or Difference(self._resid_mid(), Tap("", "output")),
            Site.Q: self.q,
            Site.K: self.k,
            Site.V: self.v,
            Site.IMAGE_V: self.v,
            Site.Z: Tap(self.out_proj, "input"),
            Site.MLP_PRE: self.mlp_pre,
            Site.MLP_POST: self.mlp_post,
        }
        return taps.get(site)

    def _resid_mid(self) -> Tap:
        if self.post_norm:
            return Tap(self.norms[0], "output")
        return Tap(self.norms[1], "input")

    def missing(self, model: nn.Module) -> dict[Site, str]:
        """Return the sites that this model does not have, each with the reason."""
        name = type(model).__name__
        absent: dict[Site, str] = {}
        if self.parallel(self.config(model)):
            absent[Site.RESID_MID] = (
                "its blocks run attention and MLP in parallel, so there is no stream in between"
            )
        if not self.rotary:
            reason = "it does not rotate queries and keys by position; capture q and k"
            absent[Site.ROT_Q] = absent[Site.ROT_K] = reason
        if not self.has_head(model):
            absent[Site.LOGITS] = f"{name} has no language-model head"
        if self.kind != "image":
            absent[Site.IMAGE_V] = "its examples differ in length; capture v"
        if self.pooling is None:
            absent[Site.POOLED] = "it is a decoder, which makes no one vector of an example"
        elif self.pooling == "projection" and self.projection(model) is None:
            absent[Site.POOLED] = (
                f"{name} has no projection to the joint space; "
                f"load {' or '.join(self.projections)} instead"
            )
        return absent

    def sites(self, model: nn.Module) -> list[Site]:
        """Return the sites that this model has, in the order of the vocabulary."""
        absent = self.missing(model)
        return [site for site in Site if site not in absent]
