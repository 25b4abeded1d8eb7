"""The pages that show what shards hold."""

import re

import numpy as np

from vimss.shards.clip import Clip, Player
from vimss.show import _page, show


def test_every_split_has_a_page_with_its_players_and_stems(small_manifest, tmp_path):
    pages = show(small_manifest, str(tmp_path))
    assert [page.name for page in pages] == [f"{split}.html" for split in small_manifest.splits]
    text = pages[0].read_text(encoding="utf-8")
    assert "video/mp4" in text and "Not recordings of people" in text
    assert len(re.findall(r'<li class="track reference">', text)) >= 2
    assert re.search(r"-\d+\.\d dB against the mix, sf2", text)


def test_a_clip_without_stems_shows_its_recorded_mix_and_one_picture(small_manifest):
    picture = np.zeros((4, 32, 32, 3), np.uint8)
    players = (Player("vn", "1-vn", picture=picture), Player("vc", "2-vc", picture=picture.copy()))
    mix = np.full((1, 8000), 1000, np.int16)
    page = _page(Clip("p", 0, 8000, 8000, players, 4.0, mix), "test", small_manifest)
    assert [(track.name, track.note) for track in page.tracks] == [("mix", "as recorded")]
    assert page.facts["Players"] == "1-vn, 2-vc"
    assert page.video is not None
