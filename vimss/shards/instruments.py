"""Canonical instrument codes: the 13 of the URMP dataset (Li et al., 2018), with their names."""

INSTRUMENTS = {
    "bn": "bassoon",
    "cl": "clarinet",
    "db": "double bass",
    "fl": "flute",
    "hn": "horn",
    "ob": "oboe",
    "sax": "saxophone",
    "tba": "tuba",
    "tbn": "trombone",
    "tpt": "trumpet",
    "va": "viola",
    "vc": "cello",
    "vn": "violin",
}
"""Code to English name, in the order of the 13 output channels."""
