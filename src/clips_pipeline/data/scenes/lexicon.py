"""Words of the captions: names and synonyms of kinds, colors, sizes, textures, places and backgrounds.

Synthetic captions mostly use the plain names, human-style captions use more of the synonyms. No word for a kind has
another use (no "stars" in the night sky), so tests can parse captions.
"""

from dataclasses import dataclass

from clips_pipeline.data.scenes.random_integers import RandomStream
from clips_pipeline.data.scenes.scene import Thing

KIND_WORDS: dict[str, tuple[str, ...]] = {
    "apple": ("apple", "piece of fruit"),
    "ball": ("ball", "beach ball", "toy ball"),
    "balloon": ("balloon", "party balloon"),
    "bird": ("bird", "songbird"),
    "boat": ("boat", "sailboat", "ship"),
    "butterfly": ("butterfly", "moth"),
    "car": ("car", "automobile", "vehicle"),
    "cat": ("cat", "kitten", "kitty"),
    "chair": ("chair", "seat"),
    "clock": ("clock", "alarm clock"),
    "cup": ("cup", "mug", "coffee cup"),
    "fish": ("fish", "sea fish"),
    "flower": ("flower", "blossom", "daisy"),
    "hat": ("hat", "top hat"),
    "house": ("house", "cottage", "home"),
    "kite": ("kite", "toy kite"),
    "lamp": ("lamp", "table lamp", "desk light"),
    "mushroom": ("mushroom", "toadstool"),
    "rocket": ("rocket", "spaceship"),
    "star": ("star", "star shape"),
    "tree": ("tree", "leafy tree"),
    "umbrella": ("umbrella", "parasol"),
}
"""The plain name first, then synonyms."""

FOREIGN: dict[str, tuple[str, str, str]] = {
    "apple": ("manzana", "pomme", "apfel"),
    "ball": ("pelota", "ballon", "ball"),
    "balloon": ("globo", "ballon", "luftballon"),
    "bird": ("ave", "oiseau", "vogel"),
    "boat": ("barco", "bateau", "boot"),
    "butterfly": ("mariposa", "papillon", "schmetterling"),
    "car": ("coche", "voiture", "auto"),
    "cat": ("gato", "chat", "katze"),
    "chair": ("silla", "chaise", "stuhl"),
    "clock": ("reloj", "horloge", "uhr"),
    "cup": ("taza", "tasse", "tasse"),
    "fish": ("pez", "poisson", "fisch"),
    "flower": ("flor", "fleur", "blume"),
    "hat": ("sombrero", "chapeau", "hut"),
    "house": ("casa", "maison", "haus"),
    "kite": ("cometa", "cerf volant", "drachen"),
    "lamp": ("lampara", "lampe", "lampe"),
    "mushroom": ("seta", "champignon", "pilz"),
    "rocket": ("cohete", "fusée", "rakete"),
    "star": ("estrella", "étoile", "stern"),
    "tree": ("arbol", "arbre", "baum"),
    "umbrella": ("paraguas", "parapluie", "regenschirm"),
}
"""Names of the kinds in Spanish, French and German."""

COLOR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "bright red", "crimson"),
    "orange": ("orange", "bright orange"),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "blue": ("blue", "deep blue"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rosy"),
    "brown": ("brown", "chestnut"),
    "white": ("white", "pale white"),
    "black": ("black", "jet black"),
    "gray": ("gray", "grey"),
}

SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "tiny", "little"),
    "medium": ("medium-sized", "mid-sized"),
    "large": ("large", "big", "huge", "giant"),
}

