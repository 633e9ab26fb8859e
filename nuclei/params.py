"""params.yaml as one frozen, typed object: every range and unit stands here, every value in the file."""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from nuclei.errors import InputError

Seed = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
BatchSize = Annotated[int, Field(ge=2, le=4096)]
Epochs = Annotated[int, Field(ge=1, le=1000)]
ModelName = Literal["cnn", "resnet"]


class Section(BaseModel):
    """A part of params.yaml: immutable, no unknown key, no silent conversion, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Data(Section):
    raw: Annotated[str, Field(min_length=1)]  # folder with train.zip, train.csv, test.zip, example.csv
    channels: int  # 1: grey, 3: RGB

    @field_validator("channels")
    @classmethod
    def _grey_or_rgb(cls, value: int) -> int:
        if value not in (1, 3):
            raise ValueError("1 or 3")
        return value


class Sample(Section):
    seed: Seed
    train: Annotated[int, Field(ge=20, le=100_000)]  # crops
    test: Annotated[int, Field(ge=4, le=100_000)]  # crops
    patients: Annotated[int, Field(ge=1, le=1000)]  # each with a stain of its own


class Overlap(Section):
    """How crops that share pixels are found."""

    window: Annotated[int, Field(ge=4, le=256)]  # pixels: overlaps of twice this a side are never missed
    border: Annotated[int, Field(ge=0, le=40)]  # pixels along the edges that may differ: crops enlarged one by one
    near_duplicates: bool  # also list crops that look alike without sharing pixels


class Split(Section):
    seed: Seed
    by: Literal["overlap", "group", "random"]  # what is kept together: shared pixels and Group, Group alone, nothing
    folds: Annotated[int, Field(ge=3, le=100)]  # fold 0 is held out, fold 1 validates, the others train


class Cnn(Section):
    """The shape of SmallCNN, apart from the two widths, which `tune` finds."""

    filters: Annotated[list[Annotated[int, Field(ge=4, le=512)]], Field(min_length=4, max_length=4)]
    dropout: Share  # before the classifier


class Resnet(Section):
    """The shape of ResNet18."""

    stem: Literal["pretrained", "no_pool", "small"]  # 7x7 stride 2 and pooling; without pooling; 3x3 stride 1


class Train(Section):
    """How any network is trained, in the search and after it."""

    weight_decay: Annotated[float, Field(ge=0, le=10)]
    warmup: Share  # share of the steps in which the learning rate rises; a cosine brings it down
    label_smoothing: Share
    balance: Literal["none", "loss", "sampling"]  # what evens out the classes
    dihedral: bool  # flips and quarter turns
    stain: Annotated[float, Field(ge=0, le=1)]  # strength of the haematoxylin and eosin jitter, 0: off
    precision: Literal["auto", "float32", "bfloat16"]  # auto: bfloat16 where the device computes in it


class Range(Section):
    low: LearningRate
    high: LearningRate

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if self.low > self.high:
            raise ValueError("low must not exceed high")
        return self


class Tune(Section):
    """Successive halving: every rung trains its trials afresh and keeps the best 1 / reduction of them."""

    seed: Seed
    trials: Annotated[int, Field(ge=1, le=10_000)]  # a model, in the first rung
    epochs: Annotated[list[Epochs], Field(min_length=1, max_length=10)]  # a trial, rung by rung
    reduction: Annotated[int, Field(ge=2, le=10)]
    lr: Range  # drawn log-uniformly
    batch_size: Annotated[list[BatchSize], Field(min_length=1)]
    widths: Annotated[list[Annotated[int, Field(ge=4, le=1024)]], Field(min_length=1)]  # of the CNN's two layers
    cpus_per_trial: Count  # also the threads of a trial
    gpus_per_trial: Annotated[float, Field(ge=0, le=64)]


class TrainModel(Section):
    """What one network has of its own."""

    seed: Seed
    epochs: Epochs
    patience: Count  # epochs without a better validation loss before training stops
    ema: Share  # decay of the weight average a step, 0: off
    final_epochs: Annotated[int, Field(ge=0, le=1000)]  # more epochs on all labelled crops, for `submit`; 0: off


class TrainResnet(TrainModel):
    weights: Annotated[str, Field(min_length=1)]  # imagenet, none, or a file


class Crossval(Section):
    """Training and measuring on every fold in turn."""

    models: list[ModelName]  # none: off

    @field_validator("models")
    @classmethod
    def _once_each(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("each model once")
        return value


class Evaluate(Section):
    seed: Seed  # of the resamples
    resamples: Annotated[int, Field(ge=100, le=1_000_000)]  # of the held-out groups, for the 95 % intervals
    bins: Annotated[int, Field(ge=2, le=100)]  # of the calibration error
    coverage: Annotated[float, Field(gt=0, lt=1)]  # share of the crops whose conformal set holds the true class


class Robustness(Section):
    factors: Annotated[list[Annotated[float, Field(gt=0, le=10)]], Field(min_length=1, max_length=100)]  # of a stain


class Review(Section):
    """Which labels are put up for a second look."""

    confidence: Share  # that each model must reach in another class than the label
    crops: Annotated[int, Field(ge=1, le=1000)]  # in the picture; the table has all


class Explain(Section):
    crops: Annotated[int, Field(ge=1, le=1000)]  # a class: half of them right ones, half wrong ones
    window: Annotated[int, Field(ge=1, le=100)]  # pixels
    stride: Annotated[int, Field(ge=1, le=100)]  # pixels

    @model_validator(mode="after")
    def _covered(self) -> "Explain":
        if self.stride > self.window:
            raise ValueError("stride must not exceed window")
        return self


class Predict(Section):
    tta: bool  # average over the eight flips and turns
    average: Literal["final", "folds"]  # what `submit` uses: one model trained on all crops, or those of `crossval`


class Params(Section):
    lr: LearningRate | None  # None: what `tune` found
    batch_size: BatchSize | None  # None: what `tune` found
    epochs: Epochs | None  # None: the model's own
    model: ModelName  # the headline
    threads: Count
    device: Literal["auto", "cpu", "cuda", "mps"]
    data: Data
    sample: Sample
    overlap: Overlap
    split: Split
    cnn: Cnn
    resnet: Resnet
    train: Train
    tune: Tune
    train_cnn: TrainModel
    train_resnet: TrainResnet
    crossval: Crossval
    evaluate: Evaluate
    robustness: Robustness
    review: Review
    explain: Explain
    predict: Predict


def load_params(path: Path) -> Params:
    """Read and check the whole of `path`; raise InputError that names each wrong key, its value and what fits."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}, got {e['input']!r:.60}" for e in error.errors()
        ]
        hint = (
            " (YAML takes 1e-3 for text: write 0.001)" if any(e["type"] == "float_type" for e in error.errors()) else ""
        )
        raise InputError(f"{path}: {'; '.join(problems)}{hint}") from None
