"""Checkpoints of the families in `probe.models.sources.known.FAMILIES` through transformers: found,
checked, loaded.

A checkpoint that would give wrong features without an error is refused: weights missing, of another
shape, not finite, or inside the encoder and without a place there. Whether it has a CTC head
follows from its architecture and its weights, never from tokenizer files (the repository of
wav2vec2-base has those, and no head).
"""

import functools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault(
    "DISABLE_SAFETENSORS_CONVERSION", "1"
)  # otherwise a thread that asks the hub to convert .bin files

import torch
import transformers
from torch import Tensor

from probe.errors import ProbeError, listed
from probe.foreign_files import foreign_content, refuse_foreign
from probe.model_names import own_name
from probe.models.encoder import ASSUMED, CONV, ModelInfo
from probe.models.families import (
    ENCODERS,
    LOG_MEL,
    conv_width,
    grids_of,
    has_own_final,
    mel_extractor,
)
from probe.models.reference import EPSILON, TransformersEncoder, epsilon_of
from probe.models.sources import adapters, hub
from probe.models.sources.keys import (
    left_out_notes,
    refuse_quantised,
    refuse_quantised_names,
    refuse_unmerged,
    unwrapped,
)
from probe.models.sources.known import FAMILIES, UNUSED, Known, close_names
from probe.models.sources.weights import (
    REVISION_DIGITS,
    WEIGHT_FILES,
    Weights,
    find_weights,
    sha256_of_tensors,
)

PREPROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
)  # the second since transformers 5
VOCABULARY_FILE = "vocab.json"
TOKENIZER_FILES = (
    VOCABULARY_FILE,
    adapters.TOKENIZER_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
)
ASSUMED_INPUT = (16_000, True)  # rate in Hz, normalised
HUB_TIMEOUT_S = 4
# Unexpected weights with such names belong to the encoder: its configuration does not describe it.
INSIDE = re.compile(
    r"(^|\.)(encoder\.(layers?|layer_norm|pos_conv_embed|upsample)|feature_extractor\.conv_layers|feature_projection)\."
    r"|^(layers|layer_norm|conv[12]|embed_positions)\."  # of Whisper's encoder, which stands alone
)
WHISPER = transformers.models.whisper.modeling_whisper.WhisperEncoder
WHISPER_PREFIXES = (
    "model.encoder.",
    "encoder.",
    "",
)  # before the names of its encoder in a whole Whisper


@dataclass(frozen=True)
class Location:
    """Where a checkpoint lies.

    Attributes:
        id: its spec without revision.
        folder: that holds its files.
        commit: resolved, or what stands in its place; empty where the weights' hash does.
    """

    id: str
    folder: Path
    commit: str = ""


def config_of_known(row: Known) -> Any:
    """The transformers configuration of a row of the catalogue."""
    return transformers.AutoConfig.for_model(row.family, **row.config())


def made_of(config: Any) -> Any:
    """A float32 encoder of a configuration, its weights drawn from torch's generator."""
    made = (
        WHISPER._from_config
        if config.model_type == "whisper"
        else transformers.AutoModel.from_config
    )
    return made(config, dtype=torch.float32)


def config_of(location: Location) -> Any:
    """The configuration in a checkpoint's folder.

    Raises:
        ProbeError: none there, unreadable, or of a model that this project cannot open.
    """
    if not (location.folder / "config.json").is_file():
        adapters.refuse_peft(location.folder)
        raise ProbeError(
            f"{location.folder}: no config.json; expected a checkpoint folder as save_pretrained writes it."
        )
    try:
        config = transformers.AutoConfig.from_pretrained(location.folder, trust_remote_code=False)
    except Exception as error:  # it may hold anything, and each fault of it raises its own kind
        refuse_foreign(location.folder / "config.json", error)
        code = " Remote code is never run." if "trust_remote_code" in str(error) else ""
        raise ProbeError(
            f"{location.id}: its config.json cannot be used ({_reason(error)}).{code}"
        ) from error
    if config.model_type not in FAMILIES:
        raise ProbeError(
            f"{location.id}: {_what_it_reads(config.model_type)}. Supported: {', '.join(FAMILIES)}."
        )
    if str(getattr(config, "_attn_implementation", "")).startswith("flash"):
        config._attn_implementation = "sdpa"  # the same attention without a further library
    if config.num_hidden_layers < 1:
        raise ProbeError(
            f"{location.id}: its config.json has num_hidden_layers {config.num_hidden_layers}; expected 1 or more."
        )
    if config.model_type not in LOG_MEL and min([*config.conv_kernel, *config.conv_stride]) < 1:
        sizes = f"conv_kernel {config.conv_kernel}, conv_stride {config.conv_stride}"
        raise ProbeError(f"{location.id}: its config.json has {sizes}; expected 1 or more each.")
    return config


