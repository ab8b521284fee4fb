"""Plug-ins: the contract of a model that is somebody else's code, and the adapter that makes an
`Encoder` of it.

A plug-in is trusted as any program is: importing it runs it. What it gives is not trusted: the
adapter refuses by name what is not of the contract's form, and `probe.models.check` measures the
rest.
"""

import contextlib
import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol

import torch
from pydantic import AfterValidator, BeforeValidator, Field
from torch import Tensor

from probe.errors import EXIT_TERMINATED, ProbeError, UtteranceError, listed
from probe.models.encoder import CTC, PLUGIN, Chunking, ModelInfo, brief_of, out_of_memory, padded
from probe.models.frames import MOST_S, FrameGrid, measured_grid
from probe.models.sources.weights import sha256_of_tensors
from probe.schema import Schema, checked

PAGE = "docs/plugins.md"
# Files whose lines say nothing of where a plug-in failed.
AROUND = (
    *("<frozen", contextlib.__file__),
    *(str(Path(str(module.__file__)).parent) for module in (torch, importlib)),
)
WHOLE = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
CONTRACT = ("sample_rate", "hop_samples", "layer_widths", "encode")
# Numbers must be no ranges, and nothing may end a list of layers or leave a group of a shard.
LAYER_NAME = r"(?!\d+-\d+$)[\w.+-]*\w"


class Plugin(Protocol):
    """What a model has to offer; any class will do, a torch module too.

    It may also have ``min_samples`` (the shortest waveform; found by running where it is missing),
    ``version`` (text that stands for its code in the recipe), ``name``, ``notes`` and
    ``to(device)``; without the last it is given waveforms on the CPU.

    Attributes:
        sample_rate: in Hz.
        hop_samples: from one frame to the next.
        layer_widths: name -> dim, in order.
    """

    sample_rate: int
    hop_samples: int
    layer_widths: Mapping[str, int]

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        """Frames of every layer. An utterance's must not depend on its batch mates, nor on earlier
        calls.

        Args:
            waveforms: (batch, time) float32; samples past a length are 0.
            lengths: (batch,) int64, samples of each utterance.

        Returns:
            One (batch, frame, dim) tensor per layer, and the valid frames as (batch,); frames past
            a length may be anything.
        """
        ...


def _layer_name(name: str) -> str:
    if not re.fullmatch(LAYER_NAME, name) or name == CTC:
        raise ValueError(f"letters, digits, dots, + and -, not {CTC!r}")
    return name


class Declaration(Schema):
    """What a plug-in declares, by the names of `Plugin`."""

    sample_rate: int = Field(ge=1000, le=768_000)
    hop_samples: int = Field(ge=1, le=1 << 24)
    min_samples: int = Field(1, ge=1, le=1 << 24)
    layer_widths: Annotated[
        dict[Annotated[str, AfterValidator(_layer_name)], Annotated[int, Field(ge=1)]],
        BeforeValidator(lambda value: dict(value) if isinstance(value, Mapping) else value),
    ] = Field(min_length=1)


