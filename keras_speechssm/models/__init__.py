"""Every model class of the package, each with `from_preset`, `save_to_preset`, and `fit`."""

from keras_speechssm.models.descript_audio_codec.descript_audio_codec import DescriptAudioCodec
from keras_speechssm.models.griffin.griffin_backbone import GriffinBackbone
from keras_speechssm.models.hubert_tokenizer.hubert_tokenizer import HubertTokenizer
from keras_speechssm.models.s3_gen.s3_gen import S3Gen
from keras_speechssm.models.s3_tokenizer.s3_tokenizer import S3Tokenizer
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer import SemanticTokenizer
from keras_speechssm.models.soundstorm.soundstorm import SoundStorm
from keras_speechssm.models.soundstream.soundstream import SoundStream
from keras_speechssm.models.soundstream.source_filter_soundstream import SourceFilterSoundStream
from keras_speechssm.models.speech_ssm.speech_ssm import SpeechSSM
from keras_speechssm.models.speech_ssm.speech_ssm_preprocessor import SpeechSSMPreprocessor
from keras_speechssm.models.speech_transformer.speech_transformer import SpeechTransformer

__all__ = [
    "DescriptAudioCodec",
    "GriffinBackbone",
    "HubertTokenizer",
    "S3Gen",
    "S3Tokenizer",
    "SemanticTokenizer",
    "SoundStorm",
    "SoundStream",
    "SourceFilterSoundStream",
    "SpeechSSM",
    "SpeechSSMPreprocessor",
    "SpeechTransformer",
]
