"""params.yaml as one frozen, typed object: every range and unit stands here, every value in the file."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from nuclei.checked_yaml import load_checked
from nuclei.task import LONGEST_CLASS, NETWORKS

SAMPLE = "data/sample"  # where the stage `sample` writes

RESNET18 = "resnet18"  # the backbone that is ours; every other one is timm's

# Parameters of earlier versions, and what became of them.
RENAMED = {
    "workers": "gone: folds are trained side by side, each with train.threads",
    "crossval": "gone: split.held_out says how many folds are held out in turn",
    "tune.epochs": "now tune.rungs, shares of the training that follows",
    "train_cnn.patience": "gone: training always ends with its schedule",
    "train_resnet.patience": "gone: training always ends with its schedule",
    "train_cnn.final_epochs": "gone: the final network is trained like those of the folds",
    "train_resnet.final_epochs": "gone: the final network is trained like those of the folds",
    "evaluate.resamples": "gone: intervals are from a jackknife over groups",
    "evaluate.coverage": "now evaluate.target_coverage",
    "review.confidence": "gone: the threshold of each class is taken from the data",
    "explain.checks": "now explain.sanity_crops",
    "explain.noise": "now explain.noise_std",
    "explain.noise_samples": "now explain.smoothgrad_samples",
    "explain.steps": "now explain.ig_steps",
    "explain.points": "now explain.curve_points",
}

Seed = Annotated[int, Field(ge=0, lt=2**31)]  # of everything that is drawn at random
Cores = Annotated[int, Field(ge=1, le=1024)]
Share = Annotated[float, Field(ge=0, lt=1)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
BatchSize = Annotated[int, Field(ge=2, le=4096)]
Epochs = Annotated[int, Field(ge=1, le=1000)]
Severities = Annotated[list[Annotated[float, Field(gt=0, le=10)]], Field(max_length=100)]


def _plain(text: str) -> str:
    if not text.isprintable():
        raise ValueError("should have no control characters")
    return text


def _network(name: str) -> str:
    if name not in NETWORKS:
        raise ValueError(f"should be one of {', '.join(NETWORKS)}")
    return name


def _class_name(name: str) -> str:
    if name != name.strip() or ";" in name or name.isdecimal():
        raise ValueError("a class should have a name: no number, no semicolon, no space before or behind it")
    return name


ModelName = Annotated[str, AfterValidator(_network), WithJsonSchema({"type": "string", "enum": list(NETWORKS)})]
FileName = Annotated[str, Field(min_length=1), AfterValidator(_plain)]
Words = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_plain)]
ClassName = Annotated[
    str, Field(min_length=1, max_length=LONGEST_CLASS), AfterValidator(_plain), AfterValidator(_class_name)
]


class Section(BaseModel):
    """A part of params.yaml: immutable, no unknown key, no silent conversion, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Data(Section):
    """The crops: where they are, and what they are."""

    raw: FileName  # folder with train.zip, train.csv, test.zip, example.csv
    channels: int  # 1: grey, 3: RGB
    mpp: Annotated[float, Field(ge=0.05, le=4)]  # microns per pixel of the crops

    @field_validator("raw")
    @classmethod
    def _spelled_out(cls, value: str) -> str:
        if value.startswith("~"):  # no shell comes across it
            raise ValueError("should be written out, without ~")
        return value

    @field_validator("channels")
    @classmethod
    def _grey_or_rgb(cls, value: int) -> int:
        if value not in (1, 3):
            raise ValueError("should be 1 or 3")
        return value


class Sample(Section):
    """The built-in sample: synthetic tissue."""

    seed: Seed
    train: Annotated[int, Field(ge=20, le=100_000)]  # crops
    test: Annotated[int, Field(ge=4, le=100_000)]  # crops
    patients: Annotated[int, Field(ge=1, le=1000)]  # each with another stain


class Overlap(Section):
    """How crops that share pixels are found."""

    window: Annotated[int, Field(ge=4, le=256)]  # pixels: overlaps of twice this a side are never missed
    border: Annotated[int, Field(ge=0, le=40)]  # pixels along the edges that may differ: crops enlarged one by one
    near_duplicates: bool  # also list crops that look alike without sharing pixels


class Split(Section):
    """Which fold each labelled crop gets."""

    seed: Seed
    by: Literal["overlap", "group", "random"]  # what is kept together: shared pixels and Group, Group alone, nothing
    folds: Annotated[int, Field(ge=3, le=100)]  # no group of crops is in two of them
    held_out: Annotated[int, Field(ge=2, le=100)] | None  # folds held out in turn; empty: all, but 2 on the sample


