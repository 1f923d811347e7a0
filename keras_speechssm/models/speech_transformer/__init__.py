"""SpeechTransformer: the Transformer baseline with the interface of SpeechSSM."""
