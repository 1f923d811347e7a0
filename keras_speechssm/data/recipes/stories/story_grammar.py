"""Generation of simple English stories from a grammar of frames and scenes."""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from keras_speechssm.data.recipes.stories.scenes import (
    ENDING,
    HELDOUT_SCENES,
    INTRODUCE_B,
    INTRODUCE_C,
    INTRODUCE_D,
    OPENING,
    POOLS,
    SCENES,
    TRANSITION,
    WORD_CLASSES,
)

SPLITS = ("train", "validation")
MAX_SENTENCE_WORDS = 12

# A pronoun refers back at most this many sentences.
PRONOUN_REACH = 2
OPTIONAL_STEP_PROBABILITY = 0.5
STORY_ROLES = {"H": "outdoor", "J": "job", "K": "pet"}

# Forms of a role by grammatical gender: (masculine, feminine).
FORMS = {
    "he": ("he", "she"),
    "him": ("him", "her"),
    "his": ("his", "her"),
    "self": ("himself", "herself"),
    "girl": ("boy", "girl"),
    "man": ("man", "woman"),
    "brother": ("brother", "sister"),
}
PRONOUNS = ("he", "him", "his", "self")


@dataclass(frozen=True)
class Slot:
    """One slot of a frame.

    Attributes:
        kind: "name", "word" (any word of `word_class`) or one of the forms in `FORMS`.
        role: The role that fills it, or an empty string for a word that is drawn again every time.
        word_class: Word class of a "word" slot, else empty.
        introduces: Whether a "name" slot introduces its character.
    """

    kind: str
    role: str = ""
    word_class: str = ""
    introduces: bool = False


@dataclass(frozen=True)
class Frame:
    """A sentence with slots.

    Attributes:
        template: The sentence as it is in `scenes.py`, with entity roles resolved.
        scene: Name of the scene or pool that the frame belongs to.
        parts: Text pieces and slots in order.
    """

    template: str
    scene: str
    parts: tuple[str | Slot, ...]

    @property
    def roles(self) -> frozenset[str]:
        """Roles of the characters that the frame mentions."""
        return frozenset(p.role for p in self.parts if isinstance(p, Slot) and p.kind != "word")


@dataclass(frozen=True)
class Character:
    """A character of a story.

    Attributes:
        name: The character's name.
        feminine: Whether the pronouns are "she" and "her".
        is_animal: Whether the character is an animal.
    """

    name: str
    feminine: bool
    is_animal: bool = False


@dataclass
class Story:
    """A generated story.

    Attributes:
        sentences: The sentences in order.
        characters: Who is in the story, by role.
        scenes: Names of the scenes in order.
    """

    sentences: list[str]
    characters: dict[str, Character]
    scenes: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The story as one string."""
        return " ".join(self.sentences)

    @property
    def num_words(self) -> int:
        """Number of words in the story."""
        return len(self.text.split())


@dataclass(frozen=True)
class Call:
    """A step that draws a frame of a pool: its name and the roles that stand for X and Y."""

    pool: str
    roles: dict[str, str]


@dataclass(frozen=True)
class Step:
    """One step of a scene: alternatives, of which one is chosen."""

    alternatives: tuple[Frame | Call, ...]
    optional: bool


@functools.cache
def word_classes() -> dict[str, tuple[str, ...]]:
    """Return the words of every word class."""
    return {name: tuple(text.split()) for name, text in WORD_CLASSES.items()}


@functools.cache
def names_by_split() -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the names of each split by kind: girl, boy, she_animal, he_animal."""
    classes = word_classes()
    kinds = ("girl", "boy", "she_animal", "he_animal")
    return {
        "train": {kind: classes[f"{kind}_name"] for kind in kinds},
        "validation": {kind: classes[f"heldout_{kind}_name"] for kind in kinds},
    }


@functools.cache
def known_characters() -> dict[str, Character]:
    """Return every character that the grammar can name, by lower-case name."""
    return {
        name.lower(): Character(name, kind in ("girl", "she_animal"), kind.endswith("animal"))
        for kinds in names_by_split().values()
        for kind, names in kinds.items()
        for name in names
    }


def parse_frame(template: str, scene: str, entities: dict[str, str]) -> Frame:
    """Parse the text of a frame.

    Args:
        template: The sentence with slots in square brackets.
        scene: Name of the scene or pool that it belongs to.
        entities: Word class of each entity role that the frame may use.

    Raises:
        ValueError: If a slot is neither a role, a form of a role, nor a word class.
    """
    template = " ".join(template.split())
    parts: list[str | Slot] = []
    for piece in re.split(r"(\[[^]]*\])", template):
        if not piece.startswith("["):
            parts += [piece] if piece else []
            continue
        words = piece[1:-1].split()
        if len(words) == 2 and words[0] in FORMS:
            parts.append(Slot(words[0], words[1]))
        elif words[0].rstrip("!") in ("A", "B", "C", "D", "X", "Y"):
            parts.append(Slot("name", words[0].rstrip("!"), introduces=words[0].endswith("!")))
        elif words[0] in entities:
            parts.append(Slot("word", words[0], entities[words[0]]))
        elif words[0] in WORD_CLASSES:
            parts.append(Slot("word", "", words[0]))
        else:
            raise ValueError(f"Frame '{template}' of '{scene}' has an unknown slot {piece}.")
    return Frame(template, scene, tuple(parts))


