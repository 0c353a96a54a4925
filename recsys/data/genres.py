"""Genres of films that do not exist: their titles, texts and posters tell which genre it is."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

POSTER_SIZE = 64
"""Pixels of a poster's side."""

_OVERSAMPLING = 2

Shape = Literal["disc", "square", "diamond", "triangle", "ring", "cross"]


@dataclass(frozen=True)
class Genre:
    """What the films of one genre have in common."""

    name: str
    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]
    hue: float
    """Of its posters' background, from 0 to 1."""
    shape: Shape
    """What stands on its posters."""

    def title(self, number: int) -> str:
        """Title 0, 1, …; no two are the same, in this or another genre of GENRES."""
        again, number = divmod(number, len(self.adjectives) * len(self.nouns))
        # Eleven adjectives and ten nouns: their lengths are coprime, so each pair comes once.
        adjective = self.adjectives[number % len(self.adjectives)]
        noun = self.nouns[number % len(self.nouns)]
        return f"{adjective} {noun}" + (f" {again + 1}" if again else "")

    def synopsis(self, rng: np.random.Generator) -> str:
        """What it is about, in words of the genre."""
        nouns = [self.nouns[i].lower() for i in rng.permutation(len(self.nouns))[:3]]
        adjectives = [self.adjectives[i].lower() for i in rng.permutation(len(self.adjectives))[:2]]
        return f"A {self.name} film: {', '.join(nouns)}; {' and '.join(adjectives)}."

    def poster(self, rng: np.random.Generator) -> bytes:
        """A PNG of POSTER_SIZE squared: the genre's shape on its colour, each time a little
        elsewhere, of another size and shade."""
        side = POSTER_SIZE * _OVERSAMPLING
        x, y = np.meshgrid(*[np.linspace(-1, 1, side)] * 2)
        middle_x, middle_y = rng.uniform(-0.25, 0.25, 2)
        covered = _covered(self.shape, x - middle_x, y - middle_y, rng.uniform(0.4, 0.6))
        hue = (self.hue + rng.uniform(-0.015, 0.015)) % 1
        ground = np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.6, 0.9), rng.uniform(0.5, 0.8)))
        figure = np.array(colorsys.hsv_to_rgb(hue, 0.15, rng.uniform(0.9, 1.0)))
        shade = 1 - 0.25 * (y + 1)[..., None] / 2
        picture = np.where(covered[..., None], figure, ground * shade)
        cells = picture.reshape(POSTER_SIZE, _OVERSAMPLING, POSTER_SIZE, _OVERSAMPLING, 3)
        pixels = np.rint(cells.mean(axis=(1, 3)) * 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()


def _covered(
    shape: Shape, x: NDArray[np.float64], y: NDArray[np.float64], size: float
) -> NDArray[np.bool_]:
    """Which points the shape around the origin covers."""
    match shape:
        case "disc":
            return x**2 + y**2 < size**2
        case "square":
            return np.maximum(abs(x), abs(y)) < 0.9 * size
        case "diamond":
            return abs(x) + abs(y) < 1.2 * size
        case "triangle":
            return (y < 0.8 * size) & (2 * abs(x) < y + 1.1 * size)
        case "ring":
            return abs(np.hypot(x, y) - 0.85 * size) < 0.2 * size
        case "cross":
            return (np.minimum(abs(x), abs(y)) < 0.25 * size) & (
                np.maximum(abs(x), abs(y)) < 1.1 * size
            )


def _genres() -> Iterator[Genre]:
    shapes: tuple[Shape, ...] = ("disc", "square", "diamond", "triangle", "ring", "cross")
    for i, (name, words) in enumerate(_WORDS.items()):
        adjectives, nouns = (tuple(line.split()) for line in words)
        yield Genre(name, adjectives, nouns, i / len(_WORDS), shapes[i % len(shapes)])


_WORDS = {
    "space": (
        "Orbital Lunar Stellar Weightless Galactic Interstellar Cosmic Solar Martian Zero-G Astral",
        "Airlock Comet Starship Nebula Astronaut Telescope Asteroid Capsule Satellite Planet",
    ),
    "western": (
        "Dusty Sunburnt Outlawed Saddled Lonesome Sheriff's Frontier Galloping Rusty Wild Parched",
        "Saloon Stagecoach Ranch Cowboy Mustang Canyon Revolver Posse Cattle Rodeo",
    ),
    "romance": (
        "Tender Heartfelt Lovestruck Wistful Blushing Beloved Enamoured Moonlit Candlelit Shy Dear",
        "Kiss Valentine Wedding Bouquet Sweetheart Honeymoon Embrace Bride Promise Proposal",
    ),
    "horror": (
        "Haunted Bloodstained Cursed Screaming Ghastly Undead Sinister Morbid Ghoulish Eerie Dread",
        "Crypt Vampire Cellar Graveyard Exorcist Phantom Zombie Scarecrow Coffin Nightmare",
    ),
    "cooking": (
        "Simmering Buttered Roasted Spicy Caramelised Peppered Sizzling Savoury Sour Crusty Salted",
        "Soup Kitchen Bakery Chef Recipe Noodle Oven Banquet Apron Skillet",
    ),
    "sports": (
        "Undefeated Sweaty Olympic Champion Sprinting Offside Overtime Winning Athletic Fast Final",
        "Stadium Goalkeeper Marathon Referee Trophy League Coach Boxer Relay Scoreboard",
    ),
    "heist": (
        "Masked Stolen Crooked Forged Getaway Safecracking Laundered Vaulted Slippery Wanted Sly",
        "Vault Diamond Burglar Robbery Casino Alibi Loot Accomplice Decoy Blueprint",
    ),
    "nature": (
        "Mossy Migrating Feathered Untamed Arctic Tropical Nesting Hibernating Leafy Wooded Furry",
        "Rainforest Glacier Elephant Meadow Penguin River Wolf Coral Orchid Savannah",
    ),
    "music": (
        "Syncopated Electric Acoustic Melodic Offbeat Harmonic Jazzy Amplified Choral Loud Lyrical",
        "Guitar Orchestra Drummer Ballad Encore Symphony Trumpet Chorus Vinyl Rehearsal",
    ),
    "war": (
        "Entrenched Besieged Armoured Camouflaged Decorated Fallen Rebel Brave Exiled Weary Grim",
        "Battalion Trench Soldier Bunker Armistice General Submarine Regiment Medic Barricade",
    ),
    "fantasy": (
        "Enchanted Faerie Elven Spellbound Dragonborn Runic Mystic Prophesied Wizardly Magic Old",
        "Dragon Sorcerer Castle Amulet Kingdom Griffin Potion Quest Dwarf Grimoire",
    ),
    "courtroom": (
        "Guilty Sworn Innocent Acquitted Libelled Contested Perjured Unproven Appealed Legal Civil",
        "Verdict Jury Lawyer Witness Testimony Prosecutor Judge Trial Evidence Objection",
    ),
}

GENRES: tuple[Genre, ...] = tuple(_genres())
"""The genres, no word of a title in two of them."""
