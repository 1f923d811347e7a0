"""SpeechSSM: a speech language model on the Griffin backbone."""
