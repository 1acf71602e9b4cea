"""What can be asked of the study, and the names of its parts."""

from dataclasses import dataclass

from residuum.analyses.params import param
from residuum.errors import ArgumentError

EXPERIMENTS = (
    "accuracy",
    "critical_layers",
    "early_exit",
    "prefix_matching",
    "ablations",
    "label_copying",
)
KINDS = ("zero", "mean", "resample", "uniform_qkv")
LATE = ("exit", "critical")


@dataclass(frozen=True)
class Params:
    """What to compute, and how."""

    experiments: tuple[str, ...] | None = param(
        None,
        "parts to do: " + ", ".join(EXPERIMENTS) + "; none is all that the store has the sites "
        "for, the others stand in the table `skipped`",
    )
    datasets: tuple[str, ...] | None = param(None, "data sets to use; none is all")
    settings: tuple[str, ...] | None = param(None, "settings of false labels; none is all")
    all_demos: bool = param(
        default=False,
        meaning="read every state at every demonstration; else the first and last, and the last "
        "state at all",
    )
    reference_double_norm: bool = param(
        default=False, meaning="norm the last state twice, as the paper's code does"
    )
    exit_state: int | None = param(
        None, "state at which early exit reads; none is where it gains most", least=0
    )
    late: str = param(
        "exit",
        "first late block: `exit` is the first that early exit skips, `critical` the first after "
        "the critical layer, or a number",
    )
    select_on: str | None = param(
        None, "data set on which heads are chosen; none is `unnatural`, or the first"
    )
    n_heads: tuple[int, ...] = param((5,), "how many heads to ablate, one run each", least=1)
    seeds: tuple[int, ...] = param((0, 1, 2, 3, 4), "of the random heads, one draw each", least=0)
    kind: str = param(
        "zero",
        "what is put in place: " + ", ".join(KINDS) + "; zero is `z` of heads and what MLPs give, "
        "uniform_qkv zeroes q, k and v at the last position, as the paper's code does",
    )
    mlp_bias: bool = param(
        default=False, meaning="zero the MLP's hidden layer, which leaves its output bias"
    )
    pattern: str | None = param(
        None, "store of the same prompts that holds their pattern; none is the store itself"
    )
    model: str | None = param(None, "folder of the model's weights; none is where it lay")
    device: str = param("cpu", "what replay computes on")
    memory: str = param("1GB", "for the rows of one batch of replays")

    def wants(self, experiment: str) -> bool:
        """Whether a part is to be done."""
        return self.experiments is None or experiment in self.experiments


def checked(params: Params) -> Params:
    """The parameters, if their words are known.

    Raises:
        ArgumentError: one is not.
    """
    for name, given, known in (
        ("experiments", params.experiments or (), EXPERIMENTS),
        ("kind", (params.kind,), KINDS),
        ("late", () if params.late.isdecimal() else (params.late,), LATE),
    ):
        for word in given:
            if word not in known:
                message = f"overthinking: {name}={word!r} is none of {', '.join(known)}"
                raise ArgumentError(message)
    return params
