"""Wav2Vec2, Data2VecAudio, HuBERT and WavLM checkpoints through transformers, every layer tapped by hooks.

What a layer is must not depend on the version of transformers (4.x puts the final LayerNorm into ``hidden_states[-1]``, 5.x does
not), so ``hidden_states`` is not used: layer 0 is what the first block is given, layer i what block i returns, ``final`` what the
encoder returns in models with a final LayerNorm (pre-LN, "stable layer norm"). In post-LN models ``final`` is an alias of layer N.

Utterances run one at a time. Padding changes every frame of the group-norm models (GroupNorm takes its statistics over it) and of
data2vec (five stacked positional convolutions leak it) whatever the mask says, and on a CPU batching gains nothing.
"""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # otherwise a thread that asks the hub to convert .bin files

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from probe.errors import ProbeError, listed
from probe.files import sha256_of_file, sha256_of_json
from probe.models.encoder import ModelInfo

FAMILIES = ("wav2vec2", "data2vec-audio", "hubert", "wavlm")
# In order of preference; the first that is there is hashed and loaded.
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
PREPROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")  # the second since transformers 5
ASSUMED_INPUT = (16_000, True)  # rate in Hz, normalised
# Used in training only (the vector that masked frames are replaced with).
MAY_BE_MISSING = {"masked_spec_embed"}
NORMALIZE_EPSILON = 1e-7


@dataclass(frozen=True)
class Location:
    """Where a checkpoint lies: its name without revision, its folder, its resolved commit."""

    id: str
    folder: Path
    commit: str


class TransformersEncoder:
    """A speech encoder of transformers; satisfies `probe.models.encoder.Encoder`."""

    def __init__(self, model: Any, info: ModelInfo) -> None:
        self.info = info
        self.device = next(model.parameters()).device
        self._model = model
        self._kernels = list(zip(model.config.conv_kernel, model.config.conv_stride, strict=True))

    def n_frames(self, n_samples: int) -> int:
        """Frames that ``n_samples`` samples give."""
        return count_frames(n_samples, self._kernels)

    @torch.inference_mode()
    def encode(self, waveforms: Tensor, lengths: Tensor, layers: Sequence[str]) -> tuple[list[Tensor], Tensor]:
        """See `probe.models.encoder.Encoder.encode`."""
        alone = [self._encode_one(wave[:length], layers) for wave, length in zip(waveforms, lengths.tolist(), strict=True)]
        n_frames = torch.tensor([len(frames[0]) for frames in alone])
        padded = [torch.nn.utils.rnn.pad_sequence(list(of_layer), batch_first=True) for of_layer in zip(*alone, strict=True)]
        return padded, n_frames.repeat(len(layers), 1)

    def _encode_one(self, wave: Tensor, layers: Sequence[str]) -> list[Tensor]:
        """(time,) -> one (frame, dim) per layer."""
        if self.info.normalize:
            wide = wave.double()
            wave = ((wide - wide.mean()) / (wide.var(correction=0) + NORMALIZE_EPSILON).sqrt()).float()
        tapped: dict[str, Tensor] = {}
        blocks = self._model.encoder.layers
        hooks = [blocks[0].register_forward_pre_hook(_tap_input(tapped, "0"), with_kwargs=True)]
        hooks += [block.register_forward_hook(_tap_output(tapped, str(i))) for i, block in enumerate(blocks, start=1)]
        try:
            encoded = self._model(wave[None], return_dict=True)
        finally:
            for hook in hooks:
                hook.remove()
        tapped["final"] = encoded.last_hidden_state
        return [tapped[name][0] for name in layers]


def _tap_input(tapped: dict[str, Tensor], name: str) -> Any:
    def hook(_module: Any, positional: tuple, named: dict) -> None:
        tapped[name] = positional[0] if positional else named["hidden_states"]

    return hook


def _tap_output(tapped: dict[str, Tensor], name: str) -> Any:
    def hook(_module: Any, _inputs: Any, output: Any) -> None:
        tapped[name] = output[0] if isinstance(output, tuple) else output

    return hook


