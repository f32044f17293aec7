"""A recipe: one YAML file that describes one complete run, section by section."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from data.files import write_whole
from data.media.locate import default_cache, without_secrets
from data.media.reference import Downloads
from data.sources.source import Source, is_address, local_files
from train.recipe.entries import Count, Dataset, EvalDataset, FilePath, Positive, Section
from train.recipe.evaluated import names_of
from train.recipe.keys import Harmless
from train.recipe.recomputation import Recomputation, recomputation_of, with_recomputation
from train.recipe.training_keys import COMPILES, DEFAULTS, WORKERS, TrainingSection
from train.recipe.yaml_text import to_yaml

if TYPE_CHECKING:
    from transformers import TrainingArguments


def _regular_expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"a regular expression ({error})") from None
    return text


Pattern = Annotated[str, AfterValidator(_regular_expression)]
# The initialisations that need nothing but the weights. EVA, CorDA, LoftQ and LoRA-GA want data or settings
# of their own, which a recipe cannot give: they would fail after the model was loaded, or do nothing.
Initialisation = Annotated[str, Field(pattern=r"^(gaussian|olora|orthogonal|pissa|pissa_niter_[0-9]+)$")]


MAX_FRAMES = 1024  # 263,000 tokens: a hundred times what Video-LLaVA was trained with
# Names or addresses, no URLs: the colons are those of IPv6.
HostName = Annotated[str, Field(pattern=r"^([^\s/@:\[\]]+|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)$")]
Share = Annotated[float, Field(ge=0, le=1)]


class Model(Section):
    """The checkpoint, and how it is loaded."""

    name_or_path: FilePath
    """A folder or a hub id."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null is its main branch."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Number type of the weights that are not quantised."""
    attn_implementation: Literal["auto", "sdpa", "flash", "eager", "flash_attention_2"] = "auto"
    """auto takes the fastest that works here; sdpa always works; flash needs half precision on a GPU."""
    quantization: Literal["nf4", "fp4", "int8"] | None = None
    """Number type of the decoder's linear layers (QLoRA); the towers and the projector keep dtype."""
    double_quantization: bool = True
    """Quantise the scales of nf4 and fp4 too; about 0.4 bits a weight less."""
    trainable: Pattern | None = None
    """Without lora: all, decoder, projector, or a regular expression over parameter names."""
    add_tokens: list[str] = []
    """Tokens that the vocabulary lacks, e.g. [<time>]: each becomes one id, whose rows in the embeddings and the head
    begin as the mean of the others' and are trained."""
    projector_learning_rate: Positive | None = None
    """Learning rate of the multi_modal_projector where it is trained; null is training.learning_rate."""

    def loading(self, compiles: bool = False) -> dict[str, Any]:
        """Return the arguments of `train.model.load.load_model`. compiles: whether the decoder's layers will be."""
        settings = self.model_dump(exclude={"trainable", "projector_learning_rate", "add_tokens"})
        return {**settings, "compiles": compiles}


class Lora(Section):
    """The adapter. `lora: null` trains model.trainable itself."""

    start_from: Annotated[FilePath | None, Harmless()] = None
    """An adapter to continue on these data, a folder or a hub id. What is left out here is taken from it; it stays as
    it is."""
    start_revision: Annotated[str | None, Harmless()] = None
    """Branch, tag or commit of start_from on the hub."""
    r: Count = 128
    """Rank."""
    alpha: Count | Positive = 256
    """The adapter is scaled by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Probability, on the adapter's input."""
    target: Pattern = "decoder"
    """decoder, decoder+projector, or a regular expression over names of linear modules."""
    modules_to_save: list[str] = []
    """Modules trained in full beside the adapter, e.g. [multi_modal_projector]."""
    use_dora: bool = False
    """Weight-decomposed LoRA (DoRA)."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(r) (rank-stabilised LoRA)."""
    init_lora_weights: bool | Initialisation = True
    """PEFT's: true, false, gaussian, orthogonal, olora, pissa or pissa_niter_N. The last three begin at the weights and
    leave these as they are: the adapter has twice the rank, and its constant second half takes out what the first
    begins with."""
    bias: Literal["none", "lora_only"] = "none"
    """Biases of adapted layers; PEFT's `all` would train the towers' biases."""


