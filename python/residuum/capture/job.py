"""A capture with everything checked that can be checked before it writes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from residuum.capture import provenance
from residuum.capture.examples import ExampleSource, Survey
from residuum.capture.tables import TableLayout
from residuum.capture.tokenise import LengthRule, Tokeniser
from residuum.capture.tracer import SiteShape, Tracer
from residuum.capture.vocabulary import token_texts
from residuum.capture.wanted import Wanted
from residuum.errors import InputError
from residuum.sites import RowSpace, Site
from residuum.store.plan import ArrayPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import PIL.Image
    import torch

    from residuum.capture.inputs import Inputs
    from residuum.capture.model import LoadedModel
    from residuum.capture.settings import Settings
    from residuum.store.plan import Dtype
    from residuum.store.s3_path import StorePath


@dataclass(frozen=True)
class Job:
    """What a capture needs to run.

    Attributes:
        path: the store.
        shapes: how each site is stored, but for its dtype, which is in `dtypes`.
        n_key: width of the key axis: what the longest example needs, or for a stream could need.
        vocabulary: the text of every token id; None for images.
        facts: the settings as a store remembers them.
    """

    path: StorePath
    settings: Settings
    inputs: Inputs
    loaded: LoadedModel
    tracer: Tracer
    source: ExampleSource
    survey: Survey | None
    shapes: dict[Site, SiteShape]
    dtypes: dict[Site, Dtype]
    n_key: int
    vocabulary: list[str] | None
    layout: TableLayout
    facts: dict[str, Any]

    @classmethod
    def prepare(
        cls,
        path: StorePath,
        settings: Settings,
        inputs: Inputs,
        loaded: LoadedModel,
        lengths: LengthRule,
        wanted: Wanted,
    ) -> Job:
        """Bring settings, inputs and model together, and walk the inputs once (not a stream).

        `wanted` is what is to be captured, whatever the settings say.

        Raises:
            InputError: an input that cannot be captured.
            SiteError: a site or layer that the model does not have.
        """
        settings = replace(settings, sites=tuple(wanted.layers))
        tracer = Tracer(loaded.model, loaded.adapter, settings.sites, wanted.layers)
        context = tracer.dims.context
        rule = LengthRule(context, lengths.truncate, lengths.window, lengths.stride)
        vocabulary = None
        if loaded.tokenizer is not None:
            vocabulary = token_texts(loaded.tokenizer, tracer.dims.d_vocab)
        layout = _layout(settings, inputs, rule, vocabulary)
        source = ExampleSource(
            inputs,
            settings.positions,
            tokeniser=_tokeniser(loaded, rule),
            image_tokens=context if loaded.tokenizer is None else None,
        )
        survey = source.survey()
        n_key = _n_key(settings, survey, rule.window or context)
        shapes = tracer.shapes(n_key)
        dtype = settings.dtype or _computed_dtype(loaded)
        return cls(
            path=path,
            settings=settings,
            inputs=inputs,
            loaded=loaded,
            tracer=tracer,
            source=source,
            survey=survey,
            shapes=shapes,
            dtypes={site: stored_dtype(site, dtype) for site in shapes},
            n_key=n_key,
            vocabulary=vocabulary,
            layout=layout,
            facts=provenance.capture_facts(
                settings,
                rule,
                inputs,
                layers=tracer.layers,
                dtype=dtype,
                device=str(loaded.device),
                folder=loaded.folder,
            ),
        )

    def arrays(self, key_width: int | None = None, wanted: Wanted | None = None) -> list[ArrayPlan]:
        """The plans of the arrays of what is captured, or of a part of it.

        `key_width` is that of a store which has one already.
        """
        tracer = self.tracer if wanted is None else self.tracer.part(wanted.layers)
        shapes = tracer.shapes(self.n_key if key_width is None else key_width)
        return [
            ArrayPlan(site, shape.n_layer, shape.layers, shape.inner, self.dtypes[site])
            for site, shape in shapes.items()
        ]

    @property
    def wanted(self) -> Wanted:
        """What is captured."""
        return Wanted({site: shape.layers for site, shape in self.shapes.items()})

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.loaded.device

    @property
    def prepare_images(self) -> Callable[[Sequence[PIL.Image.Image]], list[torch.Tensor]] | None:
        """What makes pixel values of images; None for text."""
        return None if self.vocabulary is not None else self.images

    def images(self, pictures: Sequence[PIL.Image.Image]) -> list[torch.Tensor]:
        """Pixel values `[channel, height, width]` as the model's processor makes them."""
        processed = self.loaded.image_processor(images=list(pictures), return_tensors="pt")
        return list(processed["pixel_values"])


def _n_key(settings: Settings, survey: Survey | None, longest: int) -> int:
    if settings.keys == "stored" and settings.positions.which in ("first", "last"):
        return 1
    if survey is None:
        return longest
    return survey.most_stored if settings.keys == "stored" else survey.longest


def stored_dtype(site: Site, dtype: Dtype) -> Dtype:
    """What a site is stored as; norm scales are few and divide everything, so they stay float32."""
    return "float32" if site is Site.NORM_SCALE else dtype


def _tokeniser(loaded: LoadedModel, rule: LengthRule) -> Tokeniser | None:
    if loaded.tokenizer is None:
        return None
    n_embedded = getattr(loaded.adapter.config(loaded.model), "vocab_size", None)
    return Tokeniser(loaded.tokenizer, rule, n_embedded)


def _layout(
    settings: Settings, inputs: Inputs, rule: LengthRule, vocabulary: list[str] | None
) -> TableLayout:
    spaces = {site.row_space for site in settings.sites}
    layout = TableLayout(
        user=inputs.schema,
        windowed=rule.window is not None,
        vocabulary=None if vocabulary is None else pa.array(vocabulary, pa.string()),
        token_rows=RowSpace.TOKEN in spaces,
        example_rows=RowSpace.EXAMPLE in spaces,
    )
    layout.check()
    return layout


def _computed_dtype(loaded: LoadedModel) -> Dtype:
    dtype: str = loaded.facts["dtype"]
    if dtype == "float64":
        message = (
            "the model computes in float64, which a store does not hold: say what to store with "
            "--dtype float32 (dtype=)."
        )
        raise InputError(message)
    return cast("Dtype", dtype)