def _what_it_reads(model_type: str) -> str:
    """What a model of a type that cannot be opened is, in words."""
    from transformers.models.auto import modeling_auto as auto

    speech = {*auto.MODEL_FOR_CTC_MAPPING_NAMES, *auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES}
    speech |= {
        *auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
        *auto.MODEL_FOR_AUDIO_XVECTOR_MAPPING_NAMES,
    }
    text = {*auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, *auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}
    text |= {
        *auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        *auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    }
    images = {
        *auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        *auto.MODEL_FOR_IMAGE_MAPPING_NAMES,
    }
    if model_type in speech:
        return f"a speech model of type {model_type!r}, which this version cannot open"
    for what, types in (("text", text), ("images", images)):
        if model_type in types:
            return f"reads {what}, not speech (model type {model_type!r})"
    return f"no speech encoder that this version knows (model type {model_type!r})"


def from_hub(identifier: str, revision: str | None, weights: bool) -> Location:
    """Fetches a checkpoint's configuration (and weights) into the hub's cache, or finds them there.

    Raises:
        ProbeError: no such repository or revision, no access, offline and not cached, or a
            configuration that cannot be used.
    """
    import huggingface_hub
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = f"{identifier}@{revision}" if revision else identifier
    close = [] if identifier.lower() in map(str.lower, _known_names()) else close_names(identifier)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    # snapshot_download waits without end for a hub that takes the call and says nothing.
    local = hub.is_offline() or not hub.answers(HUB_TIMEOUT_S)

    def fetch(patterns: list[str]) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                identifier,
                revision=revision,
                allow_patterns=patterns,
                etag_timeout=HUB_TIMEOUT_S,
                local_files_only=local,
            )
        )

    try:
        folder = fetch(["config.json", *PREPROCESSOR_FILES, *TOKENIZER_FILES, adapters.PEFT_FILE])
        if weights:
            config = config_of(
                Location(identifier, folder, folder.name)
            )  # before the gigabytes of a model that cannot be opened
            refuse_quantised(name, config)
            folder = fetch(
                ["model.safetensors", "model.safetensors.index.json", "model-*.safetensors"]
            )
            if not any((folder / file).exists() for file in WEIGHT_FILES[:2]):
                folder = fetch(
                    ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"]
                )
            if language := adapters.language_of(folder, config):
                folder = fetch(adapters.adapter_files(language))
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ProbeError(
            f"{name}: not on the hub, or it needs a login.{hint} Check the name and the revision."
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ProbeError(
            f"{name}: no such folder here, not in the cache, and the hub cannot be reached.{hint} Connect once, or copy the "
            "checkpoint here and name its folder; `probe models` lists what is known, random: works without a network."
        ) from error
    return Location(identifier, folder, folder.name)


def _known_names() -> list[str]:
    from probe.models.sources.known import known_models

    return list(known_models())


def pretrained_encoder(
    location: Location, device: str, sha256: str | None = None
) -> TransformersEncoder:
    """The encoder of a checkpoint; a CTC or pretraining checkpoint gives its encoder, a CTC one its
    head too.

    Args:
        sha256: what the weights must have.

    Raises:
        ProbeError: no weights, damaged, unreadable or non-finite ones, or not those that the
            configuration describes.
    """
    adapters.refuse_peft(location.folder)
    config = config_of(location)
    refuse_quantised(location.id, config)
    notes = list[str]()
    language = adapters.language_of(location.folder, config)
    adapter = adapters.adapter_of(location.folder, config, language, notes)
    weights = find_weights(location.folder, sha256, [adapter] if adapter else [])
    notes += weights.notes()
    architecture = _architecture(config)
    headless_note = ""
    if not architecture.endswith("ForCTC"):
        headless_note = (
            f"config.json names the class {architecture or 'of no model'}, which has none"
        )
    if _drop_adapter(config) and not headless_note:
        headless_note = "it reads the output of an adapter"
    model, loading = _load(config, weights, not headless_note, notes)
    unusable = _refuse_what_does_not_fit(weights.file, config, loading) + _refuse_what_is_broken(
        weights.file, model
    )
    unexpected = sorted(loading["unexpected_keys"])
    notes += left_out_notes(unexpected)
    if getattr(config, "auto_map", None):
        notes.append(
            "code comes with the checkpoint (auto_map); it was not run, transformers' own class was taken"
        )
    if unusable:
        headless_note = f"{listed(unusable)} missing, NaN or infinite"
    if headless_note and (unusable or any(name.startswith(adapters.HEAD) for name in unexpected)):
        notes.append(f"its CTC head is not run: {headless_note}")
    writes = () if headless_note else _written(location, model, language, notes)
    encoder = _encoder(location, model, device, weights, writes, tuple(unexpected), notes)
    encoder.again = functools.partial(pretrained_encoder, location, device, sha256)
    return encoder


def _load(
    config: Any, weights: Weights, has_head: bool, notes: list[str]
) -> tuple[Any, dict[str, Any]]:
    """The model with its weights, and what transformers says of the loading.

    The files that were hashed are read, and no others: transformers would take up further ones
    beside them.
    """
    tensors = weights.tensors()
    refuse_unmerged(weights.file, tensors)
    refuse_quantised_names(weights.file, tensors)
    try:
        # Weights are drawn here that are read afterwards, on a device that gives them no memory.
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            skeleton = (
                transformers.AutoModelForCTC.from_config(config) if has_head else made_of(config)
            )
        expected, prefix = _bare(skeleton), f"{skeleton.base_model_prefix}."
        usual = WHISPER_PREFIXES if config.model_type == "whisper" else (prefix, "")
        names, note = unwrapped(weights.file, tensors, expected, usual)
        notes += [note] if note else []
        tensors = {_in_class(names[name], config): weight for name, weight in tensors.items()}
        for adapter in weights.beside:
            tensors = adapters.with_adapter(tensors, adapter, expected, prefix, has_head)
            config.vocab_size = (
                len(tensors[f"{adapters.HEAD}weight"]) if has_head else config.vocab_size
            )
        # Weights outside the file are drawn, even where none of them is used.
        with torch.random.fork_rng(devices=[]), _quiet_transformers():
            return type(skeleton).from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused by name
            )
    except ProbeError:
        raise
    except Exception as error:  # sizes that cannot be, and transformers: each raises its own kind
        raise ProbeError(
            f"{weights.file}: the weights cannot be loaded into the model that config.json describes ({_reason(error)}). "
            "Fetch both files again, or correct config.json."
        ) from error


