"""Recognition of the sentences of the story grammar in text and in transcripts."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from keras_speechssm.data.recipes.stories.story_grammar import (
    FORMS,
    PRONOUN_REACH,
    PRONOUNS,
    Frame,
    Slot,
    all_frames,
    known_characters,
    word_classes,
)

MAX_FRAME_WORDS = 12
# Shorter matches in a transcript are ignored, and short sentences tolerate no error.
MIN_WORDS_WITH_ERRORS = 4
MIN_WORDS = 3

# Words that sound the same are the same to the parser, because recognizers cannot tell.
_HOMOPHONES = """
an a|two to|too to|their there|four for|buy by|bye by|sea see|won one|hear here|know no|write right
read red|flour flower|son sun|eight ate|knew new|would wood|rode road|rowed road|through threw
hole whole|bare bear|blew blue|dear deer|week weak|meet meat|piece peace|wait weight|hour our
not knot|tale tail|wear where|fare fair|gray gray|sara sarah|phillip philip|steven stephen
sophy sophie|ana anna|erik eric|dora door|nose knows|steak stake|loose lose|bored board|heard herd
oh o|cent scent|pair pear|pale pail|seen scene|sale sail|stares stairs|cheque check|main mane
"""
_EXPANSIONS = {
    "goodbye": "good by",
    "alright": "all right",
    "treehouse": "tree house",
    "ok": "all right",
    "cant": "cannot",
    "dont": "do not",
    "its": "its",
    "im": "i am",
    "ive": "i have",
    "lets": "let us",
    "didnt": "did not",
    "thats": "that is",
    "whats": "what is",
    "wheres": "where is",
    "weve": "we have",
    "ill": "ill",
    "theyre": "they are",
}
_NUMBERS = dict(
    zip(
        map(str, (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 20, 1000)),
        "one two three four five six seven eight nine ten eleven twelve twenty thousand".split(),
        strict=True,
    )
)


@dataclass(frozen=True)
class ParsedSentence:
    """A sentence that the grammar recognized.

    Attributes:
        frame: The frame that it instantiates.
        num_words: Number of words of the text.
        num_errors: Word edits between the text and the frame.
        slots: The words in the frame's slots; a slot whose word is wrong is left out.
    """

    frame: Frame
    num_words: int
    num_errors: int
    slots: tuple[tuple[Slot, str], ...]

    @property
    def scene(self) -> str:
        """Scene or pool of the frame."""
        return self.frame.scene

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the characters in the sentence, in order."""
        known = known_characters()
        words = [_character_of(word) for slot, word in self.slots if slot.kind != "word"]
        return tuple(known[word].name for word in words if word)


@dataclass
class StoryCheck:
    """Result of `check_story`.

    Attributes:
        is_consistent: Whether there is no problem.
        problems: One line per sentence that contradicts what came before.
        characters: Names of the characters that were introduced.
        num_parsed: Number of sentences that the grammar recognized.
        num_sentences: Number of sentences.
    """

    is_consistent: bool
    problems: list[str]
    characters: set[str]
    num_parsed: int
    num_sentences: int


@dataclass
class ParsedTranscript:
    """Result of `parse_transcript`.

    Attributes:
        num_words: Number of words of the transcript.
        sentences: Start word, end word and parse of every sentence found, in order.
    """

    num_words: int
    sentences: list[tuple[int, int, ParsedSentence]] = field(default_factory=list)

    @property
    def word_fraction(self) -> float:
        """Fraction of the words that are inside sentences of the grammar."""
        return sum(end - start for start, end, _ in self.sentences) / max(self.num_words, 1)

    @property
    def sentence_fraction(self) -> float:
        """Estimated fraction of sentences: words outside count as sentences of 7 words."""
        outside = self.num_words * (1 - self.word_fraction) / 7
        return len(self.sentences) / max(len(self.sentences) + outside, 1e-9)


