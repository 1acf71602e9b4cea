"""What can be asked of the tuned lens, and how it is trained."""

from dataclasses import dataclass

from residuum.analyses.params import param
from residuum.errors import ArgumentError
from residuum.lenses import Recipe
from residuum.lenses.removal import REMOVALS
from residuum.lenses.stored import LOGIT

EXPERIMENTS = (
    "quality",
    "trajectory",
    "transfer",
    "covariance",
    "depth",
    "causal_basis",
    "alignment",
    "ablation",
    "gradient",
    "anomaly",
)


MADE_OF = {"lens_transfer": "quality", "difficulty": "depth", "fidelity": "causal_basis"}
"""Tables that are made of another part's."""


@dataclass(frozen=True)
class Params:
    """Which lens, what of it, and the settings of its training."""

    lens: str | None = param(
        None,
        "lens to judge: the name of one in the store, or the folder of a published checkpoint; "
        "none trains one",
    )
    beside: str | None = param(
        None,
        "a second lens, such as that of the model before it was fine-tuned: a name in the store, "
        "the folder of a published checkpoint, or a file lenses/NAME.safetensors of another store",
    )
    save_as: str = param("tuned", "name under which the trained lens is kept in the store")
    experiments: tuple[str, ...] | None = param(
        None,
        "parts to do: "
        + ", ".join(EXPERIMENTS)
        + "; none is all that the store allows, the others stand in the table `skipped`",
    )
    held_out: float = param(
        0.2, "share of the examples that are not trained on, and judged", least=0
    )
    optimizer: str = param("sgd", "sgd (Nesterov) or adam (amsgrad)")
    steps: int = param(250, "of the optimizer", least=0)
    tokens_per_step: int | None = param(
        None, "tokens of a step; none is 2^18, or all there are", least=1
    )
    rate_scale: float = param(1.0, "factor on the rate: 1 - momentum for sgd, 1e-3 for adam")
    momentum: float = param(0.9, "of sgd, or the first beta of adam")
    weight_decay: float = param(1e-3, "pull to the identity", least=0)
    warm_up: int | None = param(
        None, "steps of rising rate; none is 0 for sgd, min(1000, steps / 5) for adam", least=0
    )
    clip: float = param(1.0, "largest norm of the gradient of all translators")
    loss: str = param("kl", "kl to the model's output, or ce to the next token")
    bias_only: bool = param(default=False, meaning="train biases alone")
    start: str = param("identity", "identity, or least_squares to the last state")
    shuffled: bool = param(
        default=False, meaning="control: states learn other tokens' outputs, which tells nothing"
    )
    seed: int = param(0, "of the split and of the order of examples", least=0)
    executor: str = param("auto", "rust on the CPU, or torch; auto is rust on the CPU")
    device: str = param("cpu", "of torch, such as cuda")
    precision: str = param("float32", "of a training's products: float32, or bfloat16 by torch")
    memory: str = param("1GB", "for the rows that are computed together")
    examples: int = param(12, "held-out examples whose trajectories are kept", least=0)
    model: str | None = param(
        None,
        "folder of the model's weights, for causal_basis, alignment, ablation and gradient, which "
        "replay",
    )
    basis_examples: int = param(32, "held-out examples that are replayed, all tokens", least=1)
    directions: int = param(6, "of each layer's causal basis", least=1)
    starts: int = param(
        1,
        "from which each of these is looked for, the best end kept: more find better ones",
        least=1,
    )
    random_directions: int = param(10, "of each layer, the control", least=0)
    removal: str = param("mean", "what is put along a direction: mean, zero or resample")
    anomalies: str | None = param(
        None,
        "query with columns row, clean (true or false) and, if wanted, task, candidates (token "
        "ids); none asks whether demonstrations are true",
    )
    train_share: float = param(0.6, "of examples with clean rows, which detectors learn from")
    splits: int = param(10, "random splits of these examples", least=1)
    neighbours: int = param(20, "of the local outlier factor", least=1)
    fingerprint: str | None = param(
        None, "of lenses that are there, filled in so that a result is known by their content"
    )

    @property
    def recipe(self) -> Recipe:
        """The settings of the training."""
        return Recipe(
            optimizer=self.optimizer,
            steps=self.steps,
            tokens_per_step=self.tokens_per_step,
            rate_scale=self.rate_scale,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            warm_up=self.warm_up,
            clip=self.clip,
            loss=self.loss,
            bias_only=self.bias_only,
            start=self.start,
            shuffled=self.shuffled,
            seed=self.seed,
        )

    @property
    def unasked(self) -> frozenset[str]:
        """Tables that stay empty because they were not asked for."""
        left = {"losses"} if self.lens is not None else set()
        if self.beside is None:
            left.add("lens_transfer")
        if self.experiments is not None:
            left |= {"skipped", *EXPERIMENTS} - set(self.experiments)
        return frozenset(left | {name for name, part in MADE_OF.items() if part in left})

    def check(self) -> None:
        """Refuse parts that there are not.

        Raises:
            ArgumentError: a part or a setting that means nothing.
        """
        for name in self.experiments or ():
            if name not in EXPERIMENTS:
                message = f"tuned_lens has no part {name!r}; there are: {', '.join(EXPERIMENTS)}"
                raise ArgumentError(message)
        if self.removal not in REMOVALS:
            message = f"removal is {', '.join(REMOVALS)}, not {self.removal!r}"
            raise ArgumentError(message)
        if not 0 < self.train_share < 1:
            message = f"train_share is between 0 and 1, not {self.train_share}"
            raise ArgumentError(message)
        if self.save_as == LOGIT:
            message = (
                f"save_as={LOGIT} is what the logit lens is called in the tables: take another"
            )
            raise ArgumentError(message)
        _ = self.recipe