def _in_class(name: str, config: Any) -> str:
    """The name of a weight in the class that is made here, by its name in a whole model."""
    if config.model_type != "whisper":
        return name
    return name.removeprefix(next(prefix for prefix in WHISPER_PREFIXES if name.startswith(prefix)))


def converted_encoder(
    location: Location,
    config: Any,
    tensors: Mapping[str, Tensor],
    weights: Weights,
    device: str,
    normalize: bool,
    left_out: Sequence[str] = (),
    notes: Sequence[str] = (),
    writes: tuple[str, ...] = (),
) -> TransformersEncoder:
    """The encoder of weights that stand in a file of another form.

    Args:
        location: its folder is not looked into.
        tensors: all weights of the encoder by the names of transformers' class without a head; with
            ``writes`` also ``lm_head.weight`` and ``lm_head.bias``.
        weights: the file that they came from.
        left_out: names of further weights in that file, by its own names.
        writes: see `ModelInfo.ctc`; empty where the head is not to be run.

    Raises:
        ProbeError: weights of the encoder missing, left over, of another shape than the
            configuration says, or not finite.
    """
    config.vocab_size = len(writes) or config.vocab_size
    made = transformers.AutoModelForCTC if writes else transformers.AutoModel
    try:
        with torch.device("meta"):  # sizes that the weights do not have cost no memory
            shapes = {
                name: weight.shape for name, weight in _bare(made.from_config(config)).items()
            }
    except Exception as error:  # sizes that cannot be: each its own kind
        raise ProbeError(
            f"{location.id}: no model can be made from its configuration ({_reason(error)})."
        ) from error
    loading = {
        "missing_keys": shapes.keys() - tensors.keys(),
        "mismatched_keys": [
            name for name in shapes.keys() & tensors.keys() if tensors[name].shape != shapes[name]
        ],
        "unexpected_keys": tensors.keys() - shapes.keys(),
    }
    headless = _refuse_what_does_not_fit(weights.file, config, loading, inside=re.compile(""))
    with torch.random.fork_rng(devices=[]):
        model = made.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in _bare(model).items():
            weight.copy_(
                tensors[name]
            ) if name in tensors and name not in headless else weight.zero_()
    headless += _refuse_what_is_broken(weights.file, model)
    notes = [
        *notes,
        *(
            [f"its CTC head is not run: {listed(headless)} missing, NaN or infinite"]
            if headless
            else []
        ),
    ]
    notes += left_out_notes(sorted(left_out))
    return _encoder(
        location,
        model,
        device,
        weights,
        () if headless else writes,
        tuple(sorted(left_out)),
        notes,
        normalize,
    )