def parse_sentence(text: str, max_word_errors: int = 1) -> ParsedSentence | None:
    """Recognize one sentence of the grammar.

    Args:
        text: The sentence. Case and punctuation do not matter, and words that sound the
            same are the same.
        max_word_errors: Largest number of inserted, deleted or replaced words.

    Returns:
        The parse with the fewest errors, or None if the text is not a sentence of the
        grammar.

    Example:

    ```python
    parse_sentence("I have found it, said Sally.").names  # ("Sally",)
    ```
    """
    parses = parse_alternatives(text, max_word_errors)
    return parses[0] if parses else None


def parse_alternatives(text: str, max_word_errors: int = 1) -> list[ParsedSentence]:
    """Return all parses of a sentence that have the fewest errors.

    Args:
        text: The sentence.
        max_word_errors: Largest number of inserted, deleted or replaced words.
    """
    words = normalize_words(text)
    if not 0 < len(words) <= MAX_FRAME_WORDS + max_word_errors:
        return []
    found = _automaton().matches(words, 0, 0, len(words))
    if len(words) not in found and max_word_errors and len(words) >= MIN_WORDS_WITH_ERRORS:
        found = _automaton().matches(words, 0, max_word_errors, len(words))
    if len(words) not in found:
        return []
    errors, nodes = found[len(words)]
    frames = [frame for node in nodes for frame in _automaton().frames[node]]
    return [
        ParsedSentence(frame, len(words), errors, _bind(frame, symbols, words))
        for frame, symbols in frames
    ]


def parse_transcript(text: str, max_word_errors: int = 1) -> ParsedTranscript:
    """Find the sentences of the grammar in a transcript without sentence boundaries.

    Args:
        text: The words of a recognizer, in one string. Case and punctuation are ignored.
        max_word_errors: Largest number of word errors of each sentence.

    Returns:
        The segmentation that covers the most words with the fewest errors.
    """
    words = normalize_words(text)
    best, back = [0.0] + [0.0] * len(words), [None] * (len(words) + 1)
    # Scores flow forward: a word outside sentences earns nothing, a sentence its words less a
    # charge for each error, and half a word, so that few long sentences win over many short ones.
    for start in range(len(words)):
        if best[start] >= best[start + 1]:
            best[start + 1], back[start + 1] = best[start], None
        matches = _automaton().matches(words, start, max_word_errors, None)
        for end, (errors, nodes) in matches.items():
            length = end - start
            if length < (MIN_WORDS_WITH_ERRORS if errors else MIN_WORDS):
                continue
            score = best[start] + length - 2 * errors - 0.5
            if score > best[end]:
                best[end], back[end] = score, (start, errors, nodes)
    result, end = ParsedTranscript(len(words)), len(words)
    while end > 0:
        if back[end] is None:
            end -= 1
            continue
        start, errors, nodes = back[end]
        frame, symbols = _automaton().frames[nodes[0]][0]
        slots = _bind(frame, symbols, words[start:end])
        result.sentences.append((start, end, ParsedSentence(frame, end - start, errors, slots)))
        end = start
    result.sentences.reverse()
    return result


def check_story(
    sentences: Sequence[str], introduced: Sequence[str] = (), max_word_errors: int = 0
) -> StoryCheck:
    """Check that the characters of a story are consistent.

    Every name must have been introduced, and pronouns and words such as "girl" or "brother"
    must agree with the character that they refer to. Sentences that do not parse are skipped.

    Args:
        sentences: The sentences of the story in order.
        introduced: Names of characters that are known before the first sentence.
        max_word_errors: Tolerance of the parser.
    """
    known = known_characters()
    characters = set(introduced)
    # Sentence in which each gender was last mentioned.
    mentioned: dict[bool, int] = {}
    problems, num_parsed = [], 0
    for number, sentence in enumerate(sentences):
        parses = parse_alternatives(sentence, max_word_errors)
        num_parsed += bool(parses)
        complaints = [_complaint(p, characters, mentioned, number) for p in parses]
        if parses and all(complaints):
            problems.append(f"{sentence} ({complaints[0]})")
        chosen = next((p for p, c in zip(parses, complaints, strict=True) if not c), None)
        for slot, word in (chosen or parses[0]).slots if parses else ():
            if name := _character_of(word) if slot.kind != "word" else None:
                mentioned[known[name].feminine] = number
                if slot.introduces:
                    characters.add(known[name].name)
            elif slot.kind in PRONOUNS:
                mentioned[word in _feminine_words()] = number
    return StoryCheck(not problems, problems, characters, num_parsed, len(sentences))


