"""The scores of the chamber corpus, and the split of each work.

    quartets("valid")[0].scores  # ("mozart/k80/movement1.mxl", ...)

A work is in one split only. Quartets are split by opus. Bach's chorales share tunes, so they are split by tune: two
four-part chorales form a group if their sopranos share 15 % of their runs of 10 intervals (or 30 % of the runs
of 8), or their basses 15 % of the runs of 10; repeated notes are skipped. The groups are joined by commas below, and a
test checks that no tune is in two splits.

Left out: Monteverdi (tagged with a publisher), chorales with obbligato instruments. Quartets in one file for all
movements take half a second to read: only test_unseen_style has them, and no chorales, since all others are taken.
"""

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Work:
    """A composition and its score files, paths below music21's corpus folder."""

    composition: str
    scores: tuple[str, ...]


_QUARTETS = {
    "train": (
        ("haydn/opus74no1", 4),
        ("mozart/k155", 3),
        ("mozart/k458", 4),
        ("beethoven/opus18no1", 4),
        ("beethoven/opus59no1", 4),
        ("schumann_robert/opus41no1", 5),
    ),
    "valid": (("mozart/k80", 4),),
    "promote": (("mozart/k156", 4),),
    "test": (("haydn/opus1no1", 5), ("beethoven/opus59no2", 4)),
    "test_unseen_timbres": (("beethoven/opus59no3", 4),),
    "test_unseen_style": (
        ("beethoven/opus18no3", 1),
        ("beethoven/opus18no4", 1),
        ("beethoven/opus18no5", 1),
        ("beethoven/opus74", 1),
        ("beethoven/opus132", 1),
    ),
}
"""Folder of the work and the number of its movements; a work of one file has no folder."""

_CHORALES = {
    "train": """
        2.6,77.6,153.1,313
        3.6,55.5,74.8,108.6,146.8,153.9,154.3,159.5,169.7,197.5,244.40,245.14,245.28,253,310,343,359,360,414
        4.8,158.4,277,278,279 5.7,89.6,148.6,188.6 6.6 7.7,139.6,176.6,245.22,280,377,402 10.7,323,324
        11.6,43.11,104.6,112.5,248.12-2,260,308 13.6,44.7,244.10,244.37,245.11,392,393,394,395 14.5 24.6
        25.6,30.6,32.6,39.7,194.6,326,327,428,429,430 26.6,33.6,261,364 36.4-2,436 36.8-2 40.6 40.8
        45.7,64.4,94.8,197.7-a,398 46.6 47.5,84.5,88.7,93.7,166.6,179.6,197.10,420,421,434 48.7,113.8,168.6,334
        56.5,301 57.8 60.5 64.2 64.8,81.7,227.1,227.11,227.7,358 65.7,72.6,92.9,103.6,111.6,144.6,244.25
        73.5,417,418 78.7,245.15,245.37,288,289,318,352,353,354,404 80.8,248.23-s,302,303,427 83.5,125.6,382
        96.6,164.6 114.7,178.7,256,257,258,330,331 127.5
        135.6,153.5,244.15,244.17,244.44,244.54,244.62,248.5,248.64-s,270,271 140.7 145.5 151.5,375,376,385
        154.8,157.5,244.29-a,380 162.6-lpz 165.6,194.12,356 174.5,340 180.7 184.5 187.7 229.2
        244.3,244.46,245.3,350 245.26,415 248.33-3,422 248.42-s 254 262,329 263 267 269 272 273 275 283 284 285
        287 291 292 293 298,335 299 305 309 311,312 321 322 332 333 336 337 338 341 342 344 345 349 351 355 357
        361 365 366 373 374 381 387 389 391 399 401 403 405 406 408 410 411 424 431,432 433 438
    """,
    "valid": """
        16.6,28.6,419 18.5-lz,18.5-w 48.3,255 66.6 119.9,120.6 183.5 244.32,248.46-5 248.53-5 268,317 295 297
        304 307 316 370 409 412
    """,
    "promote": """
        37.6,347,348 65.2 87.7 99.6,144.3 122.6 177.5 245.17 259 265 266 281 294 325 363 367 369 372 396 423
    """,
    "test": """
        62.6,274 69.6-a 85.6 90.5,101.7,102.7,245.5,416 115.6 121.6 145-a 156.6,306,339 290 296 319 346 379 384
        386 388 400 426 435
    """,
    "test_unseen_style": "",
    "test_unseen_timbres": """
        9.7,86.6,117.4,155.5,177.4 20.11,20.7,264,397 38.6 40.3,110.7,248.35-3 67.7,116.6 133.6 248.28,314 282
        300 315 378
    """,
}
"""BWV numbers; chorales on one tune are joined by commas."""


@lru_cache
def quartets(split: str) -> tuple[Work, ...]:
    """The string quartets of a split."""
    return tuple(Work(folder.replace("/", "-"), _files(folder, movements)) for folder, movements in _QUARTETS[split])


def _files(folder: str, movements: int) -> tuple[str, ...]:
    if movements == 1:
        return (f"{folder}.mxl",)
    return tuple(f"{folder}/movement{number}.mxl" for number in range(1, movements + 1))


@lru_cache
def chorales(split: str) -> tuple[Work, ...]:
    """Bach's chorales of a split, one work per tune, named after its first chorale."""
    groups = [group.split(",") for group in _CHORALES[split].split()]
    return tuple(Work(f"bach-bwv{group[0]}", tuple(f"bach/bwv{number}.mxl" for number in group)) for group in groups)