def _bare(model: Any) -> dict[str, Tensor]:
    """The weights of a model with or without a head by the names of its encoder's class; they share
    memory with the model's.
    """
    return {
        name.removeprefix(f"{model.base_model_prefix}."): weight
        for name, weight in model.state_dict().items()
    }


def _refuse_what_does_not_fit(
    file: Path, config: Any, loading: dict[str, Any], inside: re.Pattern[str] = INSIDE
) -> list[str]:
    """Raises where the encoder's weights are not those of the configuration; the weights of a CTC
    head that cannot be used.

    Args:
        loading: names of weights as transformers reports them.
        inside: unexpected weights with such names are the encoder's.
    """
    missing = sorted(loading["missing_keys"])
    wrong = sorted(
        item if isinstance(item, str) else str(item[0]) for item in loading["mismatched_keys"]
    )
    unusable = [name for name in (*missing, *wrong) if name.startswith("lm_head.")]
    missing = [
        name for name in missing if name not in unusable and name.rpartition(".")[2] not in UNUSED
    ]
    wrong = [name for name in wrong if name not in unusable]
    if missing or wrong:
        raise ProbeError(
            f"{file}: {len(missing)} of the encoder's weights missing, {len(wrong)} of another shape: "
            f"{listed(missing + wrong)}. They would be random; is this a {config.model_type} checkpoint?"
        )
    if left_over := sorted(filter(inside.search, loading["unexpected_keys"])):
        raise ProbeError(
            f"{file}: {len(left_over)} weights of the encoder have no place in the model that its configuration describes "
            f"({config.num_hidden_layers} blocks): {listed(left_over)}. One of the two is not this checkpoint's."
        )
    return unusable


def _refuse_what_is_broken(file: Path, model: Any) -> list[str]:
    """Raises where a weight of the encoder is not finite; the weights of a CTC head that are not."""
    broken = [
        name for name, weight in model.state_dict().items() if not torch.isfinite(weight).all()
    ]
    unusable = [name for name in broken if name.startswith("lm_head.")]
    broken = [
        name for name in broken if name not in unusable and name.rpartition(".")[2] not in UNUSED
    ]
    if broken:
        raise ProbeError(
            f"{file}: NaN or infinite weights in {listed(broken)}. Fetch the file again."
        )
    return unusable