def named_character(word: str) -> str | None:
    """Return the name of the character that a word names, or None.

    Args:
        word: A word of a text or transcript, such as `Sally` or `Sally's`.
    """
    words = normalize_words(word)
    name = _character_of(words[0]) if len(words) == 1 else None
    return known_characters()[name].name if name else None


def normalize_words(text: str) -> list[str]:
    """Split text into lower-case words as the parser compares them."""
    words = []
    for word in re.sub(r"[^a-z0-9\s-]", "", text.lower()).replace("-", " ").split():
        for piece in _EXPANSIONS.get(word, _NUMBERS.get(word, word)).split():
            words.append(_homophones().get(piece, piece))
    return words


@functools.cache
def _homophones() -> dict[str, str]:
    pairs = (pair.split() for line in _HOMOPHONES.split("\n") for pair in line.split("|") if pair)
    return dict(pairs)


@functools.cache
def _feminine_words() -> frozenset[str]:
    return frozenset(feminine for _, feminine in FORMS.values())


@functools.cache
def _character_names() -> dict[str, str]:
    """Normalized names and possessive names to lower-case names."""
    forms = {}
    for name in known_characters():
        forms[_homophones().get(name, name)] = name
        forms[f"{name}s"] = name
    return forms


def _character_of(word: str) -> str | None:
    return _character_names().get(word)


def _complaint(
    parse: ParsedSentence, characters: set[str], mentioned: dict[bool, int], number: int
) -> str | None:
    """Return why a parse contradicts the story so far, or None."""
    known = known_characters()
    genders: dict[str, bool] = {}
    here = dict(mentioned)
    present = set(characters)
    for slot, word in parse.slots:
        if slot.kind == "word":
            continue
        name = _character_of(word)
        if name:
            feminine = known[name].feminine
            if slot.introduces:
                present.add(known[name].name)
            if known[name].name not in present:
                return f"{known[name].name} was not introduced"
            here[feminine] = number
        else:
            feminine = word in _feminine_words()
            distance = number - here.get(feminine, -PRONOUN_REACH - 2)
            if slot.kind in ("he", "him", "his") and distance > PRONOUN_REACH + 1:
                return f"'{word}' refers to nobody"
        if genders.setdefault(slot.role, feminine) != feminine:
            return f"'{word}' does not agree"
    return None


def _bind(frame: Frame, symbols: tuple, words: list[str]) -> tuple[tuple[Slot, str], ...]:
    """Align words with the symbols of a frame and return the words in its slots."""
    rows, columns = len(words), len(symbols)
    accepted = [
        {symbol} if isinstance(symbol, str) else _fillers(_slot_class(symbol)) for symbol in symbols
    ]
    fits = [[word in some for some in accepted] for word in words]
    cost = [[0] * (columns + 1) for _ in range(rows + 1)]
    for i in range(rows + 1):
        for j in range(columns + 1):
            if i and j:
                cost[i][j] = min(
                    cost[i - 1][j - 1] + (not fits[i - 1][j - 1]),
                    cost[i - 1][j] + 1,
                    cost[i][j - 1] + 1,
                )
            else:
                cost[i][j] = i + j
    slots, i, j = [], rows, columns
    while i and j:
        if cost[i][j] == cost[i - 1][j - 1] + (not fits[i - 1][j - 1]):
            i, j = i - 1, j - 1
            if isinstance(symbols[j], Slot) and fits[i][j]:
                slots.append((symbols[j], words[i]))
        elif cost[i][j] == cost[i - 1][j] + 1:
            i -= 1
        else:
            j -= 1
    return tuple(reversed(slots))


