"""A Hugging Face Space that continues speech: copy this folder into a Space of the kind Gradio.

`python app.py` runs it on this computer. `speechssm serve` does the same without Gradio.
"""

import gradio as gr

from keras_speechssm import SpeechContinuation
from keras_speechssm.data.corpora import example_prompt

speech = SpeechContinuation.from_preset("speech_ssm_demo_en")
MAX_PROMPT_SECONDS = 60
"""Only the first part of longer recordings is used."""


def continue_speech(prompt, seconds, temperature, top_p, seed):
    """Yield blocks of speech as they are made: (sample rate, samples)."""
    if prompt is None:
        raise gr.Error("Record something, or choose the example.")
    rate, samples = prompt
    samples = samples[: MAX_PROMPT_SECONDS * rate]
    if samples.dtype.kind == "i":
        samples = samples / float(2 ** (8 * samples.dtype.itemsize - 1))
    options = {"temperature": temperature, "top_p": top_p}
    if seed is not None:
        options["seed"] = int(seed)
    try:
        for block in speech.stream(samples, seconds=seconds, sample_rate=rate, **options):
            yield speech.sample_rate, (block * 32767).astype("int16")
    except ValueError as error:  # such as silence
        raise gr.Error(str(error)) from None


demo = gr.Interface(
    continue_speech,
    [
        gr.Audio(sources=["microphone", "upload"], type="numpy", label="Recording to continue"),
        gr.Slider(5, 120, value=30, step=1, label="Seconds"),
        gr.Slider(0.0, 1.5, value=speech.sampling.temperature, label="Temperature"),
        gr.Slider(0.1, 1.0, value=speech.sampling.top_p or 1.0, label="Top-p"),
        gr.Number(None, label="Seed (empty: random)", precision=0),
    ],
    gr.Audio(streaming=True, autoplay=True, label="Continuation"),
    examples=[[str(example_prompt()), 30, 1.0, 0.9, 0]],
    cache_examples=False,
    title="Continue speech",
    description="A speech language model continues what you say, in your voice.",
    flagging_mode="never",
)
# One at a time: a continuation keeps both cores of a free Space busy.
demo.queue(default_concurrency_limit=1, max_size=10)

if __name__ == "__main__":
    demo.launch()
