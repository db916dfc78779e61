"""The words of the sample products: titles, descriptions and attributes of a household shop."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

BRANDS = (
    "Alder & Finch", "Borealis", "Castor", "Dunmore", "Elmhurst", "Fjordline", "Granby", "Harrow", "Islay", "Juniper",
    "Kestrel", "Larkfield", "Marlow", "Northcote", "Oakham", "Penrose", "Quillon", "Ravensworth", "Selkirk",
    "Thornbury", "Ulverston", "Veldt", "Wexford", "Yarrow"
)  # fmt: skip
MATERIALS = (
    "Oak", "Ash", "Walnut", "Bamboo", "Stainless Steel", "Cast Iron", "Enamel", "Stoneware", "Linen", "Cotton",
    "Merino", "Leather", "Cork", "Brass", "Glass"
)  # fmt: skip
ADJECTIVES = (
    "Compact", "Classic", "Everyday", "Folding", "Heavy-Duty", "Insulated", "Large", "Lightweight", "Mini", "Organic",
    "Portable", "Rechargeable", "Reusable", "Round", "Slim", "Stackable", "Travel", "Waterproof"
)  # fmt: skip
COLOURS = ("Black", "White", "Forest Green", "Navy", "Terracotta", "Sand", "Charcoal", "Rosé", "Mustard", "Sky Blue")


@dataclass(frozen=True, slots=True)
class Category:
    """``cents`` is the range of prices."""

    name: str
    nouns: tuple[str, ...]
    cents: tuple[int, int]


CATEGORIES = (
    Category(
        "Kitchen", ("Chef's Knife 20 cm", "Frying Pan 28 cm", "Kettle 1.7 l", "Mixing Bowl", "Teapot"), (890, 18900)
    ),
    Category("Garden", ("Watering Can 5 l", "Pruning Shears", "Planter", "Hose Reel 20 m", "Hand Fork"), (450, 12900)),
    Category("Office", ("Desk Lamp", "Notebook A5", "Pen Set", "Laptop Stand", "Filing Tray"), (250, 24900)),
    Category(
        "Outdoor", ("Backpack 30 l", "Water Bottle 750 ml", "Headlamp", "Camping Mug", "Tent for 2"), (990, 39900)
    ),
    Category("Home", ("Throw 130 cm", "Cushion", "Candle", "Storage Basket", "Wall Clock"), (690, 15900)),
    Category("Toys", ("Building Blocks", "Puzzle 500 Pieces", "Stuffed Bear", "Wooden Train", "Kite"), (590, 8900)),
    Category("Bathroom", ("Bath Towel", "Soap Dish", "Shower Caddy", "Laundry Hamper", "Mirror"), (390, 11900)),
    Category(
        "Tools", ("Screwdriver Set", "Cordless Drill", "Spirit Level 60 cm", "Claw Hammer", "Toolbox"), (790, 29900)
    ),
)


def title(random: Random, brand: str, category: Category) -> str:
    """Such as "Kestrel Lightweight Oak Desk Lamp, Navy"."""
    words = [brand, random.choice(ADJECTIVES)]
    if random.random() < 0.6:
        words.append(random.choice(MATERIALS))
    words.append(random.choice(category.nouns))
    return f"{' '.join(words)}, {random.choice(COLOURS)}"


def description(random: Random, name: str) -> str:
    use = random.choice(("every day", "small flats", "long weekends", "people who like things that last", "a gift"))
    care = random.choice(("Wipe clean.", "Dishwasher safe.", "Hand wash only.", "Wash at 40 °C.", "Keep dry."))
    return f"{name}. Made for {use}. {care} Two years' guarantee."
