"""S3TokenizerV2, the open speech tokenizer of CosyVoice 2."""
