"""Windows of semantic tokens -> speech: SoundStorm and SoundStream, in batches."""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from keras_speechssm.shapes import FRAMES_PER_TOKEN, SAMPLES_PER_TOKEN
from keras_speechssm.windows import StreamingWindows, crop_window

_LENGTH_STEP = 125
"""Windows are filled up to multiples of 5 s: few shapes, so few compilations."""


class WindowSynthesis:
    """Speaks semantic tokens in one voice, window by window.

    Args:
        soundstorm: a `SoundStorm`.
        soundstream: a `SoundStream`.
        voice: semantic (prompt,) and acoustic (2 prompt, levels) tokens of the voice.
        temperature, guidance_scale, iterations: of `SoundStorm.generate`.
        windows_at_once: int. Windows of a batch. The first goes alone: somebody waits for it.

    Source: SpeechSSM, sections 3 and 5, appendix B.1.
    """

    def __init__(
        self,
        soundstorm,
        soundstream,
        voice: tuple,
        temperature: float,
        guidance_scale: float,
        iterations: Sequence[int] | None,
        windows_at_once: int,
    ):
        self.soundstorm = soundstorm
        self.soundstream = soundstream
        self.voice = voice
        self.temperature = temperature
        self.guidance_scale = guidance_scale
        self.iterations = iterations
        self.windows_at_once = windows_at_once

    def speak(
        self, blocks: Iterable[np.ndarray], windows: StreamingWindows, seed: int
    ) -> Iterator[np.ndarray]:
        """Waveform blocks of token blocks; holds as many windows of tokens as a batch has.

        Args:
            blocks: int32 (time,) each, in order. If they end, the last window is as short as
                what is left for it.
            windows: how they are cut, fresh.
            seed: int. A window draws its numbers with it and the window's own number.

        Returns:
            Iterator of float32 (samples,), the kept part of each window.
        """
        pending, first = np.zeros(0, "int32"), 0
        waiting, number = [], 0
        for block in itertools.chain(blocks, [None]):
            length = windows.next_window
            if block is None:
                decided = windows.finish()
            else:
                pending = np.concatenate([pending, block])
                decided = windows.feed(len(block))
            for entry in decided:
                waiting.append((pending[entry[0] - first :][:length], entry, [seed, number]))
                number, length = number + 1, windows.window
                # The first one alone: somebody waits for it.
                if number == 1 or len(waiting) == self.windows_at_once:
                    yield from self._synthesize(waiting, windows.window)
                    waiting = []
            pending, first = pending[windows.next_start - first :], windows.next_start
        yield from self._synthesize(waiting, windows.window)

    def _synthesize(self, waiting: list[tuple], window: int) -> Iterator[np.ndarray]:
        """The kept waveforms of windows: of (tokens, entry of the plan, seeds) each."""
        if not waiting:
            return
        semantic, acoustic = self.voice
        longest = max(len(tokens) for tokens, _, _ in waiting)
        length = min(-(-longest // _LENGTH_STEP) * _LENGTH_STEP, window)
        batch = np.zeros((len(waiting), longest), "int32")
        real = np.zeros(batch.shape, bool)
        for row, (tokens, _, _) in enumerate(waiting):
            batch[row, : len(tokens)], real[row, : len(tokens)] = tokens, True
        content = self.soundstorm.generate(
            batch,
            prompt_semantic=semantic,
            prompt_acoustic=acoustic,
            temperature=self.temperature,
            guidance_scale=self.guidance_scale,
            iterations=self.iterations,
            seed=[int(np.random.SeedSequence(seeds).generate_state(1)[0]) for *_, seeds in waiting],
            padding_mask=real,
            pad_to=len(semantic) + length,
        )
        # The codec is causal: what fills the window up changes nothing before it.
        fill = FRAMES_PER_TOKEN * (length - longest)
        prompts = np.broadcast_to(acoustic, (len(waiting), *acoustic.shape))
        frames = np.pad(np.concatenate([prompts, content], axis=1), ((0, 0), (0, fill), (0, 0)))
        samples = np.asarray(self.soundstream.decode(frames), "float32")
        start = len(semantic) * SAMPLES_PER_TOKEN
        for waveform, (tokens, entry, _) in zip(samples, waiting, strict=True):
            spoken = waveform[start : start + len(tokens) * SAMPLES_PER_TOKEN]
            yield crop_window(spoken, entry, SAMPLES_PER_TOKEN)
