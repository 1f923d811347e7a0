"""The Descript Audio Codec (DAC): waveform to acoustic tokens and back."""
