"""A grammar of simple English stories: generation and recognition.

`story_grammar` generates stories, `story_parser` recognizes their sentences in text and in
transcripts, and `scenes` holds the words and sentences.
"""