class Cnn(Section):
    """The shape of SmallCNN, apart from the two widths, which `tune` finds."""

    filters: Annotated[list[Annotated[int, Field(ge=4, le=512)]], Field(min_length=4, max_length=4)]  # per convolution
    dropout: Share  # before the classifier


class Resnet(Section):
    """The shape of the network that may start from pretrained weights."""

    backbone: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]+$")]  # resnet18, or the name of a network of timm
    stem: Literal["pretrained", "no_pool", "small"]  # ResNet18's: 7x7 stride 2, pooling; no pooling; 3x3 stride 1
    size: Annotated[int, Field(ge=16, le=1024)] | None  # pixels per side that crops are resized to; empty: as they are
    frozen: Annotated[float, Field(ge=0, le=1)]  # share of the layers, from the first, that keep pretrained weights

    @model_validator(mode="after")
    def _stem_of_resnet18(self) -> "Resnet":
        if self.stem != "pretrained" and self.backbone != RESNET18:
            raise ValueError(f"a stem {self.stem} is {RESNET18}'s alone: set resnet.stem to pretrained")
        return self


class Train(Section):
    """How any network is trained, in the search and after it."""

    threads: Cores  # per network: as many as there is room for are trained side by side
    weight_decay: Annotated[float, Field(ge=0, le=10)]  # AdamW's
    warmup: Share  # share of the steps in which the learning rate rises; a cosine brings it down
    label_smoothing: Share  # share of each label that all classes have in common
    balance: Literal["none", "loss", "sampling"]  # evens out the classes: not, by weights, by drawing
    dihedral: bool  # flips and quarter turns
    stain: Annotated[float, Field(ge=0, le=1)]  # strength of the haematoxylin and eosin jitter, 0: off
    precision: Literal["auto", "float32", "bfloat16"]  # auto: bfloat16 where that is faster


class Range(Section):
    """The ends of what a learning rate is drawn from."""

    low: LearningRate
    high: LearningRate

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if self.low > self.high:
            raise ValueError("low must not exceed high")
        return self


class Tune(Section):
    """Successive halving: every rung trains its trials afresh and passes the best 1 / reduction of them on."""

    seed: Seed
    trials: Annotated[int, Field(ge=1, le=10_000)]  # per network, in the first rung
    rungs: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1, max_length=10)]
    reduction: Annotated[int, Field(ge=2, le=10)]  # one in so many trials goes on to the next rung
    lr: Range  # drawn log-uniformly
    batch_size: Annotated[list[BatchSize], Field(min_length=1)]  # crops per step, one of these
    widths: Annotated[list[Annotated[int, Field(ge=4, le=1024)]], Field(min_length=1)]  # of the CNN's two layers
    cpus_per_trial: Cores  # also the threads of a trial
    gpus_per_trial: Annotated[float, Field(ge=0, le=64)]  # 0.5: two trials share one


class TrainModel(Section):
    """How one network is trained, beside what all share."""

    seed: Seed
    epochs: Epochs  # all of them, on every fold: none is chosen
    ema: Share  # decay of the weight average per step, 0: off


class TrainResnet(TrainModel):
    """How the network with a backbone is trained, beside what all networks share."""

    weights: FileName  # imagenet, none, or a file


class Evaluate(Section):
    """How the scores are computed."""

    seed: Seed  # of what is drawn at random
    bins: Annotated[int, Field(ge=2, le=100)]  # of confidence, for the calibration error
    target_coverage: Annotated[float, Field(gt=0, lt=1)]  # share of new crops whose conformal set holds the truth


class Robustness(Section):
    """What held-out crops are changed by; every value is a condition in which all of them are predicted again."""

    seed: Seed
    crops: Annotated[int, Field(ge=1, le=1_000_000)]  # drawn at random from the held-out folds
    factors: Severities  # how many times as strong each stain is
    blur: Severities  # standard deviation, pixels
    jpeg: Annotated[list[Annotated[int, Field(ge=1, le=95)]], Field(max_length=100)]  # quality, 1 to 95
    gamma: Severities  # exponent of the grey levels; above 1: darker
    resolution: Severities  # how many times as large pixels are
    stains: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(max_length=100)]


class Review(Section):
    """Which labels are put up for a second look."""

    crops: Annotated[int, Field(ge=1, le=1000)]  # in the figure; the table has all


class Occlusion(Section):
    """The square that hides a part of the crop."""

    window: Annotated[int, Field(ge=1, le=1024)]  # pixels, at most the crop's side
    stride: Annotated[int, Field(ge=1, le=1024)]  # pixels

    @model_validator(mode="after")
    def _covered(self) -> "Occlusion":
        if self.stride > self.window:
            raise ValueError("stride must not exceed window")
        return self


AttributionMethod = Literal["occlusion", "integrated_gradients", "gradient_shap", "layer_cam"]