def _slot_class(slot: Slot) -> str:
    """Return the name of the set of words that may fill a slot."""
    if slot.kind == "word":
        return slot.word_class
    if slot.kind == "name" or slot.kind in PRONOUNS:
        return f"{slot.kind} of {'animal' if slot.role == 'D' else 'person'}"
    return slot.kind


@functools.cache
def _fillers(slot_class: str) -> frozenset[str]:
    same = _homophones()
    if slot_class in word_classes():
        return frozenset(w for word in word_classes()[slot_class] for w in normalize_words(word))
    kind = slot_class.split()[0]
    words = list(FORMS.get(kind, ()))
    if kind == "name" or kind in ("he", "him", "his"):
        is_animal = slot_class.endswith("animal")
        names = [n for n, c in known_characters().items() if c.is_animal == is_animal]
        words += [f"{name}s" for name in names] if kind == "his" else names
    return frozenset(same.get(word, word) for word in words)


class _Automaton:
    """A trie over the frames' symbols, with edges for words and for slot classes."""

    def __init__(self):
        self.words: list[dict[str, int]] = [{}]
        self.classes: list[dict[str, int]] = [{}]
        self.frames: list[list] = [[]]
        for frame in all_frames():
            self._add(frame)
        self.children = [
            tuple({*words.values(), *classes.values()})
            for words, classes in zip(self.words, self.classes, strict=True)
        ]
        self.steps: dict[tuple[int, str], tuple[int, ...]] = {}

    def _add(self, frame: Frame) -> None:
        symbols: list[str | Slot] = []
        for part in frame.parts:
            if isinstance(part, Slot):
                symbols.append(part)
                continue
            symbols += normalize_words(part)
        node = 0
        for symbol in symbols:
            edges = self.words[node] if isinstance(symbol, str) else self.classes[node]
            key = symbol if isinstance(symbol, str) else _slot_class(symbol)
            if key not in edges:
                edges[key] = len(self.words)
                self.words.append({})
                self.classes.append({})
                self.frames.append([])
            node = edges[key]
        self.frames[node].append((frame, tuple(symbols)))

    def step(self, node: int, word: str) -> tuple[int, ...]:
        key = (node, word)
        if key not in self.steps:
            after = [child for name, child in self.classes[node].items() if word in _fillers(name)]
            if word in self.words[node]:
                after.append(self.words[node][word])
            self.steps[key] = tuple(after)
        return self.steps[key]

    def matches(
        self, words: list[str], start: int, max_errors: int, end: int | None
    ) -> dict[int, tuple[int, list[int]]]:
        """Match frames that begin at a word.

        Returns:
            For each word at which a frame may end: the fewest errors, and the frames' nodes.
        """
        states = {0: 0}
        if max_errors:
            self._skip_symbols(states, max_errors)
        found = {}
        limit = min(len(words), start + MAX_FRAME_WORDS + max_errors) if end is None else end
        for position in range(start, limit):
            word, after = words[position], {}
            for node, errors in states.items():
                for child in self.step(node, word):
                    if after.get(child, max_errors + 1) > errors:
                        after[child] = errors
                if errors < max_errors:
                    if after.get(node, max_errors + 1) > errors + 1 and node:
                        after[node] = errors + 1
                    for child in self.children[node]:
                        if after.get(child, max_errors + 1) > errors + 1:
                            after[child] = errors + 1
            if not after:
                break
            if max_errors:
                self._skip_symbols(after, max_errors)
            states = after
            if end is None or position == end - 1:
                final = [(errors, node) for node, errors in states.items() if self.frames[node]]
                if final:
                    fewest = min(final)[0]
                    nodes = [node for errors, node in final if errors == fewest]
                    found[position + 1] = (fewest, nodes)
        return found

    def _skip_symbols(self, states: dict[int, int], max_errors: int) -> None:
        for _ in range(max_errors):
            for node, errors in list(states.items()):
                if errors < max_errors:
                    for child in self.children[node]:
                        if states.get(child, max_errors + 1) > errors + 1:
                            states[child] = errors + 1


@functools.cache
def _automaton() -> _Automaton:
    return _Automaton()