def _architecture(config: Any) -> str:
    """The class that a checkpoint was saved from, as its configuration says; empty where it does
    not.
    """
    classes = getattr(config, "architectures", None)
    return str(classes[0]) if isinstance(classes, list) and classes else ""


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Its progress bar and its report on keys say what our messages say."""
    log = transformers.utils.logging
    shown, verbosity = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if shown:
            log.enable_progress_bar()


def _drop_adapter(config: Any) -> bool:
    """Leaves out an adapter, which comes after the encoder's last layer and is none of its layers;
    whether there was one.
    """
    there = [
        name
        for name in ("add_adapter", "use_intermediate_ffn_before_adapter")
        if getattr(config, name, False)
    ]
    for name in there:
        setattr(config, name, False)
    return bool(there)


def _written(location: Location, model: Any, language: str, notes: list[str]) -> tuple[str, ...]:
    """What each symbol of a CTC checkpoint's head writes; nothing, with a note, where no vocabulary
    says so.
    """
    n_symbols = model.lm_head.out_features
    try:
        if not (location.folder / VOCABULARY_FILE).is_file():
            raise ValueError(f"no {VOCABULARY_FILE}")
        which = _vocabulary_of(location.folder / VOCABULARY_FILE, language)
        tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(
            location.folder, trust_remote_code=False, **which
        )
        tokens = {
            number: token
            for token, number in tokenizer.get_vocab().items()
            if number in range(n_symbols)
        }
        if len(tokens) != n_symbols or tokenizer.vocab_size > n_symbols:
            raise ValueError(
                f"{tokenizer.vocab_size} tokens, {len(tokens)} of them for its {n_symbols} symbols"
            )
        if tokenizer.pad_token_id not in tokens:
            raise ValueError(
                f"none of its symbols is the blank {tokenizer.pad_token!r}; name pad_token in tokenizer_config.json"
            )
        # The attribute word_delimiter_token is "|" whatever the folder says (transformers 5.23).
        delimiter = str(
            tokenizer.special_tokens_map.get("word_delimiter_token", tokenizer.word_delimiter_token)
        )
        silent = dict.fromkeys(tokenizer.all_special_tokens, "") | {
            delimiter: " ",
            tokenizer.pad_token: "",
        }
        writes = tuple(silent.get(tokens[number], tokens[number]) for number in range(n_symbols))
        "".join(writes).encode()  # half a surrogate pair could be written nowhere
    except Exception as error:  # a missing, damaged or foreign tokenizer: each its own kind
        notes.append(
            f"its CTC head has no vocabulary that fits and cannot be used: {_reason(error)}"
        )
        return ()
    return writes


def _vocabulary_of(file: Path, language: str) -> dict[str, str]:
    """What a tokenizer is told of the language: nothing, unless its file holds a vocabulary of each
    of several languages.

    Raises:
        ValueError: it does, and ``language`` is none of them, or the file is something else.
    """
    if content := foreign_content(file):
        raise ValueError(f"{file.name} is {content}".rstrip("."))
    vocabulary = json.loads(file.read_text(encoding="utf-8"))
    if not vocabulary or not all(isinstance(item, dict) for item in vocabulary.values()):
        return {}
    if language not in vocabulary:
        said = (
            f"target_lang is {language!r}, which is none of them"
            if language
            else "no target_lang says which"
        )
        raise ValueError(
            f"{file.name} has vocabularies of {len(vocabulary)} languages "
            f"({listed(sorted(vocabulary))}), and {said}; set target_lang in {adapters.TOKENIZER_FILE}"
        )
    return {"target_lang": language}


def random_encoder(
    location: Location, config: Any, device: str, normalize: bool | None = None
) -> TransformersEncoder:
    """An encoder of this architecture with random weights; global random state stays as it was.

    Args:
        location: its commit is ``seed <number>``; its folder holds the preprocessor unless
            ``normalize`` says what that would.
    """
    _drop_adapter(config)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(
                int(location.commit.split()[1])
            )  # torch.manual_seed would seed the GPUs too
            model = made_of(config)
    except Exception as error:  # sizes that cannot be: each its own kind
        raise ProbeError(
            f"{location.id}: no model can be made from its configuration ({_reason(error)})."
        ) from error
    weights = Weights(Path(), sha256_of_tensors(model.state_dict()))
    encoder = _encoder(location, model, device, weights, normalize=normalize)
    encoder.again = functools.partial(random_encoder, location, config, device, normalize)
    return encoder


def _encoder(
    location: Location,
    model: Any,
    device: str,
    weights: Weights,
    writes: tuple[str, ...] = (),
    left_out: tuple[str, ...] = (),
    notes: Sequence[str] = (),
    normalize: bool | None = None,
) -> TransformersEncoder:
    """The encoder in a model with or without a head; ``normalize`` stands for a preprocessor where
    there is no folder.
    """
    notes = list(notes)
    in_folder = normalize is None
    encoder, config = model.base_model, model.config
    rate_hz, normalized = (
        input_of(location, config, notes) if normalize is None else (ASSUMED_INPUT[0], normalize)
    )
    model.eval().to(device)
    n_blocks, width = config.num_hidden_layers, config.hidden_size
    layers = dict.fromkeys(map(str, range(n_blocks + 1)), width) | (
        {"final": width} if has_own_final(config) else {}
    )
    grid, other_grids = grids_of(config)
    mel = None
    if config.model_type in LOG_MEL:
        mel = mel_extractor(
            config, preprocessor_of(location)[1] if in_folder else {}, rate_hz, location.id
        )
    against = f", its sha256 compared with {weights.against}" if weights.against else ""
    files = " and ".join(path.name for path in (weights.file, *weights.beside))
    info = ModelInfo(
        id=own_name(location.id),
        revision=location.commit or weights.sha256[:REVISION_DIGITS],
        weights_sha256=weights.sha256,
        family=config.model_type,
        layers=layers,
        on_request={CONV: found} if (found := conv_width(config)) else {},
        aliases={} if "final" in layers else {"final": str(n_blocks)},
        rate_hz=rate_hz,
        normalize=normalized,
        grid=grid,
        other_grids=other_grids,
        parameters=sum(weight.numel() for weight in encoder.parameters()),
        settings={"attention": config._attn_implementation}
        | ({"energies": _plain(mel)} if mel else {})
        | ({EPSILON: epsilon} if normalize and (epsilon := getattr(config, EPSILON, 0)) else {}),
        ctc={"writes": writes, "alphabet": "".join(sorted(set("".join(writes))))} if writes else {},
        weights=f"{files}{against}" if weights.file.name else "drawn at random",
        left_out=left_out,
        notes=tuple(notes),
    )
    extractor = mel or _extractor(location.folder if in_folder else None, info)
    made = ENCODERS.get(config.model_type, TransformersEncoder)
    return made(encoder, info, extractor, model.lm_head if writes else None)


def _plain(extractor: Any) -> dict[str, Any]:
    """What decides a preprocessor's log-mel energies, by its own names."""
    names = ("feature_size", "hop_length", "n_fft", "chunk_length", "stride", "padding_value")
    return {name: getattr(extractor, name) for name in names if hasattr(extractor, name)}