class PluginEncoder:
    """A plug-in as the house's own models are; satisfies `probe.models.encoder.Encoder`."""

    implementation, precision = "reference", "fp32"
    chunking: Chunking | None = None
    rows = 1

    def __init__(
        self,
        plugin: Any,
        name: str,
        revision: str,
        device: torch.device,
        settings: Mapping[str, Any],
    ) -> None:
        """Move the plug-in to its device, check what it declares, and run it to see how many
        frames a length gives.

        Args:
            plugin: satisfies `Plugin`.
            name, revision: as `ModelInfo` has them.

        Raises:
            ProbeError: it declares less than a `Plugin` does, raises, or gives something else.
        """
        self.again: Callable[[], PluginEncoder] | None = None  # opens the same plug-in afresh
        self.device = device
        self._plugin, self._name = plugin, name
        with running(name, "opening it"):
            notes = [str(note) for note in getattr(plugin, "notes", ())]
            if callable(getattr(plugin, "to", None)):
                plugin.to(device)
            elif device.type != "cpu":
                self.device = torch.device("cpu")
                notes.append("it has no method to(device), so it is given waveforms on the CPU")
            self.model = torch.nn.ModuleList(modules_of(plugin).values()).eval()
            weights = self.model.state_dict()
            self._layers = _declared(plugin, name)
            self.info = ModelInfo(
                id=name,
                revision=revision,
                weights_sha256=sha256_of_tensors(weights) if weights else "",
                family=PLUGIN,
                layers=self._layers,
                aliases=dict(getattr(plugin, "aliases", {})),
                rate_hz=plugin.sample_rate,
                grid=self._grid(),
                parameters=sum(weight.numel() for weight in self.model.parameters()),
                settings=settings,
                weights="as the plug-in loaded them" if weights else "",
                notes=tuple(notes),
            )

    def __repr__(self) -> str:
        return brief_of(self)

    def encode(
        self, waveforms: Tensor, lengths: Tensor, layers: Sequence[str]
    ) -> tuple[list[Tensor], Tensor]:
        """See `probe.models.encoder.Encoder.encode`."""
        frames, n_frames = self._encode_all(waveforms, lengths)
        of_layer = dict(zip(self._layers, frames, strict=True))
        return [of_layer[name] for name in layers], n_frames.repeat(len(layers), 1)

    @torch.inference_mode()
    def _encode_all(self, waveforms: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        """Every layer, in the form of the house, and (batch,) valid frames."""
        within = torch.arange(waveforms.shape[1]) < lengths.cpu()[:, None]
        inputs = torch.where(within.to(waveforms.device), waveforms, 0.0).to(self.device)
        samples = ", ".join(map(str, lengths.tolist()))
        with running(self._name, f"encode of {samples} samples", UtteranceError):
            returned = self._plugin.encode(inputs, lengths.clone().to(self.device))
            widths = list(self._layers.values())
            frames, n_frames = _of_contract(returned, widths, len(lengths), self._name)
            longest = int(n_frames.max())
            valid = (torch.arange(longest) < n_frames[:, None])[:, :, None].to(self.device)
            arrays = [item[:, :longest].to(self.device, torch.float32) for item in frames]
            return [torch.where(valid, item, 0.0) for item in arrays], n_frames

    def _grid(self) -> FrameGrid:
        """The grid that an adapter of ours knows; measured for other plug-ins."""
        plugin = self._plugin
        if isinstance(grid := getattr(plugin, "frame_grid", None), FrameGrid):
            return grid

        def n_frames(wave: Tensor) -> int:
            return int(self._encode_all(wave[None], torch.tensor([len(wave)]))[1])

        rate_hz, shortest = plugin.sample_rate, getattr(plugin, "min_samples", None)
        try:
            return measured_grid(counter(n_frames, rate_hz), rate_hz, plugin.hop_samples, shortest)
        except ProbeError as error:
            text = str(error)
            raise ProbeError(text if self._name in text else f"{self._name}: {text}") from error


def modules_of(plugin: Any) -> dict[str, torch.nn.Module]:
    """Name -> the torch modules that a plug-in is or has as attributes."""
    if isinstance(plugin, torch.nn.Module):
        return {"": plugin}
    attributes = getattr(plugin, "__dict__", {}).items()
    return {name: item for name, item in attributes if isinstance(item, torch.nn.Module)}


@contextlib.contextmanager
def running(
    name: str, doing: str, kind: type[ProbeError] = ProbeError, argument: str = ""
) -> Iterator[None]:
    """Run a block of somebody else's code: what it prints goes to stderr, what it raises becomes an
    error that names it.

    Args:
        argument: the text after ``@`` that the code is given, which may be the mistake.

    Raises:
        ProbeError: (a ``kind`` of it) whatever was raised, `sys.exit` too; but an exhausted memory
            is left to those who can ask for less.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except ProbeError:
        raise
    except (Exception, SystemExit) as error:
        if getattr(error, "code", None) == EXIT_TERMINATED or out_of_memory(error):
            raise
        around = (*AROUND, str(Path(__file__).parents[1]))
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if not frame.filename.startswith(around)]
        where = f" ({own[-1].filename} line {own[-1].lineno})" if own else ""
        reason = (str(error).splitlines() or ["no reason given"])[0]
        mend = "Mend"
        if isinstance(error, ModuleNotFoundError) and error.name:
            mend = f"Install {error.name}, or mend"
        elif argument:
            file_note = "" if Path(argument).exists() else f" (no such file in {Path.cwd()})"
            mend = f"Check the text after @, {argument!r}{file_note}, or mend"
        raise kind(
            f"{name}: {doing} raised {type(error).__name__}: {reason}{where}. {mend} the plug-in; "
            f"see {PAGE}."
        ) from error


def counter(frames_of: Callable[[Tensor], int], rate_hz: int) -> Callable[[int], int]:
    """Return a function that counts the frames of seeded noise of so many samples.

    A model may refuse what is too short for it, up to `MOST_S`; what it returns must be of the
    contract's form from 1 s on.
    """

    def count(n_samples: int) -> int:
        try:
            return frames_of(noise(n_samples))
        except Exception as error:
            is_of_form = isinstance(error, UtteranceError) or not isinstance(error, ProbeError)
            if out_of_memory(error) or n_samples >= (MOST_S if is_of_form else 1) * rate_hz:
                raise
            return 0

    return count


def noise(n_samples: int) -> Tensor:
    """(n_samples,) seeded noise at the level of speech."""
    return 0.1 * torch.randn(n_samples, generator=torch.Generator().manual_seed(n_samples))


def batched(
    waveforms: Tensor, lengths: Tensor, layers_of: Callable[[Tensor], Sequence[Tensor]]
) -> tuple[list[Tensor], Tensor]:
    """Return what `Plugin.encode` returns, by a function from one (time,) waveform to its layers,
    (frame, dim) each.
    """
    waves = zip(waveforms, lengths.tolist(), strict=True)
    alone = [layers_of(wave[:length]) for wave, length in waves]
    frames, n_frames = padded(list(zip(*alone, strict=True)))
    return frames, n_frames[0]


def refuse_incomplete(plugin: Any, name: str) -> None:
    """Raise where a plug-in lacks something of the contract."""
    statically = inspect.getattr_static  # a property of the contract may need what is not there yet
    absent_names = [
        item
        for item in CONTRACT
        if not hasattr(plugin, item) and statically(plugin, item, None) is None
    ]
    if not absent_names:
        return
    hint = ""
    if isinstance(plugin, torch.nn.Module):
        modules = [child for child, _ in plugin.named_modules() if child]
        hint = f", or --hook with names of its modules, such as {listed(modules, 3)}"
    raise ProbeError(
        f"{name}: {type(plugin).__name__} has no {', '.join(absent_names)}; expected the contract "
        f"of {PAGE}{hint}."
    )


def _declared(plugin: Any, name: str) -> dict[str, int]:
    """Return the layers of a plug-in, all of whose declarations are of the contract's form.

    Raises:
        ProbeError: one is of another form.
    """
    # Read here, as a property may raise an error of ours.
    entries = {
        key: getattr(plugin, key) for key in Declaration.model_fields if hasattr(plugin, key)
    }
    return checked(Declaration, entries, name).layer_widths


def _of_contract(
    returned: Any, widths: Sequence[int], n_batch: int, name: str
) -> tuple[list[Tensor], Tensor]:
    """Return the layers and the (batch,) valid frames that `Plugin.encode` returned.

    Raises:
        ProbeError: what it returned is not of the contract's form.
    """

    def refuse_unless(holds: bool, actual: str, expected: str) -> None:
        if not holds:
            raise ProbeError(f"{name}: encode returned {actual}; expected {expected}. See {PAGE}.")

    is_list = isinstance(returned, tuple | list)
    refuse_unless(
        is_list and len(returned) == 2,
        f"{len(returned)} things" if is_list else f"a {type(returned).__name__}",
        "a list of frames per layer, and the valid frames of each utterance",
    )
    frames, counts = returned[0], torch.as_tensor(returned[1])
    is_list = isinstance(frames, tuple | list)
    refuse_unless(
        is_list and len(frames) == len(widths),
        f"frames of {len(frames)} layers" if is_list else f"frames as a {type(frames).__name__}",
        f"a list of {len(widths)}, one for each of layer_widths",
    )
    refuse_unless(
        counts.shape == (n_batch,) and counts.dtype in WHOLE,
        f"valid frames of shape {tuple(counts.shape)}, {counts.dtype}",
        f"whole numbers of shape ({n_batch},)",
    )
    for number, (item, width) in enumerate(zip(frames, widths, strict=True)):
        layer, is_tensor = f"layer number {number}", isinstance(item, Tensor)
        refuse_unless(
            is_tensor and item.is_floating_point(),
            f"frames of {layer} as {item.dtype if is_tensor else f'a {type(item).__name__}'}",
            "a tensor of floating point numbers",
        )
        is_turned = item.ndim == 3 and item.shape[1] == width
        refuse_unless(
            item.ndim == 3 and item.shape[0] == n_batch and item.shape[2] == width,
            f"frames of {layer} of shape {tuple(item.shape)}",
            f"({n_batch}, frame, {width}){'. Are frame and dim exchanged?' if is_turned else ''}",
        )
        refuse_unless(
            int(counts.min()) >= 0 and int(counts.max()) <= item.shape[1],
            f"{counts.tolist()} valid frames, where {layer} has {item.shape[1]}",
            "numbers of frames (not samples), as many as there are at most",
        )
    return list(frames), counts.cpu().long()
