"""What is unusual about the sound of a file: silence, clipping, a peak above full scale, an offset,
channels that are dead or cancel.

Nothing is dropped for it. The words are kept with every utterance in the store and counted by
``probe show``, so that a bad score can be told from bad audio.
"""

import numpy as np

SILENCE, CLIPPED, ABOVE, OFFSET = "silence", "clipped", "above full scale", "constant offset"
DEAD_CHANNEL, ANTIPHASE = "dead channel", "antiphase"
NO_END = "no end mark"  # the file does not say where its audio ends, see `probe.data.containers`
DAMAGED = "damaged frames"  # the decoder skips bytes in the middle
FLAGS = (SILENCE, CLIPPED, ABOVE, OFFSET, DEAD_CHANNEL, ANTIPHASE, NO_END, DAMAGED)

# Half a step of 16 bits: what is below it is zero in most files, and lossy formats decode digital
# silence to about 1e-6.
SILENT_PEAK = 2.0**-16
# Gated and padded recordings have pauses of exact zeros; more than half of a recording is no pause.
SILENT_SHARE = 0.5
# The largest values of 8-bit PCM, A-law and mu-law are 0.992, 0.984 and 0.980 of full scale.
FULL_SCALE = 0.98
# Lossy formats decode loud music to 1.4 times full scale; above this, it is a gain, or integers
# that were stored as floats.
ABOVE_PEAK = 1.5
# A clipped wave is flat: three equal samples in a row at full scale. The top of an unclipped tone
# is flat for a sample or two.
FLAT_SAMPLES = 3
# One such sample in 10,000 is a pop on the microphone every now and then; from there on it is a
# level set too high.
CLIPPED_SHARE = 1e-4
# The mean against the root mean square: 1 % of the power. Speech without an offset stays below 0.01
# from a second on.
OFFSET_RATIO = 0.1
# Power of the average of the channels against that of unrelated channels: for stereo, 20 dB below
# either channel.
CANCELLED = 0.02


class Levels:
    """Sums over a file's samples, as they are decoded, before the channels are averaged.

    Attributes:
        n_samples: of each channel so far.
        peaks: (channel,) largest absolute value.
        n_silent: samples at which all channels are silent.
        n_flat: values that stand at full scale and repeat the two before them, over all channels.
    """

    def __init__(self, channels: int) -> None:
        self.n_samples = self.n_silent = self.n_flat = 0
        self.peaks = np.zeros(channels)
        self._sums, self._powers = np.zeros(channels), np.zeros(channels)
        self._mono_sum = self._mono_power = 0.0
        self._tail = np.zeros((0, channels), np.float32)

    def add(self, block: np.ndarray, mono: np.ndarray) -> None:
        """Takes in (time, channel) float32 samples and their (time,) average."""
        with np.errstate(all="ignore"):  # of NaN and infinity, for which the file is refused
            sizes = np.abs(block)
            self.n_samples += len(block)
            self.peaks = np.maximum(self.peaks, sizes.max(axis=0))
            self.n_silent += int(np.count_nonzero(sizes.max(axis=1) < SILENT_PEAK))
            self._sums += block.sum(axis=0, dtype=np.float64)
            self._powers += np.einsum("tc,tc->c", block, block, dtype=np.float64)
            self._mono_sum += float(mono.sum(dtype=np.float64))
            self._mono_power += float(np.einsum("t,t->", mono, mono, dtype=np.float64))
        if sizes.max() >= FULL_SCALE:
            joined = np.concatenate([self._tail, block])
            high = np.abs(joined[FLAT_SAMPLES - 1 :]) >= FULL_SCALE
            for back in range(FLAT_SAMPLES - 1):
                high &= (
                    joined[FLAT_SAMPLES - 1 :]
                    == joined[back : len(joined) - FLAT_SAMPLES + 1 + back]
                )
            self.n_flat += int(np.count_nonzero(high))
        self._tail = np.concatenate([self._tail, block[-FLAT_SAMPLES:]])[1 - FLAT_SAMPLES :]

    @property
    def peak(self) -> float:
        """Largest absolute value of any channel; 1 is full scale."""
        return float(self.peaks.max())

    @property
    def rms(self) -> float:
        """Root mean square over all channels."""
        return float(np.sqrt(self._powers.sum() / max(1, self.n_samples * len(self.peaks))))

    @property
    def flags(self) -> tuple[str, ...]:
        """Those of `FLAGS` that are true of the samples so far."""
        n = max(1, self.n_samples)
        means, powers = self._sums / n, self._powers / n
        silent = self.peaks < SILENT_PEAK
        variance = float(np.maximum(powers - means**2, 0).mean())
        mono_variance = max(self._mono_power / n - (self._mono_sum / n) ** 2, 0.0)
        channels = len(self.peaks)
        true = {
            SILENCE: self.n_silent > SILENT_SHARE * n,
            # Above full scale, three equal samples say nothing: integers stored as floats are equal
            # all the time.
            CLIPPED: self.peak <= ABOVE_PEAK and self.n_flat > CLIPPED_SHARE * n * channels,
            ABOVE: self.peak > ABOVE_PEAK,
            OFFSET: bool(np.any(np.abs(means[~silent]) > OFFSET_RATIO * np.sqrt(powers[~silent]))),
            DEAD_CHANNEL: bool(silent.any() and not silent.all()),
            ANTIPHASE: channels > 1 and mono_variance * channels < CANCELLED * variance,
        }
        return tuple(flag for flag, is_true in true.items() if is_true)