TEXTURE_WORDS: dict[str, tuple[str, ...]] = {
    "plain": ("plain", "solid"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted", "polka dot"),
    "checked": ("checked", "checkered"),
}

TEXTURE_NOUNS: dict[str, tuple[str, ...]] = {
    "striped": ("stripes", "a striped pattern", "bands of stripes"),
    "dotted": ("dots", "a dotted pattern", "round spots"),
    "checked": ("checks", "a checked pattern", "checkered squares"),
}


@dataclass(frozen=True)
class BackdropWords:
    """Phrases about one background, for the three kinds of captions."""

    where: tuple[str, ...]
    """For synthetic captions, after a noun: "against a blue sky"."""
    sentences: tuple[str, ...]
    """Complete sentences for synthetic captions, without the full stop."""
    human: tuple[str, ...]
    """For human-style captions, after a noun."""
    web: tuple[str, ...]
    """Tags for web captions."""


BACKDROP_WORDS: dict[str, BackdropWords] = {
    "sky": BackdropWords(
        ("against a blue sky with clouds", "in a bright daytime sky", "set against the open sky"),
        (
            "The background is a clear blue sky with a few white clouds",
            "Soft white clouds drift across the sky",
            "Behind everything is a bright sky that turns paler toward the bottom",
        ),
        ("in the air", "up among the clouds", "on a cloudy blue sky", "high in the sky"),
        ("sky", "clouds", "blue sky"),
    ),
    "meadow": BackdropWords(
        ("on a green meadow", "in a grassy field under a pale sky", "in a sunny green field"),
        (
            "The background shows a green meadow below a light sky",
            "Fresh green grass covers the lower half of the image",
            "A grassy field stretches out to the horizon",
        ),
        ("on the grass", "in a field", "on a green lawn", "out in a meadow"),
        ("grass", "garden", "spring", "park"),
    ),
    "night": BackdropWords(
        ("at night under a crescent moon", "against a dark night sky", "in a moonlit night scene"),
        (
            "The background is a dark night sky with a crescent moon",
            "A thin moon and many small points of light glow in the dark sky",
            "It is night and the sky is a deep navy",
        ),
        ("at night", "in the dark", "under the moon", "by moonlight"),
        ("night", "moon", "midnight"),
    ),
    "sea": BackdropWords(
        ("in front of a calm sea", "over the blue-green water of the sea", "at the ocean"),
        (
            "The background shows a calm sea with gentle waves",
            "Small waves shine on the surface of the water",
            "The ocean meets a pale sky at the horizon",
        ),
        ("on the water", "at sea", "by the ocean", "over the waves"),
        ("sea", "ocean", "beach", "summer"),
    ),
    "desert": BackdropWords(
        ("in a sandy desert", "on warm desert sand", "in a dry landscape of sand"),
        (
            "The background is a desert with soft dunes under a pale sun",
            "Warm sand covers the ground and a pale sun hangs above",
            "The dry sandy ground reaches all the way to the horizon",
        ),
        ("on the sand", "in the desert", "in a hot sandy place", "on a dune"),
        ("desert", "sand", "sahara"),
    ),
    "snow": BackdropWords(
        ("in a snowy landscape", "on white snow under a cold sky", "in a winter scene"),
        (
            "The background is a winter landscape covered in snow",
            "Snowflakes fall from a cold sky onto the white ground",
            "The ground is covered with a smooth layer of snow",
        ),
        ("in the snow", "on a winter day", "in falling snow", "on snowy ground"),
        ("snow", "winter", "christmas"),
    ),
    "sunset": BackdropWords(
        ("at sunset", "in front of a glowing sunset", "under an evening sky at dusk"),
        (
            "The background shows the sun going down in a glowing evening sky",
            "The sky fades from violet at the top to warm tones near the sun",
            "A round sun sinks toward the dark horizon",
        ),
        ("at sunset", "in the evening", "as the sun goes down", "at dusk"),
        ("sunset", "evening", "golden hour"),
    ),
    "room": BackdropWords(
        ("in a room with a wooden floor", "in a cozy room with wallpaper", "inside a simple living room"),
        (
            "The background is a room with a wooden floor and striped wallpaper",
            "A wooden floor runs along the lower part of the image",
            "The wall behind has faint vertical bands",
        ),
        ("in a room", "on a wooden floor", "indoors", "inside the living room"),
        ("room", "interior", "decor"),
    ),
    "kitchen": BackdropWords(
        ("in a tiled kitchen", "in front of a wall of kitchen tiles", "in a kitchen with a checkered floor"),
        (
            "The background is a kitchen with a tiled wall",
            "Square tiles cover the wall and the floor has a checkerboard pattern",
            "A grid of pale tiles fills the wall behind",
        ),
        ("in a kitchen", "by the kitchen tiles", "on a tile floor", "in front of a tiled wall"),
        ("kitchen", "tiles", "cooking"),
    ),
    "city": BackdropWords(
        ("on a city street", "in front of a city skyline", "in an urban scene with tall towers"),
        (
            "The background shows a skyline of tall towers with lit windows",
            "Tall buildings with small glowing windows rise in the distance",
            "A dark road with dashed lines runs along the bottom",
        ),
        ("in the city", "on a street", "downtown", "in front of tall buildings"),
        ("city", "downtown", "urban", "street"),
    ),
}

_PLACES: dict[tuple[str, str], tuple[str, ...]] = {
    ("top", "left"): ("in the upper left corner", "at the top left"),
    ("top", "right"): ("in the upper right corner", "at the top right"),
    ("bottom", "left"): ("in the lower left corner", "at the bottom left"),
    ("bottom", "right"): ("in the lower right corner", "at the bottom right"),
}


def with_article(words: str) -> str:
    """Return `words` with "a" or "an" before them."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def describe_place(thing: Thing, draws: RandomStream) -> str:
    """Return a phrase for the position of the thing in the image."""
    return draws.pick(_PLACES[thing.row, thing.column])


def choose(words: tuple[str, ...], other: float, draws: RandomStream) -> str:
    """Return the plain word, or with probability `other` a synonym."""
    return draws.pick(words[1:]) if len(words) > 1 and draws.chance(other) else words[0]


def describe(
    thing: Thing,
    draws: RandomStream,
    *,
    size: float,
    color: float,
    texture: float,
    other: float,
) -> str:
    """Return adjectives and name without an article, such as "small red striped ball".

    Args:
        thing: the thing to describe.
        draws: source of randomness.
        size: probability that the size is named.
        color: probability that the color is named.
        texture: probability that the texture is named, unless it is plain.
        other: probability of a synonym for each word.
    """
    words = []
    if draws.chance(size):
        words.append(choose(SIZE_WORDS[thing.size_name], other, draws))
    if draws.chance(color):
        words.append(choose(COLOR_WORDS[thing.color], other, draws))
    if thing.texture != "plain" and draws.chance(texture):
        words.append(choose(TEXTURE_WORDS[thing.texture], other, draws))
    words.append(choose(KIND_WORDS[thing.kind], other, draws))
    return " ".join(words)
