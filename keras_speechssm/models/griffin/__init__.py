"""Griffin: the decoder of SpeechSSM, and the RecurrentGemma checkpoints it loads."""