class Data(Section):
    """The data to learn from, and how they become batches."""

    # Where the files lie is harmless: what is in them has a fingerprint of its own.
    train: Annotated[list[Dataset], Field(min_length=1), Harmless()]
    """Files to train on, every conversation as often in an epoch as the weight of its source says."""
    eval: Annotated[list[EvalDataset], Harmless()] = []
    """Files to evaluate on."""
    max_new_tokens: Annotated[Count, Harmless()] = 128
    """Tokens of an answer in an evaluation, at most."""
    system_prompt: str | None = None
    """Put before every conversation that brings none."""
    turns: Literal["as_they_come", "strict"] = "as_they_come"
    """as_they_come joins several turns of one side, lets the assistant begin, and leaves out what the user says at the
    end; strict refuses such records."""
    num_frames: Annotated[int, Field(ge=1, le=MAX_FRAMES)] = 8
    """Frames taken from every clip."""
    frame_sampling: Literal["uniform", "fps", "jitter"] = "uniform"
    """In training. uniform: i * total // num_frames. jitter: a random frame of each of these segments, others in every
    epoch. fps: frames_per_second from the middle of the clip; uniform where it is too short."""
    frames_per_second: Positive | None = None
    """For frame_sampling: fps."""
    frame_cache: Annotated[FilePath | None, Harmless()] = None
    """Folder in which the frames of clips and pictures are kept, so that each is decoded once."""
    frame_cache_gib: Annotated[Positive | None, Harmless()] = None
    """Size of frame_cache; what this run has not used makes room, the longest unused first. null is without bound."""
    feature_cache: Annotated[FilePath | None, Harmless()] = None
    """Folder in which the features of the frozen towers are kept; training then has no tower in memory."""
    max_length: Count = 4096
    """Tokens of one conversation, visual tokens included."""
    packing: Literal["shared_prefix", "none"] = "shared_prefix"
    """shared_prefix computes a clip once for all its questions; none is one conversation a sample."""
    max_tokens_per_row: Count = 8192
    """Tokens of one packed row, all its clips and questions together."""
    max_questions_per_clip: Count = 32
    """A larger set of questions about one clip is split evenly."""
    rows_per_step: Count = 16
    """Rows (samples with packing none) of one optimizer step, over micro-batches and devices."""
    streaming: bool = False
    """Read the training data while training, a window at a time, instead of into memory, and tar files on the hub that
    `files` names without downloading them; needs training.max_steps."""
    stream_window: Count = 4096
    """Conversations that streaming holds in memory, packs and shuffles together."""
    media_cache: Annotated[FilePath | None, Harmless()] = None
    """Folder for media that records name by address or hold as bytes; null is ~/.cache/reeltune/media."""
    max_download_mib: Annotated[Positive, Harmless()] = 1024.0
    """The largest clip or picture behind an address."""
    download_seconds: Annotated[Positive, Harmless()] = 120.0
    """The longest time that one download may take."""
    media_hosts: Annotated[list[HostName] | None, Harmless()] = None
    """Hosts that may be asked for media and tar files, redirects included, e.g. [clips.example.org, "*.example.net"];
    those in a network of your own have to be named. null is every host with a public address."""
    on_bad_media: Annotated[Literal["skip", "fail"], Harmless()] = "skip"
    """A picture or clip that cannot be decoded is left out with its conversations, and named; or ends the run."""
    max_bad_media: Annotated[Share, Harmless()] = 0.01
    """Largest share of the media files to train on that on_bad_media may skip before it ends the run."""
    decode_seconds: Annotated[Positive, Harmless()] = 60.0
    """The longest time that decoding one picture or clip may take, in seconds; after that it cannot be decoded."""

    def sources(self, entries: Sequence[Dataset], in_place: bool = False) -> list[Source]:
        """Return what entries of train or eval name. in_place: tar files on the hub are read where they lie."""
        downloads = Downloads(
            self.media_cache or default_cache(),
            int(self.max_download_mib * 2**20),
            self.download_seconds,
            None if self.media_hosts is None else tuple(self.media_hosts),
        )
        return [
            Source(
                **entry.model_dump(exclude={"weight", "metric", "max_questions", "name"}),
                downloads=downloads,
                in_place=in_place,
                strict_turns=self.turns == "strict",
            )
            for entry in entries
        ]

    def local_files(self) -> list[str]:
        """Return the data files of this machine."""
        return list(local_files(self.sources([*self.train, *self.eval])))

    @property
    def eval_names(self) -> list[str]:
        """The names of the sources to evaluate on, each another."""
        return names_of([entry.model_dump() for entry in self.eval])

    @property
    def asks(self) -> bool:
        """True where evaluations have the model answer."""
        return any(entry.metric for entry in self.eval)