def parse_steps(text: str, scene: str, entities: dict[str, str]) -> tuple[Step, ...]:
    """Parse the steps of a scene, one per line."""
    steps = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        alternatives: list[Frame | Call] = []
        for alternative in line.removeprefix("?").split(" | "):
            if alternative.startswith("@"):
                pool, *roles = alternative[1:].split()
                alternatives.append(Call(pool, dict(zip("XY", roles, strict=False))))
            else:
                alternatives.append(parse_frame(alternative, scene, entities))
        steps.append(Step(tuple(alternatives), line.startswith("?")))
    return tuple(steps)


@functools.cache
def scenes() -> dict[str, tuple[dict[str, str], tuple[Step, ...]]]:
    """Return the entities and steps of every scene by name."""
    parsed = {}
    for name, (declared, text) in SCENES.items():
        entities = dict(pair.split(":") for pair in declared.split())
        parsed[name] = (entities, parse_steps(text, name, STORY_ROLES | entities))
    return parsed


@functools.cache
def pools() -> dict[str, tuple[Frame, ...]]:
    """Return the frames of every pool by name."""
    return {
        name: tuple(
            parse_frame(piece, f"@{name}", STORY_ROLES)
            for piece in re.split(r"\s\|\s|\n\s*\|\s", text)
        )
        for name, text in POOLS.items()
    }


@functools.cache
def story_parts() -> dict[str, tuple[Step, ...]]:
    """Return the steps that open, connect and end stories."""
    parts = {
        "opening": OPENING,
        "introduce C": INTRODUCE_C,
        "introduce D": INTRODUCE_D,
        "transition": TRANSITION,
        "ending": ENDING.strip(),
    }
    parts |= {
        f"introduce {kin}": " ".join(text.split()).replace("\n", " ")
        for kin, text in INTRODUCE_B.items()
    }
    return {name: parse_steps(text, name, STORY_ROLES) for name, text in parts.items()}


@functools.cache
def all_frames() -> tuple[Frame, ...]:
    """Return every frame of the grammar once."""
    found: dict[str, Frame] = {}
    groups = [*story_parts().values(), *(steps for _, steps in scenes().values())]
    frames = [frame for frames in pools().values() for frame in frames]
    for steps in groups:
        for step in steps:
            frames += [frame for frame in step.alternatives if isinstance(frame, Frame)]
    for frame in frames:
        found.setdefault(f"{frame.scene}: {frame.template}", frame)
    return tuple(found.values())


def scene_names(split: str) -> tuple[str, ...]:
    """Return the scenes of a split: held-out scenes are not in training stories."""
    _check_split(split)
    heldout = split == "validation"
    return tuple(name for name in SCENES if (name in HELDOUT_SCENES) == heldout)


def generate_story(
    rng: np.random.Generator,
    num_scenes: int = 1,
    split: str = "train",
    scene_split: str | None = None,
    min_words: int = 0,
) -> Story:
    """Generate one story: an opening, scenes with the same characters, and an ending.

    Args:
        rng: Source of all random choices.
        num_scenes: Number of scenes to tell.
        split: "train" or "validation"; decides names and scenes.
        scene_split: Split of the scenes if it differs from the split of the names, or "all".
        min_words: Tells further scenes until the story has this many words, for instance
            2,400 for a story of 16 minutes.

    Raises:
        ValueError: If `num_scenes` is not positive or a split is unknown.

    Example:

    ```python
    rng = np.random.default_rng(0)
    print(generate_story(rng, num_scenes=2).text)
    ```
    """
    if num_scenes < 1:
        raise ValueError(f"`num_scenes` must be at least 1. Received: {num_scenes}.")
    _check_split(split)
    scene_split = scene_split or split
    available = tuple(SCENES) if scene_split == "all" else scene_names(scene_split)
    teller = _Teller(rng, _draw_cast(rng, split))
    teller.open_story()
    waiting: list[str] = []
    while len(teller.scenes) < num_scenes or teller.num_words < min_words:
        if not waiting:
            waiting = [
                name for name in map(str, rng.permutation(available)) if teller.can_tell(name)
            ]
        if teller.scenes:
            teller.tell_steps(story_parts()["transition"])
        teller.tell_scene(waiting.pop())
    teller.tell_steps(story_parts()["ending"])
    return Story(teller.sentences, teller.cast, teller.scenes)


