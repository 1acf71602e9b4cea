"""The vocabulary of places in a transformer: sites, their axes and their rows.

A *site* is a named tensor inside a model (`resid_post`, `z`, `pattern`, ...). A stored site is an
array whose first axis is `row`; `Site.axes` names the axes behind it, in order. Rows are either
tokens, one (example, token) pair each, or whole examples (`RowSpace`).
"""

from enum import StrEnum

from residuum.errors import SiteError


class RowSpace(StrEnum):
    """What one row of a stored site stands for."""

    TOKEN = "token"
    EXAMPLE = "example"


class Site(StrEnum):
    """A named tensor inside a transformer; its value is its name on disk, in SQL and in Python."""

    EMBED = "embed"
    RESID_PRE = "resid_pre"
    RESID_MID = "resid_mid"
    RESID_POST = "resid_post"
    RESID_FINAL = "resid_final"
    ATTN_OUT = "attn_out"
    MLP_OUT = "mlp_out"
    Q = "q"
    K = "k"
    V = "v"
    ROT_Q = "rot_q"
    ROT_K = "rot_k"
    ATTN_SCORES = "attn_scores"
    PATTERN = "pattern"
    Z = "z"
    MLP_PRE = "mlp_pre"
    MLP_POST = "mlp_post"
    NORM_SCALE = "norm_scale"
    LOGITS = "logits"
    POOLED = "pooled"
    IMAGE_V = "image_v"

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes behind `row`, in order, such as `("layer", "head", "d_head")`."""
        return _AXES[self]

    @property
    def row_space(self) -> RowSpace:
        """Whether a row is a token or a whole example."""
        return RowSpace.EXAMPLE if self in _OF_EXAMPLES else RowSpace.TOKEN

    @property
    def has_layers(self) -> bool:
        """Whether the site exists once per layer rather than once per model."""
        return "layer" in self.axes

    @classmethod
    def parse(cls, name: str) -> "Site":
        """Return the site called `name`.

        Raises:
            SiteError: no site has that name; the message lists all of them.
        """
        try:
            return cls(name)
        except ValueError:
            known = ", ".join(site.value for site in cls)
            message = f"there is no site called {name!r}; the sites are {known}"
            raise SiteError(message) from None


_AXES: dict[Site, tuple[str, ...]] = {
    Site.EMBED: ("d_model",),
    Site.RESID_PRE: ("layer", "d_model"),
    Site.RESID_MID: ("layer", "d_model"),
    Site.RESID_POST: ("layer", "d_model"),
    Site.RESID_FINAL: ("d_model",),
    Site.ATTN_OUT: ("layer", "d_model"),
    Site.MLP_OUT: ("layer", "d_model"),
    Site.Q: ("layer", "head", "d_head"),
    Site.K: ("layer", "kv_head", "d_head"),
    Site.V: ("layer", "kv_head", "d_head"),
    Site.ROT_Q: ("layer", "head", "d_head"),
    Site.ROT_K: ("layer", "kv_head", "d_head"),
    Site.ATTN_SCORES: ("layer", "head", "key"),
    Site.PATTERN: ("layer", "head", "key"),
    Site.Z: ("layer", "head", "d_head"),
    Site.MLP_PRE: ("layer", "d_mlp"),
    Site.MLP_POST: ("layer", "d_mlp"),
    Site.NORM_SCALE: ("layer", "norm"),
    Site.LOGITS: ("d_vocab",),
    Site.POOLED: ("d_embed",),
    Site.IMAGE_V: ("layer", "token", "kv_head", "d_head"),
}

_OF_EXAMPLES = frozenset({Site.POOLED, Site.IMAGE_V})