class Recipe(Section):
    """One complete run."""

    model: Model
    lora: Lora | None = Lora()
    data: Data
    resume: Annotated[FilePath, Harmless()] = "auto"
    """auto continues from the newest sound checkpoint, never starts over (as --fresh), or a checkpoint folder."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """A step whose loss or gradient is not finite ends the run, or is left out and counted."""
    max_skipped_steps: Annotated[int, Field(ge=0)] = 10
    """So many steps on_nonfinite may skip before it ends the run."""
    memory: Annotated[Literal["auto"] | None, Harmless()] = None
    """auto recomputes layers not at all, selectively or in full: the first that fits, by the estimate of memory. null
    leaves it to training.gradient_checkpointing."""
    early_stopping_patience: Count | None = None
    """Evaluations without a better metric_for_best_model before training ends."""
    training: Annotated[TrainingSection, AfterValidator(lambda given: {**DEFAULTS, **given})]

    @field_validator("training")
    @classmethod
    def _begin_with_the_base(cls, training: dict[str, Any], others: ValidationInfo) -> dict[str, Any]:
        """Evaluate before the first step where evaluations have the model answer, unless the recipe says otherwise."""
        data = others.data.get("data")
        return {"eval_on_start": True, **training} if data is not None and data.asks else training

    def training_arguments(self) -> "TrainingArguments":
        """Build them, which looks at the devices. Raises UserError for what transformers finds impossible."""
        # Importing transformers takes seconds, which a recipe with a mistake in it need not wait for.
        from train.recipe.training_arguments import make_training_arguments

        # A step that is not finite ends the run before it is logged; to look for it would be to wait for each row.
        unfiltered = {"logging_nan_inf_filter": False} if self.on_nonfinite == "stop" else {}
        return make_training_arguments(self.model.dtype, {**unfiltered, **self.training})

    @property
    def recomputation(self) -> Recomputation:
        """The recomputation of layers; "none" where memory: auto is still to decide."""
        return recomputation_of(self.training)

    @property
    def compiles(self) -> bool:
        """True where transformers takes a recipe to ask for torch.compile."""
        return any(self.training.get(key) for key in COMPILES)

    @property
    def sizes_workers(self) -> bool:
        """True where the number of data loader workers follows from the data and the machine."""
        return self.training.get(WORKERS) == "auto"

    def recomputing(self, wanted: Recomputation) -> "Recipe":
        """Return this recipe with another recomputation, which memory: auto decides no longer."""
        section = with_recomputation(self.training, wanted)
        return self.model_copy(update={"memory": None, "training": section})

    def initialisation(self) -> bool | str:
        """Return how the adapter's matrices begin; True without any."""
        return True if self.lora is None else self.lora.init_lora_weights

    def adapter(self) -> dict[str, Any] | None:
        """Return the arguments of `train.model.adapters.add_adapter`, None for full fine-tuning."""
        return None if self.lora is None else self.lora.model_dump(exclude={"start_from", "start_revision"})

    def dump(self) -> dict[str, Any]:
        """Return everything as plain values, defaults written out; addresses without the keys in them, because this is
        kept and shared."""
        plain = self.model_dump()
        for source in plain["data"]["train"] + plain["data"]["eval"]:
            if is_address(source["path"]):
                source["path"] = without_secrets(source["path"])
        return plain

    def write(self, path: str | Path) -> None:
        """Write YAML that `load_recipe` reads back to an equal recipe, but for keys in addresses."""
        write_whole(path, to_yaml(self.dump()))
