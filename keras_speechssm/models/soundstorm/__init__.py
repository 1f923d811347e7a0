"""SoundStorm: semantic tokens and a voice prompt to acoustic tokens."""
