"""Metrics, the models that they use, and experiments on presets (extra `eval`)."""

import importlib

_MODULES = {
    "auto_bleu": "metrics.repetition",
    "error_rate": "metrics.word_error",
    "fraction_interval": "metrics.confidence_intervals",
    "mean_interval": "metrics.confidence_intervals",
    "mutual_word_error_rate": "metrics.word_error",
    "semantic_coherence": "metrics.similarity",
    "semantic_similarity": "metrics.similarity",
    "silence_fraction": "metrics.silence",
    "speaker_similarity": "metrics.similarity",
    "transcript_perplexity": "metrics.transcript_perplexity",
    "word_cover": "metrics.word_cover",
    "word_error_rate": "metrics.word_error",
    "load_judge": "models.judges",
    "load_lexicon": "models.lexicon",
    "load_mos_predictor": "models.mean_opinion_score",
    "load_sentence_embedder": "models.sentence_embedders",
    "load_text_model": "models.text_models",
    "load_transcriber": "models.transcribers",
    "SamplingOptions": "generate",
    "generate_continuations": "generate",
    "ComparisonOptions": "compare",
    "EvaluationModelNames": "compare",
    "EvaluationModels": "compare",
    "JudgeOptions": "compare",
    "evaluate_continuations": "compare",
    "score_listening_test": "listening_test",
    "write_boundary_listening_test": "listening_test",
    "write_listening_test": "listening_test",
    "evaluate_boundaries": "studies.boundaries",
    "evaluate_checkpoints": "studies.checkpoints",
    "evaluate_codec_preset": "studies.resynthesis",
    "evaluate_confidence": "studies.confidence",
    "evaluate_continuation": "studies.continuation",
    "evaluate_intelligibility": "studies.intelligibility",
    "evaluate_language_model": "studies.token_perplexity",
    "evaluate_long_form": "studies.long_form",
    "evaluate_loss_by_position": "studies.loss_by_position",
    "evaluate_lyra_conversion": "studies.lyra",
    "evaluate_phoneme_error": "studies.phoneme_error",
    "evaluate_recognizer_agreement": "studies.recognizer_agreement",
    "evaluate_resynthesis": "studies.resynthesis",
    "evaluate_sanity": "studies.sanity",
    "evaluate_speaker_identity": "studies.speaker_identity",
    "evaluate_speaker_probe": "studies.speaker_probe",
    "evaluate_story_coherence": "studies.story_coherence",
    "evaluate_token_agreement": "studies.token_agreement",
    "evaluate_word_cover": "studies.word_cover",
    "evaluate_zero_speech": "studies.zero_speech",
}

__all__ = list(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
