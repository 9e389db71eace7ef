"""Parts of speech in words: the English tagger, and what its tags mean."""

from functools import cache, lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from HanTa.HanoverTagger import HanoverTagger

TAGS: dict[str, str] = {
    "AJ0": "adjective",
    "AJC": "comparative",
    "AJS": "superlative",
    "AT0": "article",
    "AV0": "adverb",
    "AVP": "adverb particle",
    "AVQ": "wh-adverb",
    "CJC": "coordinating conjunction",
    "CJS": "subordinating conjunction",
    "CJT": "the conjunction that",
    "CRD": "cardinal number",
    "DPS": "possessive determiner",
    "DT0": "determiner",
    "DTQ": "wh-determiner",
    "EX0": "existential there",
    "ITJ": "interjection",
    "NN0": "noun of either number",
    "NN1": "singular noun",
    "NN2": "plural noun",
    "NP0": "name",
    "ORD": "ordinal",
    "PNI": "indefinite pronoun",
    "PNP": "personal pronoun",
    "PNQ": "wh-pronoun",
    "PNX": "reflexive pronoun",
    "POS": "possessive ending",
    "PRF": "the preposition of",
    "PRP": "preposition",
    "PUL": "opening bracket",
    "PUN": "punctuation",
    "PUQ": "quotation mark",
    "PUR": "closing bracket",
    "TO0": "infinitive to",
    "VBB": "are, am",
    "VBD": "was, were",
    "VBG": "being",
    "VBI": "be",
    "VBN": "been",
    "VBZ": "is",
    "VDB": "do",
    "VDD": "did",
    "VDZ": "does",
    "VHB": "have",
    "VHD": "had",
    "VHZ": "has",
    "VM0": "modal verb",
    "VVB": "verb, base form",
    "VVD": "verb, past tense",
    "VVG": "verb in -ing",
    "VVI": "infinitive",
    "VVN": "past participle",
    "VVZ": "verb, third person",
    "XX0": "not",
    "ZZ0": "a letter by itself",
}
"""CLAWS-5, in words."""
GROUPS: dict[str, str] = {
    "AJ": "an adjective",
    "AV": "an adverb",
    "CJ": "a conjunction",
    "NN": "a noun",
    "NP": "a name",
    "PN": "a pronoun",
    "PR": "a preposition",
    "PU": "punctuation in English",
    "VB": "a form of be",
    "VD": "a form of do",
    "VH": "a form of have",
    "VV": "a verb",
}
"""By the first two letters of a tag."""


@cache
def tagger() -> "HanoverTagger":
    """Of English, opened once."""
    from HanTa.HanoverTagger import HanoverTagger

    english = HanoverTagger("morphmodel_en.pgz")
    # Words that it does not know take most of its time, and they come again.
    english.analyze_forward = lru_cache(maxsize=65_536)(english.analyze_forward)
    return english
