"""What the API answers: every field with its unit, as the OpenAPI page shows them."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Measured = Annotated[float | None, Field(description="null where it was not measured")]


class Answer(BaseModel):
    """Base of all answers; a key more than these is a fault of ours."""

    model_config = ConfigDict(extra="forbid")


class Problem(Answer):
    """What cannot be answered, as everywhere in StitchLens."""

    found: str = Field(examples=["no pair named 'nona'"])
    wanted: str = Field(examples=["one of nano, smollm2-gemma3"])
    do: str = Field(examples=["see /pairs"])


class Pair(Answer):
    """Two models."""

    pair: str = Field(description="its name in addresses", examples=["nano"])
    title: str
    family: str = Field(description="within-family or cross-family")
    a: str = Field(description="the title of model A, the smaller")
    b: str
    workspace: bool = Field(description="whether anything was measured")
    saes: list[str] = Field(description="SAEs of A whose features were measured")


class Pairs(Answer):
    pairs: list[Pair]


class Stitch(Answer):
    """An affine map between the residual streams of a pair."""

    name: str = Field(examples=["L2-L3"])
    layer_a: int
    layer_b: int
    method: str
    metric: str | None
    alpha: Measured = Field(description="of Eq. 3; null for one that was brought")
    ways: list[str] = Field(description="up (A to B), down (B to A)")
    fuv_up: Measured = Field(description="fraction of variance unexplained on held-out text")
    fuv_down: Measured
    losses: dict[str, Measured] = Field(
        description="nats per token of the model that is scored, by condition of Table 1"
    )
    relative: dict[str, Measured] = Field(
        description="what crossing costs, as a share of the speaking model's own loss"
    )


class Stitches(Answer):
    pair: str
    stitches: list[Stitch] = Field(description="the default one first")


class Row(Answer):
    """A feature, as `features find` prints it."""

    feature: int
    label: str | None = Field(description="when it fires, in words", examples=['"French"'])
    label_f1_a: Measured = Field(description="F1 of the label on held-out text of A")
    label_f1_b: Measured = Field(description="the same of the carried feature in B")
    agreement: Measured = Field(description="correlation of its activation in A and carried, in B")
    correlation: Measured = Field(description="attribution correlation (Eq. 10)")
    twin: int | None = Field(description="the feature of B's own SAE that fires most alike")
    twin_r: Measured = Field(description="their correlation")


class Result(Row):
    score: Measured = Field(None, description="by sentence: share of the maximum times bits")
    share_a: Measured = Field(None, description="by sentence: of its maximum in A")
    share_b: Measured = Field(None, description="by sentence: of its maximum in B")
    found_in: str | None = Field(
        None, description="by a word: label, explanation, peak, context or beginning (of a longer)"
    )
    cosine: Measured = Field(None, description="by direction: of its decoder row and the direction")


class Features(Answer):
    pair: str
    sae: str
    total: int = Field(description="features of the SAE")
    offset: int
    results: list[Row]


class Found(Answer):
    pair: str
    sae: str
    query: str
    results: list[Result] = Field(description="the best first")
    empty: str | None = Field(None, description="why there is none")
    caution: str | None = Field(None, description="where none of them is of the word itself")


class Side(Answer):
    """A feature in one model."""

    logits: list[dict[str, Any]] = Field(
        description="tokens that it raises (rank 0 and up) and lowers (-1 and down) most"
    )
    histogram: list[dict[str, Any]] = Field(description="tokens by activation, in half octaves")
    contexts: list[dict[str, Any]] = Field(
        description="top contexts: document, ends of its tokens in characters, heat in activations"
    )


class Feature(Answer):
    """All that is known of one feature."""

    pair: str
    sae: str
    neuronpedia: str | None = Field(description="its page there, for an SAE of a release")
    makers: dict[str, Any] = Field(description="what it was measured from")
    feature: dict[str, Any] = Field(description="its measures")
    label: dict[str, Any] | None = Field(description="its label and the label's scores")
    explanations: list[dict[str, Any]] = Field(
        description="what others say of it: text, source, and F1 on passages that an explainer was"
        " not shown (f1_a, f1_b; null where it was not scored)"
    )
    agreement: list[dict[str, Any]] = Field(description="a row for each kind of text")
    twins: list[dict[str, Any]] = Field(description="a row for each kind of text")
    a: Side = Field(description="in A")
    b: Side = Field(description="carried over, in B")


class Token(Answer):
    """One position of the model that speaks."""

    text: str
    special: bool = Field(description="whether it is no text: the token before every text")
    paired: bool = Field(description="whether it crossed")
    loss_a: Measured = Field(description="nats of the next token")
    loss_b: Measured
    loss_crossed: Measured
    loss_control: Measured
    kl: float = Field(description="nats, of the speaking model's next token against the crossing's")
    top_a: list[tuple[str, float]] = Field(description="next tokens and their probabilities")
    top_b: list[tuple[str, float]]
    top_crossed: list[tuple[str, float]]
    top_control: list[tuple[str, float]]


class Crossed(Answer):
    """A text as the stitched model reads it."""

    pair: str
    stitch: str
    control: str
    direction: str
    text: str
    read: int = Field(description="characters that were read: a longer text is cut")
    tokens: list[Token]
    totals: dict[str, dict[str, float | None]] = Field(
        description="of Table 1, for this text: loss in nats per token, bits per byte"
    )