def generate_stories(
    seed: int, num_words: int, split: str = "train", max_scenes: int = 4
) -> Iterator[Story]:
    """Generate stories of one to `max_scenes` scenes until they have `num_words` words.

    Args:
        seed: The same seed gives the same stories.
        num_words: Approximate total number of words.
        split: "train" or "validation".
        max_scenes: Largest number of scenes of a story.
    """
    _check_split(split)
    rng = np.random.default_rng((seed, SPLITS.index(split)))
    total = 0
    while total < num_words:
        story = generate_story(rng, int(rng.integers(1, max_scenes + 1)), split)
        total += story.num_words
        yield story


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f'`split` must be "train" or "validation". Received: {split!r}.')


def _draw_cast(rng: np.random.Generator, split: str) -> dict[str, Character]:
    names = names_by_split()[split]
    cast, used = {}, set()
    for role in "ABCD":
        # Two in three stories have a grown-up helper, two in three an animal.
        if role in "CD" and rng.random() < 1 / 3:
            continue
        feminine = bool(rng.random() < 0.5)
        if role == "D":
            kind = "she_animal" if feminine else "he_animal"
        else:
            kind = "girl" if feminine else "boy"
        name = str(rng.choice([name for name in names[kind] if name not in used]))
        used.add(name)
        cast[role] = Character(name, feminine, role == "D")
    return cast


class _Teller:
    """Tells one story: keeps its entities and who was mentioned last."""

    def __init__(self, rng: np.random.Generator, cast: dict[str, Character]):
        self.rng = rng
        self.cast = cast
        self.sentences: list[str] = []
        self.scenes: list[str] = []
        self.num_words = 0
        self.entities = {role: self._draw(word_class) for role, word_class in STORY_ROLES.items()}
        # Who was mentioned last of each gender, and in which sentence.
        self.mentioned: dict[bool, tuple[str, int]] = {}
        self.used: list[str] = []

    def open_story(self) -> None:
        parts = story_parts()
        self.tell_steps(parts["opening"])
        self.tell_steps(parts[f"introduce {self.rng.choice(list(INTRODUCE_B))}"])
        for role in "CD":
            if role in self.cast:
                self.tell_steps(parts[f"introduce {role}"])

    def can_tell(self, scene: str) -> bool:
        _, steps = scenes()[scene]
        return all(step.optional or self._possible(step) for step in steps)

    def tell_scene(self, scene: str) -> None:
        entities, steps = scenes()[scene]
        for role, word_class in entities.items():
            self.entities[role] = self._draw(word_class)
        self.tell_steps(steps)
        self.scenes.append(scene)

    def tell_steps(self, steps: tuple[Step, ...]) -> None:
        for step in steps:
            possible = self._possible(step)
            if not possible or (step.optional and self.rng.random() >= OPTIONAL_STEP_PROBABILITY):
                continue
            chosen, roles = possible[self.rng.integers(len(possible))], {}
            if isinstance(chosen, Call):
                frames = [f for f in pools()[chosen.pool] if f.template not in self.used[-8:]]
                roles, chosen = chosen.roles, frames[self.rng.integers(len(frames))]
            self._tell(chosen, roles)

    def _possible(self, step: Step) -> list[Frame | Call]:
        return [
            option
            for option in step.alternatives
            if set(option.roles.values() if isinstance(option, Call) else option.roles)
            <= set(self.cast)
        ]

    def _tell(self, frame: Frame, roles: dict[str, str]) -> None:
        text = ""
        for part in frame.parts:
            word = part if isinstance(part, str) else self._fill(part, roles)
            if re.search(r"\b[Aa] $", text) and word[0] in "aeiou":
                text = f"{text[:-1]}n "
            text += word
        self.sentences.append(text[0].upper() + text[1:])
        self.num_words += len(text.split())
        self.used.append(frame.template)

    def _fill(self, slot: Slot, roles: dict[str, str]) -> str:
        if slot.kind == "word":
            return self.entities[slot.role] if slot.role else self._draw(slot.word_class)
        character = self.cast[roles.get(slot.role, slot.role)]
        if slot.kind in ("girl", "man", "brother", "self"):
            return FORMS[slot.kind][character.feminine]
        name, sentence = self.mentioned.get(character.feminine, ("", 0))
        self.mentioned[character.feminine] = (character.name, len(self.sentences))
        is_clear = name == character.name and len(self.sentences) - sentence <= PRONOUN_REACH
        if slot.kind != "name" and is_clear:
            return FORMS[slot.kind][character.feminine]
        return character.name + ("'s" if slot.kind == "his" else "")

    def _draw(self, word_class: str) -> str:
        words = word_classes()[word_class]
        return words[self.rng.integers(len(words))]