def count_frames(n_samples: int, kernels: Sequence[tuple[int, int]]) -> int:
    """Frames after a stack of unpadded convolutions given as (kernel, stride)."""
    for kernel, stride in kernels:
        n_samples = (n_samples - kernel) // stride + 1
    return max(0, n_samples)


def receptive_field(kernels: Sequence[tuple[int, int]]) -> int:
    """Samples that one frame needs."""
    samples = 1
    for kernel, stride in reversed(kernels):
        samples = (samples - 1) * stride + kernel
    return samples


def built_in_config(architecture: dict[str, Any]) -> Any:
    """The transformers configuration of an entry of ``architectures.json``."""
    return transformers.AutoConfig.for_model(architecture["model_type"], **architecture["config"])


def config_of(location: Location) -> Any:
    """The configuration in a checkpoint's folder.

    Raises:
        ProbeError: none there, unreadable, or of a model that this project cannot open.
    """
    if not (location.folder / "config.json").is_file():
        raise ProbeError(f"{location.folder}: no config.json; expected a checkpoint folder as save_pretrained writes it.")
    try:
        config = transformers.AutoConfig.from_pretrained(location.folder, trust_remote_code=False)
    except (ValueError, OSError, KeyError, StrictDataclassError) as error:
        raise ProbeError(
            f"{location.id}: its config.json cannot be used ({_reason(error)}). Remote code is never run."
        ) from error
    if config.model_type not in FAMILIES:
        reads = "; that is no speech encoder this version knows" if "audio" not in config.model_type else ""
        raise ProbeError(f"{location.id}: model type {config.model_type!r}{reads}. Supported: {', '.join(FAMILIES)}.")
    if getattr(config, "add_adapter", False):
        config.add_adapter = False  # the adapter comes after the encoder's last layer and is none of its layers
    return config


def from_hub(identifier: str, revision: str | None, weights: bool) -> Location:
    """Fetches a checkpoint's configuration (and weights) into the hub's cache, or finds them there.

    Raises:
        ProbeError: no such repository or revision, no access, or offline and not cached.
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

    def fetch(patterns: list[str]) -> Path:
        return Path(huggingface_hub.snapshot_download(identifier, revision=revision, allow_patterns=patterns))

    try:
        folder = fetch(["config.json", *PREPROCESSOR_FILES])
        if weights:
            folder = fetch(["model.safetensors", "model.safetensors.index.json", "model-*.safetensors"])
            if not any((folder / file).exists() for file in WEIGHT_FILES[:2]):
                folder = fetch(["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"])
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ProbeError(f"{name}: not on the hub, or it needs a login. Check the name and the revision.") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ProbeError(
            f"{name}: no such folder here, not in the cache, and the hub cannot be reached. Connect once, or copy the checkpoint "
            "here and name its folder; `probe models` lists what needs no network."
        ) from error
    return Location(identifier, folder, folder.name)


def pretrained_encoder(location: Location, device: str) -> TransformersEncoder:
    """The encoder of a checkpoint; a CTC or pretraining checkpoint gives its encoder.

    Raises:
        ProbeError: no weights, unreadable or non-finite ones, or encoder weights missing.
    """
    config = config_of(location)
    file = next((location.folder / name for name in WEIGHT_FILES if (location.folder / name).exists()), None)
    if file is None:
        raise ProbeError(f"{location.folder}: no weights; expected one of {', '.join(WEIGHT_FILES)}.")
    sha256 = _sha256_of_weights(file)
    try:
        with torch.random.fork_rng(devices=[]):  # weights outside the file are drawn, even where none of them is used
            model, loading = transformers.AutoModel.from_pretrained(
                location.folder,
                config=config,
                use_safetensors="safetensors" in file.name,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:  # safetensors, pickle and transformers each raise their own kind
        raise ProbeError(f"{file}: the weights cannot be loaded ({_reason(error)}). Fetch the file again.") from error
    missing = sorted(set(loading["missing_keys"]) - MAY_BE_MISSING)
    wrong = sorted(str(item) for item in loading["mismatched_keys"])
    if missing or wrong:
        raise ProbeError(
            f"{file}: {len(missing)} of the encoder's weights missing, {len(wrong)} of another shape: {listed(missing + wrong)}. "
            f"They would be random; is this a {config.model_type} checkpoint?"
        )
    broken = [name for name, weight in model.state_dict().items() if not torch.isfinite(weight).all()]
    if broken:
        raise ProbeError(f"{file}: NaN or infinite weights in {listed(broken)}. Fetch the file again.")
    unexpected = sorted(loading["unexpected_keys"])
    notes = (
        [f"{len(unexpected)} weights that the encoder has no place for were left out: {listed(unexpected)}"] if unexpected else []
    )
    wanted = input_of(location, notes)
    return _encoder(location.id, location.commit, sha256, model, device, wanted, notes)


def random_encoder(
    name: str, config: Any, seed: int, device: str, wanted: tuple[int, bool] = ASSUMED_INPUT, notes: Sequence[str] = ()
) -> TransformersEncoder:
    """An encoder of this architecture with random weights drawn from ``seed``; global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
        model = transformers.AutoModel.from_config(config, dtype=torch.float32)
    digest = hashlib.sha256()
    for key, weight in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(weight.contiguous().numpy().tobytes())
    return _encoder(name, f"seed {seed}", digest.hexdigest(), model, device, wanted, notes)