def _extractor(folder: Path | None, info: ModelInfo) -> Any:
    """transformers' own preprocessor: read from the folder where it has one, otherwise made for
    what was assumed.
    """
    if folder and (folder / PREPROCESSOR_FILES[0]).is_file():
        return transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)
    made = transformers.Wav2Vec2FeatureExtractor(
        sampling_rate=info.rate_hz, do_normalize=info.normalize
    )
    if EPSILON in info.settings:
        epsilon = epsilon_of(info)
        made.zero_mean_unit_var_norm = lambda waves, *_, **__: [
            (wave - wave.mean()) / (wave.var() + epsilon) ** 0.5 for wave in waves
        ]
    return made


def preprocessor_of(location: Location) -> tuple[Path | None, dict[str, Any]]:
    """The file in a checkpoint's folder that says what the input is, and what stands in it; nothing
    where there is none.

    Raises:
        ProbeError: a file that says so but cannot be read.
    """
    for file in (location.folder / name for name in PREPROCESSOR_FILES):
        if not file.is_file():
            continue
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
            settings = dict(settings.get("feature_extractor", settings))
        except (OSError, ValueError, AttributeError, TypeError) as error:
            refuse_foreign(file, error)
            raise ProbeError(
                f"{file}: cannot be read as a preprocessor's JSON ({_reason(error)}). Fetch the file again."
            ) from error
        if "sampling_rate" in settings or "do_normalize" in settings:
            return file, settings
    return None, {}


def input_of(location: Location, config: Any, notes: list[str]) -> tuple[int, bool]:
    """Sampling rate and whether waveforms are normalised, as the checkpoint's folder says; a note
    where it does not.

    Raises:
        ProbeError: a file that says so but cannot be read.
    """
    file, settings = preprocessor_of(location)
    energies = config.model_type in LOG_MEL
    if file is None:
        what = (
            "the log-mel energies that the family was trained with"
            if energies
            else "normalised waveforms"
        )
        notes.append(f"no preprocessor_config.json: 16000 Hz and {what} {ASSUMED}")
    rate_hz, normalize = (
        settings.get("sampling_rate", ASSUMED_INPUT[0]),
        settings.get("do_normalize", ASSUMED_INPUT[1]),
    )
    if type(rate_hz) is not int or not 1000 <= rate_hz <= 768_000:
        raise ProbeError(
            f"{file}: sampling_rate {rate_hz!r}; expected Hz such as 16000. Fetch the file again."
        )
    if not isinstance(normalize, bool):
        raise ProbeError(
            f"{file}: do_normalize {normalize!r}; expected true or false. Fetch the file again."
        )
    return rate_hz, normalize and not energies


def _reason(error: Exception) -> str:
    """The first line of what went wrong, with the second where the first only announces it."""
    lines = str(error).splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in lines[: 1 + lines[0].endswith(":")])