class Explain(Section):
    """Which crops are explained, how, and how the maps are tested."""

    seed: Seed
    crops: Annotated[int, Field(ge=1, le=10_000)]  # held-out ones, drawn at random: their maps are scored
    stratify: bool  # as many of each class as of any other; false: as the classes come
    gallery_crops: Annotated[int, Field(ge=1, le=1000)]  # per class, of `crops`: shown
    errors: Annotated[int, Field(ge=0, le=1000)]  # the most confident ones of all classes: shown, not scored
    sanity_crops: Annotated[int, Field(ge=1, le=1000)]  # of `crops`: shifted by a pixel, shown to random networks
    random_networks: Annotated[int, Field(ge=2, le=100)]  # with random weights, whose maps are scored beside
    methods: Annotated[list[AttributionMethod], Field(min_length=1)]  # that draw maps
    occlusion: Annotated[list[Occlusion], Field(min_length=1, max_length=10)]  # pixels; a map for each window
    ig_steps: Annotated[int, Field(ge=1, le=256)]  # of integrated gradients, from each of the two baselines
    smoothgrad_samples: Annotated[int, Field(ge=0, le=1000)]  # noisy copies to average over; 0: none
    noise_std: Annotated[float, Field(ge=0, le=1)]  # of these and of GradientSHAP, as a share of a crop's range
    shap_samples: Annotated[int, Field(ge=1, le=256)]  # of GradientSHAP
    curve_points: Annotated[int, Field(ge=2, le=100)]  # intervals of the deletion and insertion curves
    patch: Annotated[int, Field(ge=1, le=1024)]  # pixels per side of what is hidden or shown at once

    @field_validator("occlusion")
    @classmethod
    def _windows_differ(cls, value: list[Occlusion]) -> list[Occlusion]:
        if len({item.window for item in value}) < len(value):
            raise ValueError("two of one window")
        return value

    @field_validator("methods")
    @classmethod
    def _methods_differ(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("each method once")
        return value


class Predict(Section):
    """How crops are predicted."""

    tta: bool  # average over the eight flips and rotations
    average: Literal["final", "folds"]  # what `submit` uses: the network trained on all crops, or those of the folds
    labelled_neighbours: bool  # whether `submit` weighs in the labels of nuclei near a crop, where crops share pixels


class Report(Section):
    """What the page shows."""

    title: Words  # its heading
    tissue: Words  # what the crops show
    crops: Annotated[int, Field(ge=0, le=10_000)]  # wrong predictions on the page, and labels to review, at most


class Params(Section):
    """All parameters."""

    classes: (
        Annotated[list[ClassName], Field(min_length=2, max_length=32)] | None
    )  # by label; empty: those of train.csv
    lr: LearningRate | None  # empty: what `tune` found
    batch_size: BatchSize | None  # crops per step; empty: what `tune` found
    epochs: Epochs | None  # empty: that of train_cnn, or train_resnet
    model: ModelName  # whose metrics are the project's primary ones
    threads: Cores  # CPU threads of predictions and heat maps; part of the result: they decide the order of sums
    device: Literal["auto", "cpu", "cuda", "mps"]  # auto: cuda, else mps, else cpu
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
    evaluate: Evaluate
    robustness: Robustness
    review: Review
    explain: Explain
    predict: Predict
    report: Report

    @field_validator("classes")
    @classmethod
    def _classes_differ(cls, value: list[str] | None) -> list[str] | None:
        if len({name.casefold() for name in value or ()}) < len(value or ()):
            raise ValueError("each class once")
        return value

    @model_validator(mode="after")
    def _frozen_weights_are_pretrained(self) -> "Params":
        if self.resnet.frozen and self.train_resnet.weights == "none":
            raise ValueError("resnet.frozen: random weights (train_resnet.weights: none) would never be trained")
        return self

    @property
    def titles(self) -> dict[str, str]:
        """What each network is called in figures, tables and prose: by its backbone, if it is not the usual one."""
        titles = {name: entry.title for name, entry in NETWORKS.items()}
        return titles if self.resnet.backbone == RESNET18 else titles | {"resnet": self.resnet.backbone}

    @property
    def on_sample(self) -> bool:
        """Whether the crops are the built-in sample's, however `data.raw` is spelled."""
        raw, sample = Path(self.data.raw), Path(SAMPLE)
        same = raw.exists() and sample.exists() and raw.samefile(sample)  # Data/Sample, on a Mac
        return same or raw.resolve() == sample.resolve()


def load_params(path: Path) -> Params:
    """Read and check the whole of params.yaml, which is at `path`.

    Raises:
        InputError: It cannot be read, or does not fit; names each wrong key, its value and what fits.
    """
    return load_checked(path, Params, RENAMED)