def _encoder(
    name: str, revision: str, sha256: str, model: Any, device: str, wanted: tuple[int, bool], notes: Sequence[str]
) -> TransformersEncoder:
    config = model.config
    model.eval().to(device)
    n_blocks = len(model.encoder.layers)
    layers = {str(index): config.hidden_size for index in range(n_blocks + 1)}
    pre_ln = bool(getattr(config, "do_stable_layer_norm", False))
    if pre_ln:
        layers["final"] = config.hidden_size
    info = ModelInfo(
        id=name,
        revision=revision,
        weights_sha256=sha256,
        family=config.model_type,
        layers=layers,
        aliases={} if pre_ln else {"final": str(n_blocks)},
        rate_hz=wanted[0],
        normalize=wanted[1],
        hop_samples=math.prod(config.conv_stride),
        min_samples=receptive_field(list(zip(config.conv_kernel, config.conv_stride, strict=True))),
        parameters=sum(weight.numel() for weight in model.parameters()),
        settings={"attention": config._attn_implementation},
        notes=tuple(notes),
    )
    return TransformersEncoder(model, info)


def input_of(location: Location, notes: list[str]) -> tuple[int, bool]:
    """Sampling rate and whether waveforms are normalised, as the checkpoint's folder says; a note where it does not.

    Raises:
        ProbeError: a file that says so but cannot be read.
    """
    for file in (location.folder / name for name in PREPROCESSOR_FILES):
        if not file.is_file():
            continue
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
            settings = settings.get("feature_extractor", settings)
            rate_hz, normalize = settings.get("sampling_rate", ASSUMED_INPUT[0]), settings.get("do_normalize", ASSUMED_INPUT[1])
        except (OSError, ValueError, AttributeError) as error:
            raise ProbeError(
                f"{file}: cannot be read as a preprocessor's JSON ({_reason(error)}). Fetch the file again."
            ) from error
        if not isinstance(rate_hz, int) or rate_hz <= 0:
            raise ProbeError(f"{file}: sampling_rate {rate_hz!r}; expected Hz such as 16000. Fetch the file again.")
        if "sampling_rate" in settings or "do_normalize" in settings:
            return rate_hz, bool(normalize)
    notes.append("no preprocessor_config.json: 16000 Hz and normalised waveforms are assumed")
    return ASSUMED_INPUT


def _sha256_of_weights(file: Path) -> str:
    """sha256 of one weights file, or of the names and hashes of all the files that an index lists."""
    if not file.name.endswith(".index.json"):
        return sha256_of_file(file)
    suffix = ".safetensors" if "safetensors" in file.name else ".bin"
    parts = sorted(file.parent.glob(f"{file.name.split('.')[0]}-*{suffix}"))
    return sha256_of_json({part.name: sha256_of_file(part) for part in parts})


def _reason(error: Exception) -> str:
    """The first line of what went wrong, with the second where the first only announces it."""
    lines = str(error).splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in lines[: 1 + lines[0].endswith(":")])
